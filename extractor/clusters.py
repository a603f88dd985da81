"""Clusters of item vectors: categories for a log that has none.

Spherical k-means (Dhillon & Modha, 2001): a vector belongs to the centre of the nearest direction.
A cluster's number is an id that other knowledge is keyed by (user × category), so it must mean the
same after every refresh. n items, W width, k clusters.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extractor.errors import BadVectors, ExtractorError, NotFitted
from extractor.gram import F64, Vectors, blocks, checked
from stream.state import State

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_ALIKE: Final = 1e-5  # a cosine this near 1 is the same direction in float32
_DRAWN: Final = 64  # vectors for each cluster among which the first centres are drawn


@dataclass(frozen=True, kw_only=True)
class ClustersConfig:
    """How clusters are found, and how firmly they keep their items."""

    rounds: int = 20  # of a first fit; the centres hardly move after
    warm_rounds: int = 3  # of a refresh, which starts where the last one ended
    margin: float = 0.05  # by so much must another centre's cosine be better to take an item over
    sample: int = 131_072  # vectors that the centres are fitted on: bounds time, 32 MB at W = 64
    seed: int = 0  # of the sample and the first centres


class Clusters:
    """k centres of directions, whose numbers stay while the vectors are refreshed.

    Memory: k × W, the sample, and a block of ``gram.ROWS`` × k similarities. State: the centres,
    for a side file of the generation whose vectors they belong to.
    """

    def __init__(self, k: int, width: int, config: ClustersConfig | None = None) -> None:
        if k < 1 or width < 1:
            raise ExtractorError(f"{k} clusters of width {width}: give at least 1 of each.")
        self.k = k
        self.width = width
        self._config = config or ClustersConfig()
        self._centres: F32 = np.zeros((k, width), np.float32)  # unit length; zeros: no cluster
        self._members: I64 = np.zeros(k, np.int64)  # of the sample, at the last round

    @property
    def centres(self) -> F32:
        """Return a copy of the centres (k, W), of unit length; one without members is zeros."""
        return self._centres.copy()

    def fit(self, vectors: Vectors) -> None:
        """Find the centres from scratch in item vectors (n, W).

        Where there were centres before, each new one gets the number of the old one whose items it
        has, such that as many as possible keep theirs. Raises BadVectors, NotFinite, ExtractorError
        where no vector has a direction.
        """
        units = self._sampled(vectors)
        before = self._centres
        self._centres = self._seeded(units)
        self._settle(units, self._config.rounds)
        if before.any():
            old, new = _nearest(units, before)[0], _nearest(units, self._centres)[0]
            overlap = np.bincount(old.astype(np.int64) * self.k + new, minlength=self.k**2)
            likeness = before.astype(np.float64) @ self._centres.T.astype(np.float64)
            gain = overlap.reshape(self.k, self.k) + likeness / (4 * self.k)  # decides ties only
            order = matching(-gain)
            self._centres, self._members = self._centres[order], self._members[order]

    def refresh(self, vectors: Vectors) -> None:
        """Move the centres to where the items (n, W) of the next generation are.

        The vectors must be aligned: in the space of the centres. A cluster that lost all items
        starts anew inside the largest one; no other changes its number. Raises NotFitted,
        BadVectors, NotFinite.
        """
        self._require_centres()
        self._settle(self._sampled(vectors), self._config.warm_rounds)

    def assign(self, vectors: Vectors, last: npt.NDArray[np.integer[Any]] | None = None) -> I32:
        """Return each item's cluster (n,), −1 where a vector is zeros: it has no direction.

        ``last`` (n,) holds the numbers of the last generation, −1 for a new item: it keeps its
        cluster unless another is nearer by the margin. Raises NotFitted, BadVectors, NotFinite.
        """
        self._require_centres()
        checked("item vectors", vectors, self.width)
        if last is not None and last.shape != (len(vectors),):
            raise BadVectors("the last clusters", last.shape, f"({len(vectors)},)")
        out = np.empty(len(vectors), np.int32)
        for part in blocks(len(vectors)):
            units = _units(vectors[part])
            out[part] = self._kept(units, None if last is None else last[part])
            out[part][~units.any(axis=1)] = -1
        return out

    def _kept(self, units: F32, last: npt.NDArray[np.integer[Any]] | None) -> I32:
        likeness = _likeness(units, self._centres)
        nearest: I32 = likeness.argmax(axis=1).astype(np.int32)
        if last is None:
            return nearest
        rows = np.arange(len(units))
        known = (last >= 0) & (last < self.k)
        number = np.where(known, last, 0)
        lead = likeness[rows, nearest] - likeness[rows, number]  # inf where the old one is gone
        return np.where(known & (lead <= self._config.margin), number, nearest).astype(np.int32)

    def _require_centres(self) -> None:
        if not self._centres.any():
            raise NotFitted

    def _sampled(self, vectors: Vectors) -> F32:
        """Return directions (m, W) of at most ``sample`` vectors that have one, in row order."""
        checked("item vectors", vectors, self.width)
        if len(vectors) > self._config.sample:
            rng = np.random.default_rng(self._config.seed)
            rows = rng.choice(len(vectors), self._config.sample, replace=False)
            vectors = vectors[np.sort(rows)]
        units = _units(vectors)
        units = units[units.any(axis=1)]
        if not len(units):
            raise ExtractorError("No item vector has a direction: train the extractor first.")
        return units

    def _seeded(self, units: F32) -> F32:
        """Return first centres, each far from those before: greedy k-means++ (2007)."""
        rng = np.random.default_rng(self._config.seed)
        if len(units) > _DRAWN * self.k:
            units = units[np.sort(rng.choice(len(units), _DRAWN * self.k, replace=False))]
        centres = np.zeros((self.k, self.width), np.float32)
        centres[0] = units[rng.integers(len(units))]
        distance = _distances(units, centres[:1])[:, 0]
        tries = 2 + int(np.log(self.k))  # the best of some: one alone may hit a group twice
        for number in range(1, self.k):
            if not distance.any():  # fewer directions than clusters: the rest stay empty
                break
            rows = rng.choice(len(units), tries, p=distance / distance.sum())
            left = np.minimum(distance[:, None], _distances(units, units[rows]))
            best = int(left.sum(axis=0).argmin())
            centres[number], distance = units[rows[best]], left[:, best]
        return centres

    def _settle(self, units: F32, rounds: int) -> None:
        for _ in range(rounds):
            nearest, likeness = _nearest(units, self._centres)
            self._reseed(units, nearest, likeness)
            self._members = np.bincount(nearest, minlength=self.k)
            moved = self._moved(units, nearest)
            still = np.abs(moved - self._centres).max() < _ALIKE
            self._centres = moved
            if still:
                return

    def _reseed(self, units: F32, nearest: I32, likeness: F32) -> None:
        """Give each empty cluster the odd ones of the largest cluster that has any, in place."""
        members = np.bincount(nearest, minlength=self.k)
        apart = np.bincount(nearest[likeness < 1 - _ALIKE], minlength=self.k) > 0
        for empty in np.flatnonzero(members == 0):
            if not apart.any():  # one direction each: there is nothing to part
                self._centres[empty] = 0.0
                continue
            largest = int(np.argmax(np.where(apart, members, -1)))
            rows = np.flatnonzero(nearest == largest)
            self._centres[empty] = units[rows[np.argmin(likeness[rows])]]
            nearer = units[rows] @ self._centres[empty]
            going = nearer > likeness[rows]
            nearest[rows[going]], likeness[rows[going]] = empty, nearer[going]
            for number in (largest, int(empty)):
                inside = nearest == number
                members[number] = inside.sum()
                apart[number] = bool((likeness[inside] < 1 - _ALIKE).any())

    def _moved(self, units: F32, nearest: I32) -> F32:
        """Return the centres of the members' directions; one without members stays."""
        sums: F64 = np.zeros((self.k, self.width))
        for part in blocks(len(units)):
            order = np.argsort(nearest[part], kind="stable")
            numbers, starts = np.unique(nearest[part][order], return_index=True)
            sums[numbers] += np.add.reduceat(units[part][order].astype(np.float64), starts)
        norms = np.linalg.norm(sums, axis=1)
        moved = self._centres.copy()
        moved[norms > 0] = sums[norms > 0] / norms[norms > 0, None]
        return moved

    def state(self) -> State:
        """Return a copy of the centres and how many of the sample each has."""
        return {"centres": self._centres.copy(), "members": self._members.copy()}

    def restore(self, state: State) -> None:
        """Go on from a saved state. Raises BadVectors where it is of another k or width."""
        centres = np.array(state["centres"], np.float32)
        if centres.shape != (self.k, self.width):
            raise BadVectors("the saved centres", centres.shape, f"({self.k}, {self.width})")
        self._centres = centres
        self._members = np.array(state["members"], np.int64)


