"""Labelled examples as columns, and the clicks that made their labels as events behind them."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.events import FEEDBACK, EventColumns, EventSchema
from stream.ids import mix

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleColumns(EventColumns):
    """Impressions with their labels; `offset` and `row` are of the record they came in.

    Between `with_clicks` and the join there are feedback rows too, one for each click; they repeat
    the columns of their impression, and their origin is the place of the click.
    """

    label: U8  # 0 or 1
    label_at: I64  # when it became known, ms; -1 for a negative
    label_kind: U8  # SETTLED, EARLY_POSITIVE or CORRECTION (stream/policy)
    actions: U8  # bits over the worker's actions: all feedback within the window
    origin_partition: npt.NDArray[np.int16]  # which of the worker's inputs, sorted, it was read in
    origin_offset: I64
    origin_row: npt.NDArray[np.int32]
    click_partition: npt.NDArray[np.int16]  # likewise of the feedback that made the label; -1: none
    click_offset: I64
    click_row: npt.NDArray[np.int32]
    example: U64  # of one impression and its click the same, of others another

    @classmethod
    def empty(cls, schema: EventSchema, n: int = 0) -> Self:
        """Return ``n`` blank examples of ``schema``."""
        events: dict[str, Any] = EventColumns.empty(schema, n).columns()
        return cls(
            **events,
            label=np.zeros(n, np.uint8),
            label_at=np.full(n, -1, np.int64),
            label_kind=np.zeros(n, np.uint8),
            actions=np.zeros(n, np.uint8),
            origin_partition=np.zeros(n, np.int16),
            origin_offset=np.zeros(n, np.int64),
            origin_row=np.zeros(n, np.int32),
            click_partition=np.full(n, -1, np.int16),
            click_offset=np.full(n, -1, np.int64),
            click_row=np.full(n, -1, np.int32),
            example=np.zeros(n, np.uint64),
        )

    @property
    def early(self) -> npt.NDArray[np.bool_]:
        """The positives (n,) whose feedback was there before they were: matched when shown."""
        same_place = (
            (self.click_partition == self.origin_partition)
            & (self.click_offset == self.origin_offset)
            & (self.click_row == self.origin_row)
        )
        early: npt.NDArray[np.bool_] = (same_place | (self.click_partition < 0)) & (self.label == 1)
        return early

    def with_clicks(self) -> Self:
        """Return these examples, and behind them an event for every click that came after one."""
        examples = replace(
            self,
            example=_names(
                self.partition, self.origin_partition, self.origin_offset, self.origin_row
            ),
        )
        clicked = examples.take((self.label == 1) & ~self.early)
        if not len(clicked):
            return examples
        clicks = replace(
            clicked,
            kind=np.full(len(clicked), FEEDBACK, np.uint8),
            ts=clicked.label_at,
            at=clicked.label_at,
            origin_partition=clicked.click_partition,
            origin_offset=clicked.click_offset,
            origin_row=clicked.click_row,
        )
        return type(self).concat([examples, clicks])


@njit(cache=True, nogil=True)
def _names(partition: Any, origin_partition: Any, offset: Any, row: Any) -> Any:
    names = np.empty(partition.size, np.uint64)
    for i in range(partition.size):
        lane = np.uint64(partition[i]) << np.uint64(16) | np.uint64(origin_partition[i])
        names[i] = mix(mix(np.uint64(offset[i])) ^ (lane << np.uint64(32) | np.uint64(row[i])))
    return names
