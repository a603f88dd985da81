"""A batch's knowledge as a model takes it."""

# B examples, K knowledge width, J kinds of knowledge

from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from networks.shape import ModelShape
from trainer.batch import Batch


def knowledge_of(batch: Batch, shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Return the vectors (B, K), float32, and which kinds an example has, (B, J).

    What is missing is zero, whatever stands in its place; the batch stays as it is.

    Raises:
        ValueError: the batch carries other knowledge than ``shape`` says, or none.

    """
    size, widths = len(batch), [width for _, width in shape.knowledge]
    knowledge, known = batch.knowledge, batch.known
    if (
        knowledge is None
        or known is None
        or knowledge.shape != (size, sum(widths))
        or known.shape != (size, len(widths))
    ):
        raise ValueError(
            f"{size} examples come without the knowledge that the shape says they carry "
            f"({shape.knowledge}): give Batch.knowledge (B, {sum(widths)}) and known "
            f"(B, {len(widths)})."
        )
    vectors = np.empty(knowledge.shape, np.float32)
    knowledge_BK = torch.from_numpy(vectors)
    # Not by numpy, which takes ten times as long to widen float16.
    knowledge_BK.copy_(torch.from_numpy(_writeable(knowledge)))
    known = np.ascontiguousarray(_writeable(known))
    _blank(vectors, known, np.array([*accumulate(widths)], np.int64))
    return knowledge_BK, torch.from_numpy(known)


@njit("void(float32[:, ::1], boolean[:, ::1], int64[::1])", cache=True, nogil=True)
def _blank(vectors: Any, known: Any, ends: Any) -> None:
    for i in range(vectors.shape[0]):
        start = 0
        for j in range(ends.size):
            if not known[i, j]:
                for k in range(start, ends[j]):
                    vectors[i, k] = 0.0
            start = ends[j]


def _writeable(array: Any) -> Any:
    return array if array.flags.writeable else array.copy()  # torch takes no other
