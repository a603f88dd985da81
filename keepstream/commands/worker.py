"""`keepstream worker`: join impressions and feedback once, for many trainers."""

import argparse
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from keepstream.commands.command import (
    Command,
    UsageError,
    add_config,
    config_of,
    print_json,
    say,
)
from keepstream.config import ConfigError, load

if TYPE_CHECKING:
    from keepstream.refresh_job import RefreshJob


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--name",
        default=f"worker-{socket.gethostname()}",
        help="what logs and the group's list of members call it (default: worker-<host>)",
    )
    parser.add_argument(
        "--web-port",
        type=int,
        default=6066,
        metavar="N",
        help="where its figures are shown: /keepstream/, and Faust's own at /; 0: nowhere "
        "(default: 6066)",
    )
    parser.add_argument(
        "--web-host",
        default="127.0.0.1",
        metavar="HOST",
        help="the address it is shown on; 0.0.0.0 shows it to everyone, without a password "
        "(default: 127.0.0.1)",
    )
    parser.add_argument(
        "--refresh",
        type=Path,
        metavar="FILE.toml",
        help="while it leads the group: refresh knowledge every extractor.refresh_every_s, by the "
        "extractor's configuration",
    )
    parser.add_argument(
        "--refresh-run",
        type=Path,
        metavar="DIR",
        help="with --refresh: the extractor's run folder, where every worker finds it",
    )


def worker(args: argparse.Namespace, out: TextIO) -> int:
    """Join the partitions of the topics that fall to this worker, and write their examples.

    Workers of one configuration share the partitions among them. Start as many as you like, and
    stop or kill any of them at any time: the others take over, and readers learn each example once.
    Ctrl-C or SIGTERM ends it within seconds.

    Examples:
      keepstream worker --config keepstream.toml
      keepstream worker --config keepstream.toml --name worker-2 --web-port 6067
      keepstream worker --config keepstream.toml --refresh super.toml --refresh-run /mnt/super

    """
    from keepstream.kafka import needs_kafka
    from keepstream.reading import event_schema
    from stream.worker import run_worker
    from stream.worker_group import GroupConfig, LeaderJob
    from stream.worker_join import WorkConfig

    config = config_of(args)
    needs_kafka(config)
    if config.train.positive_at != "deadline":
        raise ConfigError(
            f'[train] positive_at = "{config.train.positive_at}": workers write an example when '
            'its label is final. Set positive_at = "deadline".'
        )

    def tell(line: str) -> None:
        say(f"{args.name}: {line}")

    refresh = _refresh(args, tell)
    try:
        run_worker(
            WorkConfig(
                kafka=config.kafka,
                schema=event_schema(config),
                topics=config.log.topics,
                order=config.order,
                join=config.join,
                block_events=min(config.log.block_events, WorkConfig.block_events),
            ),
            GroupConfig(name=args.name, web_host=args.web_host, web_port=args.web_port),
            tell,
            [LeaderJob(name="refresh", every_s=every_s, run=job.run) for job, every_s in refresh],
        )
    finally:
        for job, _ in refresh:
            job.stop()
    if args.json:
        print_json({"worker": args.name, "ended": "by signal"}, out)
    return 0


def _refresh(
    args: argparse.Namespace, tell: Callable[[str], None]
) -> "list[tuple[RefreshJob, float]]":
    """Return the refresh that the leader runs, and how often; nothing where none is asked for."""
    if (args.refresh is None) != (args.refresh_run is None):
        raise UsageError("--refresh and --refresh-run go together: give both, or neither.")
    if args.refresh is None:
        return []
    from keepstream.refresh_job import RefreshJob, refresh_command

    extractor = load(args.refresh)
    every_s = extractor.extractor.refresh_every_s
    if not extractor.extracts or not extractor.knowledge.store or every_s is None:
        raise ConfigError(
            f"{args.refresh}: --refresh needs the configuration of an extractor, with model = "
            '"keep", [knowledge] store, and how often: [extractor] refresh_every_s.'
        )
    return [(RefreshJob(refresh_command(args.refresh, args.refresh_run), tell), every_s)]


COMMAND = Command("worker", add_arguments, worker)
