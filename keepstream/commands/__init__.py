"""The commands, in the order in which a newcomer meets them.

A command's module is loaded when it is called: only those that learn take the time to load torch.
"""

from importlib import import_module

from keepstream.commands.command import Command

NAMES = (
    "demo",
    "init",
    "features",
    "replay",
    "train",
    "worker",
    "archive",
    "topics",
    "produce",
    "simulate",
    "compare",
    "checkpoints",
    "knowledge",
    "deadletters",
    "status",
)


def command(name: str) -> Command:
    """Return the command of a name."""
    found: Command = import_module(f"keepstream.commands.{name}").COMMAND
    return found


def every_command() -> tuple[Command, ...]:
    """Return all commands."""
    return tuple(command(name) for name in NAMES)
