"""What was no event is kept with its reason: an append-only file of bounded size."""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from stream.events import EventColumns
from stream.position import Partition
from stream.source import Rejected
from stream.state import State

REASONS: Final = {
    "bad_examples": "The record of the examples topic is not one that a worker wrote.",
    "bad_json": "The line is not a JSON object.",
    "bad_time": "The time is not between 2001-09-09 and 2100-01-01 in epoch milliseconds.",
    "bad_utf8": "The line is not UTF-8.",
    "corrupt_batch": "A batch of Kafka is damaged: its checksum or its records do not fit.",
    "corrupt_frame": "The log is damaged here: its checksum or its offsets do not fit.",
    "missing_field": "A required field is absent or empty.",
    "no_value": "The message has no value, as one that deletes a key.",
    "offsets_lost": "The messages were deleted by the topic's retention before they were read.",
    "oversize": "The line is longer than the decoder takes.",
    "time_jump": "The time is far ahead of its partition's, and what followed did not confirm it.",
    "too_late": "The impression is older than all that is remembered: it may have been learned.",
    "unknown_compression": "A batch of Kafka is compressed in a way that is not known.",
    "wrong_type": "A field is of a type it cannot have.",
}

RAW_BYTES: Final = 4096  # of the input, kept in a letter: enough to see what it was


