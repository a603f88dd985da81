"""`keepstream knowledge`: the generations of a store, by sub-commands."""

import argparse
from typing import Final, TextIO

from keepstream.commands.command import Command
from keepstream.commands.knowledge_build import BUILD
from keepstream.commands.knowledge_look import GET, LIST, SHOW, VERIFY
from keepstream.commands.knowledge_refresh import REFRESH
from keepstream.commands.knowledge_switch import ACTIVATE, PRUNE, ROLLBACK

SUBCOMMANDS: Final = (BUILD, REFRESH, LIST, SHOW, VERIFY, ACTIVATE, ROLLBACK, PRUNE, GET)
# None may load torch when it is imported: looking at a store is to take no time.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands with their arguments."""
    added = parser.add_subparsers(
        dest="subcommand", metavar="SUBCOMMAND", required=True, help="what to do with them"
    )
    for each in SUBCOMMANDS:
        sub = added.add_parser(
            each.name,
            help=each.summary,
            description=each.description,
            epilog=each.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,  # it may stand before the sub-command, too
            help="print one JSON object, last",
        )
        each.add_arguments(sub)
        sub.set_defaults(subcalled=each)


def knowledge(args: argparse.Namespace, out: TextIO) -> int:
    """Build, list, check, switch and read generations of knowledge: frozen vectors by id.

    A generation is built aside, appears complete, and is in force from an event time on. Trainers
    look up, for each example, in the one that was in force at its time.

    Examples:
      keepstream knowledge build --store knowledge --from items.parquet --trained-until 2026-11-01
      keepstream knowledge list --store knowledge
      keepstream knowledge activate --store knowledge g-00000001

    """
    called: Command = args.subcalled
    return called.run(args, out)


COMMAND = Command("knowledge", add_arguments, knowledge)
