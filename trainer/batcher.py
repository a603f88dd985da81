"""Cuts settled examples into batches, at the ends of requests, whatever blocks they come in."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.state import State

Columns = Mapping[str, npt.NDArray[Any]]


class Batcher:
    """Examples in settling order in, batches of at most ``batch_size`` out.

    A batch is closed when one example more than ``batch_size`` is there, and cut at the last end of
    a request at or before ``batch_size``, so that a listwise loss sees whole requests; a single
    request that is longer is cut. The cuts depend on the sequence of examples alone.
    """

    def __init__(self, batch_size: int) -> None:
        self._size = batch_size
        self._held: dict[str, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self._held["request"]) if self._held else 0

    def add(
        self, examples: Columns, before: npt.NDArray[np.int64]
    ) -> Iterator[tuple[dict[str, npt.NDArray[Any]], int]]:
        """Take examples (columns of n rows); yield each batch that they close.

        ``before`` (n,) is the index of the event before which each example settled. With a batch
        comes the index of the event before which it was closed.
        """
        held = len(self)
        if held:
            columns = {k: np.concatenate([v, examples[k]]) for k, v in self._held.items()}
        else:
            columns = dict(examples)
        request = columns["request"]
        ends = 1 + np.flatnonzero(request[1:] != request[:-1])  # a batch may be cut at these
        start = 0
        while len(request) - start > self._size:
            last = int(np.searchsorted(ends, start + self._size, side="right")) - 1
            cut = int(ends[last]) if last >= 0 and ends[last] > start else start + self._size
            closed_before = int(before[start + self._size - held])  # the one example more
            self._held = {k: v[cut:] for k, v in columns.items()}  # what is held while it is used
            yield {k: v[start:cut] for k, v in columns.items()}, closed_before
            start = cut
        self._held = {k: v[start:].copy() for k, v in columns.items()}

    def drain(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return what is held as a last, smaller batch."""
        held, self._held = self._held, {}
        return held if held and len(held["request"]) else None

    def first_held(self) -> int | None:
        """Return the least ``seq`` that is held."""
        return int(self._held["seq"].min()) if len(self) else None

    def state(self) -> State:
        """Return the examples that fill no batch yet."""
        return {"held": {k: v.copy() for k, v in self._held.items()}}

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self._held = dict(state["held"])
