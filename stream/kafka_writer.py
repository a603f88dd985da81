"""Appends to Kafka: in order, each message once, through the death and return of brokers.

kafka-python's producer has no bound to its memory, tells nobody that a broker is away, and fails
every message after one that a broker refused. The writer bounds, tells, refuses what is too large
before it is sent, and replaces a producer that failed.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

from kafka import KafkaProducer, errors

from stream.kafka import (
    KafkaConfig,
    KafkaError,
    KafkaUnreachable,
    NoSuchTopicInKafka,
)
from stream.kafka_probe import connect, probe
from stream.kafka_topics import TopicInfo, Topics
from stream.position import Partition

BATCH_BYTES: Final = 256 << 10  # of a partition, before compression: twice as fast as Kafka's 16 K
BUFFER_BYTES: Final = 32 << 20  # appended and not acknowledged: some hundred batches
REQUEST_BYTES: Final = 64 << 20  # to a broker at once; brokers take 100 MiB
MESSAGE_BYTES: Final = 500  # what a message that waits costs beside its content
DELIVERY_S: Final = 600.0  # a broker is given ten minutes to come back, then its messages fail
REQUEST_S: Final = 15.0  # an answer to one request; a broker that hangs is asked again after it
TOLD_S: Final = 3.0  # a wait is told after so long: an election of a leader is over by then
TOLD_AGAIN_S: Final = 30.0
LEAVE_S: Final = 5.0  # what is still unsent when an error ends its writer is given so long
_LOOK_S: Final = 0.1
_EVERY: Final = 64  # appends between two looks at what was acknowledged
_HEADER: Final = 10  # bytes of a header beside its name and value, at most
# What a batch of one message has around it, and what incompressible data grow by in any codec.
_AROUND: Final = 256
_GROWN: Final = 128


class MessageTooLarge(KafkaError):
    """A message is larger than its topic takes."""


class NotDelivered(KafkaError):
    """A message was not written, or it is not known whether it was."""


class KafkaWriter:
    """Appends messages to partitions; what `flush` has returned from is on the brokers for good.

    Idempotent, acknowledged by all replicas in sync: a message that was sent twice because a broker
    died is there once, and in its place. A broker that is away is waited for, up to `DELIVERY_S`;
    ``say`` is told after 3 s, and when it is back. Memory: `BUFFER_BYTES` and a batch a partition.
    For one thread. Raises what `stream.kafka_probe.probe` does.
    """

    def __init__(self, config: KafkaConfig, say: Callable[[str], None] = lambda line: None) -> None:
        self._config, self._say = config, say
        self._topics: dict[str, TopicInfo] = {}
        self._limits: dict[str, int] = {}
        self._batch_bytes = BATCH_BYTES
        self._waiting: deque[tuple[Any, int, Partition]] = deque()  # (future, bytes, where)
        self._waiting_bytes = 0
        self._since = 0.0  # the last acknowledgement while something waited
        self._looked = 0.0
        self._told: float | None = None  # when the wait was told last; None: nothing is amiss
        self._until_look = _EVERY
        self._give_up = math.inf  # by the monotonic clock: `hurry`
        self._closed = False
        self._producer: Any = self._open()  # None after a failure: the next append opens another

    def __enter__(self) -> "KafkaWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._closed = True
            self._leave(LEAVE_S)

    def limit(self, topic: str) -> int:
        """Return how many bytes a message may have: value, key and headers, before compression.

        Raises `NoSuchTopicInKafka`.
        """
        if topic not in self._limits:
            self._learn(topic)
        return self._limits[topic]

    def append(
        self,
        partition: Partition,
        value: bytes,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        at_ms: int | None = None,
    ) -> None:
        """Append a message; waits while `BUFFER_BYTES` wait to be acknowledged.

        ``at_ms`` is the message's time, now where it is None. Raises `NoSuchTopicInKafka`,
        `MessageTooLarge` (nothing was sent, and the writer goes on), or `NotDelivered` for one that
        was appended earlier: of those appended since the last `flush`, any may be missing then.
        """
        topic, number = partition
        size = len(value) + len(key or b"")
        if headers:
            size += sum(len(name) + len(said) + _HEADER for name, said in headers)
        if size > self.limit(topic):
            raise self._too_large(partition, size)
        if not 0 <= number < self._topics[topic].partitions:
            self._grow(partition)
        self._until_look -= 1
        if self._until_look <= 0 or time.monotonic() - self._looked > _LOOK_S:
            self._look()
        while self._waiting_bytes > BUFFER_BYTES:
            self._check_hurry(partition)
            self._wait()
        future = self._send(partition, value, key, headers, at_ms)
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((future, size + MESSAGE_BYTES, partition))
        self._waiting_bytes += size + MESSAGE_BYTES

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when all that was appended is acknowledged.

        Raises `NotDelivered`, and `KafkaUnreachable` where it took longer than ``timeout_s``: what
        is not acknowledged then still waits, and may yet be.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while self._waiting:
            left = min(_LOOK_S, deadline - time.monotonic())
            # Sends at once what lingers, and ends with the first batch that takes longer.
            with contextlib.suppress(errors.KafkaError):
                self._producer.flush(timeout=max(0.0, left))
            self._look()
            if self._waiting:
                self._check_hurry(self._waiting[0][2])
                if time.monotonic() >= deadline:
                    raise self._unacknowledged(self._waiting[0][2], f" after {timeout_s:g} s")

    def hurry(self, within_s: float) -> None:
        """Let nobody wait for a broker for longer than ``within_s`` from now, whoever waits.

        Whatever would wait then raises `KafkaUnreachable`. From any thread, and from a signal's
        handler: it only takes note.
        """
        self._give_up = min(self._give_up, time.monotonic() + within_s)

    def close(self) -> None:
        """Flush, and close the connections; idempotent. Raises what `flush` does."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            self._leave(0.0 if self._waiting else LEAVE_S)

    def _open(self) -> Any:
        none = self._config.compression == "none"
        return connect(
            KafkaProducer,
            self._config,
            acks="all",
            enable_idempotence=True,
            compression_type=None if none else self._config.compression,
            linger_ms=round(self._config.linger_s * 1000),
            batch_size=self._batch_bytes,
            max_request_size=REQUEST_BYTES,
            request_timeout_ms=round(REQUEST_S * 1000),
            delivery_timeout_ms=round((DELIVERY_S + self._config.linger_s) * 1000),
            max_block_ms=round(TOLD_S * 1000),
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )

    def _learn(self, topic: str) -> None:
        """Find out what there is to know of a topic. Raises `NoSuchTopicInKafka`."""
        with Topics(self._config) as topics:
            info = topics.describe([topic])[topic]
        most = min(int(info.settings.get("max.message.bytes", 1 << 20)), REQUEST_BYTES)
        limit = max(0, most - most // _GROWN - _AROUND)
        if limit < self._batch_bytes:  # the limit is one of batches: smaller ones from now on
            self._batch_bytes = max(1, limit)
            self._reopen()
        self._topics[topic], self._limits[topic] = info, limit

    def _grow(self, partition: Partition) -> None:
        """Look whether a partition has come since. Raises `NoSuchTopicInKafka`."""
        self._learn(partition.topic)
        count = self._topics[partition.topic].partitions
        if not 0 <= partition.number < count:
            raise NoSuchTopicInKafka(
                f"{partition} is not in Kafka: {partition.topic} has {count} partitions, 0 to "
                f"{count - 1}. Correct the number, or give the topic more."
            )
        self._reopen()  # the producer looks again only after minutes

    def _reopen(self) -> None:
        self.flush()
        self._leave(LEAVE_S)
        self._producer = self._open()

    def _send(
        self,
        partition: Partition,
        value: bytes,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        at_ms: int | None,
    ) -> Any:
        if self._closed:
            raise KafkaError("The writer is closed. Open another.")
        if self._producer is None:
            self._producer = self._open()
        begin = time.monotonic()
        while True:
            try:
                return self._producer.send(
                    partition.topic,
                    value,
                    key=key,
                    headers=list(headers),
                    partition=partition.number,
                    timestamp_ms=at_ms,
                )
            except errors.KafkaTimeoutError as error:  # it knows no leader of the topic yet
                self._look()
                if not self._waiting:
                    self._since = begin
                    self._tell(partition)
                self._check_hurry(partition)
                if time.monotonic() - begin > DELIVERY_S:
                    raise self._failed(partition, error) from None
            except (errors.KafkaError, ValueError) as error:
                raise self._failed(partition, error) from None

    def _check_hurry(self, partition: Partition) -> None:
        if time.monotonic() >= self._give_up:
            raise self._unacknowledged(partition, ", and there is no more time")

    def _unacknowledged(self, partition: Partition, since: str) -> KafkaError:
        return KafkaUnreachable(
            f"{len(self._waiting):,} messages for {partition} and others are not acknowledged"
            f"{since}. {self._why()}"
        )

    def _wait(self) -> None:
        """Wait a moment for the oldest message."""
        with contextlib.suppress(errors.KafkaError):  # too early, or failed: `_look` tells
            self._waiting[0][0].get(timeout=_LOOK_S)
        self._look()

    def _look(self) -> None:
        """Let go of what was acknowledged. Raises `NotDelivered`."""
        self._until_look, self._looked = _EVERY, time.monotonic()
        before = len(self._waiting)
        while self._waiting and self._waiting[0][0].is_done:
            future, size, partition = self._waiting[0]
            if future.exception is not None:
                raise self._failed(partition, future.exception)
            self._waiting.popleft()
            self._waiting_bytes -= size
        if len(self._waiting) < before:
            if self._told is not None:
                away_s = self._looked - self._since
                self._say(f"Kafka at {self._config.bootstrap} is back after {away_s:.0f} s.")
                self._told = None
            self._since = self._looked
        elif self._waiting:
            self._tell(self._waiting[0][2])

    def _tell(self, partition: Partition) -> None:
        """Tell that nothing is acknowledged, if it is time to. Raises `NotDelivered`."""
        now = time.monotonic()
        if now - self._since < TOLD_S:
            return
        if self._told is not None and now - self._told < TOLD_AGAIN_S:
            return
        why = self._why()
        self._told = time.monotonic()
        self._say(
            f"Kafka at {self._config.bootstrap} has taken nothing for {partition} for "
            f"{self._told - self._since:.0f} s: waiting. {why}"
        )

    def _why(self) -> str:
        """Return why nothing is acknowledged. Raises `NotDelivered` where nothing will be."""
        try:
            probe(self._config, within_s=0)
            with Topics(self._config) as topics:
                there = topics.find({partition.topic for _, _, partition in self._waiting})
        except KafkaError as error:
            return str(error)
        for _, _, partition in self._waiting:
            known = self._topics.get(partition.topic)
            found = there.get(partition.topic)
            if known is not None and (found is None or found.id != known.id):
                del self._topics[partition.topic], self._limits[partition.topic]
                what = "is gone" if found is None else "was deleted and created again"
                raise self._failed(partition, f"the topic {partition.topic} {what}")
        return "It answers; see whether the partition has a leader, and replicas enough in sync."

    def _too_large(self, partition: Partition, size: int) -> KafkaError:
        settings = self._topics[partition.topic].settings
        return MessageTooLarge(
            f"A message of {size:,} bytes for {partition}: its topic takes "
            f"{self._limits[partition.topic]:,} before compression (max.message.bytes = "
            f"{settings.get('max.message.bytes', 'unknown')}). Put fewer events into a message "
            "(per_message), or raise the topic's max.message.bytes."
        )

    def _failed(self, partition: Partition, error: Exception | str) -> KafkaError:
        """Drop what waits, and the producer with it: it sends nothing more after some errors."""
        if isinstance(error, errors.MessageSizeTooLargeError):
            self._topics.pop(partition.topic, None)  # its limit is another than it was
            self._limits.pop(partition.topic, None)
        waiting = max(1, len(self._waiting))
        self._waiting.clear()
        self._waiting_bytes, self._told = 0, None
        self._leave(0.0)
        return NotDelivered(
            f"A message for {partition} was not written: {_reason(error)}. {waiting:,} that were "
            "not acknowledged yet may be missing as well: write again from the last flush."
        )

    def _leave(self, within_s: float) -> None:
        """Close the producer; what it has not sent ``within_s`` is dropped."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            if within_s:
                producer.flush(timeout=within_s)
        except errors.KafkaError:
            within_s = 0.0
        if not within_s:
            producer._sender.force_close()  # private: a close that does not wait leaves its thread
            producer._sender.join(LEAVE_S)
        producer.close(timeout=LEAVE_S)


def _reason(error: Exception | str) -> str:
    if isinstance(error, str):
        return error
    if isinstance(error, errors.MessageSizeTooLargeError):
        return "its batch is larger than the topic takes now (max.message.bytes)"
    if isinstance(error, errors.AuthorizationError):
        return f"this user may not write there ({type(error).__name__})"
    if isinstance(error, errors.KafkaTimeoutError):
        return f"no broker has taken it for {DELIVERY_S:.0f} s"
    return f"{type(error).__name__}: {str(error)[:300]}"
