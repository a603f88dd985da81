"""`keepstream init`: a commented configuration to start from."""

import argparse
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, UsageError, print_json, say
from replay.guess import guess
from replay.template import render

_REST = """
[join]
window_s = {window}            # an impression with no click by then is a negative

[model]
model = "din"              # or dcnv2, deepfm, mlp, or "your_package.module:factory"
hidden = [128, 64]
embedding_width = 16
listwise = 1.0            # weight of the ranking loss within a request; 0: order does not matter

[train]
batch_size = 512
seed = 0

[ids]
max_rows = 2_000_000      # embedding rows: the bound of the model's memory

[checkpoint]
every_s = 30.0
keep = 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE.parquet",
        help="look at its columns and guess what they are",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.toml", help="write it here instead of to standard output"
    )


def init(args: argparse.Namespace, out: TextIO) -> int:
    """Write a commented configuration, guessed from a Parquet file's columns.

    Every guess stands with its reason; read them, then replay the file.

    Examples:
      keepstream init --from events.parquet --out keepstream.toml
      keepstream init > keepstream.toml

    """
    if args.out is not None and args.out.exists():
        raise UsageError(f"{args.out} is there already. Remove it, or write to another file.")
    if args.source is not None:
        guessed = guess(args.source)
        for problem in guessed.problems:
            say(f"To do: {problem}")
        text = render(guessed) + _REST.format(window=600)
    else:
        text = _PLAIN + _REST.format(window=600)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
        look = f" --input {args.source}" if args.source is not None else ""
        say(f"Wrote {args.out}. Next: keepstream features check --config {args.out}{look}")
    if args.json:
        print_json({"config": text, "out": str(args.out) if args.out else None}, out)
    elif args.out is None:
        print(text, file=out, end="")
    return 0


_PLAIN = """\
# keepstream: events come as JSON with impression_id, user_id, item_id, ts, scene, features {}

[features]
ids = ["item", "user", "scene"]   # embedded; add the names of your own id features
history = 20                      # the user's most recent clicks, as of the impression
hour_of_day = true

[[features.statistics]]           # decayed counts of shows and clicks
key = ["item"]
half_lives_h = [0.5, 3, 12, 48]

[[features.statistics]]
key = ["user"]
half_lives_h = [12, 72]

[[features.statistics]]
key = ["item", "scene"]
half_lives_h = [3, 12]

[[features.statistics]]
key = ["user", "item"]
half_lives_h = [72]

[[features.statistics]]
key = ["last_click", "item"]
half_lives_h = [12, 72]
"""


COMMAND = Command("init", add_arguments, init)
