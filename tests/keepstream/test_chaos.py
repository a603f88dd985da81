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
from pathlib import Path

import pytest

from replay.simulate import TOPICS
from stream.encode import encode_event
from stream.kafka import KafkaConfig
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
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
        process = self._processes[name]
        assert process.poll() is None, f"{name} ended by itself: {self.said(name)}"
        process.kill()
        process.wait()
        self.start(name)

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
        process = self._processes.pop(name)
        log = self._folder / f"{name}.log"
        while log.stat().st_size == self._said[name] and process.poll() is None:
            time.sleep(0.1)  # it is only starting: the signal would end the interpreter
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def end(self) -> None:
        """Leave nothing behind."""
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
        reached = [0 if p is None else p.complete_to for p in progress.values()]
        if min(reached) > last_ms:
            return
        assert time.monotonic() < deadline, f"the workers are at {reached}, not at {last_ms}"
        time.sleep(0.5)


def without_machine(result: dict) -> dict:
    """Return what of a result depends on the events alone, and on no one's dead letters."""
    return {k: v for k, v in result.items() if k not in MACHINE | {"counts"}}


def test_every_impression_is_learned_once_through_kills(broker, tmp_path):
    """Killed trainers, workers and brokers leave no trace: not one bit of the weights differs."""
    log = log_of(IMPRESSIONS)
    assert 300_000 <= log.events
    one = broker()
    config = configured(tmp_path, CONFIG + SETTINGS + f'bootstrap = "{one.bootstrap}"\n')
    write_log(tmp_path / "log", log.by_partition)
    expected = told("train", "--config", config, "--log", tmp_path / "log", "--until-end",
                    "--run", tmp_path / "undisturbed", "--quiet")  # fmt: skip
    told("topics", "create", "--config", config, "--partitions", PARTITIONS)
    kafka = one.config()
    fleet = Fleet(tmp_path, config, one)
    rng = random.Random(4)
    victims = [name for name, times in KILLS.items() for _ in range(times) if name != "trainer"]
    rng.shuffle(victims)
    with ExitStack() as stack:
        stack.callback(fleet.end)
        for name in KILLS.keys() - {"broker"}:
            fleet.start(name)
        writing = write_slowly(kafka, log, FLOW_S)
        stack.callback(writing.join)
        kills = (KILLS["trainer"], random.Random(5))
        killing = threading.Thread(target=fleet.kill_trainer, args=kills, name="killer")
        killing.start()
        stack.callback(killing.join)
        began = time.monotonic()
        for i, name in enumerate(victims):
            due = began + FLOW_S * (i + rng.random()) / len(victims)
            time.sleep(max(0.0, due - time.monotonic()))
            fleet.kill(name)
        writing.join()
        wait_until_joined(kafka, log.last_ms)
        killing.join()
        codes = {name: fleet.stop(name) for name in KILLS.keys() - {"broker"}}

    assert dict.fromkeys(codes, 0) == codes
    assert KILLS == fleet.killed
    resumed = re.findall(r"\(([\d,]+) batches learned", fleet.said("trainer"))
    assert len(set(resumed)) > 4, "it was killed in the middle of learning"
    actual = told("train", "--config", config, "--examples", "--until-end",
                  "--run", tmp_path / "live", "--quiet")  # fmt: skip
    assert actual["resumed"]
    assert expected["examples"] == actual["examples"]
    assert without_machine(expected) == without_machine(run_of(tmp_path / "live"))
    second = told("train", "--config", config, "--examples", "--until-end", "--quiet",
                  "--set", "model.model=mlp", "--run", tmp_path / "second")  # fmt: skip
    assert expected["examples_digest"] == second["examples_digest"]
    assert expected["examples_set_digest"] == second["examples_set_digest"]
    with Topics(kafka) as topics:
        places = [Partition(kafka.examples, number) for number in range(PARTITIONS)]
        assert sum(topics.ends(places).values()) > 0
