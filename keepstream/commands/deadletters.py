"""`keepstream deadletters`: the input that was refused, and why."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.config import Config
from keepstream.kafka import needs_kafka
from stream.deadletter_topic import letters_of
from stream.deadletters import REASONS, DeadLetterFile
from stream.kafka_peek import values_of
from stream.source import Rejected

_NAMED: Final = 20  # places of a topic that cannot be read; of more only their number is said


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run_folder",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="the folder of a run, or a log; without it the topic kafka.deadletters is read",
    )
    add_config(parser, required=False)
    parser.add_argument(
        "--reason",
        choices=sorted(REASONS),
        metavar="REASON",
        help=f"only those of one reason: {', '.join(sorted(REASONS))}",
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most N letters (20)")


def deadletters(args: argparse.Namespace, out: TextIO) -> int:
    """Show the input that was no event: counts by reason, then the first letters.

    Of a run those in its folder; with --config those in the topic, of all runs and workers.

    Examples:
      keepstream deadletters runs/live
      keepstream deadletters runs/live --reason bad_json --limit 100
      keepstream deadletters --config my.toml

    """
    if args.limit < 0:
        raise UsageError("--limit must be 0 or more.")
    if (args.run_folder is None) == (args.config is None):
        raise UsageError(
            "Name the folder of a run, or a --config whose topic is read: one of them."
        )
    foreign = unreadable = 0
    counts: Counter[str] = Counter()
    shown: list[Rejected] = []

    def refused(what: Rejected) -> None:
        nonlocal unreadable
        unreadable += 1
        if unreadable <= _NAMED:
            where = f"offset {what.offset}"
            detail = what.detail if what.detail.startswith("offset") else f"{where}: {what.detail}"
            say(f"{what.partition} cannot be read at {detail} ({what.reason}).")

    for letter in (
        _of_topic(config_of(args), refused) if args.config else _of_folder(args.run_folder)
    ):
        if letter is None:
            foreign += 1
            continue
        counts[letter.reason] += 1
        if args.reason in (None, letter.reason) and len(shown) < args.limit:
            shown.append(letter)
    if foreign:
        say(f"{foreign:,} messages of the topic are no dead letters: they are passed over.")
    if unreadable > _NAMED:
        say(f"{unreadable - _NAMED:,} more places of the topic cannot be read.")
    if args.json:
        rows = [
            {
                "partition": str(x.partition),
                "offset": x.offset,
                "row": x.row,
                "reason": x.reason,
                "detail": x.detail,
                "raw": x.raw.decode("utf-8", "backslashreplace"),
            }
            for x in shown
        ]
        print_json({"counts": dict(counts), "letters": rows}, out)
        return 0
    for reason, count in counts.most_common():
        print(f"{count:>10,}  {reason}: {REASONS.get(reason, '')}", file=out)
    for x in shown:
        print(f"\n{x.partition} offset {x.offset} row {x.row}: {x.detail}", file=out)
        print(f"  {x.raw[:200].decode('utf-8', 'backslashreplace')}", file=out)
    if not counts:
        print("No dead letters.", file=out)
    return 0


def _of_folder(folder: Path) -> Iterable[Rejected | None]:
    path = folder / "deadletters.ndjson"
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file. Name the folder given to --run.")
    return DeadLetterFile.read(path)


def _of_topic(config: Config, refused: Callable[[Rejected], None]) -> Iterable[Rejected | None]:
    needs_kafka(config)
    topic = config.kafka.deadletters
    if topic is None:
        raise UsageError(
            'kafka.deadletters is "off": they are in the folders of the runs. Name one of these.'
        )
    return letters_of(values_of(config.kafka, topic, refused, say))


COMMAND = Command("deadletters", add_arguments, deadletters)
