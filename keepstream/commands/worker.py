"""`keepstream worker`: join impressions and feedback once, for many trainers."""

import argparse
import socket
from typing import TextIO

from keepstream.commands.command import Command, add_config, config_of, print_json, say
from keepstream.config import ConfigError


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


def worker(args: argparse.Namespace, out: TextIO) -> int:
    """Join the partitions of the topics that fall to this worker, and write their examples.

    Workers of one configuration share the partitions among them. Start as many as you like, and
    stop or kill any of them at any time: the others take over, and readers learn each example once.
    Ctrl-C or SIGTERM ends it within seconds.

    Examples:
      keepstream worker --config keepstream.toml
      keepstream worker --config keepstream.toml --name worker-2 --web-port 6067

    """
    from keepstream.kafka import needs_kafka
    from keepstream.reading import event_schema
    from stream.worker import run_worker
    from stream.worker_group import GroupConfig
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
    )
    if args.json:
        print_json({"worker": args.name, "ended": "by signal"}, out)
    return 0


COMMAND = Command("worker", add_arguments, worker)
