"""Events as columns: what every part of the stream hands to the next.

Shapes: n events, F id features, D number features, L list positions (all list features, padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt

IMPRESSION: Final = 0
FEEDBACK: Final = 1
OTHER_ACTION: Final = 255

Array = npt.NDArray[np.generic]
Index = npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice


@dataclass(frozen=True, kw_only=True)
class EventSchema:
    """Which features and actions of an event are read; everything else is kept out of the way."""

    ids: tuple[str, ...] = ()  # features that name something: hashed to 64 bits
    numbers: tuple[str, ...] = ()  # features that measure something; NaN where missing
    lists: tuple[tuple[str, int], ...] = ()  # (name, most recent values kept): lists of ids
    actions: tuple[str, ...] = ("click",)  # at most 8; others are read as OTHER_ACTION

    @property
    def list_width(self) -> int:
        """The columns of `EventColumns.lists`: all list features, side by side."""
        return sum(width for _, width in self.lists)


@dataclass(frozen=True, kw_only=True, eq=False)
class EventColumns:
    """A block of events, a column a field; ids are 64-bit hashes (`stream.ids`), 0 where absent."""

    kind: npt.NDArray[np.uint8]  # IMPRESSION or FEEDBACK
    ts: npt.NDArray[np.int64]  # event time, epoch ms
    at: npt.NDArray[np.int64]  # its place in the order of the stream, ms; ts until `order` sets it
    impression: npt.NDArray[np.uint64]
    user: npt.NDArray[np.uint64]
    item: npt.NDArray[np.uint64]  # 0 for feedback
    request: npt.NDArray[np.uint64]  # the impression's own id where the event names no request
    scene: npt.NDArray[np.uint64]
    position: npt.NDArray[np.int32]  # place in the list shown, -1 where unknown
    action: npt.NDArray[np.uint8]  # index into EventSchema.actions, or OTHER_ACTION
    value: npt.NDArray[np.float32]  # NaN where absent
    ids: npt.NDArray[np.uint64]  # (n, F)
    numbers: npt.NDArray[np.float32]  # (n, D)
    lists: npt.NDArray[np.uint64]  # (n, L)
    partition: npt.NDArray[np.int16]  # index into Source.partitions
    offset: npt.NDArray[np.int64]  # the message it came in
    row: npt.NDArray[np.int32]  # its place inside that message

    def __len__(self) -> int:
        return self.ts.size

    def take(self, index: Index) -> Self:
        """Return the events at ``index`` (positions, a mask or a slice)."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_at(self, at: npt.NDArray[np.int64]) -> Self:
        """Return these events with their place in the stream's order."""
        return replace(self, at=at)

    @staticmethod
    def concat(blocks: "Sequence[Columns]") -> "Columns":
        """Return the events of ``blocks``, of one class, one after another; at least one block."""
        first = blocks[0]
        if len(blocks) == 1:
            return first
        return type(first)(
            **{f.name: np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(first)}
        )

    @classmethod
    def empty(cls, schema: EventSchema, n: int = 0) -> Self:
        """Return ``n`` blank events of ``schema``: zeros, NaN and "absent"."""
        return cls(
            kind=np.zeros(n, np.uint8),
            ts=np.zeros(n, np.int64),
            at=np.zeros(n, np.int64),
            impression=np.zeros(n, np.uint64),
            user=np.zeros(n, np.uint64),
            item=np.zeros(n, np.uint64),
            request=np.zeros(n, np.uint64),
            scene=np.zeros(n, np.uint64),
            position=np.full(n, -1, np.int32),
            action=np.full(n, OTHER_ACTION, np.uint8),
            value=np.full(n, np.nan, np.float32),
            ids=np.zeros((n, len(schema.ids)), np.uint64),
            numbers=np.full((n, len(schema.numbers)), np.nan, np.float32),
            lists=np.zeros((n, schema.list_width), np.uint64),
            partition=np.zeros(n, np.int16),
            offset=np.zeros(n, np.int64),
            row=np.zeros(n, np.int32),
        )

    def columns(self) -> dict[str, Array]:
        """Return the columns by name, as a checkpoint stores them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


Columns = TypeVar("Columns", bound=EventColumns)
