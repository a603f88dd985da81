"""`keepstream train`: follow topics, or a file log, and learn for as long as they grow."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from keepstream.bootstrap import HISTORY, Bootstrap, Live, file_log, topics
from keepstream.commands.command import Command, UsageError, add_config, config_of, say
from keepstream.commands.training import add_run, train_and_tell
from keepstream.config import Config
from keepstream.inputs import Bounded, opener, reads_of, time_ms
from keepstream.kafka import (
    around,
    check_examples,
    needs_kafka,
    reads_examples,
    reads_of_topics,
    topics_opener,
)
from keepstream.reading import OpenSource
from keepstream.runs import reads_of_run
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
    parser.add_argument(
        "--bootstrap",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="learn this history first, as `replay --input` reads it, and go on where it ends",
    )
    parser.add_argument(
        "--handover",
        type=time_ms,
        metavar="TIME",
        help="with --bootstrap: events from this time on are not read from the history (ISO, UTC, "
        "or epoch ms; by default where its impressions end, less order.lateness_s)",
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
      keepstream train --config keepstream.toml --bootstrap 2026-*.parquet --run runs/live

    """
    config = _config(args)
    on_kafka = bool(config.kafka.bootstrap) and args.log is None
    log = args.log or Path(config.log.root)

    def follow(from_ms: int | None = None) -> OpenSource:
        opened = (
            topics_opener(config, say, from_ms, until_end=args.until_end)
            if on_kafka
            else opener(config, [log], follow=True, from_ms=from_ms)
        )

        def open_source(schema: EventSchema, position: Position) -> Source:
            source = opened(schema, position)
            if not args.until_end:
                return source
            return Bounded(source, lambda: True, examples=on_kafka and reads_examples(config))

        return open_source

    live = topics(config, follow) if on_kafka else file_log(config, log, follow)
    bootstrap = _bootstrap(args, config, live)

    def reads() -> dict[str, Any]:
        now = reads_of_topics(config) if on_kafka else reads_of(config, [log])
        return {**now, **(bootstrap.reads() if bootstrap else {})}

    train_and_tell(
        args,
        config,
        bootstrap.open if bootstrap else follow(),
        out,
        drain=False,
        reads=reads,
        around=around(config, say) if on_kafka else None,
        live=True,
    )
    return 0


def _bootstrap(args: argparse.Namespace, config: Config, live: Live) -> Bootstrap | None:
    """Return the history that the run begins with, or has begun with; None: there is none."""
    if args.handover is not None and not args.bootstrap:
        raise UsageError("--handover says where the history of --bootstrap ends: give both.")
    if args.bootstrap and reads_examples(config):
        raise UsageError("--bootstrap learns events, --examples what was joined: leave one out.")
    begun = None if args.run is None or args.fresh else reads_of_run(args.run).get(HISTORY)
    if not args.bootstrap and begun is None:
        return None
    paths = args.bootstrap or ()
    return Bootstrap(config, paths, live, at_ms=args.handover, before=begun, say=say)


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
