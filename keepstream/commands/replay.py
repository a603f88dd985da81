"""`keepstream replay`: train on an old log, or write it into a file log."""

import argparse
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
)
from keepstream.commands.training import add_run, train_and_tell
from keepstream.commands.writing import add_append, open_log
from keepstream.config import Config
from keepstream.inputs import Bounded, lines_of, opener, reads_of, time_ms
from keepstream.signals import Interruption
from replay.into import replay_into
from replay.pace import Pace, Pacer
from replay.simulate import TOPICS
from stream.deadletters import DeadLetterFile
from stream.events import EventSchema
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.position import Position
from stream.source import Rejected, Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".parquet, .ndjson or .jsonl (.gz, .zst), or the folder of a file log",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="N",
        help="N times as fast as the log's own time (1: real time); by default as fast as it goes",
    )
    parser.add_argument(
        "--from",
        type=time_ms,
        dest="from_ms",
        metavar="TIME",
        help="only events from this time on (ISO, UTC, or epoch ms)",
    )
    parser.add_argument(
        "--until",
        type=time_ms,
        dest="until_ms",
        metavar="TIME",
        help="only events before this time",
    )
    parser.add_argument(
        "--as-served",
        action="store_true",
        help="also score each impression when it is shown, by the model of that moment",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="in place of train.seed")
    parser.add_argument(
        "--into", type=Path, metavar="LOG", help="write the events into a file log, train nothing"
    )
    parser.add_argument(
        "--per-message",
        type=int,
        default=1,
        metavar="N",
        help="with --into: events packed into a message (1)",
    )
    parser.add_argument(
        "--partitions", type=int, default=1, metavar="N", help="with --into: of each topic (1)"
    )
    add_append(parser)
    add_run(parser)


def replay(args: argparse.Namespace, out: TextIO) -> int:
    """Train from an old log exactly as if it were arriving now.

    Each example is scored before it is learned; the scores are the metrics. With --run the same
    command goes on after a stop or a kill, bit for bit.

    Examples:
      keepstream replay --config examples/ebnerd.toml --input events.parquet --as-served
      keepstream replay --config my.toml --input 2026-11-*.ndjson.zst --run runs/november
      keepstream replay --config my.toml --input events.parquet --into log --per-message 100

    """
    config = config_of(args)
    if args.speed is not None and not 0 < args.speed < math.inf:
        raise UsageError("--speed must be above 0; leave it out to go as fast as it goes.")
    if min(args.per_message, args.partitions) < 1:
        raise UsageError("--per-message and --partitions must be at least 1.")
    if args.as_served:
        config = replace(config, train=replace(config.train, as_served=True))
    if args.seed is not None:
        config = replace(config, train=replace(config.train, seed=args.seed))
    if args.into is not None:
        return _into(args, config, out)
    opened = opener(config, args.input, from_ms=args.from_ms, until_ms=args.until_ms)

    def open_source(schema: EventSchema, position: Position) -> Source:
        source = opened(schema, position)
        if args.speed is None:
            return source
        closed = threading.Event()  # wakes the pace
        woken = Bounded(source, on_close=closed.set)
        return Pace(woken, args.speed, sleep=closed.wait, now=time.monotonic)

    def reads() -> dict[str, Any]:
        return reads_of(config, args.input, from_ms=args.from_ms, until_ms=args.until_ms)

    outcome = train_and_tell(args, config, open_source, out, drain=True, reads=reads)
    return 0 if outcome.result["examples"] or not outcome.ended else 1


def _into(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    if args.into.resolve() in {path.resolve() for path in args.input}:
        raise UsageError(
            f"--into {args.into} is what --input reads: it would never end. Name another log."
        )
    lines = lines_of(config, args.input, from_ms=args.from_ms, until_ms=args.until_ms)
    open_log(args.into, TOPICS, args.partitions, append=args.append)
    letters: list[DeadLetterFile] = []  # opened by the first one: most logs need none
    path = args.into / "deadletters.ndjson"

    def keep(letter: Rejected) -> None:
        if not letters:
            letters.append(DeadLetterFile(path))
        letters[0].extend([letter])

    wake = threading.Event()
    pacer = Pacer(args.speed, wake.wait, time.monotonic) if args.speed is not None else None
    settings = LogWriterConfig(fsync=config.log.fsync)
    with (
        FileLogWriter(args.into, settings) as writer,
        Interruption("writing what is due") as interruption,
    ):
        interruption.then(wake.set)
        replayed = replay_into(
            lines,
            writer,
            partitions=args.partitions,
            per_message=args.per_message,
            pacer=pacer,
            on_rejected=keep,
            stopped=wake.is_set,
        )
    for file in letters:
        file.flush()
    if args.json:
        print_json(replayed.to_json(), out)
    else:
        print(
            f"{args.into}: {replayed.impressions:,} impressions and {replayed.feedback:,} feedback "
            f"in {replayed.messages:,} messages; {replayed.rejected:,} rejected"
            + (f" (`keepstream deadletters {args.into}` shows them)." if letters else ".")
            + (" Stopped before the end." if replayed.stopped else ""),
            file=out,
        )
    return 0 if replayed.messages else 1


COMMAND = Command("replay", add_arguments, replay)
