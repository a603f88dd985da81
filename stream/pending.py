"""The wide columns of impressions that wait for their label, by seq."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.state import State

I64 = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]
ColumnSpec = Mapping[str, tuple[npt.DTypeLike, int | None]]  # name: (type, width; None: one number)

_ALIGNMENT: Final = 64  # bytes: a column in the scratch file begins at a cache line


class RowsGone(LookupError):
    """Rows were asked for that are not here."""

    def __init__(self, seq: int, first: int, end: int) -> None:
        super().__init__(
            f"Row {seq} is not among the pending rows {first} to {end - 1}. "
            "Take rows after they are appended and before they are released."
        )


class WrongColumns(ValueError):
    """Rows were appended that are not of the columns agreed on."""

    def __init__(self, fact: str, expected: Sequence[str]) -> None:
        super().__init__(f"{fact}. Append exactly the columns {sorted(expected)}, equally long.")


class PendingRows:
    """Rows by seq: `append` at the end, `take` from anywhere, `release` from the beginning.

    Rows lie in chunks. Memory: at most ``memory_rows`` and the chunk that is being filled; chunks
    that fill up beyond that go to a scratch file, which has no name, so that nothing is left
    behind even by a crash: after one, the rows come from the checkpoint. With no ``scratch``
    folder all rows stay in memory, and what bounds them is the join's ``max_pending``.
    """

    def __init__(
        self,
        columns: ColumnSpec,
        *,
        chunk_rows: int = 65_536,  # tens of MB: one write to the file, one page run per column
        memory_rows: int = 1_000_000,  # half a GB of rows of 500 bytes
        scratch: Path | None = None,  # a folder on a local disk
    ) -> None:
        self._columns = {name: (np.dtype(kind), width) for name, (kind, width) in columns.items()}
        self._chunk_rows = chunk_rows
        self._memory_chunks = memory_rows // chunk_rows
        self._scratch = scratch
        self._chunks: dict[int, Columns] = {}  # by seq // chunk_rows
        self._spilled: set[int] = set()
        self.first = 0  # the least seq that is still here
        self.next = 0  # the seq of the next row

    def __len__(self) -> int:
        return self.next - self.first

    @property
    def spilled_rows(self) -> int:
        """How many rows lie in the scratch file."""
        return len(self._spilled) * self._chunk_rows

    def append(self, columns: Mapping[str, npt.NDArray[Any]]) -> int:
        """Append rows (n of each column) and return the seq of the first of them."""
        n = self._checked(columns)
        first_seq, done = self.next, 0
        while done < n:
            number, at = divmod(self.next, self._chunk_rows)
            size = min(n - done, self._chunk_rows - at)
            if number not in self._chunks:
                self._chunks[number] = self._empty(self._chunk_rows)
            for name, column in self._chunks[number].items():
                np.copyto(column[at : at + size], columns[name][done : done + size])
            self.next += size
            done += size
            if at + size == self._chunk_rows:
                self._seal(number)
        return first_seq

    def take(self, seqs: I64, names: Sequence[str] | None = None) -> Columns:
        """Return copies of the rows ``seqs`` (n,), in that order; all columns or ``names``."""
        if seqs.size and not self.first <= int(seqs.min()) <= int(seqs.max()) < self.next:
            wrong = seqs[(seqs < self.first) | (seqs >= self.next)]
            raise RowsGone(int(wrong[0]), self.first, self.next)
        number, row = np.divmod(seqs, self._chunk_rows)
        parts = [*_runs(number)]
        taken = {}
        for name in self._columns if names is None else names:
            kind, width = self._columns[name]
            out = taken[name] = np.empty(_shape(seqs.size, width), kind)
            for where, chunk in parts:
                out[where] = self._chunks[chunk][name][row[where]]
        return taken

    def put(self, seqs: I64, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write some columns (n of each) into the rows ``seqs`` (n,), which are in memory.

        A `state` taken before shares full chunks with this, and would see it.
        """
        if seqs.size and not self.first <= int(seqs.min()) <= int(seqs.max()) < self.next:
            wrong = seqs[(seqs < self.first) | (seqs >= self.next)]
            raise RowsGone(int(wrong[0]), self.first, self.next)
        number, row = np.divmod(seqs, self._chunk_rows)
        for where, chunk in _runs(number):
            assert chunk not in self._spilled, "rows in a scratch file stay as they are"
            for name, values in columns.items():
                self._chunks[chunk][name][row[where]] = values[where]

    def release(self, before_seq: int) -> None:
        """Let the rows below ``before_seq`` go."""
        self.first = min(max(self.first, before_seq), self.next)
        for number in [n for n in self._chunks if (n + 1) * self._chunk_rows <= self.first]:
            del self._chunks[number]  # a mapped chunk gives its part of the disk back
            self._spilled.discard(number)

    def state(self) -> State:
        """Return all rows by chunk: full ones as they are, since they never change again.

        Only the chunk that is being filled is copied, so a checkpoint takes hardly more memory, and
        what lies in the scratch file is read when the checkpoint is written.
        """
        chunks: dict[str, Columns] = {}
        for number, columns in sorted(self._chunks.items()):
            base = number * self._chunk_rows
            here = slice(max(self.first - base, 0), min(self.next - base, self._chunk_rows))
            full = here.stop == self._chunk_rows
            parts = {name: column[here] for name, column in columns.items()}
            chunks[str(number)] = parts if full else {n: c.copy() for n, c in parts.items()}
        return {"first": self.first, "next": self.next, "chunks": chunks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self._chunks.clear()
        self._spilled.clear()
        self.first = self.next = int(state["first"])
        for _, rows in sorted(state["chunks"].items(), key=lambda chunk: int(chunk[0])):
            self.append(rows)
        assert self.next == state["next"], "the rows are those between first and next"

    def _checked(self, columns: Mapping[str, npt.NDArray[Any]]) -> int:
        if columns.keys() != self._columns.keys():
            odd = sorted(columns.keys() ^ self._columns.keys())
            raise WrongColumns(f"The columns {odd} are missing or unknown", [*self._columns])
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            raise WrongColumns(f"The columns have {sorted(sizes)} rows", [*self._columns])
        return sizes.pop() if sizes else 0

    def _empty(self, n: int) -> Columns:
        return {name: np.empty(_shape(n, width), k) for name, (k, width) in self._columns.items()}

    def _seal(self, number: int) -> None:
        """Move a chunk that is full to the scratch file, if memory is full too.

        The newest go: they will wait longest, while the oldest are taken first.
        """
        if self._scratch is None or len(self._chunks) - len(self._spilled) <= self._memory_chunks:
            return
        self._chunks[number] = _mapped(self._chunks[number], self._scratch)
        self._spilled.add(number)


def _shape(n: int, width: int | None) -> tuple[int, ...]:
    return (n,) if width is None else (n, width)


def _runs(number: I64) -> Iterator[tuple[slice | I64, int]]:
    """Yield (where, chunk): the places of ``number`` (n,) that lie in the same chunk."""
    if not number.size:
        return
    ascending = bool((number[1:] >= number[:-1]).all())  # the usual case, which needs no index
    order = np.arange(0) if ascending else np.argsort(number, kind="stable")
    grouped = number if ascending else number[order]
    ends = [*np.flatnonzero(np.diff(grouped)) + 1, number.size]
    begin = 0
    for end in ends:
        yield (slice(begin, end) if ascending else order[begin:end]), int(grouped[begin])
        begin = end


def _mapped(chunk: Columns, scratch: Path) -> Columns:
    """Write ``chunk`` to a file without a name and return it mapped from there."""
    scratch.mkdir(parents=True, exist_ok=True)
    mapped, place, at = {}, {}, 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for name, column in chunk.items():
            place[name] = at
            file.seek(at)
            file.write(column.data)
            at = -(-(at + column.nbytes) // _ALIGNMENT) * _ALIGNMENT
        file.truncate(max(at, 1))
        file.flush()
        whole = np.memmap(file, np.uint8, "r", shape=(max(at, 1),))  # outlives the descriptor
    for name, column in chunk.items():
        part = whole[place[name] : place[name] + column.nbytes]
        mapped[name] = np.asarray(part).view(column.dtype).reshape(column.shape)
    return mapped
