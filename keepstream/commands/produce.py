"""`keepstream produce`: write events into topics, an old log's or a simulated world's."""

import argparse
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.commands.worlds import add_world, simulation_of
from keepstream.config import Config
from keepstream.inputs import lines_of, time_ms
from keepstream.kafka import letters_opener, needs_kafka
from keepstream.signals import Interruption
from replay.into import replay_into
from replay.keyed import KeyedWriter
from replay.pace import Pacer, Rate
from replay.relog import LogLine
from stream.copartitioned import copartitioned
from stream.kafka_topics import TopicInfo, Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from stream.source import Rejected

_SAY_EVERY_S: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=".parquet, .ndjson or .jsonl (.gz, .zst), or the folder of a file log",
    )
    what.add_argument(
        "--simulate", type=int, metavar="N", help="or a simulated world of N impressions"
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        type=float,
        metavar="N",
        help="N times as fast as the events' own time (1: real time); by default as fast as it "
        "goes",
    )
    pace.add_argument(
        "--rate", type=float, metavar="N", help="or N events a second, whatever their time"
    )
    parser.add_argument(
        "--per-message", type=int, default=1, metavar="N", help="events packed into a message (1)"
    )
    parser.add_argument(
        "--from",
        type=time_ms,
        dest="from_ms",
        metavar="TIME",
        help="with --input: only events from this time on (ISO, UTC, or epoch ms)",
    )
    parser.add_argument(
        "--until",
        type=time_ms,
        dest="until_ms",
        metavar="TIME",
        help="with --input: only events before this time",
    )
    parser.add_argument(
        "--max-seconds", type=float, metavar="S", help="stop after so long; what is due is written"
    )
    add_world(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def produce(args: argparse.Namespace, out: TextIO) -> int:
    """Write events into Kafka: an old log at any speed, or a simulated world as a load.

    A user's events go to the partition of the same number in both topics. A record's time is that
    of its newest event. Lines that are no events go into the topic of dead letters.

    Examples:
      keepstream produce --config my.toml --input 2026-11-*.ndjson.zst --speed 60
      keepstream produce --config my.toml --simulate 1000000 --rate 2000 --per-message 100

    """
    config = config_of(args)
    _check(args)
    needs_kafka(config)
    with Topics(config.kafka) as topics:
        found = topics.describe(config.log.topics[:2])
    partitions = copartitioned({name: info.partitions for name, info in found.items()})
    started = time.monotonic()
    with (
        _woken(args.max_seconds) as wake,
        KafkaWriter(config.kafka, say=say) as writer,
    ):
        keyed = KeyedWriter(writer, config.log.topics, _now_ms)
        shown = _Shown(keyed, _retention_ms(found), quiet=args.quiet)
        if args.simulate is not None:
            said = _simulate(args, partitions, shown, wake)
        else:
            said = _replay(args, config, partitions, shown, writer, wake)
        writer.flush()
    wall_s = time.monotonic() - started
    said |= {
        "messages": keyed.messages,
        "partitions": partitions,
        "wall_s": round(wall_s, 3),
        "events_per_s": round(keyed.events / wall_s, 1),
    }
    if args.json:
        print_json(said, out)
    else:
        print(_text(config, said, keyed), file=out)
    return 0 if keyed.messages else 1


def _check(args: argparse.Namespace) -> None:
    for name in ("speed", "rate", "max_seconds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0; leave it out for none.")
    if args.per_message < 1:
        raise UsageError("--per-message must be at least 1.")
    if args.simulate is not None:
        if args.simulate < 1:
            raise UsageError("--simulate must be at least 1.")
        if (args.from_ms, args.until_ms) != (None, None):
            raise UsageError("--from and --until choose from an --input: leave them out.")
    elif args.seed or args.world or args.duplicates or args.late or args.malformed:
        raise UsageError(
            "--seed, --world, --duplicates, --late and --malformed are of a simulated world: "
            "leave them out, or give --simulate."
        )


@contextmanager
def _woken(after_s: float | None) -> Iterator[threading.Event]:
    """Yield what ends every wait: set by a signal, or when the time is over."""
    wake = threading.Event()
    timer = threading.Timer(after_s or 0, wake.set)
    timer.daemon = True
    with Interruption("writing what is due") as interruption:
        interruption.then(wake.set)
        if after_s is not None:
            timer.start()
        try:
            yield wake
        finally:
            timer.cancel()


def _simulate(
    args: argparse.Namespace, partitions: int, shown: "_Shown", wake: threading.Event
) -> dict[str, Any]:
    simulation = simulation_of(args, args.simulate, partitions)
    pacer, rate = _pace(args, wake)
    stopped = False
    for message in simulation:
        if (
            wake.is_set()
            or (pacer is not None and pacer.wait(message.at_ms))
            or (rate is not None and rate.wait(message.lines))
        ):
            stopped = True
            break
        shown.append(message.partition, message.value)
    return {**simulation.written.to_json(), "stopped": stopped}


def _replay(
    args: argparse.Namespace,
    config: Config,
    partitions: int,
    shown: "_Shown",
    writer: KafkaWriter,
    wake: threading.Event,
) -> dict[str, Any]:
    pacer, rate = _pace(args, wake)
    lines = lines_of(config, args.input, from_ms=args.from_ms, until_ms=args.until_ms)
    open_letters = letters_opener(config, say)
    letters = open_letters() if open_letters else None

    def keep(letter: Rejected) -> None:
        if letters is not None:
            letters.extend([letter])

    try:
        done = replay_into(
            lines if rate is None else _at_rate(lines, rate),
            shown,
            partitions=partitions,
            per_message=args.per_message,
            pacer=pacer,
            on_rejected=keep,
            stopped=wake.is_set,
        )
        if letters is not None:
            letters.flush()
    finally:
        if letters is not None:
            letters.close()
    return done.to_json()


def _pace(args: argparse.Namespace, wake: threading.Event) -> tuple[Pacer | None, Rate | None]:
    pacer = Pacer(args.speed, wake.wait, time.monotonic) if args.speed is not None else None
    rate = Rate(args.rate, wake.wait, time.monotonic) if args.rate is not None else None
    return pacer, rate


def _at_rate(lines: Iterator[LogLine | Rejected], rate: Rate) -> Iterator[LogLine | Rejected]:
    for line in lines:
        rate.wait(1)  # broken off: whoever asks for more is told to stop
        yield line


def _retention_ms(topics: Mapping[str, TopicInfo]) -> int | None:
    """Return how long messages are kept, by the shortest of the topics; None: for ever."""
    kept = [info.settings.get("retention.ms", "-1") for info in topics.values()]
    return min((int(ms) for ms in kept if ms.isdecimal()), default=None)


def _now_ms() -> int:
    return int(time.time() * 1000)


class _Shown:
    """Appends, and says now and then how far it has come; and at the start, what will not stay."""

    def __init__(self, writer: KeyedWriter, retention_ms: int | None, *, quiet: bool) -> None:
        self._writer = writer
        self._retention_ms = retention_ms  # None: it was said, or there is nothing to say
        self._quiet = quiet
        self._started = self._said = time.monotonic()

    def append(self, partition: Partition, value: bytes) -> None:
        """Append a message."""
        self._writer.append(partition, value)
        if self._retention_ms is not None and self._writer.newest_ms is not None:
            if _now_ms() - self._writer.newest_ms > self._retention_ms:
                say(
                    f"The topics keep messages for {self._retention_ms / 3_600_000:g} h by their "
                    "time, and the events are older: Kafka will delete them soon. Make topics that "
                    "keep them for ever: `keepstream topics create --retention-h -1`."
                )
            self._retention_ms = None
        now = time.monotonic()
        if not self._quiet and now - self._said > _SAY_EVERY_S:
            self._said = now
            took = now - self._started
            done = self._writer
            say(
                f"{took:.0f} s: {done.events:,} events in {done.messages:,} messages, "
                f"{done.events / took:,.0f} events/s"
            )


def _text(config: Config, said: dict[str, Any], keyed: KeyedWriter) -> str:
    to = ", ".join(config.log.topics[:2])
    rejected = said.get("rejected", 0)
    topic = config.kafka.deadletters
    return (
        f"{to} ({said['partitions']} partitions each): {said['impressions']:,} impressions and "
        f"{said['feedback']:,} feedback in {said['messages']:,} messages, "
        f"{said['events_per_s']:,.0f} events/s"
        + (f"; {rejected:,} lines were no events" if rejected else "")
        + (" (`keepstream deadletters --config …` shows them)" if rejected and topic else "")
        + (". Stopped before the end." if said["stopped"] else ".")
    )


COMMAND = Command("produce", add_arguments, produce)
