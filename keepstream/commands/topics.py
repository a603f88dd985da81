"""`keepstream topics`: make the topics of a configuration, or show what is in them."""

import argparse
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from keepstream.commands.command import Command, UsageError, add_config, config_of, print_json
from keepstream.config import Config
from keepstream.kafka import groups_of, needs_kafka
from keepstream.lag import describe
from stream.kafka_topics import Topics

_PARTITIONS: Final = 4  # where nothing says how many: as many workers, or one that reads four
_HOUR_MS: Final = 3_600_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=("create", "describe"), help="what to do with them")
    add_config(parser)
    parser.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help="create: of each topic of events and of the examples (as those that are there; 4)",
    )
    parser.add_argument(
        "--replication", type=int, metavar="N", help="create: copies (the brokers' own default)"
    )
    parser.add_argument(
        "--retention-h",
        type=float,
        metavar="H",
        help="create: how long messages are kept, -1 for ever (the brokers' own default)",
    )
    parser.add_argument(
        "--group",
        action="append",
        metavar="GROUP",
        help="describe: whose positions are shown, any number of times (kafka.group, and its "
        "workers')",
    )


def topics(args: argparse.Namespace, out: TextIO) -> int:
    """Make the topics that a configuration names, or show what is in them and who has read it.

    `create` makes log.topics, kafka.examples and kafka.deadletters where they are missing, and
    changes none that is there. `describe` shows offsets, times, committed positions and lag.

    Examples:
      keepstream topics create --config my.toml --partitions 12 --replication 3 --retention-h 168
      keepstream topics describe --config my.toml

    """
    config = config_of(args)
    needs_kafka(config)
    if args.action == "create":
        return _create(args, config, out)
    rows = describe(config, args.group or groups_of(config))
    if args.json:
        print_json(rows, out)
    else:
        _print(rows, out)
    return 0


def _create(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    for name in ("partitions", "replication"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1.")
    settings: dict[str, object] = {}
    if args.retention_h is not None:
        if not (args.retention_h == -1 or 0 < args.retention_h < 1e7):
            raise UsageError("--retention-h must be above 0, or -1: for ever.")
        hours = args.retention_h
        settings["retention.ms"] = -1 if hours == -1 else round(hours * _HOUR_MS)
    names = (*config.log.topics, config.kafka.examples)
    made = {}
    with Topics(config.kafka) as topics:
        there = topics.find(names)
        counts = {name: info.partitions for name, info in there.items()}
        partitions = args.partitions or next((counts[n] for n in names if n in counts), _PARTITIONS)
        for name in names:
            made[name] = topics.create(name, partitions, args.replication, settings)
        letters = config.kafka.deadletters
        if letters is not None:
            known = topics.find([letters]).get(letters)
            count = 1 if known is None else known.partitions  # few letters need no more
            made[letters] = topics.create(letters, count, args.replication, settings)
        found = topics.describe(list(made))
    rows = [
        {
            "topic": name,
            "created": new,
            "partitions": found[name].partitions,
            "replication": found[name].replication,
        }
        for name, new in made.items()
    ]
    if args.json:
        print_json({"topics": rows}, out)
        return 0
    for row in rows:
        print(
            f"{row['topic']}: {'created' if row['created'] else 'was there'}, "
            f"{row['partitions']} partitions, replication {row['replication']}",
            file=out,
        )
    return 0


def _print(rows: dict[str, Any], out: TextIO) -> None:
    for topic in rows["topics"]:
        kept = topic["retention_h"]
        print(
            f"{topic['topic']}: {len(topic['partitions'])} partitions, replication "
            f"{topic['replication']}, kept " + ("for ever" if kept is None else f"for {kept:g} h"),
            file=out,
        )
        print(
            f"  {'':>9} {'oldest':>12} {'next':>12} {'messages':>12}  oldest, newest time", file=out
        )
        for row in topic["partitions"]:
            print(
                f"  {row['partition']:>9} {row['oldest']:>12,} {row['next']:>12,} "
                f"{row['next'] - row['oldest']:>12,}  "
                f"{time_text(row['oldest_ms'])}, {time_text(row['newest_ms'])}",
                file=out,
            )
    for name in rows["missing"]:
        print(f"{name}: not there. `keepstream topics create` makes it.", file=out)
    for group in rows["groups"]:
        print(f"group {group['group']}: {group['lag']:,} messages behind", file=out)
        for row in group["partitions"]:
            print(
                f"  {row['partition']:>20} {row['position']:>12,}  {row['lag']:>12,} behind"
                + ("" if row["lag_s"] is None else f"  {row['lag_s']:,.0f} s"),
                file=out,
            )


def time_text(at_ms: int | None) -> str:
    """Return a time as people read it.

    >>> time_text(1_700_000_000_000)
    '2023-11-14 22:13:20'
    """
    if at_ms is None:
        return "–"
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


COMMAND = Command("topics", add_arguments, topics)
