"""`keepstream knowledge activate`, `rollback`, `prune`: which generation is in force or goes."""

import argparse
import time
from contextlib import suppress
from typing import Final, TextIO

from keepstream.commands.command import Command, UsageError, print_json, say
from keepstream.commands.knowledge_look import add_store, utc, when
from knowledge_store.errors import KnowledgeError
from knowledge_store.schedule import Switch
from knowledge_store.store import KnowledgeStore

_KEEP: Final = 3  # the one in force, and two to go back to
_DAY_MS: Final = 86_400_000


def _add_activate(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument("generation", metavar="GENERATION", help="its name, as `list` shows it")
    parser.add_argument(
        "--from",
        dest="from_time",
        metavar="TIME",
        help="event time from which it is in force (ISO, or epoch ms; up to when it has learned, "
        "or the last switch's time where that is later)",
    )


def activate(args: argparse.Namespace, out: TextIO) -> int:
    """Put a generation in force from an event time on; trainers that follow switch by themselves.

    A time from which it has learned is refused, and one before the last switch.

    Examples:
      keepstream knowledge activate --store knowledge g-00000002
      keepstream knowledge activate --store knowledge g-00000002 --from 2026-11-02T08:00

    """
    store = KnowledgeStore(args.store)
    if args.from_time is not None:
        from_ms = when(args.from_time, "--from")
    else:
        from_ms = store.manifest(args.generation).trained_until_ms
        if (last := store.current()) is not None:
            from_ms = max(from_ms, last.from_ms)
    current = store.current()
    switch = store.activate(args.generation, from_ms)
    warn_of(store, switch, current)
    return _tell(args, switch, out)


def warn_of(store: KnowledgeStore, switch: Switch, before: Switch | None) -> None:
    """Say what a switch does that nobody may want: one far ahead, one to other kinds."""
    if switch.from_ms > 1000 * time.time() + _DAY_MS:
        say(
            f"{utc(switch.from_ms)} is more than a day ahead: nothing else can be in force before "
            "it. If that is a mistake: keepstream knowledge rollback"
        )
    if before is None or before.generation == switch.generation:
        return
    with suppress(KnowledgeError):  # a damaged one is no reason not to leave it
        new, old = (store.manifest(s.generation).kinds for s in (switch, before))
        if dict(new) != dict(old):
            told = [
                ", ".join(f"{k.name} {k.width}" for k in kinds.values()) for kinds in (old, new)
            ]
            say(
                f"{switch.generation} has other kinds or widths than {before.generation} (before: "
                f"{told[0]}; now: {told[1]}). Running trainers stay with what they were built for: "
                "go back with keepstream knowledge rollback, or keep these in a store of their own."
            )


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument(
        "--from",
        dest="from_time",
        metavar="TIME",
        help="event time from which the one before is in force again (ISO, or epoch ms; as if the "
        "last switch had never been made)",
    )


def rollback(args: argparse.Namespace, out: TextIO) -> int:
    """Go back to the generation that was in force before.

    Without --from the last switch is taken back; with it what was in force until then stays so.

    Examples:
      keepstream knowledge rollback --store knowledge
      keepstream knowledge rollback --store knowledge --from 2026-11-02T09:30

    """
    from_ms = None if args.from_time is None else when(args.from_time, "--from")
    return _tell(args, KnowledgeStore(args.store).rollback(from_ms), out)


def _add_prune(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument(
        "--keep",
        type=int,
        default=_KEEP,
        metavar="N",
        help=f"how many of the newest stay, and of the newest that have been in force ({_KEEP})",
    )


def prune(args: argparse.Namespace, out: TextIO) -> int:
    """Delete old generations; the newest, and the newest that have been in force, stay.

    Times in which a deleted one was in force have no knowledge any more: a replay of them needs
    the generations kept. Readers that have one open read on.

    Examples:
      keepstream knowledge prune --store knowledge
      keepstream knowledge prune --store knowledge --keep 24

    """
    if args.keep < 1:
        raise UsageError("--keep must be at least 1.")
    gone = KnowledgeStore(args.store).prune(args.keep)
    if args.json:
        print_json({"deleted": gone}, out)
    else:
        print(f"deleted: {', '.join(gone) or 'none'}", file=out)
    return 0


def _tell(args: argparse.Namespace, switch: Switch, out: TextIO) -> int:
    if args.json:
        print_json({"generation": switch.generation, "from_ms": switch.from_ms}, out)
    else:
        print(f"{switch.generation} is in force from {utc(switch.from_ms)} on", file=out)
    return 0


ACTIVATE = Command("activate", _add_activate, activate)
ROLLBACK = Command("rollback", _add_rollback, rollback)
PRUNE = Command("prune", _add_prune, prune)
