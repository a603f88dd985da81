"""Trainer, workers and broker are killed while events flow; afterwards nothing of it is seen."""

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from replay.simulate import TOPICS
from stream.encode import encode_event
from stream.kafka import KafkaConfig
from stream.kafka_reader import KafkaReader
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition, Position
from stream.worker_resume import check_topics, progress_of
from tests.keepstream.worlds import CONFIG, configured, parts, run_of, told, write_log

pytestmark = [pytest.mark.kafka, pytest.mark.chaos, pytest.mark.slow]

PARTITIONS = 4
IMPRESSIONS = 270_000  # and the clicks: some 300,000 events
FLOW_S = 75.0  # for as long events are written, and workers and the broker are killed
KILLS = {"trainer": 10, "worker 0": 5, "worker 1": 5, "worker 2": 5, "broker": 3}
MACHINE = {"wall_s", "examples_per_s", "peak_rss_mb", "resumed", "config"}
SETTINGS = """
[checkpoint]
every_s = 0.5

[kafka]
session_s = 6
"""


@dataclass
class Log:
    """Messages in the order in which they are written, and an end that lets all of them settle."""

    messages: list[tuple[Partition, bytes]]
    last_ms: int
    events: int
    by_partition: dict[Partition, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for partition, value in self.messages:
            self.by_partition.setdefault(partition, []).append(value)


def time_of(line: bytes) -> int:
    """Return the time of an event, 0 where the line is none."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["ts"])
    return 0


def log_of(impressions: int) -> Log:
    """Return a world with duplicates, late and malformed lines; a day later, one event a log."""
    messages = [
        (partition, value)
        for part in parts(200, impressions, per_message=25, partitions=PARTITIONS)
        for partition, values in part.items()
        for value in values
    ]
    lines = [line for _, value in messages for line in value.splitlines()]
    times = sorted(t for line in lines[-5000:] if (t := time_of(line)))
    last_ms = max(t for t in times if t < times[len(times) // 2] + 86_400_000)  # some are absurd
    for number in range(PARTITIONS):
        event = {"impression_id": f"last {number}", "user_id": 1, "ts": last_ms + 7_200_000}
        shown, clicked = (Partition(topic, number) for topic in TOPICS)
        messages.append((shown, encode_event({**event, "item_id": 1})))
        messages.append((clicked, encode_event({**event, "impression_id": "?", "action": "click"})))
    return Log(messages, last_ms, len(lines))


def newest(run: Path) -> str:
    """Return the name of a run's newest checkpoint."""
    return max((path.name for path in run.glob("checkpoints/checkpoint-*")), default="")


class Fleet:
    """The processes of a deployment, killed and started again at random."""

    def __init__(self, folder: Path, config: Path, broker) -> None:
        self._folder, self._config, self._broker = folder, config, broker
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: list[str] = []  # what ended though there was a broker
        self._over, self._lock = threading.Event(), threading.Lock()
        self._supervisor = threading.Thread(target=self.supervise, name="supervisor")
        self._said: dict[str, int] = {}  # bytes, before the process that runs now
        self.killed = dict.fromkeys(KILLS, 0)

    def start(self, name: str) -> None:
        """Start a trainer or a worker."""
        words = ["train", "--examples", "--run", self._folder / "live", "--quiet"]
        if name.startswith("worker"):
            words = ["worker", "--web-port", 0, "--name", name.replace(" ", "-")]
        command = [sys.executable, "-m", "keepstream.cli", *map(str, words),
                   "--config", str(self._config)]  # fmt: skip
        with (self._folder / f"{name}.log").open("ab") as log:
            self._said[name] = log.tell()
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """Kill one of them with SIGKILL, and start it again."""
        self.killed[name] += 1
        if name == "broker":
            self._broker.kill()
            time.sleep(1.0)
            self._broker.start()
            return
        with self._lock:
            process = self._processes[name]
            if process.poll() is not None:
                self._check_why(name)
            process.kill()
            process.wait()
            self.start(name)

    def begin_to_supervise(self) -> None:
        """Do so on a thread of its own, until `end`."""
        self._supervisor.start()

    def supervise(self) -> None:
        """Start again what has ended because no broker was there when it began."""
        while not self._over.wait(0.5):
            with self._lock:
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        self._check_why(name)
                        self.start(name)

    def _check_why(self, name: str) -> None:
        why = self.said(name)[self._said[name] :]
        away = re.search("Nobody listens|Connect call failed", why)
        self.failed += [] if away else [f"{name} ended by itself: {why}"]

    def kill_trainer(self, times: int, rng: random.Random) -> None:
        """Kill the trainer again and again, each time soon after it has saved something new."""
        for _ in range(times):
            saved, deadline = newest(self._folder / "live"), time.monotonic() + 60.0
            while newest(self._folder / "live") == saved and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(2.0 * rng.random())
            self.kill("trainer")

    def stop(self, name: str) -> int:
        """Stop one of them as a supervisor does; return its exit code."""
        with self._lock:
            process = self._processes.pop(name)
        log = self._folder / f"{name}.log"
        deadline = time.monotonic() + 30.0  # it may be only starting: the signal would end Python
        while log.stat().st_size == self._said[name] and process.poll() is None:
            if time.monotonic() > deadline:
                break  # one that had nothing to say
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def end(self) -> None:
        """Leave nothing behind."""
        self._over.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def said(self, name: str) -> str:
        """Return the end of what a process has said."""
        return (self._folder / f"{name}.log").read_text("utf-8", "replace")


def write_slowly(kafka: KafkaConfig, log: Log, seconds: float) -> threading.Thread:
    """Write a log into the topics, spread over some time."""

    def write() -> None:
        began = time.monotonic()
        with KafkaWriter(kafka) as writer:
            for i, (partition, value) in enumerate(log.messages):
                due = began + seconds * i / len(log.messages)
                if (early := due - time.monotonic()) > 0.05:
                    time.sleep(early)
                writer.append(partition, value)

    thread = threading.Thread(target=write, name="producer")
    thread.start()
    return thread


def wait_until_joined(kafka: KafkaConfig, last_ms: int, seconds: float = 120.0) -> None:
    """Return when the workers have written every example up to ``last_ms``."""
    deadline = time.monotonic() + seconds
    inputs = check_topics(kafka, TOPICS)
    while True:
        progress = progress_of(kafka, range(PARTITIONS), inputs)
        reached = [p.complete_to or 0 if p else 0 for p in progress.values()]
        if min(reached) > last_ms:
            return
        assert time.monotonic() < deadline, f"the workers are at {reached}, not at {last_ms}"
        time.sleep(0.5)


def without_machine(result: dict) -> dict:
    """Return what of a result depends on the events alone, and on no one's dead letters."""
    return {k: v for k, v in result.items() if k not in MACHINE | {"counts"}}


class Deployed:
    """A log, the run that nothing disturbed, topics, and workers and a trainer over them."""

    def __init__(self, folder: Path, broker, impressions: int, workers: int, **examples) -> None:
        self.log = log_of(impressions)
        self.folder, self.kafka = folder, broker.config()
        self.config = configured(folder, CONFIG + SETTINGS + f'bootstrap = "{broker.bootstrap}"\n')
        write_log(folder / "log", self.log.by_partition)
        self.expected = self.train("--log", folder / "log", run="undisturbed")
        with Topics(self.kafka) as topics:
            topics.create(self.kafka.examples, PARTITIONS, settings=examples)
        told("topics", "create", "--config", self.config, "--partitions", PARTITIONS)
        self.fleet = Fleet(folder, self.config, broker)
        self.names = ["trainer", *(f"worker {i}" for i in range(workers))]
        self._stack = ExitStack()

    def __enter__(self) -> "Deployed":
        self._stack.callback(self.fleet.end)
        for name in self.names:
            self.fleet.start(name)
        self.fleet.begin_to_supervise()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def flow(self, seconds: float) -> threading.Thread:
        """Begin to write the log."""
        writing = write_slowly(self.kafka, self.log, seconds)
        self._stack.callback(writing.join)
        return writing

    def wait_until_all_work(self) -> None:
        """Return when the trainer has saved something, and every worker has its partitions."""
        deadline = time.monotonic() + 60.0
        workers = self.names[1:]
        while not (
            newest(self.folder / "live")
            and all("caught up" in self.fleet.said(name) for name in workers)
        ):
            assert time.monotonic() < deadline, [self.fleet.said(name) for name in self.names]
            time.sleep(0.1)

    def stop(self, seconds: float = 120.0) -> None:
        """Wait until all is joined, and stop everything, as a supervisor does."""
        wait_until_joined(self.kafka, self.log.last_ms, seconds)
        codes = {name: self.fleet.stop(name) for name in self.names}
        failed = {name: self.fleet.said(name)[-2000:] for name, code in codes.items() if code}
        assert {} == failed
        assert [] == self.fleet.failed

    def train(self, *arguments: object, run: str) -> dict:
        """Train until the log ends."""
        return told("train", "--config", self.config, "--until-end", "--quiet", *arguments,
                    "--run", self.folder / run)  # fmt: skip

    def assert_nothing_is_seen(self) -> None:
        """Let the trainer learn what is left, and compare every bit."""
        actual = self.train("--examples", run="live")
        assert actual["resumed"]
        assert self.expected["examples"] == actual["examples"] > 0
        assert without_machine(self.expected) == without_machine(run_of(self.folder / "live"))


def test_every_impression_is_learned_once_through_kills(broker, tmp_path):
    """Killed trainers, workers and brokers leave no trace: not one bit of the weights differs."""
    rng = random.Random(4)
    victims = [name for name, times in KILLS.items() for _ in range(times) if name != "trainer"]
    rng.shuffle(victims)
    with Deployed(tmp_path, broker(), IMPRESSIONS, workers=3) as deployed:
        assert 300_000 <= deployed.log.events
        fleet = deployed.fleet
        writing = deployed.flow(FLOW_S)
        kills = (KILLS["trainer"], random.Random(5))
        killing = threading.Thread(target=fleet.kill_trainer, args=kills, name="killer")
        killing.start()
        began = time.monotonic()
        for i, name in enumerate(victims):
            due = began + FLOW_S * (i + rng.random()) / len(victims)
            time.sleep(max(0.0, due - time.monotonic()))
            fleet.kill(name)
        writing.join()
        killing.join()
        deployed.stop()

    assert KILLS == fleet.killed
    resumed = re.findall(r"\(([\d,]+) batches learned", fleet.said("trainer"))
    assert len(set(resumed)) > 4, "it was killed in the middle of learning"
    deployed.assert_nothing_is_seen()
    second = deployed.train("--examples", "--set", "model.model=mlp", run="second")
    for digest in ("examples_digest", "examples_set_digest"):
        assert deployed.expected[digest] == second[digest]
    assert deployed.expected["weights_digest"] != second["weights_digest"]


def test_a_broker_that_is_away_for_a_minute_is_waited_for(broker, tmp_path):
    """Everything waits, says so, and goes on by itself; no time passes for the events meanwhile."""
    one = broker()
    with Deployed(tmp_path, one, 40_000, workers=2) as deployed:
        writing = deployed.flow(15.0)
        deployed.wait_until_all_work()
        one.kill()
        time.sleep(60.0)
        one.start()
        writing.join()
        deployed.stop()

    for name in deployed.names:
        said = deployed.fleet.said(name)
        assert re.search("(does not answer|has taken nothing).*waiting", said), said
    deployed.assert_nothing_is_seen()


def test_leaders_that_die_under_load_cost_seconds(broker, tmp_path):
    """On three brokers each dies and comes back in turn: nothing is lost, no pause above 15 s."""
    three = broker(brokers=3)
    by_broker = {"message.timestamp.type": "LogAppendTime"}
    with Deployed(tmp_path, three, 60_000, workers=2, **by_broker) as deployed:
        writing = deployed.flow(60.0)
        for node in three.nodes:
            time.sleep(8.0)
            three.kill(node)
            time.sleep(8.0)
            three.start(node)
        writing.join()
        deployed.stop()
        pauses = [longest_pause_s(deployed.kafka, number) for number in range(PARTITIONS)]

    assert max(pauses) < 15.0
    deployed.assert_nothing_is_seen()


def longest_pause_s(kafka: KafkaConfig, number: int) -> float:
    """Return the longest time between two records of a partition of examples."""
    place = Partition(kafka.examples, number)
    reader = KafkaReader(
        kafka, [kafka.examples], partitions=[place], position=Position(), follow=False
    )
    times: list[int] = []
    while (more := reader.records(0, 1000)) is not None:
        times += [record.at_ms for record in more.records]
    reader.close()
    assert len(times) > 50
    return max(b - a for a, b in pairwise(times)) / 1000
