"""What a kafka-python consumer fetches, taken from it a batch at a time.

kafka-python unpacks messages one by one, in Python, for 3.7 µs each. `RawFetch` takes the bytes of
a fetch before that (a hook into this one consumer; nobody else's is touched) and unpacks them with
`stream.kafka_batches`, for 0.5 µs. The hook is private: where a version differs, `fetch_of` gives
the stock way, slower and with the same results.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import kafka
import numpy as np
import numpy.typing as npt
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.errors import CorruptRecordError, UnsupportedCodecError
from kafka.errors import KafkaError as ClientError
from kafka.structs import TopicPartition

from stream.kafka_batches import I64, BadBatch, Batches, Record

HOOKED: Final = ("3.0.",)  # versions whose private parts are known
_SKIP_POLL_MS: Final = 500  # a fetch comes within it, or there is nothing


class Messages(Protocol):
    """Messages (n,) of one partition."""

    def offsets(self) -> I64:
        """Return their offsets (n,)."""
        ...

    def sizes(self) -> I64:
        """Return their bytes (n,)."""
        ...

    def nulls(self, some: slice) -> npt.NDArray[np.intp]:
        """Return which of some have no value, from 0."""
        ...

    def values(self, some: slice) -> list[bytes | None]:
        """Return the values of some; None for one without."""
        ...

    def records(self, some: slice) -> list[Record]:
        """Return some, whole."""
        ...


class Chunk(Protocol):
    """What one fetch brought of a partition."""

    @property
    def start(self) -> int:
        """The offset that was asked for."""
        ...

    @property
    def end(self) -> int:
        """The offset to read when all has been taken."""
        ...

    @property
    def empty(self) -> bool:
        """Whether all has been taken."""
        ...

    def take(self) -> Messages | BadBatch | None:
        """Return the next messages, or what cannot be read; None after the last."""
        ...


class Fetch(Protocol):
    """Fetches what a consumer's assigned partitions hold."""

    def poll(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[Chunk]]:
        """Return what has come, waiting at most ``timeout_s`` for something to come.

        Raises what the consumer raises, but for batches that cannot be read: these are chunks.
        """
        ...


def can_hook(consumer: Any) -> bool:
    """Whether the consumer is of a version whose fetches can be taken raw."""
    fetcher = getattr(consumer, "_fetcher", None)
    return kafka.__version__.startswith(HOOKED) and isinstance(fetcher, Fetcher)


def fetch_of(consumer: Any, *, raw: bool = True) -> Fetch:
    """Return how to fetch by ``consumer``, a `kafka.KafkaConsumer`: raw where that can be."""
    return RawFetch(consumer) if raw and can_hook(consumer) else StockFetch(consumer)


class RawFetch:
    """Takes fetches as bytes."""

    def __init__(self, consumer: Any) -> None:
        consumer._fetcher.PartitionRecords = _RawRecords
        self._consumer = consumer

    def poll(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[Chunk]]:
        """Return what has come; each chunk holds a fetch of a partition."""
        found: dict[TopicPartition, list[Batches]] = self._consumer.poll(round(1000 * timeout_s))
        for tp, chunks in found.items():
            end = self._consumer.highwater(tp)
            if end is not None and chunks[-1].end > end:  # a damaged head says so
                chunks[-1].end = end
                self._consumer.seek(tp, end)
        return found


class _RawRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # untyped
    """Stands where the fetcher unpacks: gives the fetch as one `Batches` in place of records."""

    def __init__(self, fetch_offset: int, tp: Any, records: Any, **settings: Any) -> None:
        super().__init__(fetch_offset, tp, records, **settings)
        aborted = settings.get("aborted_transactions") or ()
        self._batches = Batches(
            bytes(records._buffer), fetch_offset, [(t.producer_id, t.first_offset) for t in aborted]
        )

    def take(self, n: int | None = None) -> list[Batches]:
        batches = self._batches
        self.next_fetch_offset, self.leader_epoch = batches.end, batches.epoch
        self.bytes_read = batches.bytes
        self.drain()
        return [batches] if len(batches) else []


