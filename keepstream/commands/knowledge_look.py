"""`keepstream knowledge list`, `show`, `verify`, `get`: what a store holds, and if it is sound."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np

from keepstream.commands.command import Command, UsageError, print_json
from keepstream.inputs import time_ms
from knowledge_store.kinds import pair_ids
from knowledge_store.knowledge import Knowledge
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Schedule, Switch
from knowledge_store.store import KnowledgeStore
from stream.decode import EARLIEST_MS, LATEST_MS
from stream.ids import hash_text

PAIRS: Final = "interaction"  # the kind whose ids are those of pairs: user and category
_LATEST_MS: Final = 253_402_300_800_000  # the year 10000, which no calendar here knows
_CACHE_BYTES: Final = 1 << 20  # a few ids
_MISSING: Final = (
    "Restore the folder from a backup, or take the switch back with `keepstream knowledge rollback`"
)
_SHOWN: Final = 8  # numbers of a vector, on a line


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store, which every sub-command takes."""
    parser.add_argument(
        "--store", type=Path, required=True, metavar="DIR", help="the folder of the generations"
    )


def utc(at_ms: int) -> str:
    """Return an event time for people.

    >>> utc(1_700_000_000_000)
    '2023-11-14 22:13:20 UTC'
    """
    if not 0 <= at_ms < _LATEST_MS:
        return f"{at_ms} ms"
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def when(text: str, option: str) -> int:
    """Return the event time (ms) that an option gives: one that events can have, or 0, of none.

    Raises `UsageError`: a year or epoch seconds, taken for ms, would let any look-up pass.
    """
    try:
        at_ms = time_ms(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}. Give 2026-11-01T06:00, say, or ms.") from error
    if at_ms and not EARLIEST_MS <= at_ms <= LATEST_MS:
        raise UsageError(
            f"{option} {text}: as milliseconds that is {utc(at_ms)}, and events are from "
            f"{utc(EARLIEST_MS)[:10]} to {utc(LATEST_MS)[:10]}. Give 2026-11-01T06:00, say, or ms."
        )
    return at_ms


def described(manifest: Manifest) -> dict[str, Any]:
    """Return what is told of a generation as JSON."""
    said = manifest.as_json()
    return {
        "generation": manifest.name,
        **{key: said[key] for key in ("trained_until_ms", "kinds", "base", "changed", "about")},
        "bytes": manifest.bytes,
        "digest": manifest.digest,
    }


def _add_list(parser: argparse.ArgumentParser) -> None:
    add_store(parser)


def list_(args: argparse.Namespace, out: TextIO) -> int:
    """List the generations of a store, oldest first, and which is in force from when on.

    A * is at the one that was switched to last. Sizes count linked files in every generation that
    has them. Exits with 1 where one is missing, or damaged as far as its manifest, names and sizes
    tell.

    Examples:
      keepstream knowledge list --store knowledge
      keepstream knowledge list --store knowledge --json

    """
    store = KnowledgeStore(args.store)
    switches, current = store.switches(), store.current()
    faults = store.verify(deep=False)
    rows: list[dict[str, Any]] = []
    there = {path.name for path in store.folders()}
    missing = sorted({switch.generation for switch in switches} - there)
    for name in missing:
        at = [s.from_ms for s in switches if s.generation == name]
        last = current is not None and current.generation == name
        fault_of = f"it is missing. {_MISSING}"
        rows.append(
            {"generation": name, "in_force_from_ms": at, "in_force": last, "fault": fault_of}
        )
    for path in store.folders():
        fault = faults.get(path.name)
        row: dict[str, Any] = {"generation": path.name}
        row["in_force_from_ms"] = [s.from_ms for s in switches if s.generation == path.name]
        row["in_force"] = current is not None and current.generation == path.name
        if fault is not None:
            row["fault"] = str(fault)
        else:
            row |= described(store.manifest(path.name))
        rows.append(row)
    if args.json:
        print_json({"generations": rows, "switches": [_told(s) for s in switches]}, out)
    elif not rows:
        print(f"{args.store}: no generation yet.", file=out)
    else:
        _print_table(rows, out)
    return 1 if faults or missing else 0


