"""Maps that bring a new generation's vectors into the space of the last.

Two trainings of one model give the same scores from vectors in unrelated spaces, and a network that
has learned to read the one reads noise in the other: docs/decisions/0014-refresh-without-shock.md.
A vector is a row; a map is applied on its right: ``new @ matrix``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extractor.errors import BadVectors, NothingInCommon
from extractor.gram import F64, Gram, Vectors, blocks, checked

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TIES: Final = (("user", "item"),)  # their scores are products of the two: one rotation for both

_RIDGE: Final = 1e-6  # of a Gram's mean: bounds the condition of a canonical map by about 1,000
_INERTIA: Final = 1e-9  # of the cross product's norm: decides only what the entities leave open


@dataclass(frozen=True, kw_only=True, eq=False)
class Rotation:
    """An orthogonal map (reflections included), and how well it fits the entities it is from."""

    matrix: F64  # (W, W): new @ matrix lies in the last generation's space
    count: int  # entities of this kind it was fitted on; where none, the figures below are 0
    cosine_before: float  # mean cosine of an entity's two vectors without it
    mean_cosine: float  # and with it
    error: float  # Σ|new @ matrix − last|² / Σ|last|²

    def apply(self, vectors: Vectors) -> F32:
        """Return vectors (n, W) of the new generation in the last one's space."""
        return mapped(vectors, self.matrix)


def mapped(vectors: Vectors, matrix: F64) -> F32:
    """Return vectors (n, W) @ matrix (W, W), block by block in float64. Raises BadVectors."""
    if vectors.ndim != 2 or vectors.shape[1] != len(matrix):
        raise BadVectors("vectors", vectors.shape, f"(rows, {len(matrix)})")
    out = np.empty((len(vectors), matrix.shape[1]), np.float32)
    for part in blocks(len(vectors)):
        out[part] = vectors[part].astype(np.float64) @ matrix
    return out


def stable(seen: npt.NDArray[np.integer[Any]], in_last: Mask, *, least: int = 5) -> Mask:
    """Return which entities (n,) a map is fitted on: known to both generations, and settled.

    ``seen`` is how often the new generation has seen each. The vector of a rare entity is mostly
    its first random value, which no map explains.
    """
    return np.asarray((seen >= least) & in_last)


def canonical(of_users: F64, of_items: F64) -> tuple[F64, F64]:
    """Return maps (W, W) for users and items to the canonical form of their bilinear score.

    ``users @ M_users`` and ``items @ M_items`` have the same dot products as before, and the same
    diagonal second moment on both sides. Two trainings with the same scores, whatever linear map
    lies between their spaces, differ after it by a rotation alone, which `procrustes` finds.
    Papers: SVD canonicalisation of Orthogonal Low-Rank Embedding Stabilization (arXiv 2508.07574).

    ``of_users`` and ``of_items`` are second moments (W, W), see `gram.moment`. A direction that
    they do not span gets a little mass: M_users M_itemsᵀ = 1 holds for any such amount, and the
    maps stay well conditioned. Raises BadVectors, NotFinite.
    """
    width = len(of_users)
    root_users, root_items = _root("users", of_users, width), _root("items", of_items, width)
    left, scale, right = np.linalg.svd(root_items @ root_users)
    balance = 1.0 / np.sqrt(scale)
    return (root_items @ left) * balance, (root_users @ right.T) * balance


def _root(what: str, second_moment: F64, width: int) -> F64:
    """Return the symmetric square root of a second moment, without a null space."""
    name = f"the second moment of {what}"
    if second_moment.shape != (width, width):
        raise BadVectors(name, second_moment.shape, f"({width}, {width}), as the other's")
    checked(name, second_moment, width)
    values, vectors = np.linalg.eigh((second_moment + second_moment.T) / 2)
    mean = float(values.mean())
    if mean <= 0:  # no vectors, or all zero: it has no preference
        return np.eye(width)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0) + _RIDGE * mean)) @ vectors.T)


def procrustes(gram: Gram, kind: str = "entity") -> Rotation:
    """Return the rotation R that minimises Σ w |a R − b|² over the entities of a Gram.

    Orthogonal Procrustes (Schönemann, 1966): R = U Vᵀ with U S Vᵀ = AᵀB; reflections are allowed.
    Directions in which the entities say nothing are turned as little as possible. Raises
    NothingInCommon where no weight is on any vector.
    """
    return align({kind: gram}, ties=())[kind]


def align(
    grams: Mapping[str, Gram],
    *,
    ties: Sequence[Sequence[str]] = TIES,
    least_gain: float | None = None,
) -> dict[str, Rotation]:
    """Return each kind's rotation; kinds that a bilinear score ties together get the same one.

    In a tie each kind has the same say, whatever the number and the length of its vectors; one
    that has nothing in common with the last generation follows the others. ``least_gain``: a
    rotation that improves no kind's mean cosine by more leaves the vectors as they are (None: it
    turns them all the same): a generation that has hardly turned need not be written anew. Nothing
    adds up by that, since the next one is again compared with what is stored.
    Raises NothingInCommon, BadVectors.
    """
    groups = [[kind for kind in tie if kind in grams] for tie in ties]
    tied = {kind for group in groups for kind in group}
    groups += [[kind] for kind in grams if kind not in tied]
    return {
        kind: rotation
        for group in groups
        if group
        for kind, rotation in _turned({kind: grams[kind] for kind in group}, least_gain).items()
    }


def _turned(grams: Mapping[str, Gram], least_gain: float | None) -> dict[str, Rotation]:
    widths = {gram.width for gram in grams.values()}
    if len(widths) > 1:
        shape = tuple(gram.width for gram in grams.values())
        raise BadVectors(f"the widths of {' and '.join(grams)}", shape, "one width to all of a tie")
    width = widths.pop()
    say = np.zeros((width, width))
    for gram in grams.values():
        mass = float(np.sqrt(np.trace(gram.of_a) * np.trace(gram.of_b)))
        if mass > 0:
            say += gram.cross / mass
    if not say.any():
        raise NothingInCommon(" or ".join(grams))
    left, _, right = np.linalg.svd(say + _INERTIA * float(np.linalg.norm(say)) * np.eye(width))
    matrix = left @ right  # one for all of them, to the bit
    fitted = {kind: _judged(gram, matrix) for kind, gram in grams.items()}
    if least_gain is None or any(
        rotation.mean_cosine - rotation.cosine_before > least_gain for rotation in fitted.values()
    ):
        return fitted
    return {kind: _judged(gram, np.eye(width)) for kind, gram in grams.items()}


def _judged(gram: Gram, matrix: F64) -> Rotation:
    """Return a rotation with its figures, all of them sums that the Gram holds."""
    last = float(np.trace(gram.of_b))
    error = float(np.trace(gram.of_a)) + last - 2 * float(np.vdot(matrix, gram.cross))
    return Rotation(
        matrix=matrix,
        count=gram.count,
        cosine_before=float(np.trace(gram.directions)) / gram.weight if gram.weight else 0.0,
        mean_cosine=float(np.vdot(matrix, gram.directions)) / gram.weight if gram.weight else 0.0,
        error=max(error, 0.0) / last if last else 0.0,
    )
