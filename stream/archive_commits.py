"""The commits of an archive: a chain of small files, merged now and then into one."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from stream.archive import ArchiveDamaged, ArchiveFile, Commit, write_whole

_SINGLE: Final = re.compile(r"(\d{12})\.json")
_MERGED: Final = re.compile(r"merged-(\d{12})\.ndjson")
_MERGE_AFTER: Final = 256  # commits: a day of five minutes each; a reader opens no more files
_TRIES: Final = 10  # a writer merges once a day: a reader that meets it looks again


class Commits:
    """The commits of an archive, as they were when it was last looked at.

    ``<12 digits>.json`` is one, ``merged-<12 digits>.ndjson`` all up to that number, without what
    was deleted for its age. Memory: some 400 bytes a Parquet file that is kept.
    """

    def __init__(self, root: Path) -> None:
        """Read those of the archive in ``root``. Raises `ArchiveDamaged`."""
        self._folder = root / "commits"
        self._all: list[Commit] = []
        self.refresh()

    @property
    def last(self) -> Commit | None:
        """The newest one, None where there is none yet."""
        return self._all[-1] if self._all else None

    def after(self, number: int) -> list[Commit]:
        """Return the commits after the ``number``-th, in order."""
        if number >= self._number:  # asked ten times a second by whoever follows
            return []
        return [commit for commit in self._all if commit.number > number]

    def files(self) -> Iterator[ArchiveFile]:
        """Yield the Parquet files that are there, in the order in which they were written."""
        last = self.last
        for commit in self._all:
            yield from (file for file in commit.files if last is not None and last.keeps(file))

    def refresh(self) -> bool:
        """Look for new commits; return whether there are. Raises `ArchiveDamaged`."""
        before = self._number
        for _ in range(_TRIES):
            try:
                self._read()
                break
            except FileNotFoundError:  # merged meanwhile
                continue
        else:
            raise ArchiveDamaged(f"{self._folder} changes as it is read: is a copy running?")
        return self._number > before

    def append(self, commit: Commit) -> None:
        """Make a commit the last one: once it returns, it is on the disk. Raises OSError."""
        assert commit.number == self._number + 1, "commits are numbered one after another"
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._single(commit.number), commit.to_json())
        self._all.append(commit)

    def is_written(self, number: int) -> bool:
        """Return whether a commit can be seen that `append` has refused: then it counts."""
        return self._single(number).exists()

    def merge(self) -> None:
        """Put all into one file, if there are many: 1 write it, 2 delete what it replaces."""
        last = self.last
        if last is None or last.number % _MERGE_AFTER:
            return
        kept = [
            replace(commit, files=tuple(filter(last.keeps, commit.files))) for commit in self._all
        ]
        self._all = [commit for commit in kept if commit.files or commit is kept[-1]]
        name = f"merged-{last.number:012d}.ndjson"
        write_whole(self._folder / name, b"\n".join(c.to_json() for c in self._all) + b"\n")  # 1
        for path in self._folder.iterdir():
            if path.name != name:
                path.unlink(missing_ok=True)  # 2

    def _single(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"

    @property
    def _number(self) -> int:
        return self._all[-1].number if self._all else 0

    def _read(self) -> None:
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        merged = max((int(m[1]) for m in map(_MERGED.fullmatch, names) if m), default=0)
        singles = sorted(int(m[1]) for m in map(_SINGLE.fullmatch, names) if m)
        found: list[Commit] = []
        number = self._number
        if merged > number:
            found += self._of_file(self._folder / f"merged-{merged:012d}.ndjson")
            number = merged
        for single in singles:
            if single <= number:
                continue
            if single != number + 1:
                raise ArchiveDamaged(
                    f"{self._folder} has no commit {number + 1}, but later ones: restore it from a "
                    "copy, or archive the log anew into another folder."
                )
            found += self._of_file(self._single(single))
            number = single
        self._all += [commit for commit in found if commit.number > self._number]

    def _of_file(self, path: Path) -> list[Commit]:
        try:
            return [Commit.from_json(line) for line in path.read_bytes().splitlines()]
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveDamaged(
                f"{path} is damaged: restore it from a copy, or archive the log anew into another "
                "folder."
            ) from error
