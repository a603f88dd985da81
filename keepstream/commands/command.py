"""What a command is: a name, its help with examples, its arguments, and a function."""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import orjson

from keepstream.config import Config, load


class UsageError(Exception):
    """A command was called in a way it cannot serve; exit code 2."""


class SimulatorFailed(Exception):
    """The simulator that a command had started ended before it had begun; exit code 1."""


@dataclass(frozen=True)
class Command:
    """One command of the command line."""

    name: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, TextIO], int]

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return self._doc[0]

    @property
    def description(self) -> str:
        """The docstring up to its examples."""
        return "\n".join(self._doc).partition("Examples:")[0].rstrip()

    @property
    def examples(self) -> str:
        """The docstring from its examples on."""
        return "Examples:" + "\n".join(self._doc).partition("Examples:")[2].rstrip()

    @property
    def _doc(self) -> list[str]:
        first, *rest = (self.run.__doc__ or "").strip().splitlines()
        return [first, *(line.removeprefix("    ") for line in rest)]


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --config and --set."""
    parser.add_argument(
        "--config",
        type=Path,
        required=required,
        metavar="FILE.toml",
        help="the configuration; `keepstream init` writes one",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        dest="settings",
        help="a setting in place of the file's, as train.seed=3 [env: KEEPSTREAM_TABLE_KEY]",
    )


def config_of(args: argparse.Namespace) -> Config:
    """Load the configuration that the arguments name."""
    return load(args.config, args.settings)


def say(line: str) -> None:
    """Say one line to a person, beside the output; if nobody reads it, that ends nothing."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_json(value: Any, out: TextIO) -> None:
    """Print a value as one line of JSON."""
    print(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode(), file=out, flush=True)