def matching(cost: F64) -> npt.NDArray[np.intp]:
    """Return the column (k,) of each row such that the sum of a square cost (k, k) is least.

    Hungarian method with shortest augmenting paths (Kuhn, 1955; Jonker & Volgenant, 1987): O(k³).

    >>> matching(np.array([[4.0, 1.0], [2.0, 0.0]]))
    array([1, 0])
    """
    k = len(cost)
    row_of = np.full(k + 1, -1)  # by column; the last column is where the row to place stands
    row_price, column_price = np.zeros(k), np.zeros(k + 1)
    for row in range(k):
        row_of[k] = row
        column = k
        least, through = np.full(k, np.inf), np.full(k, k)
        used = np.zeros(k + 1, np.bool_)
        while row_of[column] >= 0:  # lengthen the path until it ends in a free column
            used[column] = True
            slack = cost[row_of[column]] - row_price[row_of[column]] - column_price[:k]
            better = ~used[:k] & (slack < least)
            least[better], through[better] = slack[better], column
            free = np.where(used[:k], np.inf, least)
            nearest = int(np.argmin(free))
            step = free[nearest]
            row_price[row_of[used]] += step
            column_price[used] -= step
            least[~used[:k]] -= step
            column = nearest
        while column != k:  # shift the rows along the path
            row_of[column] = row_of[through[column]]
            column = int(through[column])
    columns = np.empty(k, np.intp)
    columns[row_of[:k]] = np.arange(k)
    return columns


