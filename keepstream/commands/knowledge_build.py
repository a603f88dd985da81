"""`keepstream knowledge build`: a generation out of tables of ids and vectors."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from keepstream.commands.command import Command, UsageError, print_json, say
from keepstream.commands.knowledge_files import SUFFIXES, Block, blocks, fitting
from keepstream.commands.knowledge_look import PAIRS, add_store, described, utc, when
from keepstream.commands.knowledge_switch import warn_of
from knowledge_store.kinds import DTYPES, Kind
from knowledge_store.manifest import Manifest
from knowledge_store.store import KnowledgeStore

_NAMES: Final = {"id_column": "id", "vector_column": "vector"}  # where none are given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_store(parser)
    parser.add_argument(
        "--from",
        type=Path,
        required=True,
        dest="files",
        metavar="FILE",
        help=f"a table of ids and vectors ({' or '.join(SUFFIXES)}); once for each kind",
        action="append",
        default=[],
    )
    parser.add_argument(
        "--kind",
        metavar="KIND",
        dest="kinds",
        help="what the vectors are of (item); once for each --from, as user, item, interaction",
        action="append",
        default=[],
    )
    for name, what in (("id", "ids"), ("vector", "vectors")):
        parser.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help=f"column or array of the {what} ({name}); once, or for each --from",
            action="append",
            default=[],
        )
    parser.add_argument(
        "--category-column",
        metavar="NAME",
        help="of kind interaction: the category's column, beside that of the user",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="how numbers are kept (float16, or as the base has it)"
    )
    parser.add_argument(
        "--trained-until",
        required=True,
        metavar="TIME",
        help="event time; the vectors have learned from nothing at or after it (ISO, or epoch ms)",
    )
    parser.add_argument(
        "--base",
        metavar="GENERATION",
        help="what the files do not hold is as in this one, by hard links",
    )
    parser.add_argument(
        "--activate",
        action="store_true",
        help="put it in force from its time on, or from the last switch's where that is later",
    )


def build(args: argparse.Namespace, out: TextIO) -> int:
    """Make a generation out of tables of ids and vectors, of an extractor of one's own.

    Ids are text or integers, as in events. It appears complete or not at all, and changes nothing
    until it is activated. The store is made where there is none.

    Examples:
      keepstream knowledge build --store knowledge --from items.parquet --trained-until 2026-11-01
      keepstream knowledge build --store k --from u.npz --kind user --trained-until 2026-11-02
      keepstream knowledge build --store k --from new.parquet --base g-00000001 \
--trained-until 2026-11-02T06:00 --activate

    """
    trained_until_ms = when(args.trained_until, "--trained-until")
    kinds = args.kinds or ["item"]
    if len(kinds) != len(args.files) or len(set(kinds)) < len(kinds):
        raise UsageError("Give one --kind for each --from, no two of them the same.")
    columns = {name: _for_each(args, name) for name in _NAMES}
    store = KnowledgeStore(args.store, create=True)
    base = None if args.base is None else store.manifest(args.base)
    tables = [
        _Table(args, path, kind, ids, vectors)
        for path, kind, ids, vectors in zip(
            args.files, kinds, columns["id_column"], columns["vector_column"], strict=True
        )
    ]
    found = {table.kind: table.of_kind(args.dtype, base) for table in tables}
    said = {"source": "files", "files": [path.name for path in args.files]}
    rows = dict.fromkeys(found, 0)
    with store.build({**(base.kinds if base else {}), **found}, args.base) as builder:
        for table in tables:
            for ids, vectors in table.blocks(found[table.kind]):
                builder.put(table.kind, ids, vectors)
                rows[table.kind] += ids.size
        manifest = builder.commit(trained_until_ms=trained_until_ms, about=said)
    for kind, count in rows.items():
        if again := count - manifest.changed[kind]:
            say(f"{again:,} rows of {kind} came again later: the last row of an id counts.")
    switch = None
    if args.activate:
        last = store.current()
        from_ms = max(trained_until_ms, trained_until_ms if last is None else last.from_ms)
        switch = store.activate(manifest.name, from_ms)
        warn_of(store, switch, last)
    if args.json:
        print_json({**described(manifest), "from_ms": switch and switch.from_ms}, out)
        return 0
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in manifest.counts.items())
    print(f"{manifest.name}: {counts}; trained until {utc(trained_until_ms)}", file=out)
    if switch is not None:
        print(f"in force from {utc(switch.from_ms)} on", file=out)
    else:
        say(f"Not in force yet: keepstream knowledge activate {manifest.name} --store {args.store}")
    return 0


class _Table:
    """One file, and what is read from it."""

    def __init__(
        self, args: argparse.Namespace, path: Path, kind: str, ids: str, vectors: str
    ) -> None:
        self.kind = kind
        self._path = path
        self._columns = (ids, vectors, args.category_column if kind == PAIRS else None)
        if kind == PAIRS and args.category_column is None:
            raise UsageError("Kind interaction is of pairs: name the --category-column too.")

    def blocks(self, kind: Kind) -> Iterator[Block]:
        """Yield its ids (n,) and vectors (n, W), as the kind is stored."""
        return fitting(self._path, blocks(self._path, *self._columns), kind.numpy)

    def of_kind(self, dtype: str | None, base: Manifest | None) -> Kind:
        """Return what the first rows say of the kind."""
        first = next(blocks(self._path, *self._columns), None)
        if first is None:
            raise UsageError(f"{self._path}: there is no row in it.")
        if base is not None and self.kind in base.kinds and dtype is None:
            dtype = base.kinds[self.kind].dtype
        try:
            return Kind(self.kind, first[1].shape[1], dtype or "float16")  # type: ignore[arg-type]
        except ValueError as error:
            raise UsageError(str(error)) from error


def _for_each(args: argparse.Namespace, name: str) -> list[str]:
    given: list[str] = getattr(args, name) or [_NAMES[name]]
    if len(given) == 1:
        given = given * len(args.files)
    if len(given) != len(args.files):
        option = "--" + name.replace("_", "-")
        raise UsageError(f"Give {option} once, or once for each --from.")
    return given


BUILD = Command("build", add_arguments, build)
