"""Messages of events as the records of a broker: whose they are, and when they were."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from stream.position import Partition

_FIRST_MS: Final = 1_000_000_000_000  # 2001-09-09: an earlier time is no event's (stream/decode)
_AHEAD_MS: Final = 1_800_000  # a broker refuses what is an hour ahead of it; half of that is safe


class RecordWriter(Protocol):
    """Where records are appended: `stream.kafka_writer.KafkaWriter`."""

    def append(
        self, partition: Partition, value: bytes, *, key: bytes | None, at_ms: int | None
    ) -> object:
        """Append a record."""
        ...


class _Head(msgspec.Struct, gc=False):
    user_id: str | int | None = None
    ts: int | None = None


_ONE: Final = msgspec.json.Decoder(_Head)
_MANY: Final = msgspec.json.Decoder(list[_Head])


class KeyedWriter:
    """Appends messages of events to the topics of a log: a `replay.into.LogWriter`.

    Impressions go to the first of ``topics``, feedback to the second, or to the first where there
    is one only. A record's time is that of its newest event, which no clock that is wrong moves
    past ``now_ms``; its key is the user's id where all its events are one user's.
    """

    def __init__(
        self, writer: RecordWriter, topics: Sequence[str], now_ms: Callable[[], int]
    ) -> None:
        self._writer = writer
        self._now_ms = now_ms
        self._topics: dict[str, str] = {"impressions": topics[0], "feedback": topics[:2][-1]}
        self.events = 0  # lines appended, events or not
        self.messages = 0
        self.newest_ms: int | None = None  # time of the newest event

    def append(self, partition: Partition, value: bytes) -> None:
        """Append a message of one event or many, a line each."""
        lines = value.rstrip(b"\n").split(b"\n")
        key, at_ms = head_of(lines)
        if at_ms is not None:
            if at_ms > self._now_ms() + _AHEAD_MS:
                at_ms = None  # the broker's own time
            else:
                self.newest_ms = max(at_ms, self.newest_ms or 0)
        to = Partition(self._topics[partition.topic], partition.number)
        self._writer.append(to, value, key=key, at_ms=at_ms)
        self.events += len(lines)
        self.messages += 1


def head_of(lines: Sequence[bytes]) -> tuple[bytes | None, int | None]:
    """Return the user's id, if all lines have the same, and the newest time, if there is one.

    >>> head_of([b'{"user_id": 7, "ts": 1700000000000}', b'{"user_id": "7"}', b"{"])
    (b'7', 1700000000000)
    """
    try:
        heads = _MANY.decode(b"[%b]" % b",".join(lines))
    except msgspec.DecodeError:  # some line is no event
        heads = [head for line in lines if (head := _head(line)) is not None]
    users = {str(head.user_id) for head in heads if head.user_id is not None}
    newest = max((head.ts for head in heads if head.ts is not None), default=0)
    key = users.pop().encode() if len(users) == 1 else None
    return key, newest if newest >= _FIRST_MS else None


def _head(line: bytes) -> _Head | None:
    try:
        return _ONE.decode(line)
    except msgspec.DecodeError:
        return None