def _units(vectors: Vectors) -> F32:
    """Return the directions (n, W) of vectors; zeros stay zeros."""
    out = np.zeros(vectors.shape, np.float32)
    for part in blocks(len(vectors)):
        rows = vectors[part].astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)[:, None]
        np.divide(rows, norms, out=rows, where=norms > 0)
        out[part] = rows
    return out


def _distances(units: F32, centres: F32) -> F64:
    """Return 1 − cosine (n, c), half the squared distance of directions; alike ones have none."""
    distance = 1.0 - (units @ centres.T).astype(np.float64)
    distance[distance < _ALIKE] = 0.0
    return distance


def _likeness(units: F32, centres: F32) -> F32:
    """Return the cosines (n, k); −inf to what is no cluster."""
    likeness = np.asarray(units @ centres.T, np.float32)
    likeness[:, ~centres.any(axis=1)] = -np.inf
    return likeness


def _nearest(units: F32, centres: F32) -> tuple[I32, F32]:
    """Return the nearest centre (n,) of each direction, and its cosine (n,)."""
    nearest, best = np.empty(len(units), np.int32), np.empty(len(units), np.float32)
    for part in blocks(len(units)):
        likeness = _likeness(units[part], centres)
        nearest[part] = likeness.argmax(axis=1)
        best[part] = likeness[np.arange(len(likeness)), nearest[part]]
    return nearest, best
