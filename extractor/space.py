"""Where a generation's vectors lie: the map of each kind from the extractor's own space to it.

An extractor that goes on learning stays near where it was, so the map of the last generation serves
the next one too; a vector that has not changed is then stored by the same bits, and need not be
written. A map is found anew only where that brings the two generations nearer.

n entities, W width of a kind. A vector is a row: ``raw @ map`` is what is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from extractor.align import TIES, Rotation, align, canonical, mapped
from extractor.errors import NothingInCommon
from extractor.gram import F64, Gram, Vectors, moment
from stream.state import State

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Maps = Mapping[str, F64]
Pairs = Mapping[str, tuple[Rows, Vectors]]
How = Literal["first", "kept", "rotated", "canonical", "alone"]

LEAST_FITTED: Final = 2.0  # entities for each dimension of a rotation; fewer fit by chance
_ROWS: Final = 65_536  # entities that are mapped at a time while maps are compared: 17 MB at W = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The maps of one generation, and how they were found."""

    maps: Maps  # by kind, (W, W): to begin with, the kind's scale alone
    scales: Mapping[str, float]  # by kind, of the first generation: the root mean square becomes 1
    how: Mapping[str, How]  # by kind
    fitted: Mapping[str, int]  # by kind, entities that the maps were compared on; of a tie, of all

    def apply(self, kind: str, raw: Vectors) -> F32:
        """Return what is stored (n, W) for the extractor's vectors (n, W) of a kind."""
        return mapped(raw, self.maps[kind])

    def and_of(self, others: "Space") -> "Space":
        """Return this space and that of other kinds as one."""
        return Space(
            maps={**self.maps, **others.maps},
            scales={**self.scales, **others.scales},
            how={**self.how, **others.how},
            fitted={**self.fitted, **others.fitted},
        )

    def state(self) -> State:
        """Return what the next generation needs of it; nothing of kinds that nobody has yet."""
        return {
            "maps": {kind: self.maps[kind].copy() for kind in self.scales},
            "scales": {kind: float(scale) for kind, scale in self.scales.items()},
        }

    @classmethod
    def from_state(cls, state: State) -> "Space":
        """Return the space whose `state` this is."""
        return cls(
            maps={kind: np.array(matrix, np.float64) for kind, matrix in state["maps"].items()},
            scales={kind: float(scale) for kind, scale in state["scales"].items()},
            how={},
            fitted={},
        )


def first_space(vectors: Mapping[str, F32]) -> Space:
    """Return the space of a first generation: the extractor's own, scaled."""
    return next_space(vectors, None, {}, least_gain=0.0)


def next_space(
    vectors: Mapping[str, F32], last: Space | None, pairs: Pairs, *, least_gain: float
) -> Space:
    """Return the space in which the new vectors lie nearest to those that are stored.

    ``pairs`` gives by kind the rows (m,) of ``vectors`` of settled entities that both generations
    know, and what is stored for them (m, W). Three maps are compared, from the cheapest on; one
    that costs more must bring the mean cosine of a kind nearer by more than ``least_gain``:

    1 the last generation's, 2 that one rotated (orthogonal Procrustes), 3 by way of the canonical
    forms of both: for an extractor that was trained anew, whose space differs by any linear map.

    ``last`` None: there is no generation before, or it is not of this extractor and has no map.
    """
    maps: dict[str, F64] = {}
    scales: dict[str, float] = {}
    how: dict[str, How] = {}
    fitted: dict[str, int] = {}
    for group in _groups(vectors):
        mine = {kind: vectors[kind] for kind in group}
        own, scale = _own(mine, last)
        found, chosen = _nearest(mine, last, own, pairs, least_gain)
        maps |= found
        scales |= scale
        how |= dict.fromkeys(group, chosen)
        fitted |= dict.fromkeys(group, _known(group, pairs))
    return Space(maps=maps, scales=scales, how=how, fitted=fitted)


