"""The work of a worker: its partitions read, joined and written, on a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from stream.copartitioned import PartitionsDiffer
from stream.deadletter_topic import DeadLetterTopic
from stream.events import EventSchema
from stream.examples import ExampleBlock, encode
from stream.join import JoinConfig
from stream.kafka import KafkaConfig, KafkaUnreachable
from stream.kafka_source import KafkaSource
from stream.kafka_writer import KafkaWriter
from stream.order import OrderConfig
from stream.partition_join import PartitionJoin
from stream.policy import Wait
from stream.position import Partition, Position
from stream.source import Rejected
from stream.worker_resume import (
    Inputs,
    check_topics,
    inputs_header,
    progress_of,
)
from stream.worker_status import WorkerStatus
from stream.worker_units import Split, Unit

_WRITE_S: Final = 5.0  # others wait for what a worker lets go of; longer, and it is written twice
_AGAIN_S: Final = 1.0  # before a broker that does not answer, or topics that grow, are asked again
_END_S: Final = 4.0  # for the thread to see that it is to stop, before its waiting is broken off


@dataclass(frozen=True, kw_only=True)
class WorkConfig:
    """What a worker joins, from where to where."""

    kafka: KafkaConfig
    schema: EventSchema  # of the features that examples carry
    topics: tuple[str, ...] = ("impressions", "feedback")  # by user, alike in partitions
    order: OrderConfig = field(default_factory=OrderConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    block_events: int = 4_096  # a join goes on at a block's end: larger ones are read again longer,
    # and joined an eighth faster


class JoinWork:
    """Joins the partitions it is assigned (`stream.worker_group.Work`).

    It keeps nothing on a disk: where to go on is read from the examples' topic. Memory: the joins
    of its partitions, a block and two fetches of each input, and what the writer holds.
    """

    def __init__(self, config: WorkConfig, say: Callable[[str], None]) -> None:
        """Look at the topics. Raises `KafkaError`: unreachable, missing, unequal partitions."""
        self._config = config
        self._say = say
        self._inputs = check_topics(config.kafka, config.topics)
        self._changed = threading.Condition()
        self._wanted: frozenset[int] | None = None  # None: nothing, until `assign`
        self._told = ""  # the last trouble
        self._idle = True  # the thread has written all it had, and waits
        self._stopping = False
        self._source: KafkaSource | None = None
        self._units: dict[int, Unit] = {}
        self._names: dict[int, str] = {}  # of scenes, for partitions that come later
        self._status = WorkerStatus(say)
        self._thread = threading.Thread(target=self._run, name="join", daemon=True)

    def start(self, failed: Callable[[Exception], None]) -> None:
        """Begin, with nothing assigned; ``failed`` is told what ended it early."""
        self._failed = failed
        self._thread.start()

    def assign(self, numbers: frozenset[int]) -> None:
        """Work on the partitions ``numbers`` of every topic, and on no other."""
        with self._changed:
            self._wanted, self._idle = numbers, False
            self._changed.notify_all()

    def release(self) -> None:
        """Write what is in hand, then wait for `assign`; what takes too long is written twice."""
        with self._changed:
            self._wanted = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._idle, _WRITE_S)

    def stop(self) -> None:
        """Write what is in hand, and end; returns within seconds."""
        with self._changed:
            self._stopping, self._wanted = True, None
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_END_S)
            if self._thread.is_alive() and (source := self._source) is not None:
                source.close()  # it waits for a broker that is away
                self._thread.join(_END_S)

    def positions(self) -> Mapping[Partition, int]:
        """Return the next offset to read of each partition worked on."""
        units = list(self._units.values())
        return {p: o.message for unit in units for p, o in unit.position.offsets.items()}

    def status(self, ends: Mapping[Partition, int]) -> dict[str, Any]:
        """Return figures for the web view, JSON-ready; ``ends`` of partitions, where known."""
        return self._status.as_json(dict(self._units), ends)

    def _run(self) -> None:
        config = self._config
        try:
            with KafkaWriter(config.kafka, say=self._say) as writer:
                output = _Output(config, writer, self._status)
                while (numbers := self._next_assignment()) is not None:
                    try:
                        self._take_over(numbers)
                        output.come_from(self._inputs)
                        if numbers:
                            self._follow(numbers, output)
                        else:
                            self._wait_for_others_than(numbers)
                    except (KafkaUnreachable, PartitionsDiffer) as error:
                        self._wait_after(error)  # all was well when this worker started
                output.flush()  # in vain where a broker is away: the next worker writes it
        except Exception as error:  # noqa: BLE001  # it is raised again where the worker was started
            if not self._stopping:
                self._failed(error)

    def _next_assignment(self) -> frozenset[int] | None:
        """Wait for partitions; None: for no more of them."""
        with self._changed:
            self._idle = self._wanted is None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or self._wanted is not None)
            return None if self._stopping else self._wanted

    def _wait_for_others_than(self, numbers: frozenset[int]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._wanted != numbers)

    def _wait_after(self, error: Exception) -> None:
        if str(error) != self._told:
            self._told = str(error)
            self._say(f"{error} Trying again until then.")
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _AGAIN_S)

    def _take_over(self, numbers: frozenset[int]) -> None:
        """Drop the joins of partitions that have gone, make those of partitions that came."""
        before, came = frozenset(self._units), sorted(numbers - self._units.keys())
        now = time.monotonic()
        units = {n: unit for n, unit in self._units.items() if n in numbers}
        self._status.assigned(numbers, before)
        config = self._config
        if came:
            found = check_topics(config.kafka, config.topics)
            if found.ids != self._inputs.ids:  # places in topics of before mean nothing in these
                units, came = {}, sorted(numbers)
            self._inputs = found
        for number, progress in progress_of(config.kafka, came, self._inputs).items():
            inputs = tuple(sorted(Partition(topic, number) for topic in config.topics))
            join = PartitionJoin(
                number, inputs, config.order, config.join, Wait(), config.schema, progress
            )
            units[number] = Unit(join, inputs, self._names, now)
            self._status.resumed(number, join.position, progress)
        self._units = units

    def _follow(self, numbers: frozenset[int], output: "_Output") -> None:
        """Read, join and write until other partitions are assigned, or none."""
        units = {n: self._units[n] for n in sorted(numbers)}
        offsets = {p: o for unit in units.values() for p, o in unit.position.offsets.items()}
        self._source = source = KafkaSource(
            self._config.kafka,
            self._config.topics,
            self._config.schema,
            partitions=sorted(p for unit in units.values() for p in unit.inputs),
            position=Position(offsets),
            follow=True,
            block_events=self._config.block_events,
            topic_ids=self._inputs.ids,
            say=self._say,
        )
        try:
            split = Split(source.partitions, units, self._config.schema)
            for block in source:
                now = time.monotonic()
                self._names |= block.names
                for number, share in split(block):
                    units[number].feed(share, now)
                for number, unit in units.items():
                    output.refuse(unit.take_refused())
                    output.write(number, unit.take_due(now))
                self._status.read(block, units, now)
                if self._wanted != numbers and self._is_to_go(units, numbers, output):
                    return
        except KafkaUnreachable:
            self._units = {}  # they have taken what is not written: the topic says where to go on
            raise
        finally:
            source.close()
            self._source = None

    def _is_to_go(
        self, units: Mapping[int, Unit], numbers: frozenset[int], output: "_Output"
    ) -> bool:
        """Write everything, wait for the next assignment; return whether it is another."""
        for number, unit in units.items():
            output.refuse(unit.take_refused())
            output.write(number, unit.take(time.monotonic()))
        output.flush()
        with self._changed:
            self._idle = self._wanted is None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or self._wanted is not None)
            return self._stopping or self._wanted != numbers


class _Output:
    """The examples' topic, and the one of dead letters. Raises what the writer raises."""

    def __init__(self, config: WorkConfig, writer: KafkaWriter, status: WorkerStatus) -> None:
        self._kafka = config.kafka
        self._schema = config.schema
        self._writer = writer
        self._status = status
        self._header = ("", b"")
        self._letters: DeadLetterTopic | None = None
        self._letters_wait = False  # appended since the last flush

    def come_from(self, inputs: Inputs) -> None:
        """Write what is made of ``inputs`` from now on."""
        self._header = inputs_header(inputs)
        if self._kafka.deadletters:
            self._letters = DeadLetterTopic(self._writer, self._kafka.deadletters, inputs.letters)

    def write(self, number: int, blocks: Sequence[ExampleBlock]) -> None:
        """Append the examples of a partition.

        Raises `KafkaUnreachable` where letters before them are not acknowledged within seconds.
        """
        if blocks and self._letters_wait:
            self.flush()  # records say how far all is written: no letter may come after its own
        for block in blocks:
            value, headers = encode(block, self._schema)
            self._writer.append(
                Partition(self._kafka.examples, number), value, headers=[*headers, self._header]
            )
            self._status.wrote(number, block)

    def refuse(self, letters: Iterable[Rejected]) -> None:
        """Append dead letters."""
        letters = list(letters)
        self._status.refused(letters)
        if letters and self._letters is not None:
            self._letters_wait = True
            self._letters.extend(letters)

    def flush(self) -> None:
        """Return when all is acknowledged. Raises `KafkaUnreachable` after some seconds."""
        self._writer.flush(timeout_s=_WRITE_S)
        self._letters_wait = False
