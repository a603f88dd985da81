"""Reads partitions of Kafka over one connection, each on its own, and passes over nothing silently.

`KafkaReader` is what `KafkaSource` and readers of other topics share: no group, so nobody can be
expelled, however long a step; positions of our own; ``read_committed``. For partition ``i`` of
``partitions``

- ``fetch(i, most)`` gives the next values, as `stream.blocks.read_blocks` takes them by ``logs``,
- ``records(i, most)`` gives the next messages whole: offset, time, key, headers, value.

Both wait while a broker is away, and return None only at the end of the partition, confirmed by its
leader within the last 0.2 s (or when the reader was closed, or a topic has grown).

A partition that ``position`` does not name begins with the oldest message kept, or with the first
of time ``start_ms`` or later. Memory: two fetches of each partition (each of ``fetch_bytes``,
or one larger batch), of which one batch at a time is decompressed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from kafka import KafkaConsumer
from kafka.errors import KafkaError as ClientError
from kafka.errors import LogTruncationError, OffsetOutOfRangeError, TopicAuthorizationFailedError
from kafka.structs import TopicPartition

from stream.blocks import Fetched
from stream.kafka import (
    KafkaConfig,
    KafkaError,
    KafkaRefused,
    KafkaUnreachable,
    consumer_settings,
)
from stream.kafka_batches import BadBatch
from stream.kafka_fetch import BadChunk, Chunk, fetch_of
from stream.kafka_partition import PartitionBuffer, Records
from stream.kafka_probe import connect
from stream.kafka_watch import TopicWatch
from stream.position import Offset, Partition, Position

FRESH_S: Final = 0.2  # an end that was confirmed so long ago may be told
_WAIT_S: Final = 0.1  # for messages, before it is looked whether somebody has closed
_PROBE_S: Final = 1.0  # for the end of a partition; longer each time that nobody answers
_MAX_PROBE_S: Final = 10.0
_TELL_S: Final = 3.0  # a broker that is away so long is told of
_TELL_AGAIN_S: Final = 30.0

SETTINGS: Final[dict[str, Any]] = {
    "fetch_max_wait_ms": 100,  # a partition at its end must not hold up one that comes to need it
    "receive_message_max_bytes": 2**31 - 1,  # what a broker has taken is read, however large
}

T = TypeVar("T")


class OffsetsLost(KafkaError):
    """Messages were deleted before they were read."""


class PositionBeyondEnd(KafkaError):
    """A partition ends before the position that is wanted."""


class KafkaReader:
    """Reads ``topics``, or only ``partitions`` of them. One thread reads; any may `close` it.

    Raises `NoSuchTopicInKafka`, `TopicRecreated` (an id differs from ``topic_ids``), `OffsetsLost`
    and `PositionBeyondEnd` at once or while reading, `TopicDeleted` while reading.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Iterable[str],
        *,
        partitions: Iterable[Partition] | None = None,
        position: Position | None = None,
        follow: bool = False,
        start_ms: int | None = None,
        topic_ids: Mapping[str, str] | None = None,
        raw: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open it. Without ``follow`` the partitions end where they end now.

        ``raw`` False: kafka-python unpacks, which is slower and gives the same. ``say`` is told
        when a broker is away, and when it is back.
        """
        self._config = config
        self._follow = follow
        self._say = say
        self._closed = threading.Event()
        self._all = partitions is None  # then more of them are a reason to end
        watch = {"metadata_max_age_ms": round(1000 * config.watch_s)}
        self._consumer = connect(
            KafkaConsumer, config, **(consumer_settings(config) | watch | SETTINGS)
        )
        try:
            self._watch = TopicWatch(self._consumer, topics, config)
            self._watch.check_ids(topic_ids or {})
            self.partitions = self._watch.choose(partitions)
            self._tps = [TopicPartition(*p) for p in self.partitions]
            self._consumer.assign(self._tps)
            self._fetch = fetch_of(self._consumer, raw=raw)
            self._paused: set[TopicPartition] = set()
            self._ends = dict.fromkeys(self._tps, 0)  # as of the last probe
            self._probed = 0.0  # when, by the monotonic clock
            self._unanswered = 0  # probes, one after another
            self._beyond_since: dict[TopicPartition, float] = {}  # positions that lie past an end
            self._buffers: dict[TopicPartition, PartitionBuffer] = {}
            self._open(position or Position(), start_ms)
        except BaseException:
            self.close()
            raise

    @property
    def topic_ids(self) -> dict[str, str]:
        """The id of each topic: one that is created anew has another."""
        return dict(self._watch.ids)

    @property
    def grown(self) -> bool:
        """Whether a followed topic has got more partitions; never with ``partitions`` given."""
        return self._all and self._follow and self._watch.grown

    @property
    def logs(self) -> "list[ReaderLog]":
        """Each partition, as `stream.blocks.read_blocks` takes it."""
        return [ReaderLog(self, i) for i in range(len(self.partitions))]

    def fetch(self, i: int, most: int) -> Fetched | None:
        """Return at most ``most`` values of partition ``i``; None: no more, for now or at all."""
        return self._next(i, lambda buffer: buffer.fetch(most))

    def records(self, i: int, most: int) -> Records | None:
        """Return at most ``most`` messages of partition ``i``, whole; None as for `fetch`."""
        return self._next(i, lambda buffer: buffer.records(most))

    def wait(self, seconds: float) -> bool:
        """Wait for messages of any partition; return whether reading is over: closed, or grown."""
        if not self.is_over:
            self._poll(seconds, None)
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read: it was closed, or a topic has grown."""
        return self._closed.is_set() or self.grown

    def close(self) -> None:
        """End the reading, also from another thread, while it waits too; idempotent."""
        if not self._closed.is_set():
            self._closed.set()
            self._consumer.close(autocommit=False, timeout_ms=0)

    def _next(self, i: int, take: Callable[[PartitionBuffer], T | None]) -> T | None:
        tp = self._tps[i]
        buffer = self._buffers[tp]
        while self._fill(tp, buffer):
            if (found := take(buffer)) is not None:
                return found
        return None

    def _fill(self, tp: TopicPartition, buffer: PartitionBuffer) -> bool:
        """Wait until a partition's buffer is filled; False at its end, or when reading is over."""
        wait_s = 0.0
        silence = _Silence(self._config.bootstrap, self._say)
        while not buffer.filled:
            if self.is_over or buffer.fetched:
                return False
            fresh = time.monotonic() - self._probed < FRESH_S
            if fresh and self._follow and buffer.position >= self._ends[tp]:
                break
            self._poll(wait_s, tp)
            if not (buffer.filled or fresh):
                self._probe()
            wait_s = _WAIT_S
            if silence.grows():
                self._consumer.seek(tp, buffer.position)  # wherever the consumer thinks it is
        silence.ends()
        return buffer.filled

    def _poll(self, seconds: float, wanted: TopicPartition | None) -> None:
        """Fill the buffers with what comes within ``seconds``."""
        self._watch.look()
        self._pause(wanted)
        try:
            found = self._fetch.poll(seconds)
        except OffsetOutOfRangeError as error:
            self._out_of_range(error.args[0])
        except LogTruncationError as error:
            self._look_again()
            tp, there = next(iter(error.divergent_offsets.items()))
            end = there.offset if there is not None else self._ends[tp]
            raise _beyond(Partition(*tp), self._buffers[tp].position, end) from error
        except ClientError as error:
            self._bear(error)
        except RuntimeError:  # the connection is being closed
            if not self._closed.is_set():
                raise
        else:
            for tp, chunks in found.items():
                for chunk in chunks:
                    self._take(tp, chunk)

    def _take(self, tp: TopicPartition, chunk: Chunk) -> None:
        """Take a chunk that goes on where the last one ended; ask again in place of any other.

        After a change of leader kafka-python may put its position back to one that it had before.
        """
        buffer = self._buffers[tp]
        if chunk.start == buffer.position:
            buffer.fill(chunk)
        else:
            self._consumer.seek(tp, buffer.position)

    def _pause(self, wanted: TopicPartition | None) -> None:
        """Let only those be fetched that have room; not those at their end while one is wanted."""
        paused = {
            tp
            for tp, buffer in self._buffers.items()
            if buffer.filled
            or buffer.fetched  # all of it that is wanted
            or (wanted not in (None, tp) and buffer.position >= self._ends[tp])
        }
        if resumed := self._paused - paused:
            self._consumer.resume(*resumed)
        if more := paused - self._paused:
            self._consumer.pause(*more)
        self._paused = paused

    def _probe(self) -> None:
        """Ask the leaders where the partitions end."""
        timeout_s = min(_PROBE_S * (1 + self._unanswered), _MAX_PROBE_S)
        self._unanswered += 1
        try:
            ends = self._consumer.end_offsets(self._tps, timeout_ms=round(1000 * timeout_s))
        except ClientError as error:
            self._bear(error)
            return
        except RuntimeError:
            if not self._closed.is_set():
                raise
            return
        self._unanswered = 0
        self._ends, self._probed = ends, time.monotonic()
        for tp, buffer in self._buffers.items():
            if buffer.position <= ends[tp]:
                self._beyond_since.pop(tp, None)
            else:
                self._is_beyond(tp)

    def _bear(self, error: ClientError) -> None:
        """Go on after an error that passes; raise any other."""
        if self._closed.is_set():
            return
        if not error.retriable:
            raise _named(error, self._config.bootstrap) from error
        self._closed.wait(_WAIT_S)

    def _out_of_range(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Find out why an offset is not there: too old, or not yet there."""
        self._look_again()
        try:
            begins = self._consumer.beginning_offsets(list(offsets), timeout_ms=1000)
        except ClientError as error:
            self._bear(error)
            return
        for tp, offset in offsets.items():
            if offset < begins[tp]:
                self._lose(tp, offset, begins[tp])
            else:
                self._probe()

    def _lose(self, tp: TopicPartition, offset: int, begin: int) -> None:
        """Stop, or go on with a letter, where messages are gone before they were read."""
        lost = f"offsets {offset} to {begin - 1} of {Partition(*tp)}"
        if self._config.lost == "stop":
            raise OffsetsLost(
                f"{lost} were deleted before they were read: reading is slower than the topic's "
                "retention, or was interrupted for longer. Keep the topic for longer; to go on "
                'without them, set kafka.lost = "skip".'
            )
        detail = "deleted before they were read, by the topic's retention"
        self._consumer.seek(tp, begin)
        self._buffers[tp].fill(BadChunk(BadBatch(offset, begin, "offsets_lost", detail, b"")))

    def _is_beyond(self, tp: TopicPartition) -> None:
        """Raise where a partition has ended before its position for long."""
        since = self._beyond_since.setdefault(tp, time.monotonic())
        if time.monotonic() - since > self._config.watch_s:
            self._look_again()
            raise _beyond(Partition(*tp), self._buffers[tp].position, self._ends[tp])

    def _look_again(self) -> None:
        """Look whether a topic is another now: that explains more than an offset does."""
        self._watch.refresh(1.0)
        self._watch.look()

    def _open(self, position: Position, start_ms: int | None) -> None:
        """Find where each partition begins and ends, and go to where it is to be read."""
        consumer, timeout_ms = self._consumer, round(1000 * self._config.connect_s)
        fresh = [tp for tp in self._tps if Partition(*tp) not in position.offsets]
        try:
            starts = consumer.beginning_offsets(self._tps, timeout_ms=timeout_ms)
            self._ends = consumer.end_offsets(self._tps, timeout_ms=timeout_ms)
            if start_ms is not None and fresh:
                times = dict.fromkeys(fresh, max(start_ms, 0))
                for tp, found in consumer.offsets_for_times(times, timeout_ms=timeout_ms).items():
                    starts[tp] = self._ends[tp] if found is None else found.offset
        except ClientError as error:
            raise _named(error, self._config.bootstrap) from error
        self._probed = time.monotonic()
        for tp in self._tps:
            partition = Partition(*tp)
            start = Offset(starts[tp]) if tp in fresh else position.of(partition)
            stop = None if self._follow else self._ends[tp]
            self._buffers[tp] = PartitionBuffer(partition, start, stop)
            consumer.seek(tp, start.message)
            if start.message < starts[tp]:
                self._lose(tp, start.message, starts[tp])
        while any(b.position > self._ends[tp] for tp, b in self._buffers.items()):
            self._probe()
            self._closed.wait(_WAIT_S)


class ReaderLog:
    """One partition of a reader."""

    def __init__(self, reader: KafkaReader, i: int) -> None:
        self._reader, self._i = reader, i

    def fetch(self, most: int) -> Fetched | None:
        """Return at most ``most`` values, None where there are no more for now."""
        return self._reader.fetch(self._i, most)


class _Silence:
    """Tells how long a broker has not answered."""

    def __init__(self, bootstrap: str, say: Callable[[str], None]) -> None:
        self._bootstrap, self._say = bootstrap, say
        self._began = time.monotonic()
        self._next = _TELL_S
        self._second = 0

    def grows(self) -> bool:
        """Tell of it when it is long, and then now and again; return whether a second went by."""
        lasted = time.monotonic() - self._began
        new_second, self._second = int(lasted) > self._second, int(lasted)
        if lasted >= self._next:
            self._say(f"Kafka at {self._bootstrap} does not answer for {lasted:.0f} s: waiting")
            self._next = lasted + _TELL_AGAIN_S
        return new_second

    def ends(self) -> None:
        """Tell of its end, if it was told of."""
        if self._next > _TELL_S:
            lasted = time.monotonic() - self._began
            self._say(f"Kafka at {self._bootstrap} answers again, after {lasted:.0f} s")


def _named(error: ClientError, bootstrap: str) -> KafkaError:
    if isinstance(error, TopicAuthorizationFailedError):
        topics = ", ".join(sorted(error.args[0])) if error.args else "a topic"
        return KafkaRefused(
            f"Kafka does not let this user read {topics}: give it the rights Read and Describe."
        )
    if error.retriable:
        return KafkaUnreachable(
            f"Kafka at {bootstrap} does not answer ({type(error).__name__}): start it, or correct "
            "kafka.bootstrap."
        )
    return KafkaError(
        f"Kafka at {bootstrap} cannot be read: {error}. Look into the brokers' logs; the run goes "
        "on from its last checkpoint."
    )


def _beyond(partition: Partition, position: int, end: int) -> PositionBeyondEnd:
    return PositionBeyondEnd(
        f"{partition} ends at offset {end}, and {position} is wanted: the topic was truncated (an "
        "unclean election, a restored disk) or the position is of another cluster. What was read "
        "may not be there any more: begin with a new run folder."
    )
