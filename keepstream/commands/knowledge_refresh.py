"""`keepstream knowledge refresh`: learn from all scenes, and put what is known of them in force."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.config import KEEP, Config, ConfigError
from keepstream.inputs import time_ms

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(text: str) -> float:
    """Return the seconds of a duration.

    >>> seconds_of("10m"), seconds_of("1.5h"), seconds_of("30")
    (600.0, 5400.0, 30.0)
    """
    unit = _UNITS.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: give 90s, 10m, 1.5h or 1d")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="an old log of all scenes, or the folder of an archive; without it, and without "
        "--log, the topics of kafka.bootstrap, or log.root",
    )
    for name, which in (("from", "from this time on"), ("until", "before this time")):
        parser.add_argument(
            f"--{name}",
            type=time_ms,
            dest=f"{name}_ms",
            metavar="TIME",
            help=f"of an --input: only events {which} (ISO, UTC, or epoch ms)",
        )
    parser.add_argument(
        "--log", type=Path, metavar="DIR", help="the file log, in place of log.root, and of Kafka"
    )
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="DIR",
        help="the extractor's own run folder: the same command goes on where it was stopped",
    )
    parser.add_argument("--fresh", action="store_true", help="begin the extractor anew")
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="in place of [knowledge] store; made if missing"
    )
    often = parser.add_mutually_exclusive_group()
    often.add_argument(
        "--every",
        type=seconds_of,
        metavar="10m",
        help="a generation at each multiple of this event time, until the log ends or for ever "
        "(default: extractor.refresh_every_s)",
    )
    often.add_argument(
        "--once", action="store_true", help="one generation, where the log ends now, and then end"
    )
    parser.add_argument(
        "--until-end", action="store_true", help="with --every: end where the log ends now"
    )
    parser.add_argument(
        "--time-limit",
        type=seconds_of,
        metavar="20m",
        help="learn for so long at most, then extract (default: extractor.time_limit_s)",
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--lag",
        type=seconds_of,
        metavar="30s",
        help="of an --input: a generation is in force this long after what it has learned "
        "(default: extractor.lag_s)",
    )
    when.add_argument(
        "--now",
        action="store_true",
        help="of an --input that grows: in force from this moment on, as where a log is followed",
    )
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="delete generations older than the newest N (default: extractor.keep)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def refresh(args: argparse.Namespace, out: TextIO) -> int:
    """Train the extractor to the log's end, and put a new generation of its vectors in force.

    The configuration is that of a model "keep" over all scenes. It goes on from its checkpoint, so
    a refresh learns only what is new; for cron, or with --every for ever. The vectors lie in the
    space of the generation in force, and only those that changed are written. One that the guard
    holds or refuses is not put in force; the last line says why, and the exit code is 1.

    Examples:
      keepstream knowledge refresh --config super.toml --run runs/super --once
      keepstream knowledge refresh --config super.toml --run runs/super --every 10m
      keepstream knowledge refresh --config super.toml --run w --input w.parquet --every 1h

    """
    config = _config(args)
    from keepstream.refreshing import Refreshing, live_log, old_log, store_of  # loads torch

    with store_of(config) as store:
        refreshing = Refreshing(
            config,
            store,
            by_clock=not args.input or args.now,
            every_s=None if args.once else config.extractor.refresh_every_s,
            keep=config.extractor.keep,
            say=say,
        )
        if args.input:
            opened = old_log(config, args.input, args.from_ms, args.until_ms)
        else:
            follow = refreshing.every_ms is not None and not args.until_end
            opened = live_log(config, args.log, follow=follow, say=say)
        outcome = refreshing.run(opened, args.run, fresh=args.fresh, quiet=args.quiet)
    said = {**refreshing.to_json(), "training": outcome}
    if args.json:
        print_json(said, out)
    else:
        print(refreshing.as_text(), file=out)
    return 0 if refreshing.done else 1


def _config(args: argparse.Namespace) -> Config:
    config = config_of(args)
    if not config.extracts:
        raise ConfigError(
            f'[model] model is "{config.model.model}", from which nothing is extracted: name the '
            f'configuration of the extractor, with model = "{KEEP}".'
        )
    if args.store is not None:
        config = replace(config, knowledge=replace(config.knowledge, store=str(args.store)))
    if not config.knowledge.store:
        raise ConfigError("[knowledge] store is not set: name a folder for the generations.")
    if args.input and args.log:
        raise UsageError("--input is an old log, --log is followed: leave one out.")
    of_input = {"--lag": args.lag, "--now": args.now or None}
    of_input |= {"--from": args.from_ms, "--until": args.until_ms}
    for name, value in of_input.items():
        if value is not None and not args.input:
            raise UsageError(f"{name} is for an --input: a log that grows is read as it comes.")
    extractor = config.extractor
    for name, given in (
        ("refresh_every_s", args.every),
        ("time_limit_s", args.time_limit),
        ("lag_s", args.lag),
        ("keep", args.keep),
    ):
        if given is not None:
            try:
                extractor = replace(extractor, **{name: given})
            except ValueError as error:
                raise UsageError(str(error)) from error
    return replace(config, extractor=extractor)


REFRESH = Command("refresh", add_arguments, refresh)
