"""What a refresh writes: smoothed vectors, and of them those that differ from what is stored."""

from typing import Any

import numpy as np
import numpy.typing as npt

from extractor.errors import BadVectors, ExtractorError
from extractor.gram import F64, Vectors, blocks, checked

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def cosines(old: Vectors, new: Vectors) -> F64:
    """Return the cosine (n,) of each entity's two vectors (n, W); 0 where one is all zeros."""
    _pair(old, new)
    out = np.zeros(len(old))
    for part in blocks(len(old)):
        a, b = old[part].astype(np.float64), new[part].astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        np.divide(np.einsum("nw,nw->n", a, b), norms, out=out[part], where=norms > 0)
    return out


def smooth(old: Vectors, new: Vectors, present_old: Mask, weight_old: float = 0.8) -> F32:
    """Return ``weight_old`` old + the rest new (n, W), for entities that have an old vector.

    The others get their new one. Both must lie in one space: align first. 0.8 is what was best of
    Pinterest's daily averages (papers on DERM); 0 takes the new vectors as they are.
    Raises BadVectors, NotFinite.
    """
    if not 0.0 <= weight_old <= 1.0:
        raise ExtractorError(f"The weight of old vectors is {weight_old}; give one from 0 to 1.")
    _pair(old, new)
    _mask(present_old, len(new))
    out = np.empty(new.shape, np.float32)
    for part in blocks(len(new)):
        weight = np.where(present_old[part], weight_old, 0.0)[:, None]
        kept = np.where(present_old[part][:, None], old[part].astype(np.float64), 0.0)
        out[part] = weight * kept + (1.0 - weight) * new[part].astype(np.float64)
    return out


def changed(old: Vectors, new: Vectors, tolerance: float, present_old: Mask | None = None) -> Mask:
    """Return which rows (n,) are to be written: |new − old| > tolerance |old|.

    ``old`` is what is stored, in its dtype; ``new`` is cast to it first, since that is what would
    be stored. Tolerance 0: any bit that differs. A row without an old vector is always written.
    What is not written stays within the tolerance for good, however many generations pass: the next
    one is compared with what is stored. Raises BadVectors; NotFinite also where a number is too
    large for the stored dtype.
    """
    if not tolerance >= 0.0:
        raise ExtractorError(f"The tolerance of a change is {tolerance}; give 0 or more.")
    _pair(old, new)
    if present_old is not None:
        _mask(present_old, len(new))
    out = np.empty(len(new), np.bool_)
    for part in blocks(len(new)):
        out[part] = _changed(old[part], stored(new[part], old.dtype), tolerance)
    return out if present_old is None else out | ~present_old


def stored(vectors: Vectors, dtype: npt.DTypeLike) -> Vectors:
    """Return vectors as a table of this dtype keeps them. Raises NotFinite on overflow."""
    with np.errstate(over="ignore"):
        cast: Vectors = vectors.astype(dtype)
    return checked(f"the new vectors as {cast.dtype}", cast, vectors.shape[1])


def _changed(old: npt.NDArray[Any], new: npt.NDArray[Any], tolerance: float) -> Mask:
    if tolerance == 0.0:
        bits = f"u{old.dtype.itemsize}"
        same = np.ascontiguousarray(old).view(bits) == np.ascontiguousarray(new).view(bits)
        return np.asarray(~same.all(axis=1))
    before = old.astype(np.float64)
    distance = np.linalg.norm(new.astype(np.float64) - before, axis=1)
    return np.asarray(distance > tolerance * np.linalg.norm(before, axis=1))


def _pair(old: Vectors, new: Vectors) -> None:
    if old.shape != new.shape:
        raise BadVectors("the new vectors", new.shape, f"{old.shape}, as the old ones")
    checked("the old vectors", old, old.shape[-1])
    checked("the new vectors", new, new.shape[-1])


def _mask(present: Mask, rows: int) -> None:
    if present.shape != (rows,):
        raise BadVectors("the presence mask", present.shape, f"({rows},), one for each vector")
