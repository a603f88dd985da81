"""The lines of messages, taken apart and put together again, compiled.

Shapes: n lines or events, m messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types

from stream.decode import Decoded, Decoder
from stream.events import EventColumns, EventSchema, Index
from stream.position import Partition
from stream.xxh3 import BYTES

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


class Lines:
    """Where in some bytes each of n lines lies; indexed as a column is."""

    def __init__(self, data: U8, starts: I64, ends: I64) -> None:
        self.data, self.starts, self.ends = data, starts, ends

    def __len__(self) -> int:
        return self.starts.size

    def __getitem__(self, index: Index) -> "Lines":
        return Lines(self.data, self.starts[index], self.ends[index])

    @property
    def size(self) -> int:
        """The bytes of all lines."""
        return int((self.ends - self.starts).sum())

    def copy_to(self, out: U8) -> None:
        """Copy the lines, one right after another, into ``out`` (size,)."""
        copy_lines(self.data, self.starts, self.ends, out)


@dataclass(frozen=True, kw_only=True, eq=False)
class RawEvents(EventColumns):
    """Events with the lines they were read from, without newlines."""

    line: Lines


class RawDecoder:
    """Decodes messages, without features, and keeps the line of each event beside it."""

    def __init__(self) -> None:
        self.schema = EventSchema()  # features are passed on as they are
        self._decoder = Decoder(self.schema)

    def decode(
        self,
        messages: Sequence[Any],
        offsets: I64,
        partition_index: int,
        partition: Partition,
    ) -> Decoded:
        """Decode the messages (m,) at ``offsets`` (m,), ascending, of one partition."""
        events, rejected, names = self._decoder.decode(
            messages, offsets, partition_index, partition
        )
        data = np.frombuffer(b"\n".join(messages), np.uint8)
        ends = np.append(np.flatnonzero(data == 10), data.size)
        starts = np.append(0, ends[:-1] + 1)
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        begins = np.append(0, np.cumsum(lengths + 1)[:-1])  # of each message
        first_lines = np.searchsorted(starts, begins)
        index = first_lines[np.searchsorted(offsets, events.offset)] + events.row
        line = Lines(data, starts[index], ends[index])
        return Decoded(RawEvents(**events.columns(), line=line), rejected, names)  # type: ignore[arg-type]  # columns by name


def messages_of(lines: Lines, offsets: I64, rows: npt.NDArray[np.int32]) -> list[bytes]:
    """Put lines (n,) together to the messages they came in, one for each of their offsets.

    ``offsets`` and ``rows`` (n,) ascend. Lines that are missing are blank, so that each line is in
    its row again.
    """
    if not len(lines):
        return []
    begins = np.append(True, offsets[1:] != offsets[:-1])
    blanks = np.diff(rows, prepend=0).astype(np.int64)
    blanks[begins] = rows[begins]
    out = np.empty(lines.size + int(blanks.sum()), np.uint8)
    bounds = np.empty(int(begins.sum()) + 1, np.int64)
    _join(lines.data, lines.starts, lines.ends, begins, blanks, out, bounds)
    data, places = out.tobytes(), bounds.tolist()
    return [data[a:b] for a, b in pairwise(places)]


@njit(
    types.void(BYTES, types.int64[:], types.int64[:], types.uint8[::1]),
    cache=True,
    nogil=True,
)
def copy_lines(data: U8, starts: I64, ends: I64, out: U8) -> None:
    """Copy the bytes from each start to its end, one after another, into ``out``."""
    at = 0
    for i in range(starts.size):
        for k in range(starts[i], ends[i]):
            out[at] = data[k]
            at += 1


@njit(
    types.void(
        BYTES,
        types.int64[:],
        types.int64[:],
        types.boolean[::1],
        types.int64[::1],
        types.uint8[::1],
        types.int64[::1],
    ),
    cache=True,
    nogil=True,
)
def _join(
    data: U8,
    starts: I64,
    ends: I64,
    begins: npt.NDArray[np.bool_],
    blanks: I64,
    out: U8,
    bounds: I64,
) -> None:
    at = message = 0
    for i in range(starts.size):
        if begins[i]:
            bounds[message] = at
            message += 1
        for _ in range(blanks[i]):
            out[at] = 10
            at += 1
        for k in range(starts[i], ends[i]):
            out[at] = data[k]
            at += 1
    bounds[message] = at
