"""`keepstream simulate`: write a world whose click probabilities are known."""

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

from keepstream.commands.command import Command, UsageError, print_json, say
from keepstream.commands.writing import add_append, open_log
from replay.simulate import TOPICS, Chaos, Simulation
from replay.world import World, WorldConfig
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
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same world (0)"
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
    parser.add_argument(
        "--world",
        action="append",
        default=[],
        metavar="KEY=NUMBER",
        help="another setting of the world, as new_users_per_s=5",
    )
    for name, text in (
        ("duplicates", "written twice"),
        ("late", "written minutes late"),
        ("malformed", "followed by a line that is no event"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"share of events {text}"
        )


def simulate(args: argparse.Namespace, out: TextIO) -> int:
    """Write a simulated world: users, items that fade, scenes, position bias, drift, click delays.

    Every impression carries its true click probability (features.true_ctr), so that the best
    reachable figures can be reported beside a model's. It is never a feature.

    Examples:
      keepstream simulate --into log --impressions 100000
      keepstream simulate --into log --seconds 60 --duplicates 0.01 --malformed 0.001
      keepstream simulate --out world.ndjson --world new_items_per_s=0.05

    """
    if args.seed < 0 or args.impressions < 1:
        raise UsageError("--seed must be 0 or more, --impressions at least 1.")
    try:
        world = World(WorldConfig(seed=args.seed, impressions=args.impressions, **_world(args)))
        simulation = Simulation(
            world,
            args.partitions,
            args.per_message,
            Chaos(duplicates=args.duplicates, late=args.late, malformed=args.malformed),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
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


def _world(args: argparse.Namespace) -> dict[str, Any]:
    known = {f.name: f.type for f in fields(WorldConfig) if f.type in (int, float)}
    del known["seed"]  # an argument of its own, as impressions is
    given: dict[str, Any] = {}
    for setting in args.world:
        key, equals, text = setting.partition("=")
        if not equals or key not in known:
            raise UsageError(
                f"--world {setting}: expected one of {', '.join(sorted(known))}, =number"
            )
        try:
            given[key] = int(text) if known[key] is int else float(text)
        except ValueError as error:
            raise UsageError(f"--world {setting}: {text!r} is no number of its kind") from error
        if not -_MOST < given[key] < _MOST:
            raise UsageError(f"--world {setting}: a number of that size makes no world")
    return given


_MOST = 1e15  # below which every number, a time in milliseconds too, is exact


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
