"""Gram matrices of two generations' vectors, summed block by block.

n entities, W width of a kind. Fitting a map between two generations needs W × W sums only, so that
millions of rows pass through a few megabytes.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extractor.errors import BadVectors, NotFinite

F64 = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.floating[Any]]  # float16 as stored, float32 as computed, float64

ROWS: Final = 4096  # rows in float64 at a time: 2 MB at W = 64, which a cache holds


def blocks(rows: int) -> Iterator[slice]:
    """Yield the slices of ``ROWS`` rows at most that cover ``rows``.

    >>> list(blocks(5000))
    [slice(0, 4096, None), slice(4096, 5000, None)]
    """
    for start in range(0, rows, ROWS):
        yield slice(start, min(start + ROWS, rows))


def checked(what: str, vectors: Vectors, width: int) -> Vectors:
    """Return vectors (n, W) that have the width and are finite; else raise naming ``what``.

    Raises BadVectors, NotFinite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise BadVectors(what, vectors.shape, f"(rows, {width})")
    for part in blocks(len(vectors)):
        finite = np.isfinite(vectors[part])
        if not finite.all():
            raise NotFinite(what, part.start + int(np.argmin(finite.all(axis=1))))
    return vectors


def moment(vectors: Vectors) -> F64:
    """Return VᵀV (W, W) of vectors (n, W), in float64; sums of parts add up to that of all.

    Raises BadVectors, NotFinite.
    """
    width = vectors.shape[-1]
    total = np.zeros((width, width))
    for part in blocks(len(checked("vectors", vectors, width))):
        rows = vectors[part].astype(np.float64)
        total += rows.T @ rows
    return total


class Gram:
    """AᵀB, AᵀA and BᵀB of the vectors that the same entities have in two generations.

    ``a`` are the new generation's, ``b`` the last's. How the rows are cut into blocks, or shared
    among several Grams that are merged, makes no difference beyond rounding. Memory: 4 W² numbers,
    and two blocks of rows.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.cross = np.zeros((width, width))  # Σ w a bᵀ
        self.of_a = np.zeros((width, width))  # Σ w a aᵀ
        self.of_b = np.zeros((width, width))  # Σ w b bᵀ
        self.directions = np.zeros((width, width))  # Σ w a bᵀ / |a||b|: its trace sums cosines
        self.count = 0  # entities
        self.weight = 0.0  # Σ w

    def add(self, a: Vectors, b: Vectors, weights: npt.NDArray[Any] | None = None) -> None:
        """Add the vectors (n, W) of n entities in both generations, and their weights (n,) >= 0.

        A vector of zeros has no direction: its cosine counts as 0. Nothing is added where
        BadVectors or NotFinite is raised.
        """
        checked("the new generation's vectors", a, self.width)
        checked("the last generation's vectors", b, self.width)
        if len(a) != len(b):
            raise BadVectors("the last generation's vectors", b.shape, f"{len(a)} rows, as the new")
        weight = self._weights(weights, len(a))
        for part in blocks(len(a)):
            self._add(a[part].astype(np.float64), b[part].astype(np.float64), weight[part])

    def _weights(self, weights: npt.NDArray[Any] | None, rows: int) -> F64:
        if weights is None:
            return np.ones(rows)
        if weights.shape != (rows,):
            raise BadVectors("weights", weights.shape, f"({rows},), one for each entity")
        sound = np.isfinite(weights) & (weights >= 0)
        if not sound.all():
            raise NotFinite("weights (negative ones included)", int(np.argmin(sound)))
        return weights.astype(np.float64)

    def _add(self, a: F64, b: F64, weight: F64) -> None:
        norms = np.sqrt(np.einsum("nw,nw->n", a, a) * np.einsum("nw,nw->n", b, b))
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        root = np.sqrt(weight)[:, None]
        a *= root
        b *= root
        self.cross += a.T @ b
        self.of_a += a.T @ a  # of one array with itself: half the work
        self.of_b += b.T @ b
        a *= inverse[:, None]
        self.directions += a.T @ b
        self.count += len(a)
        self.weight += float(weight.sum())

    def merge(self, other: "Gram") -> None:
        """Add what another Gram has summed."""
        if other.width != self.width:
            raise BadVectors("the other Gram", (other.width, other.width), f"width {self.width}")
        self.cross += other.cross
        self.of_a += other.of_a
        self.of_b += other.of_b
        self.directions += other.directions
        self.count += other.count
        self.weight += other.weight
