"""Stream workers: how fast they join, against a Faust table and against Quix Streams.

`python -m benchmarks.workers` starts a broker, writes a simulated world into its topics (at 1, 10
and 100 events a message) and lets workers join it, each time as a group that begins at the
beginning; then the peers, on the same broker and topics, which are stopped after so many events.
Rates are taken between the first event and the last that a process tells of: no start is in them.
``ratio`` is one worker over the Faust table join, ``ratio_quix`` over Quix Streams' interval join,
all at 100 events a message (Quix is also given the same events one a message, keyed by impression,
which suits it best, and its better rate counts). Then a worker is killed, and the time is taken
until the next has read again what it needs and writes on, by window. The broker shares the cores
with what is measured.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.broker import Broker, free_ports
from benchmarks.machine import report
from replay.simulate import TOPICS, Chaos, Simulation
from replay.world import World, WorldConfig
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition

PARTITIONS: Final = 4
WINDOW_S: Final = 600
QUIX: Final = "quixstreams==3.28.1"
_LIMIT_S: Final = 300.0  # a run that takes longer has failed


class Bench:
    """One broker, and worlds written into it."""

    def __init__(self, broker: Broker, folder: Path, impressions: int) -> None:
        self.broker = broker
        self.folder = folder
        self.impressions = impressions
        self._runs = 0

    def world(self, name: str, per_message: int, *, most: int | None = None) -> int:
        """Write the world into the topics ``name``-…; return how many events they have.

        With ``most`` it is its first events only, each with its impression's id as the key.
        """
        world = World(WorldConfig(impressions=self.impressions, requests_per_s=10.0))
        config = self.broker.config()
        with Topics(config) as topics:
            for topic in TOPICS:
                topics.create(f"{name}-{topic}", PARTITIONS)
        events = 0
        with KafkaWriter(config) as writer:
            for message in Simulation(world, PARTITIONS, per_message, Chaos()):
                to = Partition(f"{name}-{message.partition.topic}", message.partition.number)
                lines = message.value.strip().split(b"\n")
                events += len(lines)
                if most is None:
                    at_ms = orjson.loads(lines[-1])["ts"]
                    writer.append(to, b"\n".join(lines), at_ms=at_ms)
                    continue
                for line in lines:
                    event = orjson.loads(line)
                    key = str(event["impression_id"]).encode()
                    writer.append(to, line, key=key, at_ms=event["ts"])
                if events >= most:
                    break
        return events

    def examples(self) -> str:
        """Make a topic of examples that nobody has written to; return its name."""
        self._runs += 1
        with Topics(self.broker.config()) as topics:
            topics.create(f"examples-{self._runs}", PARTITIONS)
        return f"examples-{self._runs}"

    def worker_rate(self, world: str, events: int, workers: int) -> float:
        """Return the events a second of a group of workers."""
        partitions = [Partition(f"{world}-{t}", n) for t in TOPICS for n in range(PARTITIONS)]
        with Topics(self.broker.config()) as topics:
            ends = {str(p): end for p, end in topics.ends(partitions).items()}
        with self._workers(world, self.examples(), workers, WINDOW_S) as ports:
            began, read_by_then = 0.0, 0
            for now, views in _watch(ports):
                read = sum(view["events"] for view in views)
                if read and not began:
                    began, read_by_then = now, read
                parts = [part for view in views for part in view["partitions"].values()]
                places = {k: i["next"] for part in parts for k, i in part["inputs"].items()}
                if began and places == ends:
                    rate = (events - read_by_then) / (now - began)
                    _say(f"{workers} workers on {world}: {rate:,.0f} events/s")
                    return rate
        raise AssertionError("the loop ends by a return or an error")

    def recovery_s(self, world: str, window_s: int) -> dict[str, float]:
        """Kill a worker that has caught up; return how long the next one takes to write on."""
        examples = self.examples()
        with self._workers(world, examples, 1, window_s, how=signal.SIGKILL) as ports:
            for _, views in _watch(ports):
                if views[0]["state"] == "caught up":
                    break
        time.sleep(_SESSION_S)  # the group notices
        began = time.monotonic()
        with self._workers(world, examples, 1, window_s) as ports:
            up = None
            for now, views in _watch(ports):
                up = up or now
                if views[0]["state"] == "caught up":
                    return {"seconds": round(now - began, 2), "of_start": round(up - began, 2),
                            "events_again": views[0]["events"]}  # fmt: skip
        raise AssertionError("the loop ends by a return or an error")

    @contextmanager
    def _workers(
        self, world: str, examples: str, count: int, window_s: int, how: int = signal.SIGTERM
    ) -> Iterator[list[int]]:
        settings = {
            "kafka.bootstrap": self.broker.bootstrap,
            "kafka.group": examples,
            "kafka.examples": examples,
            "kafka.deadletters": "off",
            "kafka.session_s": _SESSION_S,
            "log.topics": json.dumps([f"{world}-{topic}" for topic in TOPICS]),
            "order.lateness_s": 0,
            "join.window_s": window_s,
            "join.early_s": window_s,
            "join.remember_s": window_s,
        }
        sets = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
        processes, ports = [], free_ports(count)
        config = self.folder / "worker.toml"
        config.write_text("")
        try:
            for port in ports:
                command = [sys.executable, "-m", "keepstream.cli", "worker", "--config",
                           str(config), "--web-port", str(port), *sets]  # fmt: skip
                with (self.folder / f"worker-{port}.log").open("wb") as log:
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            yield ports
        finally:
            for process in processes:
                process.send_signal(how)
            for process in processes:
                process.wait(30)

    def peer_rate(self, words: list[str], events: int) -> dict[str, float]:
        """Return the events a second that a peer tells of, and the pairs it has joined."""
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        assert process.stdout is not None
        told: dict[str, float] = {}
        began = time.monotonic()
        try:
            for line in process.stdout:
                if (start := line.find("{")) >= 0:
                    told = json.loads(line[start:])
                    if told["events"] >= events:
                        break
                if time.monotonic() - began > _LIMIT_S:
                    raise TimeoutError(f"{words[1:4]} got as far as {told}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if told.get("events", 0) < events:
            raise RuntimeError(f"{' '.join(words[:4])} ended at {told} of {events} events")
        _say(f"{words[1:3][-1]}: {told}")
        return {"events_per_s": told["events"] / told["seconds"], "joined": told["joined"]}

    def faust(self, world: str, events: int) -> dict[str, float]:
        """Run the Faust table join over a world."""
        names = [f"{world}-{topic}" for topic in TOPICS]
        state = tempfile.mkdtemp(dir=self.folder)
        words = [sys.executable, "-m", "benchmarks.peers.faust_join", self.broker.bootstrap,
                 *names, self.examples(), str(PARTITIONS), str(events), state]  # fmt: skip
        return self.peer_rate(words, events)

    def quix(self, python: Path, world: str, events: int, *, packed: bool) -> dict[str, float]:
        """Run Quix Streams' join over a world."""
        names = [f"{world}-{topic}" for topic in TOPICS]
        state = tempfile.mkdtemp(dir=self.folder)
        script = str(Path(__file__).parent / "peers" / "quix_join.py")
        words = [str(python), script, self.broker.bootstrap, *names, self.examples(),
                 str(WINDOW_S * 1000), str(events), "1" if packed else "0", state]  # fmt: skip
        return self.peer_rate(words, events)


