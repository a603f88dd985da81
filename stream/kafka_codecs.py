"""The compression of Kafka's record batches: what can be read, and up to which size."""

import zlib
from collections.abc import Callable
from typing import Any, Final

import lz4.frame
import snappy
import zstandard

MAX_BATCH_BYTES: Final = 256 << 20  # decompressed: ten times the largest message anybody sends

_NAMES: Final = ("none", "gzip", "snappy", "lz4", "zstd")
_SNAPPY_BLOCKS: Final = b"\x82SNAPPY\x00"  # how Java's library begins a stream of blocks
_SNAPPY_HEAD_BYTES: Final = 16


class UnknownCompression(ValueError):
    """A batch is compressed in a way that is not known here."""


class NotCompressed(ValueError):
    """The bytes are not what their codec writes, or hold more than is read."""


def decompress(codec: int, data: memoryview) -> bytes:
    """Return what ``data`` holds, at most `MAX_BATCH_BYTES`.

    ``codec`` is the number in a batch's attributes. Raises `UnknownCompression`, `NotCompressed`.
    """
    if codec >= len(_NAMES):
        known = ", ".join(f"{k} ({name})" for k, name in enumerate(_NAMES))
        raise UnknownCompression(f"compression type {codec}: known are {known}")
    if codec == 0:
        return bytes(data)
    try:
        return _DECOMPRESS[codec](data)
    except NotCompressed:
        raise
    except Exception as error:  # each library has errors of its own
        raise NotCompressed(f"no {_NAMES[codec]} data: {error}") from error


def _gzip(data: memoryview) -> bytes:
    return _whole(zlib.decompressobj(wbits=31), data)


def _lz4(data: memoryview) -> bytes:
    return _whole(lz4.frame.LZ4FrameDecompressor(), data)


def _whole(decompressor: Any, data: memoryview) -> bytes:
    """Return one compressed stream, whole."""
    found: bytes = decompressor.decompress(data, MAX_BATCH_BYTES)
    if not decompressor.eof:
        raise _too_large() if len(found) >= MAX_BATCH_BYTES else NotCompressed("it is cut off")
    return found


def _zstd(data: memoryview) -> bytes:
    size = zstandard.frame_content_size(data)
    if size > MAX_BATCH_BYTES:
        raise _too_large()
    if size >= 0:
        return bytes(zstandard.ZstdDecompressor().decompress(data))
    parts: list[bytes] = []
    room = MAX_BATCH_BYTES
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        while part := reader.read(1 << 20):
            parts.append(part)
            room -= len(part)
            if room < 0:
                raise _too_large()
    return b"".join(parts)


def _snappy(data: memoryview) -> bytes:
    if bytes(data[: len(_SNAPPY_BLOCKS)]) != _SNAPPY_BLOCKS:
        return _snappy_block(bytes(data), MAX_BATCH_BYTES)
    parts: list[bytes] = []
    room, at = MAX_BATCH_BYTES, _SNAPPY_HEAD_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append(_snappy_block(bytes(data[at + 4 : at + 4 + size]), room))
        room -= len(parts[-1])
        at += 4 + size
    return b"".join(parts)


def _snappy_block(data: bytes, room: int) -> bytes:
    size = shift = 0
    for byte in data[:5]:  # a block begins with its size, decompressed
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > room:
        raise _too_large()
    return bytes(snappy.uncompress(data))


def _too_large() -> NotCompressed:
    return NotCompressed(f"it holds more than {MAX_BATCH_BYTES >> 20} MiB")


_DECOMPRESS: Final[tuple[Callable[[memoryview], bytes], ...]] = (bytes, _gzip, _snappy, _lz4, _zstd)
