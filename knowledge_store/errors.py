"""What the knowledge store refuses, and what RocksDB's refusals mean here."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from knowledge_store.kinds import Kind

_NO_SPACE: Final = re.compile(r"no space left|disk quota exceeded|file too large", re.IGNORECASE)
_LOCKED: Final = re.compile(r"lock hold by|while lock file|no locks available", re.IGNORECASE)
_ABSENT: Final = re.compile(r"no such file or directory", re.IGNORECASE)
_LOST: Final = "previous error"  # all that RocksDB says of a plain table it could not write
_PROBE: Final = 128 << 20  # bytes: what a table is written by
_CORRUPT: Final = re.compile(r"corrupt|bad table magic|larger than file length", re.IGNORECASE)


class KnowledgeError(Exception):
    """The knowledge store cannot do what it is asked."""


# Of tables: when they are written, opened or read


class StoreFull(KnowledgeError):
    """There is no room for a table."""

    def __init__(self, path: Path, fact: object) -> None:
        super().__init__(
            f"{path}: no space left to write to ({fact}). Free some, by `keepstream knowledge "
            "prune` for one, and build again: the generations there are as they were."
        )


class TableCorrupt(KnowledgeError):
    """The bytes of a table are not those that were written."""

    def __init__(self, path: Path, fact: object) -> None:
        self.path = path
        super().__init__(
            f"{path} is damaged: {fact}. `keepstream knowledge verify` names the file; roll back "
            "to the generation before, or build a new one without this as its base."
        )


class TableMissing(KnowledgeError):
    """There is no table, or a file of it is gone."""

    def __init__(self, path: Path, fact: object) -> None:
        super().__init__(
            f"{path}: the table or a file of it is missing ({fact}). Was the generation deleted? "
            "`keepstream knowledge list` shows those there are."
        )


class TableLocked(KnowledgeError):
    """Another process or thread is writing the table."""

    def __init__(self, path: Path, fact: object) -> None:
        super().__init__(
            f"{path} is being written by another builder ({fact}). Wait for it, or stop it."
        )


class TableUnreadable(KnowledgeError):
    """RocksDB or the system refuses for another reason."""

    def __init__(self, path: Path, fact: object) -> None:
        super().__init__(
            f"{path} cannot be used: {fact}. See to what the system says about it (permissions, "
            "device, limit of open files), and try again."
        )


class WrongVectors(KnowledgeError, ValueError):
    """What is to be written is not a table of vectors."""


# Of look-ups


class UnknownKind(KnowledgeError):
    """A generation has no vectors of a kind."""

    def __init__(self, kind: str, generation: str, kinds: list[str]) -> None:
        super().__init__(
            f"{generation} has no kind {kind!r}: it has {', '.join(kinds) or 'none'}. Name one of "
            "these, or build a generation with that kind."
        )


class FutureKnowledge(KnowledgeError):
    """A generation is asked for a time from which it has already learned."""

    def __init__(self, generation: str, at_ms: int, trained_until_ms: int) -> None:
        super().__init__(
            f"{generation} has learned until {trained_until_ms} (ms), and is asked for {at_ms}: it "
            "would tell of the future. Use it from that time on, and an earlier generation before."
        )


# Of stores: their generations and the switches between them


class NoStore(KnowledgeError):
    """There is no knowledge store where one is looked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"{root}: there is no knowledge store. Name the folder that a build was given, or make "
            "one with `keepstream knowledge build`."
        )


class NotAStore(KnowledgeError):
    """A store is to be made in a folder that holds something else."""

    def __init__(self, root: Path, found: str) -> None:
        super().__init__(
            f"{root} holds {found} and is no knowledge store: nothing is written into it. Name an "
            "empty folder, or a new one."
        )


class NoGeneration(KnowledgeError):
    """A store has no generation yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"{root}: there is no generation yet. Build one with `keepstream knowledge build`."
        )


class NoSuchGeneration(KnowledgeError):
    """A store has no generation of a name."""

    def __init__(self, name: str, root: Path, names: list[str]) -> None:
        there = ", ".join(names[-5:]) or "none"
        super().__init__(f"{root}: there is no generation {name!r}. The newest: {there}.")


class GenerationGone(KnowledgeError):
    """A generation that was in force at a time has been deleted."""

    def __init__(self, name: str, from_ms: int, root: Path) -> None:
        super().__init__(
            f"{root}: generation {name}, in force from {from_ms} ms of event time on, has been "
            "deleted. Restore its folder from a backup, begin where a later one is in force, or "
            "go without knowledge; `keepstream knowledge prune --keep` decides how many stay."
        )


class GenerationCorrupt(KnowledgeError):
    """A generation's files are not what its manifest says."""

    def __init__(self, path: Path, fact: str) -> None:
        self.path = path
        self.fact = fact
        super().__init__(
            f"{path}: {fact}. Restore the folder from a backup; or, if it is in force, go back "
            "with `keepstream knowledge rollback` and build anew, without it as a base."
        )


