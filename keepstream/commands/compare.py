"""`keepstream compare`: two runs are the same, or where they part."""

import argparse
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, print_json
from replay.compare import compare as compare_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("a", type=Path, metavar="RUN_A", help="the folder of a run")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="the folder of another")


def compare(args: argparse.Namespace, out: TextIO) -> int:
    """Prove two runs equal, bit for bit, or say where they part.

    The exit code is 0 where examples and weights are the same, 1 where they are not.

    Examples:
      keepstream compare runs/undisturbed runs/killed-and-resumed
      keepstream compare runs/a runs/b --json

    """
    comparison = compare_runs(args.a, args.b)
    if args.json:
        print_json(comparison.as_json(), out)
    else:
        print(comparison.as_text(), file=out)
    return 0 if comparison.equal else 1


COMMAND = Command("compare", add_arguments, compare)
