"""A log for workers, what they must make of it, what they made, and workers as processes."""

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stream.delivered import Delivered
from stream.encode import encode_event, pack
from stream.events import IMPRESSION, EventSchema
from stream.examples import decode
from stream.join import JoinConfig, LabelJoin
from stream.kafka_reader import KafkaReader
from stream.kafka_writer import KafkaWriter
from stream.listsource import ListSource
from stream.order import EventTimeOrder, OrderConfig
from stream.policy import Wait
from stream.position import Partition
from stream.worker_join import WorkConfig

START_MS = 1_700_000_000_000
SCHEMA = EventSchema(ids=("category",), numbers=("age",))
ORDER = OrderConfig(lateness_s=10.0, idle_s=3600.0)  # never idle: the result is the logs' alone
JOIN = JoinConfig(window_s=60.0, early_s=30.0, remember_s=60.0)
END_MS = 1000 * round(2 * JOIN.window_s + ORDER.lateness_s)  # after it all has settled
BLOCK_EVENTS = 64  # places from which to go on are block ends: many
SESSION_S = 6.0  # the least that brokers take who are not told otherwise
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0  # nothing takes so long: the machine may be busy


class World(NamedTuple):
    """The topics of one test."""

    impressions: str
    feedback: str
    examples: str
    letters: str
    partitions: int

    def config(self, kafka, **settings):
        """Return what a worker is to do."""
        settings = {"group": self.examples, "session_s": SESSION_S, **settings}
        return WorkConfig(
            kafka=replace(kafka, examples=self.examples, deadletters=self.letters, **settings),
            schema=SCHEMA,
            topics=(self.impressions, self.feedback),
            order=ORDER,
            join=JOIN,
            block_events=BLOCK_EVENTS,
        )


def world(topic, partitions=2):
    """Make the topics of a test."""
    return World(
        topic("impressions", partitions),
        topic("feedback", partitions),
        topic("examples", partitions),
        topic("letters", 1),
        partitions,
    )


def lines(seed, impressions, partitions):
    """Return the lines of each partition (kind, number), in the order they come: a little late."""
    rng = np.random.default_rng(seed)
    found = {(kind, n): [] for kind in ("impressions", "feedback") for n in range(partitions)}

    def write(kind, number, event, ts):
        late = int(rng.integers(0, 8000))
        found[kind, number].append((ts + late, {**event, "ts": ts}))

    ts = START_MS
    for i in range(impressions):
        ts += int(rng.integers(0, 300))
        user = int(rng.integers(0, 50))
        ids = {"impression_id": f"i{i}", "user_id": user}
        features = {"category": i % 7, "age": i % 5 / 2}
        write("impressions", user % partitions, {**ids, "item_id": 3, "features": features}, ts)
        if i % 3 == 0:
            after = int(rng.integers(-5000, 80_000))
            write("feedback", user % partitions, {**ids, "action": "click"}, ts + after)
        if i % 50 == 0:  # and a repetition
            write("impressions", user % partitions, {**ids, "item_id": 3}, ts + 1000)
    ordered = {
        place: [encode_event(event) for _, event in sorted(here, key=lambda pair: pair[0])]
        for place, here in found.items()
    }
    for (kind, number), here in ordered.items():
        for k in range(2):
            last = {"impression_id": f"end{number}{k}", "user_id": number, "item_id": 1}
            last |= {"action": "click"} if kind == "feedback" else {}
            here.append(encode_event({**last, "ts": ts + 80_000 + END_MS + k}))
    return ordered


