"""The command line: one function a command, with an example, an output stream and an exit code.

0 done, 1 failed, 2 wrong usage or configuration.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import orjson

from keepstream.commands import NAMES, command, every_command
from keepstream.commands.command import Command, UsageError
from keepstream.errors import KNOWN_ERRORS, USAGE_ERRORS

_ABOUT = """\
Incremental streaming training for recommendation: impressions and feedback in, labelled examples
joined in event time, a click model learned continually, killed and resumed bit for bit."""

_END = """\
Examples:
  keepstream demo
  keepstream init --from events.parquet > keepstream.toml
  keepstream replay --config keepstream.toml --input events.parquet --run runs/first

Settings come from one TOML file, then the environment (KEEPSTREAM_TRAIN_SEED=3), then
--set train.seed=3. Every command takes --json: its last line is one JSON object."""

_THEIR_LOGGERS = ("kafka", "aiokafka")
_NOWHERE = logging.NullHandler()  # without any handler Python prints warnings and errors


def parser(name: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of the one that is called."""
    top = argparse.ArgumentParser(
        prog="keepstream",
        description=_ABOUT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each in [command(name)] if name and name in NAMES else every_command():
        added = commands.add_parser(
            each.name,
            help=each.summary,
            description=each.description,
            epilog=each.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--json", action="store_true", help="print one JSON object, last")
        each.add_arguments(added)
        added.set_defaults(called=each)
    return top


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run one command; return its exit code. ``out`` is standard output unless given."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in _THEIR_LOGGERS:  # they log each attempt at a broker; `say` tells what matters
        logging.getLogger(name).addHandler(_NOWHERE)
    args = parser(next(iter(arguments), None)).parse_args(arguments)
    out = out or sys.stdout
    called: Command = args.called
    try:
        code = called.run(args, out)
        out.flush()
        return code
    except BrokenPipeError:  # the reader of our output has left: no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except USAGE_ERRORS as error:
        return _fail(args, out, error, 2)
    except KNOWN_ERRORS as error:
        return _fail(args, out, error, 1)
    except KeyboardInterrupt:
        print("keepstream: interrupted", file=sys.stderr)
        return 130


def _fail(args: argparse.Namespace, out: TextIO, error: Exception, code: int) -> int:
    print(f"keepstream: {error}", file=sys.stderr)
    if args.json:
        said = {"error": type(error).__name__, "message": str(error)}
        print(orjson.dumps(said).decode(), file=out)
    return code


def _version() -> str:
    from importlib.metadata import version

    return f"keepstream {version('keepstream')}"


__all__ = ["UsageError", "main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
