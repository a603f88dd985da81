"""`keepstream train`: follow a file log and learn from it for as long as it grows."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, add_config, config_of
from keepstream.commands.training import add_run, train_and_tell
from keepstream.inputs import Bounded, opener, reads_of
from stream.events import EventSchema
from stream.position import Position
from stream.source import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--log", type=Path, metavar="DIR", help="the file log, in place of log.root"
    )
    parser.add_argument(
        "--until-end",
        action="store_true",
        help="stop where the log ends now; what waits for its label waits on in the checkpoint",
    )
    parser.add_argument(
        "--as-served",
        action="store_true",
        help="also score at impression time, by the model of that moment",
    )
    add_run(parser)


def train(args: argparse.Namespace, out: TextIO) -> int:
    """Follow a file log and train on it continually, until Ctrl-C or SIGTERM.

    Give --run: the same command then goes on after a stop, a crash or a kill, bit for bit.

    Examples:
      keepstream train --config keepstream.toml --log log --run runs/live
      keepstream train --config keepstream.toml --log log --run runs/nightly --until-end

    """
    config = config_of(args)
    if args.as_served:
        config = replace(config, train=replace(config.train, as_served=True))
    log = args.log or Path(config.log.root)
    follow = opener(config, [log], follow=True)

    def open_source(schema: EventSchema, position: Position) -> Source:
        source = follow(schema, position)
        return Bounded(source, lambda: True) if args.until_end else source

    train_and_tell(
        args, config, open_source, out, drain=False, reads=lambda: reads_of(config, [log])
    )
    return 0


COMMAND = Command("train", add_arguments, train)