def joined(written, number, order=ORDER, join=JOIN):
    """Return what an undisturbed join makes of a partition: impression → (label, label time)."""
    messages = {Partition(kind, n): here for (kind, n), here in written.items() if n == number}
    source = ListSource(SCHEMA, messages)
    first, second = (
        EventTimeOrder(order, SCHEMA, source.partitions),
        LabelJoin(join, Wait(), SCHEMA),
    )
    ids, found = [], {}
    for block in source:
        events = first.feed(block).events
        made = second.feed(events)
        assert (events.kind[made.accepted] == IMPRESSION).all()
        ids += events.impression[made.accepted].tolist()
        for seq, label, at in zip(
            made.settled.seq, made.settled.label, made.settled.label_at, strict=True
        ):
            found[ids[seq]] = (int(label), int(at))
    return found


def expected(written):
    """Return what an undisturbed join makes of all partitions."""
    numbers = {n for _, n in written}
    return {k: v for n in sorted(numbers) for k, v in joined(written, n).items()}


def produce(kafka, world, written, per_message=5, only=None):
    """Write the log into the topics; ``only`` a part (from, to) of each partition, in tenths."""
    writer = KafkaWriter(kafka)
    names = {"impressions": world.impressions, "feedback": world.feedback}
    for (kind, number), here in written.items():
        if only is not None:
            here = here[len(here) * only[0] // 10 : len(here) * only[1] // 10]
        for message in pack(here, per_message):
            writer.append(Partition(names[kind], number), message)
    writer.flush()
    writer.close()


class Read(NamedTuple):
    """What a reader of the examples' topic gets."""

    examples: dict  # impression → (label, label time)
    times: Counter  # how often each came through, by impression
    records: int


def read(kafka, world):
    """Return the examples that are there, each once as readers see to."""
    reader = KafkaReader(kafka, [world.examples], follow=False)
    found, times, records = {}, Counter(), 0
    for i in range(len(reader.partitions)):
        delivered = Delivered()
        while (more := reader.records(i, 100)) is not None:
            for record in more.records:
                block = decode(record.value, record.headers)
                records += 1
                made = block.examples
                origin = (made.origin_partition, made.origin_offset, made.origin_row)
                fresh = delivered.fresh(*origin)
                delivered.advance(block.progress)
                columns = (made.impression, made.label, made.label_at)
                for key, label, at in zip(*(c[fresh].tolist() for c in columns), strict=True):
                    found[key] = (label, at)
                    times[key] += 1
    reader.close()
    return Read(found, times, records)


def wait_until(condition, what, deadline_s=DEADLINE_S):
    """Return once ``condition()`` holds; fail, naming ``what``, after a while."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s"
        time.sleep(0.1)


def all_there(kafka, here, wanted):
    """Return once the topic holds as many examples as are wanted."""
    wait_until(lambda: len(read(kafka, here).examples) >= len(wanted), "all examples")


class Process:
    """A worker as a process of its own."""

    def __init__(self, config, folder, name, web_port=0, stall_s=0.0):
        self.name = name
        self._log = Path(folder) / f"{name}.log"
        kafka = config.kafka
        asked = {
            "kafka": asdict(kafka),
            "topics": list(config.topics),
            "name": name,
            "web_port": web_port,
            "block_events": config.block_events,
            "stall_s": stall_s,  # how long its first step takes
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.stream.worker_process", json.dumps(asked)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self):
        """What it has said so far."""
        return self._log.read_text()

    def wait_for(self, words, deadline_s=DEADLINE_S):
        """Return once it has said ``words``."""
        end = time.monotonic() + deadline_s
        while words not in self.said:
            ended = self.process.poll()
            assert ended is None, f"{self.name} ended with {ended}:\n{self.said}"
            assert time.monotonic() < end, f"{self.name} never said {words!r}:\n{self.said}"
            time.sleep(0.05)

    def kill(self):
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self, deadline_s=30.0):
        """End it by SIGTERM; return its exit code and how long that took."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(deadline_s)
        return code, time.monotonic() - began


@contextmanager
def processes():
    """Yield a list; the workers in it are ended whatever happens."""
    running = []
    try:
        yield running
    finally:
        for worker in running:
            with suppress(ProcessLookupError):
                worker.kill()
