"""`keepstream simulate`: write a world whose click probabilities are known."""

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, UsageError, print_json, say
from keepstream.commands.worlds import add_world, simulation_of
from keepstream.commands.writing import add_append, open_log
from replay.simulate import TOPICS
from stream.filelog_writer import FileLogWriter
from stream.position import Partition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    to = parser.add_mutually_exclusive_group(required=True)
    to.add_argument(
        "--into", type=Path, metavar="LOG", help="a file log: topics impressions, feedback"
    )
    to.add_argument("--out", type=Path, metavar="FILE.ndjson", help="or one file of NDJSON")
    add_append(parser)
    parser.add_argument(
        "--impressions", type=int, default=200_000, metavar="N", help="how many are shown (200000)"
    )
    parser.add_argument("--partitions", type=int, default=1, metavar="N", help="of each topic (1)")
    parser.add_argument(
        "--per-message", type=int, default=20, metavar="N", help="events packed into a message (20)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="spread the writing evenly over S seconds; by default at once",
    )
    add_world(parser)


def simulate(args: argparse.Namespace, out: TextIO) -> int:
    """Write a simulated world: users, items that fade, scenes, position bias, drift, click delays.

    Every impression carries its true click probability (features.true_ctr), so that the best
    reachable figures can be reported beside a model's. It is never a feature.

    Examples:
      keepstream simulate --into log --impressions 100000
      keepstream simulate --into log --seconds 60 --duplicates 0.01 --malformed 0.001
      keepstream simulate --out world.ndjson --world new_items_per_s=0.05

    """
    if args.impressions < 1:
        raise UsageError("--impressions must be at least 1.")
    simulation = simulation_of(args, args.impressions, args.partitions)
    started = time.monotonic()
    with ExitStack() as stack:
        append = _appender(args, stack)
        done = 0
        for message in simulation:
            append(message.partition, message.value)
            done += message.lines
            if args.seconds is not None and done % 100 < message.lines:
                share = simulation.written.impressions and done / (1.1 * args.impressions)
                _wait(started + share * args.seconds)
    said = {**simulation.written.to_json(), "wall_s": round(time.monotonic() - started, 2)}
    if args.json:
        print_json(said, out)
    else:
        print(", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in said.items() if v), file=out)
    if args.into is not None:
        say(f"Next: keepstream train --config … --log {args.into} --run runs/simulated")
    return 0


def _appender(args: argparse.Namespace, stack: ExitStack) -> Callable[[Partition, bytes], object]:
    if args.out is not None:
        file = stack.enter_context(args.out.open("xb"))
        return lambda partition, value: file.write(value)
    open_log(args.into, TOPICS, args.partitions, append=args.append)
    writer: FileLogWriter = stack.enter_context(FileLogWriter(args.into))
    return writer.append


def _wait(until: float) -> None:
    rest = until - time.monotonic()
    if rest > 0:
        threading.Event().wait(rest)


COMMAND = Command("simulate", add_arguments, simulate)
