"""Lines of a file, compressed or not, read as they are needed and however long they are."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import zstandard

from replay.errors import InputCorrupt, InputError
from stream.blocks import Fetched
from stream.deadletters import RAW_BYTES
from stream.position import Partition
from stream.source import Rejected

_PLAIN_BYTES: Final = 1 << 20
_PACKED_BYTES: Final = 1 << 11  # at the worst ratios (zstd's run of 128 KiB in 4 bytes) 64 MiB
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


class _Damage(Exception):
    """A compressed file ends in the middle, or its bytes make no sense."""


class LineReader:
    """Reads a file's lines in order, each a message whose offset is the line's number, from 0.

    Plain, gzip and zstd files are told by their first bytes. Lines longer than ``max_line_bytes``
    are not held; what is damaged or cut off ends the file: both become a `Rejected`. Holds one
    decompressed piece and one line.
    """

    def __init__(self, path: Path, partition: Partition, first: int, max_line_bytes: int) -> None:
        self._partition = partition
        self._file = _opened(path)
        self._pieces = _pieces(self._file)
        self._max = max_line_bytes
        self._next = self._skip = first
        self._tail = b""
        self._cut = 0  # bytes of the line in hand that were not held
        self._ready: list[bytes] = []
        self._oversize: list[Rejected] = []  # of lines in ``_ready``, which are blank there
        self._damage: Rejected | None = None
        self._over = False

    def fetch(self, most: int) -> Fetched | None:
        """Return the next lines, at most ``most``; None where the file ends."""
        while len(self._ready) < most and not self._over:
            self._fill()
        count = min(most, len(self._ready))
        if self._oversize and self._oversize[0].offset < self._next + count:
            letter = self._oversize.pop(0)
            count = letter.offset - self._next
            return self._taken(count, 1, letter)
        if self._damage is not None and count == len(self._ready):
            letter, self._damage = self._damage, None
            return self._taken(count, 1, letter)
        if count == 0:
            self._file.close()
            return None
        return self._taken(count, 0)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()

    def _taken(self, count: int, more: int, *rejected: Rejected) -> Fetched:
        """Give out ``count`` lines, and what stands for the ``more`` behind them."""
        first, self._next = self._next, self._next + count + more
        lines, self._ready = self._ready[:count], self._ready[count + more :]
        offsets = np.arange(first, first + count, dtype=np.int64)
        return Fetched(lines, offsets, self._next, rejected)

    def _fill(self) -> None:
        try:
            piece = next(self._pieces, None)
        except _Damage as damage:
            self._over = True
            if self._skip == 0:  # else this end was told before the position we were opened at
                number = self._next + len(self._ready)
                detail = f"after {number:,} lines {damage}: what follows in this file is lost"
                self._damage = self._letter("corrupt_frame", detail, self._tail)
            return
        if piece is None:
            self._over = True
            if self._tail or self._cut:
                self._add([self._tail])
            return
        if self._skip:
            piece = self._after_skipped(piece)
        *lines, rest = (self._tail + piece).split(b"\n")
        self._tail = b""
        self._add(lines)
        if len(rest) > self._max:
            self._cut += len(rest) - RAW_BYTES
            rest = rest[:RAW_BYTES]
        self._tail = rest

    def _after_skipped(self, piece: bytes) -> bytes:
        newlines = piece.count(b"\n")
        if newlines < self._skip:
            self._skip -= newlines
            return b""
        piece = piece.split(b"\n", self._skip)[-1]
        self._skip = 0
        return piece

    def _add(self, lines: list[bytes]) -> None:
        if self._cut and lines:
            length = self._cut + len(lines[0])
            detail = f"a line of {length:,} bytes: at most {self._max:,} are read"
            self._oversize.append(self._letter("oversize", detail, lines[0]))
            lines[0] = b""
            self._cut = 0
        self._ready += lines

    def _letter(self, reason: str, detail: str, raw: bytes) -> Rejected:
        number = self._next + len(self._ready)
        return Rejected(self._partition, number, 0, reason, detail, raw[:RAW_BYTES])


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return _unpacked(file, lambda: zlib.decompressobj(wbits=31))
    if magic == _ZSTD:
        return _unpacked(file, lambda: zstandard.ZstdDecompressor().decompressobj())
    return iter(lambda: file.read(_PLAIN_BYTES), b"")


def _unpacked(file: BinaryIO, begin: Callable[[], Any]) -> Iterator[bytes]:
    """Yield what the members (frames) of a compressed file hold."""
    member = begin()
    while data := file.read(_PACKED_BYTES):
        while data:
            if member.eof:
                if not data.strip(b"\0"):
                    break  # padding after the last member
                member = begin()
            try:
                yield member.decompress(data)
            except (zlib.error, zstandard.ZstdError) as error:
                raise _Damage(f"the compressed data is damaged ({error})") from error
            data = member.unused_data if member.eof else b""
    if not member.eof:
        raise _Damage("the compressed data is cut off")


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from error
    if file.read(4) == _PARQUET:
        file.close()
        raise InputCorrupt(f"{path} is a Parquet file: give it a mapping, [input.columns].")
    file.seek(0)
    return file
