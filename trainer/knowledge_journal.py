"""The journal of switches: which generation a run has taken up, from which event time on."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from knowledge_store.errors import KnowledgeError
from knowledge_store.kinds import Kind
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Schedule, Switch


class JournalError(KnowledgeError):
    """A journal of knowledge cannot be used."""


class JournalDamaged(JournalError):
    """A line in the midst of a journal cannot be read."""

    def __init__(self, path: Path, line: int, error: Exception) -> None:
        super().__init__(
            f"{path}: line {line} is no switch ({error}). Restore the file: without it nobody "
            "knows which knowledge was learned. Or start over with --fresh."
        )


class OtherJournal(JournalError):
    """Two journals of one run say different things."""

    def __init__(self, path: Path | None, said: str, expected: str) -> None:
        super().__init__(
            f"{path or 'The journal'} says {said}, and {expected} was learned with: it is another "
            "run's. Give the right one (--knowledge-journal), or start over with --fresh."
        )


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A switch that a run has made: a line of the journal."""

    from_ms: int  # event time; look-ups from then on use the generation
    generation: str
    digest: str  # of its manifest
    trained_until_ms: int
    kinds: tuple[Kind, ...]  # all that it holds, by name

    @classmethod
    def of(cls, manifest: Manifest, from_ms: int) -> "Taken":
        """Return the switch to a generation."""
        return cls(
            from_ms=from_ms,
            generation=manifest.name,
            digest=manifest.digest,
            trained_until_ms=manifest.trained_until_ms,
            kinds=tuple(kind for _, kind in sorted(manifest.kinds.items())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as the journal and a checkpoint hold it."""
        return {
            "from_ms": self.from_ms,
            "generation": self.generation,
            "digest": self.digest,
            "trained_until_ms": self.trained_until_ms,
            "kinds": [[kind.name, kind.width, kind.dtype] for kind in self.kinds],
        }

    @classmethod
    def from_json(cls, said: Any) -> "Taken":
        """Return what `to_json` gave. Raises KeyError, TypeError or ValueError for anything else.

        >>> taken = Taken(from_ms=9, generation="g", digest="", trained_until_ms=8, kinds=())
        >>> Taken.from_json(taken.to_json()) == taken
        True
        """
        return cls(
            from_ms=int(said["from_ms"]),
            generation=str(said["generation"]),
            digest=str(said["digest"]),
            trained_until_ms=int(said["trained_until_ms"]),
            kinds=tuple(Kind(name=n, width=w, dtype=d) for n, w, d in said["kinds"]),
        )

    def __str__(self) -> str:
        return f"{self.generation} ({self.digest[:8]}) from {self.from_ms} ms on"


def schedule_of(switches: Iterable[Taken]) -> Schedule:
    """Return the schedule of switches in the order they were taken: a later one of a time holds."""
    held: list[Switch] = []
    for taken in switches:
        if held and held[-1].from_ms == taken.from_ms:
            held.pop()
        held.append(Switch(from_ms=taken.from_ms, generation=taken.generation))
    return Schedule(held)


def read_journal(path: Path) -> tuple[list[Taken], int]:
    """Return the switches of a journal, and how many bytes they are; a torn end is none of them.

    Raises `JournalDamaged`, `OSError`.
    """
    data = path.read_bytes()
    size = data.rfind(b"\n") + 1  # a line without an end was never synced, and so never used
    switches = []
    for number, line in enumerate(data[:size].splitlines(), 1):
        try:
            switches.append(Taken.from_json(orjson.loads(line)))
        except (KeyError, TypeError, ValueError) as error:
            raise JournalDamaged(path, number, error) from error
    return switches, size


class KnowledgeJournal:
    """The switches of one run, in a file that only grows; without a path, in memory.

    Memory: some 500 bytes a switch, a day of ten-minute refreshes is 144.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Read what is there. Raises `JournalDamaged`."""
        self.path = path
        self._bytes = 0
        self._switches: list[Taken] = []
        if path is not None and path.exists():
            self._switches, self._bytes = read_journal(path)

    @property
    def switches(self) -> tuple[Taken, ...]:
        """All switches, in the order they were taken."""
        return tuple(self._switches)

    def append(self, switches: Sequence[Taken]) -> None:
        """Add switches; when this returns they are on the disk. Raises `OSError`: none is."""
        if not switches:
            return
        if self.path is not None:
            lines = b"".join(
                orjson.dumps(s.to_json(), option=orjson.OPT_APPEND_NEWLINE) for s in switches
            )
            try:
                self._write(self.path, lines)
            except OSError:
                with suppress(OSError):  # some lines may be whole: a restart would believe them
                    os.truncate(self.path, self._bytes)
                raise
            self._bytes += len(lines)
        self._switches += switches

    def _write(self, path: Path, lines: bytes) -> None:
        new = not path.exists()
        with path.open("xb" if new else "r+b") as file:
            file.truncate(self._bytes)  # what a failed append, or a crash in one, has left
            file.seek(self._bytes)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        if new:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def begin_with(self, switches: Sequence[Taken], path: Path | None = None) -> None:
        """Let the journal begin with ``switches``, of a checkpoint or of the journal in ``path``.

        It may go on behind them, or get what it lacks. Raises `OtherJournal` where it differs.
        """
        for mine, other in zip(self._switches, switches, strict=False):
            if mine != other:
                raise OtherJournal(path or self.path, *sorted_said(mine, other, path))
        self.append(switches[len(self._switches) :])


def sorted_said(mine: Taken, other: Taken, given: Path | None) -> tuple[str, str]:
    """Return what the journal says that is at fault, and what was learned with."""
    return (str(other), str(mine)) if given is not None else (str(mine), str(other))
