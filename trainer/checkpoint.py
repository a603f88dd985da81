"""Checkpoint folders: everything that a restart needs, visible whole or not at all.

``checkpoint-<number>/`` holds ``arrays.safetensors``, ``state.json`` and, written last,
``manifest.json`` with the size and digest of both. No pickle anywhere.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from xxhash import xxh3_128

from stream.state import State, flatten, unflatten

FORMAT = 1
_PREFIX = "checkpoint-"
_ARRAYS, _STATE, _MANIFEST = "arrays.safetensors", "state.json", "manifest.json"


class CheckpointError(Exception):
    """A checkpoint cannot be used."""


class CheckpointCorrupt(CheckpointError):
    """A checkpoint's bytes are not what its manifest says."""

    def __init__(self, path: Path, fact: str) -> None:
        self.path = path
        self.fact = fact
        super().__init__(
            f"{path}: {fact}. Delete the folder: training resumes from the checkpoint before it."
        )


class NoUsableCheckpoint(CheckpointError):
    """There are checkpoints, and each is corrupt."""

    def __init__(self, root: Path, refused: list[CheckpointCorrupt]) -> None:
        faults = "; ".join(f"{r.path.name}: {r.fact}" for r in refused)
        super().__init__(
            f"None of the {len(refused)} checkpoints in {root} can be used ({faults}). Restore one "
            "from a backup, or start over with --fresh."
        )


class CheckpointForeign(CheckpointError):
    """A sound checkpoint does not fit the parts it is to be put into."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(
            f"{path} is of another version of the program or of the model's code "
            f"({type(error).__name__}: {error}). Go on with the one that wrote it, or start over "
            "with --fresh."
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often the state is saved, and how many checkpoints are kept."""

    every_s: float = 30.0  # wall time: at most this much work is done again after a crash
    keep: int = 3  # the newest, and two to fall back to

    def __post_init__(self) -> None:
        if self.every_s <= 0 or self.keep < 1:
            raise ValueError("[checkpoint] every_s must be positive and keep at least 1")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: its manifest has been read, its content not yet."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Its place among the checkpoints of its run, from 1."""
        return int(self.manifest["number"])

    def digest(self) -> str:
        """Return one digest of the manifest and, through it, of all files."""
        return str(self.manifest["digest"])

    def verify(self) -> None:
        """Compare every file with the manifest; raise `CheckpointCorrupt` by name and fact."""
        for name, said in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise CheckpointCorrupt(self.path, f"{name} is missing")
            size = path.stat().st_size
            if size != said["bytes"]:
                raise CheckpointCorrupt(
                    self.path, f"{name} has {size:,} bytes, its manifest says {said['bytes']:,}"
                )
            if _digest(path) != said["xxh3_128"]:
                raise CheckpointCorrupt(self.path, f"{name} does not match its digest")

    def looks_whole(self) -> bool:
        """Return whether every file is there and as long as the manifest says: `verify`, unread."""
        files = self.manifest["files"].items()
        paths = [(self.path / name, said["bytes"]) for name, said in files]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)

    def load(self) -> State:
        """Verify, then read the state."""
        self.verify()
        try:
            arrays = load_file(self.path / _ARRAYS)
            rest = orjson.loads((self.path / _STATE).read_bytes())
        except (SafetensorError, orjson.JSONDecodeError, OSError) as error:
            raise CheckpointCorrupt(self.path, f"cannot be read: {error}") from error
        return unflatten(arrays, rest)


