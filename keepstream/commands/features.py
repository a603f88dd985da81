"""`keepstream features check`: whether the schema fits the data."""

import argparse
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from keepstream.commands.command import Command, UsageError, add_config, config_of, print_json
from keepstream.inputs import opener
from keepstream.reading import event_schema, feature_schema
from stream.events import IMPRESSION, EventColumns, EventSchema
from stream.ids import hash_text
from stream.position import Position
from trainer.schema import FeatureSchema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=("check",), help="the one thing it does so far")
    add_config(parser)
    parser.add_argument(
        "--input", type=Path, nargs="+", metavar="FILE", help="look at its first events too"
    )
    parser.add_argument(
        "--events", type=int, default=100_000, metavar="N", help="how many of them, about (100000)"
    )


def features(args: argparse.Namespace, out: TextIO) -> int:
    """Check the feature schema, and how much of it the data really carries.

    Prints each feature with the share of impressions that have it; exits with 1 where a feature
    that the schema uses is in no impression at all.

    Examples:
      keepstream features check --config keepstream.toml
      keepstream features check --config keepstream.toml --input events.parquet

    """
    if args.events < 1:
        raise UsageError("--events must be at least 1.")
    config = config_of(args)
    schema = feature_schema(config)
    shape = schema.model_shape(config.model.embedding_width)
    said: dict[str, Any] = {
        "schema_digest": schema.digest,
        "ids": list(shape.id_fields),
        "sequences": [list(s) for s in shape.sequences],
        "numbers": list(shape.numbers),
    }
    if args.input:
        said["impressions"], said["present"] = _present(args, schema, event_schema(config))
        of_schema = {*schema.ids, *chain(*schema.crosses, *(s.key for s in schema.statistics))}
        for name, row in said["present"].items():
            row["used"] = name != "scene" or name in of_schema  # the others every event must have
    if args.json:
        print_json(said, out)
    else:
        print(f"{len(shape.id_fields)} id fields: {', '.join(shape.id_fields)}", file=out)
        for name, length in shape.sequences:
            print(f"sequence {name}: up to {length} ids", file=out)
        print(f"{len(shape.numbers)} numbers: {', '.join(shape.numbers)}", file=out)
        for name, row in said.get("present", {}).items():
            print(
                f"{name:30} in {row['share']:7.2%} of impressions, {row['distinct']:,} distinct"
                + ("" if row["share"] else _absent(row["used"])),
                file=out,
            )
    return 1 if any(r["used"] and not r["share"] for r in said.get("present", {}).values()) else 0


def _absent(used: bool) -> str:
    return "   NEVER PRESENT: check its name" if used else "   (never present, and not used)"


def _present(
    args: argparse.Namespace, features: FeatureSchema, schema: EventSchema
) -> tuple[int, dict[str, Any]]:
    source = opener(config_of(args), args.input)(schema, Position())
    blocks, seen = [], 0
    try:
        for block in source:
            blocks.append(block.events.take(block.events.kind == IMPRESSION))
            seen += len(blocks[-1])
            if seen >= args.events:
                break
    finally:
        source.close()
    events = EventColumns.concat(blocks) if blocks else EventColumns.empty(schema)
    starts = np.cumsum([0, *(width for _, width in schema.lists)])
    columns = chain(
        ((name, getattr(events, name)) for name in ("user", "item", "request", "scene")),
        ((name, events.ids[:, i]) for i, name in enumerate(schema.ids)),
        ((name, events.numbers[:, i]) for i, name in enumerate(schema.numbers)),
        (
            (name, events.lists[:, start])
            for (name, _), start in zip(schema.lists, starts[:-1], strict=True)
        ),
    )
    counted = (
        (s.name, np.where(np.isin(events.scene, [*map(hash_text, s.scenes)]), events.scene, 0))
        for s in features.statistics
        if s.scenes
    )
    return len(events), {name: _described(values) for name, values in chain(columns, counted)}


def _described(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    here = ~np.isnan(values) if values.dtype.kind == "f" else values != 0
    return {
        "share": float(here.mean()) if len(values) else 0.0,
        "distinct": len(np.unique(values[here])),
    }


COMMAND = Command("features", add_arguments, features)
