from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.batcher import Batcher


def _columns(requests: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "request": np.array(requests, np.uint64),
        "seq": np.arange(len(requests), dtype=np.int64),
    }


def _cut(columns: dict[str, np.ndarray[Any, Any]], start: int, end: int) -> Any:
    return {k: v[start:end] for k, v in columns.items()}


def _reference(requests: list[int], size: int) -> list[list[int]]:
    """Close a batch when one more than ``size`` is there, at the last end of a request."""
    batches, held = [], []
    for i in range(len(requests)):
        held.append(i)
        if len(held) > size:
            cut = size
            while cut > 0 and requests[held[cut]] == requests[held[cut - 1]]:
                cut -= 1
            cut = cut or size
            batches.append(held[:cut])
            held = held[cut:]
    return [*batches, held] if held else batches


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.integers(1, 9),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_the_batches_depend_on_the_examples_alone(
    requests: list[int], size: int, cuts: list[int]
) -> None:
    """However the examples arrive, the batches are those of the plain reference."""
    columns = _columns(requests)
    batcher = Batcher(size)
    batches = []
    edges = [0, *sorted(min(c, len(requests)) for c in cuts), len(requests)]
    for start, end in pairwise(edges):
        before = np.arange(start, end)
        for batch, closed in batcher.add(_cut(columns, start, end), before):
            batches.append(batch["seq"].tolist())
            assert closed == _closer(batches, size)
        resumed = Batcher(size)
        resumed.restore(batcher.state())
        batcher = resumed
    rest = batcher.drain()
    if rest is not None:
        batches.append(rest["seq"].tolist())

    assert _reference(requests, size) == batches


def _closer(batches: list[list[int]], size: int) -> int:
    """Return the example that closes a batch: the one after its first ``size``."""
    return batches[-1][0] + size
