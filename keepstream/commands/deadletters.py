"""`keepstream deadletters`: the input that was refused, and why."""

import argparse
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, UsageError, print_json
from stream.deadletters import REASONS, DeadLetterFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "--reason",
        choices=sorted(REASONS),
        metavar="REASON",
        help=f"only those of one reason: {', '.join(sorted(REASONS))}",
    )
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most N letters (20)")


def deadletters(args: argparse.Namespace, out: TextIO) -> int:
    """Show the input that was no event: counts by reason, then the first letters.

    Examples:
      keepstream deadletters runs/live
      keepstream deadletters runs/live --reason bad_json --limit 100

    """
    if args.limit < 0:
        raise UsageError("--limit must be 0 or more.")
    path = args.run_folder / "deadletters.ndjson"
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file. Name the folder given to --run.")
    counts = Counter(letter.reason for letter in DeadLetterFile.read(path))
    letters = (x for x in DeadLetterFile.read(path) if args.reason in (None, x.reason))
    shown = list(islice(letters, args.limit))
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


COMMAND = Command("deadletters", add_arguments, deadletters)
