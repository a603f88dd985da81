"""`keepstream status`: how far a run, or all that read the topics, have come."""

import argparse
import threading
from pathlib import Path
from typing import Any, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.commands.topics import time_text
from keepstream.errors import USAGE_ERRORS
from keepstream.kafka import needs_kafka
from keepstream.signals import Interruption
from keepstream.standing import config_of_run, kafka_standing, run_standing, with_lag
from stream.kafka import KafkaError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run_folder", type=Path, nargs="?", metavar="RUN", help="the folder of a run"
    )
    add_config(parser, required=False)
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=5.0,
        metavar="S",
        help="again every S seconds (5), until Ctrl-C",
    )


def status(args: argparse.Namespace, out: TextIO) -> int:
    """Show how far a run has come, or with --config the trainers and workers on its topics.

    Of a run: its newest checkpoint, and on Kafka how many messages and how much time lie behind
    it. Of a configuration: committed positions, lag, and up to where workers have joined.

    Examples:
      keepstream status runs/live
      keepstream status --config my.toml --watch 10

    """
    if args.run_folder is None and args.config is None:
        raise UsageError("Name the folder of a run, or a --config whose topics are looked at.")
    if args.watch is not None and not 0 < args.watch < 1e6:
        raise UsageError("--watch must be above 0 seconds.")
    if args.watch is None:
        return _show(args, out)
    wake = threading.Event()
    with Interruption(finishing=None) as interruption:
        interruption.then(wake.set)
        while True:
            try:
                _show(args, out)
            except USAGE_ERRORS:  # waiting makes none of them good
                raise
            except KafkaError as error:  # a broker that is away comes back
                say(f"keepstream: {error}")
            out.flush()
            if wake.wait(args.watch):
                return 0
            if not args.json:
                print(file=out)


def _show(args: argparse.Namespace, out: TextIO) -> int:
    if args.run_folder is None:
        config = config_of(args)
        needs_kafka(config)
        standing = kafka_standing(config)
        if args.json:
            print_json(standing, out)
        else:
            _print_kafka(standing, out)
        return 0
    standing = run_standing(args.run_folder)
    config = config_of(args) if args.config else config_of_run(args.run_folder)
    failed = None
    if config.kafka.bootstrap:
        try:
            standing = with_lag(standing, args.run_folder, config)
        except KafkaError as error:  # what the folder says is shown all the same
            failed = error
    if args.json:
        print_json(standing, out)
    else:
        _print_run(standing, out)
    if failed is not None:
        say(f"keepstream: {failed}")
    return 1 if failed else 0


def _print_run(standing: dict[str, Any], out: TextIO) -> None:
    if standing["checkpoint"] is None:
        print(f"{standing['run']}: no checkpoint yet.", file=out)
        return
    reached = standing["watermark_ms"]
    print(
        f"{standing['run']}: {standing['checkpoint']}, written {standing['age_s']:,.0f} s ago, "
        f"{standing['batches']:,} batches, up to "
        + (f"{time_text(reached)} UTC" if 0 < reached < _NO_TIME else "the end of its log"),
        file=out,
    )
    if "knowledge" in standing:
        used = standing["knowledge"]
        print(f"knowledge: {used['generation']} since {time_text(used['from_ms'])} UTC", file=out)
    if "lag" in standing:
        print(f"{_lag(standing)} behind", file=out)
    _print_rows(standing["partitions"], out)


def _print_kafka(standing: dict[str, Any], out: TextIO) -> None:
    for name in standing["missing"]:
        print(f"{name}: not there. `keepstream topics create` makes it.", file=out)
    for group in standing["groups"]:
        if group["partitions"]:
            print(f"{group['group']}: {_lag(group)} behind", file=out)
            _print_rows(group["partitions"], out)
        else:
            print(f"{group['group']}: has committed nothing yet", file=out)
    for row in standing["workers"]:
        behind = row["behind_s"]
        print(
            f"{row['partition']}: joined up to {time_text(row['complete_to_ms'])} UTC"
            + ("" if behind is None else f", {behind:,.0f} s behind the newest event")
            + f", {row['lag']:,} messages to read",
            file=out,
        )


def _print_rows(rows: list[dict[str, Any]], out: TextIO) -> None:
    width = max((len(row["partition"]) for row in rows), default=0)
    for row in rows:
        print(
            f"  {row['partition']:{width}} {row['position']:>14,}"
            + (f" of {row['next']:>14,}  {_lag(row):>24}" if "lag" in row else ""),
            file=out,
        )


def _lag(row: dict[str, Any]) -> str:
    messages, seconds = row["lag"], row["lag_s"]
    return f"{messages:,} messages" + ("" if seconds is None else f", {seconds:,.0f} s")


_NO_TIME = 4_102_444_800_000  # 2100: a watermark from here on is that of a log that has ended

COMMAND = Command("status", add_arguments, status)