class NotDeadLetters(Exception):
    """A file that is there already holds something else."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} holds no dead letters: move it away, or name another file.")


class DeadLetters(Protocol):
    """Where letters go: a file, or a file and a topic."""

    @property
    def counts(self) -> dict[str, int]:
        """Letters by reason."""
        ...

    def extend(self, letters: Iterable[Rejected]) -> None:
        """Write ``letters`` behind those that are there."""
        ...

    def flush(self) -> None:
        """Return when all letters are where nothing can take them away."""
        ...

    def hurry(self) -> None:
        """Wait for nobody for long any more: the run is stopping. From any thread, or a signal."""
        ...

    def state(self) -> State:
        """Return how far they are written."""
        ...

    def restore(self, state: State) -> None:
        """Go back to a state, so that a resumed run writes no letter twice."""
        ...


class DeadLetterFile:
    """Letters as NDJSON in ``path``, and the older ones in ``path`` + ``.1``.

    When the file would grow past ``max_bytes`` it becomes ``.1``, whose letters are dropped and
    counted; so the two take at most twice that. Letters reach the operating system on `extend`,
    the disk on `flush`.
    """

    NOTHING: Final[State] = {"turn": 0, "bytes": 0, "letters": 0, "older": 0, "dropped": 0,
                             "counts": {}}  # fmt: skip

    def __init__(self, path: Path, max_bytes: int = 64 << 20) -> None:  # months of a healthy stream
        self._path = path
        self._older_path = path.with_name(path.name + ".1")
        self._max_bytes = max_bytes
        self._unsynced = True
        if not path.exists() and self._older_path.exists():  # a crash inside `_turn_over`
            self._older_path.replace(path)
        self.restore(self._found() if path.exists() else self.NOTHING)

    @property
    def counts(self) -> dict[str, int]:
        """Letters by reason, dropped ones included; sorted."""
        return dict(sorted(self._counts.items()))

    @property
    def dropped(self) -> int:
        """Letters that are in neither file any more."""
        return self._dropped

    def extend(self, letters: Iterable[Rejected]) -> None:
        """Write ``letters`` behind those that are there."""
        lines: list[bytes] = []
        size = 0
        for letter in letters:
            self._counts[letter.reason] = self._counts.get(letter.reason, 0) + 1
            line = encode_letter(letter)
            if self._bytes + size + len(line) > self._max_bytes:
                self._write(lines, size)
                self._turn_over()
                lines, size = [], 0
            lines.append(line)
            size += len(line)
        self._write(lines, size)

    def flush(self) -> None:
        """Return when all letters are on the disk."""
        if self._unsynced:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
            self._unsynced = False

    def hurry(self) -> None:
        """Do nothing: a file waits for nobody."""

    def state(self) -> State:
        """Return how far the file is written, and the counts."""
        return {
            "turn": self._turn,
            "bytes": self._bytes,
            "letters": self._letters,
            "older": self._older,
            "dropped": self._dropped,
            "counts": dict(self._counts),
        }

    def restore(self, state: State) -> None:
        """Cut the file back to a state, so that a resumed run writes no letter twice.

        Letters that were turned over twice since are gone; the counts stay right.
        """
        turn = _turn_of(self._path)
        if turn == state["turn"] + 1 and _turn_of(self._older_path) == state["turn"]:
            self._older_path.replace(self._path)
            turn = state["turn"]
        self._turn = int(state["turn"])
        self._counts = {str(k): int(v) for k, v in state["counts"].items()}
        self._letters, self._older = int(state["letters"]), int(state["older"])
        self._dropped = int(state["dropped"])
        if turn == self._turn and self._path.stat().st_size >= state["bytes"] > 0:
            self._bytes = int(state["bytes"])
            os.truncate(self._path, self._bytes)
        else:
            self._dropped += self._letters
            self._letters = 0
            self._begin()
        if _turn_of(self._older_path) != self._turn - 1:  # of a run that was not resumed
            self._older_path.unlink(missing_ok=True)
            self._dropped, self._older = self._dropped + self._older, 0
        self._unsynced = True

    @staticmethod
    def read(path: Path) -> Iterator[Rejected]:
        """Yield the letters of ``path`` and before them the older ones; a torn last one is left."""
        for part in (path.with_name(path.name + ".1"), path):
            if part.exists():
                with part.open("rb") as file:
                    for line in file:
                        letter = decode_letter(line)
                        if letter is not None:
                            yield letter

    def _begin(self) -> None:
        head = orjson.dumps({"deadletters": 1, "turn": self._turn}) + b"\n"
        self._path.write_bytes(head)
        self._bytes, self._letters = len(head), 0

    def _turn_over(self) -> None:
        self.flush()
        self._path.replace(self._older_path)
        self._dropped += self._older
        self._older = self._letters
        self._turn += 1
        self._begin()

    def _write(self, lines: list[bytes], size: int) -> None:
        if lines:
            with self._path.open("ab", buffering=0) as file:
                file.write(b"".join(lines))
            self._bytes += size
            self._letters += len(lines)
            self._unsynced = True

    def _found(self) -> State:
        """Return the state that a file left by another run is in. Raises `NotDeadLetters`."""
        if self._path.stat().st_size == 0:
            return self.NOTHING
        turn = _turn_of(self._path)
        if turn is None:
            raise NotDeadLetters(self._path)
        letters = 0
        size = 0
        counts: dict[str, int] = {}
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                size += len(line)
                letter = decode_letter(line)
                if letter is not None:
                    letters += 1
                    counts[letter.reason] = counts.get(letter.reason, 0) + 1
        older = 0
        if _turn_of(self._older_path) == turn - 1:
            with self._older_path.open("rb") as file:
                for line in file:
                    letter = decode_letter(line)
                    if letter is not None:
                        older += 1
                        counts[letter.reason] = counts.get(letter.reason, 0) + 1
        return {"turn": turn, "bytes": size, "letters": letters, "older": older, "dropped": 0,
                "counts": counts}  # fmt: skip


def too_late(events: EventColumns, partitions: Sequence[Partition]) -> list[Rejected]:
    """Return the letters of impressions that may have been learned; only columns are left."""
    places = zip(
        events.partition.tolist(),
        events.offset.tolist(),
        events.row.tolist(),
        events.ts.tolist(),
        strict=True,
    )
    return [
        Rejected(
            partitions[p],
            offset,
            row,
            "too_late",
            f"{partitions[p]} at {offset}, row {row}: an impression of ts {ts}, older than all "
            "that is remembered (join.remember_s)",
            b"",
        )
        for p, offset, row, ts in places
    ]


def _turn_of(path: Path) -> int | None:
    """Return the turn that a file's first line names; None where there is no such file."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            return int(orjson.loads(file.readline())["turn"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None


def encode_letter(letter: Rejected) -> bytes:
    """Return a letter as a line of JSON, its newline included."""
    content: dict[str, Any] = {
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.offset,
        "row": letter.row,
        "reason": letter.reason,
        "detail": letter.detail.encode(errors="backslashreplace").decode(),
    }
    raw = letter.raw[:RAW_BYTES]
    try:
        content["raw"] = raw.decode()
    except UnicodeDecodeError:
        content["raw_base64"] = base64.b64encode(raw).decode()
    return orjson.dumps(content) + b"\n"


def decode_letter(line: bytes) -> Rejected | None:
    """Return the letter of a line; None for a head, and for a line that a crash cut off.

    Raises `KeyError` or `TypeError` where it is JSON of another kind.
    """
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if "deadletters" in content:
        return None
    raw = content.get("raw")
    return Rejected(
        Partition(content["topic"], content["partition"]),
        content["offset"],
        content["row"],
        content["reason"],
        content["detail"],
        base64.b64decode(content["raw_base64"]) if raw is None else raw.encode(),
    )
