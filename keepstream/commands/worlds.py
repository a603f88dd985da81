"""What `simulate` and `produce --simulate` share: the world, and what goes wrong in it."""

import argparse
from dataclasses import fields
from typing import Any, Final

from keepstream.commands.command import UsageError
from replay.simulate import Chaos, Simulation
from replay.world import World, WorldConfig

_MOST: Final = 1e15  # below which every number, a time in milliseconds too, is exact


def add_world(parser: argparse.ArgumentParser) -> None:
    """Add --seed, --world, and the shares of what goes wrong."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="same seed, same world (0)"
    )
    parser.add_argument(
        "--world",
        action="append",
        default=[],
        metavar="KEY=NUMBER",
        help="another setting of the world, as new_users_per_s=5",
    )
    for name, text in (
        ("duplicates", "written twice"),
        ("late", "written minutes late"),
        ("malformed", "followed by a line that is no event"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"share of events {text}"
        )


def simulation_of(args: argparse.Namespace, impressions: int, partitions: int) -> Simulation:
    """Return the world that the arguments ask for. Raises `UsageError`."""
    if args.seed < 0:
        raise UsageError("--seed must be 0 or more.")
    try:
        world = World(WorldConfig(seed=args.seed, impressions=impressions, **_world(args)))
        chaos = Chaos(duplicates=args.duplicates, late=args.late, malformed=args.malformed)
        return Simulation(world, partitions, args.per_message, chaos)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _world(args: argparse.Namespace) -> dict[str, Any]:
    known = {f.name: f.type for f in fields(WorldConfig) if f.type in (int, float)}
    del known["seed"]  # an argument of its own, as impressions is
    given: dict[str, Any] = {}
    for setting in args.world:
        key, equals, text = setting.partition("=")
        if not equals or key not in known:
            raise UsageError(
                f"--world {setting}: expected one of {', '.join(sorted(known))}, =number"
            )
        try:
            given[key] = int(text) if known[key] is int else float(text)
        except ValueError as error:
            raise UsageError(f"--world {setting}: {text!r} is no number of its kind") from error
        if not -_MOST < given[key] < _MOST:
            raise UsageError(f"--world {setting}: a number of that size makes no world")
    return given
