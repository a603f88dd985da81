"""`keepstream train`: follow topics, or a file log, and learn for as long as they grow."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, UsageError, add_config, config_of, say
from keepstream.commands.training import add_run, train_and_tell
from keepstream.config import Config
from keepstream.inputs import Bounded, opener, reads_of
from keepstream.kafka import (
    around,
    check_examples,
    needs_kafka,
    reads_examples,
    reads_of_topics,
    topics_opener,
)
from stream.events import EventSchema
from stream.position import Position
from stream.source import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--log",
        type=Path,
        metavar="DIR",
        help="the file log, in place of log.root, and of Kafka where kafka.bootstrap is set",
    )
    parser.add_argument(
        "--examples",
        action="store_true",
        help="learn what workers have joined (kafka.examples), in place of joining log.topics",
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
    """Follow topics of Kafka, or a file log, and train continually, until Ctrl-C or SIGTERM.

    With kafka.bootstrap in the configuration the topics are followed, otherwise the file log. Give
    --run: the same command then goes on after a stop, a crash or a kill, bit for bit.

    Examples:
      keepstream train --config keepstream.toml --run runs/live
      keepstream train --config keepstream.toml --examples --run runs/live
      keepstream train --config keepstream.toml --log log --run runs/nightly --until-end

    """
    config = _config(args)
    on_kafka = bool(config.kafka.bootstrap) and args.log is None
    log = args.log or Path(config.log.root)
    follow = topics_opener(config, say) if on_kafka else opener(config, [log], follow=True)

    def open_source(schema: EventSchema, position: Position) -> Source:
        source = follow(schema, position)
        return Bounded(source, lambda: True) if args.until_end else source

    train_and_tell(
        args,
        config,
        open_source,
        out,
        drain=False,
        reads=lambda: reads_of_topics(config) if on_kafka else reads_of(config, [log]),
        around=around(config, say) if on_kafka else None,
    )
    return 0


def _config(args: argparse.Namespace) -> Config:
    config = config_of(args)
    if args.as_served:
        config = replace(config, train=replace(config.train, as_served=True))
    if args.examples:
        if args.log is not None:
            raise UsageError("--examples are read from Kafka, --log is in files: leave one out.")
        needs_kafka(config)
        config = replace(config, kafka=replace(config.kafka, read="examples"))
    if args.log is None and config.kafka.bootstrap and reads_examples(config):
        check_examples(config)
    return config


COMMAND = Command("train", add_arguments, train)