class Checkpoints:
    """The checkpoints of one run, newest last."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        self.root = root
        self._keep = keep

    def write(self, state: State, about: Mapping[str, Any]) -> Checkpoint:
        """Reveal the next checkpoint: 1 write the parts, 2 write the manifest, 3 rename.

        ``about`` goes into the manifest: what a person or a tool wants to know without loading
        (batches, position, event time, configuration digest). Raises `OSError`, and leaves nothing.
        """
        folders = self.folders()
        number = 1 + (int(folders[-1].name.removeprefix(_PREFIX)) if folders else 0)
        final = self.root / f"{_PREFIX}{number:08d}"
        self.root.mkdir(parents=True, exist_ok=True)
        staging = self.root / f".writing-{number:08d}"
        shutil.rmtree(staging, ignore_errors=True)  # left by a crash
        try:
            manifest = self._stage(staging, state, {"format": FORMAT, "number": number, **about})
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)  # what fills a disk leaves it again
            raise
        staging.rename(final)
        _sync_folder(self.root)  # 3
        self._prune()
        return Checkpoint(final, manifest)

    def _stage(self, staging: Path, state: State, about: Mapping[str, Any]) -> dict[str, Any]:
        staging.mkdir()
        arrays, rest = flatten(state)
        try:
            # ascontiguousarray would make a row of a number, and another digest of a resumed model
            save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, staging / _ARRAYS)
        except SafetensorError as error:  # its only fault with sound arrays is that of the disk
            raise OSError(f"{staging / _ARRAYS}: {error}") from error
        (staging / _STATE).write_bytes(orjson.dumps(rest, option=orjson.OPT_SERIALIZE_NUMPY))
        files = {n: _described(staging / n) for n in (_ARRAYS, _STATE)}  # 1, synced
        manifest: dict[str, Any] = {**about, "files": files}
        manifest["digest"] = _manifest_digest(manifest)
        _write_synced(
            staging / _MANIFEST,
            orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY),
        )  # 2: its presence means "complete"
        _sync_folder(staging)
        return manifest

    def __iter__(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints that have a readable manifest, oldest first."""
        for path in self.folders():
            try:
                yield self.read(path)
            except CheckpointCorrupt:
                continue

    def read(self, path: Path) -> Checkpoint:
        """Read a checkpoint's manifest; raise `CheckpointCorrupt` where it has none."""
        try:
            manifest = orjson.loads((path / _MANIFEST).read_bytes())
            if manifest["format"] != FORMAT:
                raise CheckpointCorrupt(
                    path, f"format {manifest['format']}, this version reads {FORMAT}"
                )
            if manifest["digest"] != _manifest_digest(manifest):
                raise CheckpointCorrupt(path, "manifest.json does not match its own digest")
        except FileNotFoundError as error:
            raise CheckpointCorrupt(path, "manifest.json is missing") from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointCorrupt(path, f"manifest.json is damaged: {error}") from error
        return Checkpoint(path, manifest)

    def latest(self) -> tuple[Checkpoint, State, list[CheckpointCorrupt]] | None:
        """Return the newest usable checkpoint with its state, and those refused on the way.

        None where there is no checkpoint at all; `NoUsableCheckpoint` where all are corrupt.
        """
        refused: list[CheckpointCorrupt] = []
        for path in reversed(self.folders()):
            try:
                checkpoint = self.read(path)
                return checkpoint, checkpoint.load(), refused
            except CheckpointCorrupt as corrupt:
                refused.append(corrupt)
        if refused:
            raise NoUsableCheckpoint(self.root, refused)
        return None

    def folders(self) -> list[Path]:
        """Return every checkpoint folder, oldest first, readable or not."""
        found = self.root.glob(f"{_PREFIX}*") if self.root.is_dir() else ()
        return sorted(p for p in found if p.name.removeprefix(_PREFIX).isdecimal())

    def _prune(self) -> None:
        """Delete what is older than the newest ``keep`` that are sound, as far as a look tells.

        A newer one that is not sound stays, for a person to see; it counts for nothing.
        """
        kept = [c.path for c in self if c.looks_whole()][-self._keep :]
        for path in self.folders():
            if not kept or path == kept[0]:
                break
            doomed = path.with_name(f".deleting-{path.name}")  # never a half-deleted checkpoint
            path.rename(doomed)
            shutil.rmtree(doomed)
        for left in self.root.glob(".deleting-*"):
            shutil.rmtree(left, ignore_errors=True)


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    said = {k: v for k, v in manifest.items() if k != "digest"}
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return xxh3_128(orjson.dumps(said, option=options)).hexdigest()


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "xxh3_128": _digest(path)}


def _digest(path: Path) -> str:
    digest = xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