_SESSION_S: Final = 6.0  # the least that a broker takes


def _watch(ports: list[int]) -> Iterator[tuple[float, list[dict[str, Any]]]]:
    """Yield the time and what every worker says, twenty times a second."""
    began = time.monotonic()
    while time.monotonic() - began < _LIMIT_S:
        try:
            views = [_view(port) for port in ports]
        except OSError:
            views = []
        if views:
            yield time.monotonic(), views
        time.sleep(0.05)
    raise TimeoutError("the workers did not get to the end; their logs say why")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _view(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/keepstream/", timeout=5) as answer:
        view: dict[str, Any] = json.load(answer)
    return view


def quix_python(folder: Path) -> Path:
    """Return an interpreter that has Quix Streams, which wants packages of its own versions."""
    home = folder / "quix"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", QUIX], check=True)
    return python


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=900_000, help="of the world")
    parser.add_argument("--peer-events", type=int, default=100_000, help="after which peers stop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, nargs="*", default=[60, 600, 3600])
    parser.add_argument("--no-quix", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "kafka") as broker:
        bench = Bench(broker, Path(name), args.impressions)
        python = None if args.no_quix else quix_python(bench.folder)
        ours = {n: bench.world(f"w{n}", n) for n in (1, 10, 100)}
        bench.world("k1", 1, most=args.peer_events)
        rates: dict[str, list[float]] = {}
        joined: dict[str, int] = {}
        for _ in range(args.rounds):  # in turn, so that a slow minute is everybody's
            for per_message, events in ours.items():
                for workers in (1, 2):
                    rate = bench.worker_rate(f"w{per_message}", events, workers)
                    rates.setdefault(f"{per_message}x{workers}", []).append(rate)
            told = {"faust": bench.faust("w100", args.peer_events)}
            if python is not None:
                told["quix_100"] = bench.quix(python, "w100", args.peer_events, packed=True)
                told["quix_1"] = bench.quix(python, "k1", args.peer_events, packed=False)
            for peer, said in told.items():
                rates.setdefault(peer, []).append(said["events_per_s"])
                joined[peer] = int(said["joined"])
        median = {name: statistics.median(values) for name, values in rates.items()}
        recovery = {str(w): bench.recovery_s("w100", w) for w in args.windows}
    quix = max((v for k, v in median.items() if k.startswith("quix")), default=None)
    report(
        "workers",
        ratio=round(median["100x1"] / median["faust"], 2),
        ratio_quix=None if quix is None else round(median["100x1"] / quix, 2),
        events_per_s={str(n): {str(w): round(median[f"{n}x{w}"]) for w in (1, 2)} for n in ours},
        peers_events_per_s={k: round(v) for k, v in median.items() if "x" not in k or "q" in k},
        peers_joined=joined,
        recovery=recovery,
        events={str(n): events for n, events in ours.items()},
        peer_events=args.peer_events,
        partitions=PARTITIONS,
        rounds=args.rounds,
    )


if __name__ == "__main__":
    main()
