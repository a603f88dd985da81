"""Lines to columns, compiled: the plain ones, which are nearly all, without Python for each.

A line is *plain* if what it says is beyond doubt: one JSON object with every required field, each
field once and of its type; texts without escapes, ids of at most 128 bytes, integers of up to 18
digits, numbers whose float32 is certain. What is odd in any way is left to msgspec
(`stream.decode`), which alone judges what is no event. For plain lines both give the same bits.
See docs/decisions/0009-decoding.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream import scankernel as kernel
from stream.events import EventColumns, EventSchema

I64 = npt.NDArray[np.int64]

PIECE: Final = 16_384  # lines whose columns are made at once: what a source's block holds
_PAD: Final = bytes(16)  # behind the last line: bytes that end any token


class Piece(NamedTuple):
    """The next n lines of some messages."""

    columns: EventColumns  # n events; only the rows of plain lines mean something, but for origin
    plain: npt.NDArray[np.bool_]  # (n,)
    lines: I64  # (n, 2) where in ``data`` each begins and ends
    new_scenes: I64  # (k, 3) plain lines whose scene has no name yet; where its JSON begins, ends
    data: bytes


class Scanner:
    """Finds the lines of messages, and reads those that are plain."""

    def __init__(
        self, schema: EventSchema, earliest_ms: int, latest_ms: int, max_line_bytes: int, scan: bool
    ) -> None:
        """Take times from ``earliest_ms`` on, before ``latest_ms``; without ``scan`` none is plain.

        ``schema`` names no feature and no action twice.
        """
        self._schema = schema
        features = [*schema.ids, *schema.numbers, *(name for name, _ in schema.lists)]
        of_event = kernel.FIELDS if features else kernel.FIELDS[:-1]
        self._names = _table(
            [
                *((name, kernel.OF_EVENT) for name in of_event),
                *(("", -1) for _ in kernel.FIELDS[len(of_event) :]),  # keeps its place
                *((name, kernel.OF_FEATURES) for name in features),
                *((name, kernel.OF_ACTIONS) for name in schema.actions),
            ]
        )
        self._features = len(features)
        self._list_starts = np.cumsum([0, *(width for _, width in schema.lists)], dtype=np.int64)
        self._limits = np.zeros(kernel.LIMITS, np.int64)
        self._limits[kernel.EARLIEST] = earliest_ms
        self._limits[kernel.LATEST] = latest_ms
        self._limits[kernel.LINE_BYTES] = max_line_bytes
        self._limits[kernel.IDS] = len(schema.ids)
        self._limits[kernel.NUMBERS] = len(schema.numbers)
        self._limits[kernel.ACTIONS] = len(kernel.FIELDS) + len(features)
        self._limits[kernel.SCAN] = scan

    def pieces(
        self,
        messages: Sequence[bytes],
        offsets: I64,
        partition_index: int,
        known: npt.NDArray[np.uint64] | None,
    ) -> Iterator[Piece]:
        """Yield the lines of messages (m,), m > 0, at ``offsets`` (m,), at most `PIECE` at once.

        ``known`` are the hashes of scenes whose names need not be told, sorted; None: of all.
        """
        data = b"\n".join([*messages, _PAD])
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        ends = np.cumsum(lengths + 1)
        offsets = np.ascontiguousarray(offsets, np.int64)
        self._limits[kernel.PARTITION] = partition_index
        cursor = np.zeros(4, np.int64)
        raw = np.frombuffer(data, np.uint8)
        left = kernel.count_lines(raw)
        while left:
            n = min(left, PIECE)
            columns = EventColumns.empty(self._schema, n)
            plain = np.zeros(n, np.bool_)
            lines = np.empty((n, 2), np.int64)
            told = np.empty((0 if known is None else n, 3), np.int64)
            kernel.scan_lines(
                raw, ends, offsets, cursor,
                self._limits, self._list_starts, *self._names, _NONE if known is None else known,
                *(getattr(columns, name) for name in _COLUMNS), plain, lines, told,
                np.full(self._features, -1, np.int64), np.zeros(2, np.int64),
            )  # fmt: skip
            yield Piece(columns, plain, lines, told[: cursor[kernel.TOLD]], data)
            left -= n


_COLUMNS: Final = tuple(field.name for field in fields(EventColumns))  # as the kernel takes them
_NONE: Final = np.zeros(0, np.uint64)


def _table(
    names: Sequence[tuple[str, int]],
) -> tuple[npt.NDArray[np.uint64], I64, npt.NDArray[np.uint8], I64]:
    """Return names with the kind of each, to be looked up: heads, bounds, text and slots.

    One of kind -1 is never found; of two the same the later is.
    """
    found = {(name, kind): k for k, (name, kind) in enumerate(names)}
    texts = [name.encode(errors="surrogatepass") for name, _ in names]
    bounds = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    text = np.frombuffer(b"".join([*texts, _PAD]), np.uint8)
    heads = np.zeros(len(texts), np.uint64)
    slots = np.full(1 << (4 * len(texts)).bit_length(), -1, np.int64)
    for k, name in enumerate(texts):
        heads[k] = kernel.head_of(text, bounds[k], len(name))
    for (_, kind), k in found.items():
        if kind >= 0:
            slot = kernel.slot_of(heads[k], len(texts[k]), kind, slots.size)
            while slots[slot] >= 0:
                slot = (slot + 1) % slots.size
            slots[slot] = 4 * k + kind
    return heads, bounds, text, slots