def _print_table(rows: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    head = ("  generation", "trained until", "in force from", "vectors", "written", "MB", "about")
    table = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line, row in zip(table, ({}, *rows), strict=True):
        cells = [
            cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        if "fault" in row:
            print(f"{line[0]}  DAMAGED: {row['fault']}", file=out)
        else:
            print("  ".join(cells).rstrip(), file=out)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = f"{'*' if row['in_force'] else ' '} {row['generation']}"
    if "fault" in row:
        return (name, *[""] * 6)
    since = row["in_force_from_ms"]
    return (
        name,
        utc(row["trained_until_ms"]),
        utc(since[-1]) if since else "-",
        f"{sum(kind['count'] for kind in row['kinds'].values()):,}",
        f"{sum(row['changed'].values()):,}",
        f"{row['bytes'] / 1e6:,.1f}",
        ", ".join(_figures(row["about"])),
    )


def _figures(about: Mapping[str, Any]) -> list[str]:
    """Return drift and coverage where the extractor gave them, as a number or one for each kind."""
    found = []
    for name in ("drift", "coverage"):
        given = about.get(name)
        each = given.items() if isinstance(given, Mapping) else [("", given)]
        for kind, value in each:
            if isinstance(value, int | float):
                found.append(f"{name} {kind} {value:.3g}".replace("  ", " "))
    return found


def _add_show(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument(
        "generation", nargs="?", metavar="GENERATION", help="its name (the one in force)"
    )


def show(args: argparse.Namespace, out: TextIO) -> int:
    """Show all that is said of a generation: kinds, counts, files, and the extractor's own words.

    Examples:
      keepstream knowledge show --store knowledge
      keepstream knowledge show --store knowledge g-00000002 --json

    """
    store = KnowledgeStore(args.store)
    manifest = store.manifest(args.generation or _in_force(store))
    if args.json:
        print_json(manifest.as_json(), out)
        return 0
    print(f"{manifest.name}  trained until {utc(manifest.trained_until_ms)}", file=out)
    for switch in store.switches():
        if switch.generation == manifest.name:
            print(f"  in force from {utc(switch.from_ms)}", file=out)
    if manifest.base is not None:
        print(f"  links files of {manifest.base}", file=out)
    for name, kind in manifest.kinds.items():
        print(
            f"  {name}: {manifest.counts[name]:,} vectors of {kind.width} {kind.dtype}, "
            f"{manifest.changed[name]:,} of them written",
            file=out,
        )
    print(f"  {len(manifest.files)} files, {manifest.bytes / 1e6:,.1f} MB", file=out)
    for line in _lines(manifest.about):
        print(f"  {line}", file=out)
    return 0


def _lines(about: Any, path: str = "") -> list[str]:
    """Return a line for each leaf of JSON, by its path."""
    if isinstance(about, Mapping):
        return [x for k, v in about.items() for x in _lines(v, f"{path}.{k}" if path else str(k))]
    if isinstance(about, list):
        about = ", ".join(map(str, about))
    return [f"{path}: {about}"]


def _add_verify(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument("generation", nargs="?", metavar="GENERATION", help="its name (all)")
    parser.add_argument("--quick", action="store_true", help="names and sizes only, no byte read")


def verify(args: argparse.Namespace, out: TextIO) -> int:
    """Read every byte of a generation, or of all, against its manifest; name what is damaged.

    Without a name the switches are checked too. Exits with 1 where something is wrong.

    Examples:
      keepstream knowledge verify --store knowledge
      keepstream knowledge verify --store knowledge g-00000002 --quick

    """
    store = KnowledgeStore(args.store)
    names = [args.generation] if args.generation else [path.name for path in store.folders()]
    rows: list[dict[str, Any]] = []
    for name in names:
        faults = store.verify(name, deep=not args.quick)
        rows.append({"generation": name, "fault": str(faults[name]) if faults else None})
    switches = [] if args.generation else store.switch_faults()
    if args.json:
        print_json({"generations": rows, "switches": switches}, out)
    else:
        for row in rows:
            print(f"{row['generation']}  " + (row["fault"] or "ok"), file=out)
        for fault in switches:
            print(f"{fault}. {_MISSING}", file=out)
        if not rows:
            print(f"{args.store}: no generation yet.", file=out)
    return 1 if switches or any(row["fault"] for row in rows) else 0


def _add_get(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    parser.add_argument("--kind", required=True, metavar="KIND", help="as user, item, interaction")
    parser.add_argument(
        "--id",
        action="append",
        required=True,
        dest="ids",
        metavar="ID",
        help="an id as events have it, any number of times",
    )
    parser.add_argument(
        "--category", metavar="ID", help="of kind interaction: the category, beside the user's --id"
    )
    parser.add_argument(
        "--at",
        required=True,
        metavar="TIME",
        help="event time of the look-up (ISO, or epoch ms): it decides which generation answers",
    )
    parser.add_argument(
        "--generation", metavar="GENERATION", help="this one, in place of the one in force then"
    )


def get(args: argparse.Namespace, out: TextIO) -> int:
    """Look ids up as a trainer would at an event time, and print their vectors.

    There is no look-up without a time: a generation that has learned from it is refused. Exits
    with 1 where no id has a vector.

    Examples:
      keepstream knowledge get --store knowledge --kind item --id 123 --at 2026-11-02T08:00
      keepstream knowledge get --store k --kind interaction --id u7 --category 9 --at 2026-11-02

    """
    if (args.kind == PAIRS) != (args.category is not None):
        raise UsageError("Give --category with kind interaction, and only with it.")
    at_ms = when(args.at, "--at")
    store = KnowledgeStore(args.store)
    schedule = store.schedule()
    if args.generation is not None:
        manifest = store.manifest(args.generation)
        schedule = Schedule([Switch(from_ms=min(at_ms, manifest.trained_until_ms),
                                    generation=manifest.name)])  # fmt: skip
    ids = np.array([hash_text(each) for each in args.ids], np.uint64)
    if args.category is not None:
        ids = pair_ids(ids, np.array([hash_text(args.category)], np.uint64))
    with Knowledge(store, schedule, cache_bytes=_CACHE_BYTES) as knowledge:
        found = knowledge.look_up(args.kind, ids, at_ms)
        name = next(iter(knowledge.open_generations), None)
    rows = [
        {"id": text, "present": bool(there), "vector": vector.tolist() if there else None}
        for text, there, vector in zip(args.ids, found.present, found.values, strict=True)
    ]
    if args.json:
        print_json({"generation": name, "at_ms": at_ms, "vectors": rows}, out)
    else:
        asked = "answers" if args.generation else "is in force"
        print(f"{name or 'no generation'} {asked} at {utc(at_ms)}", file=out)
        for row in rows:
            print(f"{row['id']}: {_vector(row['vector'])}", file=out)
    return 0 if found.present.any() else 1


def _vector(vector: list[float] | None) -> str:
    if vector is None:
        return "no vector"
    shown = " ".join(f"{x:.4g}" for x in vector[:_SHOWN])
    return shown + (f" … ({len(vector)} numbers)" if len(vector) > _SHOWN else "")


def _in_force(store: KnowledgeStore) -> str:
    current = store.current()
    if current is None:
        raise UsageError(f"{store.root}: no generation is in force. Name one.")
    return current.generation


def _told(switch: Switch) -> dict[str, Any]:
    return {"from_ms": switch.from_ms, "generation": switch.generation}


LIST = Command("list", _add_list, list_)
SHOW = Command("show", _add_show, show)
VERIFY = Command("verify", _add_verify, verify)
GET = Command("get", _add_get, get)
