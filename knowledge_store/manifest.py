"""A generation's manifest: what it knows, until when it learned, and the digest of every file.

Written last, so its presence means "complete". Files that are hard links of the base's are the
same bytes: their digests are taken over from the base's manifest, not computed again.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
from xxhash import xxh3_128

from knowledge_store.errors import GenerationCorrupt, NewerGeneration
from knowledge_store.kinds import Kind

FORMAT: Final = 1
NAME: Final = "manifest.json"
_NO_CONTENT = (  # written for people and processes, and never needed: the last by every opening
    "LOG", "LOCK", "rocksdict-config.json",
)  # fmt: skip


@dataclass(frozen=True)
class FileEntry:
    """What a file of a generation must be."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is said of a generation without opening its tables."""

    name: str  # of its folder: g-00000001
    number: int  # its place in the order of builds, from 1
    trained_until_ms: int  # event time: it has learned from nothing at or after it
    kinds: Mapping[str, Kind]
    counts: Mapping[str, int]  # vectors of each kind
    base: str | None  # the generation whose files it links
    changed: Mapping[str, int]  # vectors of each kind that were written, all of them without a base
    about: Mapping[str, Any]  # what the extractor says: metrics, drift, coverage
    files: Mapping[str, FileEntry]  # by path in the folder, "/" between its parts
    digest: str = ""  # of all above, and through the files' digests of every byte

    @property
    def bytes(self) -> int:
        """The size of its files; those it shares with its base take room once."""
        return sum(entry.bytes for entry in self.files.values())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest in ``folder``; raise `GenerationCorrupt` or `NewerGeneration`."""
        try:
            said = orjson.loads((folder / NAME).read_bytes())
            if said["format"] != FORMAT:
                raise NewerGeneration(folder, said["format"], FORMAT)
            if said["digest"] != _digest_of(said):
                raise GenerationCorrupt(folder, f"{NAME} does not match its own digest")
            if said["name"] != folder.name and not folder.name.startswith("."):
                raise GenerationCorrupt(folder, f"{NAME} is that of {said['name']}")
            return cls(
                name=said["name"],
                number=said["number"],
                trained_until_ms=said["trained_until_ms"],
                kinds={
                    name: Kind(name=name, width=kind["width"], dtype=kind["dtype"])
                    for name, kind in said["kinds"].items()
                },
                counts={name: kind["count"] for name, kind in said["kinds"].items()},
                base=said["base"],
                changed=said["changed"],
                about=said["about"],
                files={path: FileEntry(**entry) for path, entry in said["files"].items()},
                digest=said["digest"],
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise GenerationCorrupt(folder, f"{NAME} is missing") from error
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise GenerationCorrupt(folder, f"{NAME} is damaged: {error}") from error

    def write(self, folder: Path) -> "Manifest":
        """Write it into ``folder``, synced, with its digest; return it with that digest."""
        said = self.as_json()
        said["digest"] = _digest_of(said)
        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        write_synced(folder / NAME, orjson.dumps(said, option=options))
        return replace(self, digest=said["digest"])

    def as_json(self) -> dict[str, Any]:
        """Return what stands in the file."""
        return {
            "format": FORMAT,
            "name": self.name,
            "number": self.number,
            "trained_until_ms": self.trained_until_ms,
            "kinds": {
                name: {"width": kind.width, "dtype": kind.dtype, "count": self.counts[name]}
                for name, kind in self.kinds.items()
            },
            "base": self.base,
            "changed": dict(self.changed),
            "about": dict(self.about),
            "files": {
                path: {"bytes": entry.bytes, "xxh3_128": entry.xxh3_128}
                for path, entry in self.files.items()
            },
            "digest": self.digest,
        }

    def fault(self, folder: Path, *, deep: bool) -> str | None:
        """Return the first thing about the files in ``folder`` that is not as said, or None.

        A look at names and sizes; with ``deep`` every byte is read.
        """
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != entry.bytes:
                return f"{name} has {size:,} bytes, its manifest says {entry.bytes:,}"
            if deep and digest_of_file(path) != entry.xxh3_128:
                return f"{name} does not match its digest"
        return None


def described(folder: Path, base: tuple[Path, Manifest] | None) -> dict[str, FileEntry]:
    """Sync and describe the files of a generation that is being built in ``folder``.

    ``base``: the folder and the manifest of the generation that it links; what is the same file
    there (not: an equal one) is not read again.
    """
    linked = {} if base is None else _inodes(*base)
    entries = {}
    for path in _files(folder):
        status = path.stat()
        known = linked.get((status.st_dev, status.st_ino))
        if known is None:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            known = FileEntry(status.st_size, digest_of_file(path))
        entries[path.relative_to(folder).as_posix()] = known
    for inner in {path.parent for path in _files(folder)}:
        sync_folder(inner)
    return entries


def _inodes(folder: Path, manifest: Manifest) -> dict[tuple[int, int], FileEntry]:
    found = {}
    for name, entry in manifest.files.items():
        status = (folder / name).stat()
        found[status.st_dev, status.st_ino] = entry
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != NAME and not path.name.startswith(_NO_CONTENT):
            yield path


def digest_of_file(path: Path) -> str:
    """Return the XXH3 digest of a file's bytes."""
    digest = xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file that is on the disk when this returns; its name is not, see `sync_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest_of(said: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in said.items() if key != "digest"}
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return xxh3_128(orjson.dumps(rest, option=options)).hexdigest()
