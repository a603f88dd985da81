"""Which knowledge a trainer uses, and how: without torch and without the store."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from networks.plug_config import FACTORS, MATCH

Mode = Literal["none", "gated", "add", "concat"]
Gates = Literal["layer", "kind"]
Gate = Literal["scalar", "vector"]
Follow = Literal["current", "history"]

RESULTS: Final = (  # keys that decide the result
    "plug", "kinds", "layers", "gates", "gate", "gate_rank", "category",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class KnowledgeConfig:
    """Where the vectors of an extractor lie, and what the model does with them."""

    store: str = ""  # the folder of their generations; empty: no knowledge
    plug: Mode = "gated"  # what changes nothing until it has learned to; "none": no knowledge
    kinds: tuple[str, ...] = ()  # empty: all that the generations hold
    layers: tuple[int, ...] = (-1,)  # hidden layers that are plugged: the last is the narrowest
    gates: Gates = "layer"  # one for all kinds of a layer; "kind": one each
    gate: Gate = "scalar"  # a number; "vector", one a hidden unit, gained nothing and costs more
    gate_rank: int | None = 16  # of a vector's matrix; None, full, takes three times as long
    category: str = ""  # id feature for kind "interaction"; empty: the clusters of the store
    follow: Follow | None = None  # None: train follows what is activated, replay the store's past
    watch_s: float = 5.0  # wall time between two looks for a new activation: a look costs 0.1 ms
    cache_mb: int = 256  # vectors kept in memory: 2 million of 64 float16

    def __post_init__(self) -> None:
        for key, known in (("plug", Mode), ("gates", Gates), ("gate", Gate), ("follow", Follow)):
            value = getattr(self, key)
            if value not in get_args(known) and not (key == "follow" and value is None):
                raise ValueError(f"{key} = {value!r} is one of {', '.join(get_args(known))}")
        if self.gate_rank is not None and self.gate_rank < 1:
            raise ValueError('gate_rank must be at least 1, or "off"')
        if self.watch_s < 0 or self.cache_mb < 1:
            raise ValueError("watch_s must be 0 or more and cache_mb at least 1")
        if not self.layers:
            raise ValueError("layers must name at least one hidden layer: 0 the first, -1 the last")
        for names in (self.kinds, self.layers):
            if len(set(names)) < len(names):
                raise ValueError(f"{list(names)} names one twice")

    @property
    def used(self) -> bool:
        """Whether a model gets any knowledge."""
        return bool(self.store) and self.plug != "none"

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The kinds that must be looked up; empty: all that there are."""
        names = [name for name in self.kinds if name != MATCH]
        if MATCH in self.kinds:
            names += [name for name in FACTORS if name not in names]
        return tuple(names)