def _nearest(
    vectors: Mapping[str, F32], last: Space | None, own: Maps, pairs: Pairs, least_gain: float
) -> tuple[Maps, How]:
    """Return the maps of kinds that go together, and which of the three they are."""
    if _known([*vectors], pairs) == 0 and last is None:
        return own, "alone" if pairs else "first"
    tries: list[tuple[How, Maps]] = []
    if last is not None and last.maps.keys() >= vectors.keys():
        kept = {kind: last.maps[kind] for kind in vectors}
        if _known([*vectors], pairs) < LEAST_FITTED * len(kept[next(iter(kept))]):
            return kept, "kept"
        tries.append(("rotated", kept))
    if len(vectors) > 1 or not tries:  # of a single kind canonical form is no other than none
        tries.append(("canonical", _through_canonical(vectors, own, pairs)))
    try:
        found = [(how, maps, _aligned(vectors, maps, pairs)) for how, maps in tries]
    except NothingInCommon:
        return own, "alone" if pairs else "first"
    how, maps, rotations = found[0]
    if len(found) == 2 and _gain(_reached(found[1][2]), _reached(rotations)) > least_gain:
        how, maps, rotations = found[1]
    before = {kind: rotation.cosine_before for kind, rotation in rotations.items()}
    if how == "rotated" and _gain(_reached(rotations), before) <= least_gain:
        return maps, "kept"
    return {kind: maps[kind] @ rotation.matrix for kind, rotation in rotations.items()}, how


def _known(kinds: Sequence[str], pairs: Pairs) -> int:
    return sum(len(pairs[kind][0]) for kind in kinds if kind in pairs)


def _reached(rotations: Mapping[str, Rotation]) -> dict[str, float]:
    return {kind: rotation.mean_cosine for kind, rotation in rotations.items()}


def _gain(now: Mapping[str, float], before: Mapping[str, float]) -> float:
    """Return by how much one set of maps brings its most improved kind nearer."""
    return max(now[kind] - before[kind] for kind in now)


def _aligned(vectors: Mapping[str, F32], maps: Maps, pairs: Pairs) -> dict[str, Rotation]:
    grams = {}
    for kind, raw in vectors.items():
        gram = grams[kind] = Gram(raw.shape[1])
        rows, stored = pairs.get(kind, (np.zeros(0, np.intp), np.zeros((0, raw.shape[1]))))
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            gram.add(mapped(raw[rows[part]], maps[kind]), stored[part])
    return align(grams, ties=[tuple(grams)])


def _own(vectors: Mapping[str, F32], last: Space | None) -> tuple[Maps, dict[str, float]]:
    """Return the maps that only scale, and the scales: the last generation's where it has them.

    The second moments are means, so that however many more users than items there are, both sides
    of a score get one scale.
    """
    square = sum(float(np.trace(moment(raw))) / max(1, raw.size) for raw in vectors.values()) / len(
        vectors
    )
    scales = dict.fromkeys(vectors, square**-0.5) if square > 0 else {}  # the next ones will say
    if last is not None:
        scales |= {kind: last.scales[kind] for kind in vectors if kind in last.scales}
    own = {kind: np.eye(raw.shape[1]) * scales.get(kind, 1.0) for kind, raw in vectors.items()}
    return own, scales


def _through_canonical(vectors: Mapping[str, F32], own: Maps, pairs: Pairs) -> Maps:
    """Return maps from another training's vectors to the stored ones, by their canonical forms.

    ``canonical(new) O canonical(stored)⁻¹``, with O the rotation between the two forms: what was
    trained anew differs by any linear map that keeps the products of users and items, and so does
    this. Both forms are those of the entities in common. Where there is no product, ``own``.
    """
    if len(vectors) != 2 or not pairs.keys() >= vectors.keys():
        return own
    users, items = vectors
    raw = {kind: vectors[kind][pairs[kind][0]] for kind in vectors}
    stored = {kind: pairs[kind][1] for kind in vectors}
    of_new, of_stored = (
        dict(zip(vectors, canonical(_mean(some[users]), _mean(some[items])), strict=True))
        for some in (raw, stored)
    )
    grams = {}
    for kind in vectors:
        gram = grams[kind] = Gram(raw[kind].shape[1])
        for start in range(0, len(raw[kind]), _ROWS):
            part = slice(start, start + _ROWS)
            gram.add(
                mapped(raw[kind][part], of_new[kind]), mapped(stored[kind][part], of_stored[kind])
            )
    turned = align(grams, ties=[(users, items)])
    back = {users: of_stored[items].T, items: of_stored[users].T}  # M_u M_iᵀ = 1: the inverses
    return {kind: of_new[kind] @ turned[kind].matrix @ back[kind] for kind in vectors}


def _mean(vectors: Vectors) -> F64:
    moments: F64 = moment(vectors) / max(1, len(vectors))
    return moments


def _groups(vectors: Mapping[str, F32]) -> Sequence[tuple[str, ...]]:
    """Return the kinds, those together whose score is the product of their vectors."""
    ties = [
        tie
        for tie in TIES
        if vectors.keys() >= set(tie) and len({vectors[kind].shape[1] for kind in tie}) == 1
    ]
    tied = {kind for tie in ties for kind in tie}
    return [*ties, *((kind,) for kind in vectors if kind not in tied)]
