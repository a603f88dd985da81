"""`keepstream checkpoints`: list, verify and digest the checkpoints of a run."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from keepstream.commands.command import Command, UsageError, print_json
from trainer.checkpoint import CheckpointCorrupt, Checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=("list", "verify", "digest"), help="what to do with them")
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a run")


def checkpoints(args: argparse.Namespace, out: TextIO) -> int:
    """List the checkpoints of a run, verify every byte of them, or print their digests.

    `verify` exits with 1 where one is corrupt and says which; a resuming run passes over it.

    Examples:
      keepstream checkpoints list runs/live
      keepstream checkpoints verify runs/live
      keepstream checkpoints digest runs/live --json

    """
    folder = args.run_folder / "checkpoints"
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder. Name the folder given to --run.")
    rows = [
        _row(Checkpoints(folder), path, verify=args.action == "verify")
        for path in Checkpoints(folder).folders()
    ]
    if args.json:
        print_json({"checkpoints": rows}, out)
    else:
        for row in rows:
            print(_line(row, args.action), file=out)
        if not rows:
            print(f"{folder}: no checkpoint yet.", file=out)
    return 1 if any("fault" in row for row in rows) else 0


def _row(checkpoints: Checkpoints, path: Path, *, verify: bool) -> dict[str, Any]:
    try:
        checkpoint = checkpoints.read(path)
        if verify:
            checkpoint.verify()
    except CheckpointCorrupt as corrupt:
        return {"name": path.name, "fault": corrupt.fact}
    said = checkpoint.manifest
    return {
        "name": path.name,
        "batches": said["batches"],
        "watermark_ms": said["watermark_ms"],
        "ended": said["ended"],
        "bytes": sum(f["bytes"] for f in said["files"].values()),
        "digest": checkpoint.digest(),
    }


def _line(row: dict[str, Any], action: str) -> str:
    if "fault" in row:
        return f"{row['name']}  CORRUPT: {row['fault']}"
    if action == "digest":
        return f"{row['name']}  {row['digest']}"
    reached = (
        datetime.fromtimestamp(row["watermark_ms"] / 1000, UTC)
        if (0 <= row["watermark_ms"] < 4_102_444_800_000)
        else None
    )
    return (
        f"{row['name']}  {row['batches']:>10,} batches  {row['bytes'] / 1e6:>9,.1f} MB  "
        f"up to {reached:%Y-%m-%d %H:%M:%S} UTC"
        if reached
        else f"{row['name']}  {row['batches']:>10,} batches  {row['bytes'] / 1e6:>9,.1f} MB  "
        "up to the end of its log"
    ) + ("  ok" if action == "verify" else "")


COMMAND = Command("checkpoints", add_arguments, checkpoints)