class NewerGeneration(KnowledgeError):
    """A generation was written by a later version of the program."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        super().__init__(
            f"{path} is of format {found}, this version reads {known}. Read it with the version "
            "that wrote it, or build a generation with this one."
        )


class KindsDiffer(KnowledgeError):
    """A generation has other kinds than are needed."""

    def __init__(self, name: str, found: Iterable[Kind], needed: Iterable[Kind]) -> None:
        has, wants = (
            ", ".join(f"{kind.name} ({kind.width} {kind.dtype})" for kind in kinds) or "none"
            for kinds in (found, needed)
        )
        super().__init__(
            f"{name} has the kinds {has}; needed are {wants}. Build without a base (a "
            "refresh: into another store, [knowledge] store), or with the kinds, widths and dtypes "
            "of before; a model that is to have others starts anew."
        )


class BaseTrainedLater(KnowledgeError):
    """A generation would hold vectors of a base that has learned from later times than it says."""

    def __init__(self, base: str, base_until_ms: int, trained_until_ms: int) -> None:
        super().__init__(
            f"The base {base} has learned until {base_until_ms} (ms), the new generation is said "
            f"to have until {trained_until_ms} only. Give at least the base's time, or no base."
        )


class StoreBusy(KnowledgeError):
    """Another process changes the store."""

    def __init__(self, lock: Path) -> None:
        super().__init__(
            f"{lock} is held: another process builds, prunes or switches. Wait for it and try "
            "again; what has died holds nothing."
        )


class SwitchOutOfOrder(KnowledgeError):
    """A switch lies before one that is there already."""

    def __init__(self, generation: str, from_ms: int, last_ms: int) -> None:
        super().__init__(
            f"{generation} cannot be in force from {from_ms} (ms) on: the switch before it is at "
            f"{last_ms}. Give a time at or after that, or take that one back with `keepstream "
            "knowledge rollback`."
        )


class NothingToRollBack(KnowledgeError):
    """No generation was in force before the one that is."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"{root}: no other generation was in force before. Activate one by its name; "
            "`keepstream knowledge list` shows those there are."
        )


class SwitchesCorrupt(KnowledgeError):
    """CURRENT cannot be read."""

    def __init__(self, path: Path, fact: str) -> None:
        super().__init__(
            f"{path} is damaged: {fact}. Restore it from a backup; or delete it, and activate "
            "generations in the order of their times: those there are remain."
        )


class StoreInconsistent(KnowledgeError):
    """What must hold between the parts of a store does not."""

    def __init__(self, root: Path, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(f"{root} is not consistent: {'; '.join(faults)}.")


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Raise what RocksDB or the system refuses in here as an error of ours about ``path``."""
    try:
        yield
    except OSError as error:
        raise named(path, error) from error
    except Exception as error:
        if type(error) is Exception:  # rocksdict raises nothing more specific
            raise named(path, error) from error
        raise


def named(path: Path, error: BaseException) -> KnowledgeError:
    """Return the error of ours that says what ``error``, of RocksDB or the system, means."""
    fact = " ".join(str(error).split())
    if _LOST in fact:
        fact = _refusal_to_write(path) or fact
    if _NO_SPACE.search(fact):
        return StoreFull(path, fact)
    if _LOCKED.search(fact):
        return TableLocked(path, fact)
    if _ABSENT.search(fact):
        return TableMissing(path, fact)
    if _CORRUPT.search(fact):
        return TableCorrupt(path, fact)
    return TableUnreadable(path, fact)


def _refusal_to_write(folder: Path) -> str | None:
    """Return what the system says to a file of `_PROBE` bytes in ``folder``; None where it fits."""
    if not hasattr(os, "posix_fallocate"):
        return None  # not on every system
    try:
        with TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _PROBE)
    except OSError as error:
        return str(error)
    return None
