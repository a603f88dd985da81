"""How a model uses knowledge: without torch, so that every command can read it."""

from dataclasses import dataclass
from typing import Final

from networks.shape import ModelShape

MODES: Final = ("none", "gated", "add", "concat")
GATES: Final = ("layer", "kind")
GATE: Final = ("scalar", "vector")
MATCH: Final = "match"  # user ⊙ item, made here: a store never holds it
FACTORS: Final = ("user", "item")


class PlugError(ValueError):
    """Knowledge cannot be used as it is configured."""


@dataclass(frozen=True, kw_only=True)
class PlugConfig:
    """Which knowledge a model uses, and where.

    ``gated`` and ``add`` change no tensor of the model; ``concat`` makes another one of it.
    """

    mode: str = "gated"  # or none, add (no gate), concat (as inputs)
    kinds: tuple[str, ...] = ()  # none named: all that examples carry, "match" apart
    layers: tuple[int, ...] = (-1,)  # hidden layers of the tower, −1 the last: the narrowest costs
    # least, and says as much
    gates: str = "layer"  # one for all kinds of a layer; or one each: "kind"
    gate: str = "scalar"  # a number; "vector", one a hidden unit, gained nothing and costs more
    gate_rank: int | None = 16  # of a vector's matrix: None, full, takes three times as long

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise PlugError(f"There is no plug {self.mode!r}: write one of {', '.join(MODES)}.")
        if self.gates not in GATES:
            raise PlugError(f"There are no gates {self.gates!r}: write one of {', '.join(GATES)}.")
        if self.gate not in GATE:
            raise PlugError(f"There is no gate {self.gate!r}: write one of {', '.join(GATE)}.")
        for name in ("kinds", "layers"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise PlugError(f"{name} {values} of the plug: name each once.")
        if not self.layers:
            raise PlugError("The plug has no layers: name at least one, 0 the first, -1 the last.")
        if self.gate_rank is not None and self.gate_rank < 1:
            raise PlugError(f"gate_rank {self.gate_rank} of the plug: write 1 or more, or none.")


def kinds_used(config: PlugConfig, shape: ModelShape) -> dict[str, int]:
    """Return the kinds that a plug uses, in its order, with their widths.

    Raises:
        PlugError: examples do not carry one of them, or "match" has no two factors of one width.

    """
    carried = dict(shape.knowledge)
    used = {}
    for kind in config.kinds or carried:
        if kind == MATCH:
            factors = {carried.get(each) for each in FACTORS}
            if len(factors) > 1 or None in factors:
                raise PlugError(
                    f"The kind {MATCH!r} is user ⊙ item, and examples carry "
                    f"{_listed(carried)}: carry user and item in one width, or leave it out."
                )
            used[kind] = carried[FACTORS[0]]
        elif kind in carried:
            used[kind] = carried[kind]
        else:
            raise PlugError(
                f"The plug's kind {kind!r} is not with the examples, which carry "
                f"{_listed(carried)}: name one of these, or have the store give it."
            )
    if not used:
        raise PlugError(
            "The plug has no kinds, for examples carry no knowledge: name a store, or plug none."
        )
    return used


def _listed(carried: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({width})" for kind, width in carried.items()) or "none"