class StockFetch:
    """Takes records as kafka-python unpacks them."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def poll(self, timeout_s: float) -> Mapping[TopicPartition, Sequence[Chunk]]:
        """Return what has come; a batch that cannot be read is looked for, and passed by."""
        fetching = self._consumer.assignment() - self._consumer.paused()
        starts = {tp: self._position(tp) for tp in fetching}
        try:
            # All of a fetch at once: what is left of one whose partition is paused is forgotten.
            found = self._consumer.poll(round(1000 * timeout_s), max_records=sys.maxsize)
        except (CorruptRecordError, UnsupportedCodecError):
            return self._find_bad()
        except ClientError:
            raise
        except Exception:  # the codecs' own errors
            if bad := self._find_bad():
                return bad
            raise
        ends = {tp: self._position(tp) for tp in fetching}  # behind control batches too
        return {
            tp: [_StockChunk(found.get(tp, []), starts[tp], end)]
            for tp, end in ends.items()
            if tp in found or end != starts[tp]
        }

    def _position(self, tp: TopicPartition) -> int:
        position: int = self._consumer.position(tp, timeout_ms=0)
        return position

    def _find_bad(self) -> dict[TopicPartition, list[Chunk]]:
        """Ask for each partition on its own; pass by what cannot be read."""
        consumer = self._consumer
        fetching = sorted(consumer.assignment() - consumer.paused())
        found: dict[TopicPartition, list[Chunk]] = {}
        # The fetcher would go round for ever in records whose unpacking has failed, unless the
        # position is another: then it lets go of them.
        positions = {tp: self._position(tp) for tp in fetching}
        for tp, position in positions.items():
            consumer.seek(tp, position + 1)
        self._error(0)
        for tp, position in positions.items():
            consumer.seek(tp, position)
        consumer.pause(*fetching)
        for tp in fetching:
            consumer.resume(tp)
            try:
                if error := self._error():
                    consumer.seek(tp, positions[tp])
                    bad = self._pass_by(tp, error)
                    found[tp] = [BadChunk(bad)]
                consumer.seek(tp, bad.next if error else positions[tp])  # to be read again
            finally:
                consumer.pause(tp)
        consumer.resume(*fetching)
        return found

    def _error(self, wait_ms: int = _SKIP_POLL_MS) -> Exception | None:
        """Fetch, and drop what comes; return why it cannot be read."""
        try:
            self._consumer.poll(wait_ms, max_records=sys.maxsize)
        except (CorruptRecordError, UnsupportedCodecError) as error:
            found: Exception = error
            return found
        except ClientError:
            raise
        except Exception as error:  # noqa: BLE001  # each codec has errors of its own
            return error
        return None

    def _pass_by(self, tp: TopicPartition, error: Exception) -> BadBatch:
        first = self._position(tp)
        after = first
        while True:  # the batch comes again for each of its offsets
            after += 1
            self._consumer.seek(tp, after)
            if self._error() is None:
                break
        reason = "corrupt_batch"
        if isinstance(error, UnsupportedCodecError):
            reason = "unknown_compression"
        return BadBatch(first, after, reason, str(error), b"")


class _StockChunk:
    """Records of a poll: one piece."""

    def __init__(self, records: list[ConsumerRecord], start: int, end: int) -> None:
        self._records = records
        self.start = min([start, *(r.offset for r in records[:1])])
        self.end = end

    @property
    def empty(self) -> bool:
        return not self._records

    def take(self) -> Messages | BadBatch | None:
        records, self._records = self._records, []
        return _StockMessages(records) if records else None


class BadChunk:
    """What cannot be read, on its own."""

    def __init__(self, bad: BadBatch) -> None:
        self._bad: BadBatch | None = bad
        self.start, self.end = bad.first, bad.next

    @property
    def empty(self) -> bool:
        """Whether it was taken."""
        return self._bad is None

    def take(self) -> Messages | BadBatch | None:
        """Return it, once."""
        bad, self._bad = self._bad, None
        return bad


class _StockMessages:
    def __init__(self, records: list[ConsumerRecord]) -> None:
        self._records = records

    def offsets(self) -> I64:
        return np.array([r.offset for r in self._records], np.int64)

    def sizes(self) -> I64:
        return np.array([len(r.key or b"") + len(r.value or b"") for r in self._records], np.int64)

    def nulls(self, some: slice) -> npt.NDArray[np.intp]:
        return np.flatnonzero([r.value is None for r in self._records[some]])

    def values(self, some: slice) -> list[bytes | None]:
        return [r.value for r in self._records[some]]

    def records(self, some: slice) -> list[Record]:
        return [
            Record(r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
            for r in self._records[some]
        ]
