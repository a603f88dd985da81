"""Dead letters as a topic: written at least once, read each once."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from xxhash import xxh3_64_intdigest

from stream.deadletters import DeadLetterFile, decode_letter, encode_letter
from stream.kafka import KafkaUnreachable
from stream.position import Partition
from stream.source import Rejected
from stream.state import State

_KEYS: Final = 500_000  # remembered while reading, twice: 0.1 GB at most
STOP_S: Final = 5.0  # a broker is given so long when a run stops: supervisors wait for seconds


class LetterWriter(Protocol):
    """Where records are appended: `stream.kafka_writer.KafkaWriter`."""

    def append(self, partition: Partition, value: bytes, *, key: bytes | None = None) -> object:
        """Append a record."""
        ...

    def flush(self) -> None:
        """Return when all records are acknowledged."""
        ...

    def hurry(self, within_s: float) -> None:
        """Raise `KafkaUnreachable` from whatever waits for longer than ``within_s`` from now."""
        ...

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...


class DeadLetterTopic:
    """Writes letters into a topic: a line as `DeadLetterFile` has it, the key is its origin.

    Whoever goes on after a crash writes some letters a second time; by the key readers drop them.
    A letter goes to the partition of its key, of ``partitions``. Memory: the writer's.
    """

    def __init__(self, writer: LetterWriter, topic: str, partitions: int = 1) -> None:
        self._writer = writer
        self._topic = topic
        self._partitions = partitions

    def extend(self, letters: Iterable[Rejected]) -> None:
        """Append ``letters``; raises what the writer raises."""
        for letter in letters:
            key = key_of(letter)
            partition = Partition(self._topic, xxh3_64_intdigest(key) % self._partitions)
            self._writer.append(partition, encode_letter(letter).rstrip(), key=key)

    def flush(self) -> None:
        """Return when all letters are acknowledged."""
        self._writer.flush()

    def hurry(self) -> None:
        """Wait for a broker `STOP_S` more at most, then raise `KafkaUnreachable`."""
        self._writer.hurry(STOP_S)

    def close(self) -> None:
        """Close the writer; idempotent."""
        self._writer.close()


class FileAndTopic:
    """The letters of a run: exactly in its file, and in a topic for everybody.

    A broker that is away is waited for, until the run is to stop (`hurry`): then what it does not
    take soon is in the file only, and ``say`` is told.
    """

    def __init__(
        self, file: DeadLetterFile, topic: DeadLetterTopic, say: Callable[[str], None]
    ) -> None:
        self._file = file
        self._topic = topic
        self._say = say
        self._hurried = self._given_up = False

    @property
    def counts(self) -> dict[str, int]:
        """Letters by reason, as the file counts them."""
        return self._file.counts

    def extend(self, letters: Iterable[Rejected]) -> None:
        """Write ``letters`` into both."""
        letters = list(letters)
        self._file.extend(letters)
        if not self._given_up:
            self._unless_given_up(lambda: self._topic.extend(letters))

    def flush(self) -> None:
        """Return when all letters are on the disk and acknowledged."""
        self._file.flush()
        if not self._given_up:
            self._unless_given_up(self._topic.flush)

    def hurry(self) -> None:
        """Wait for a broker `STOP_S` more at most."""
        self._hurried = True
        self._topic.hurry()

    def state(self) -> State:
        """Return how far the file is written; what the topic holds twice, its keys tell."""
        return self._file.state()

    def restore(self, state: State) -> None:
        """Cut the file back to a state."""
        self._file.restore(state)

    def close(self) -> None:
        """Close the topic; idempotent."""
        self._unless_given_up(self._topic.close)

    def _unless_given_up(self, call: Callable[[], None]) -> None:
        try:
            call()
        except KafkaUnreachable as error:
            if not self._hurried:
                raise
            if not self._given_up:
                self._say(f"The last dead letters are in the run folder, and not in Kafka: {error}")
            self._given_up = True


def key_of(letter: Rejected) -> bytes:
    """Return what tells a letter from all others: where its input was.

    >>> key_of(Rejected(Partition("impressions", 2), 17, 3, "bad_json", "", b"{"))
    b'impressions/2/17/3'
    """
    return f"{letter.partition}/{letter.offset}/{letter.row}".encode()


def letters_of(values: Iterable[bytes]) -> Iterator[Rejected | None]:
    """Yield the letters of a topic's record values, each once; None for what is no letter.

    One that comes again a million letters later is taken for another.
    """
    older: set[int] = set()
    newer: set[int] = set()
    for value in values:
        try:
            letter = decode_letter(value)
        except (AttributeError, KeyError, TypeError, ValueError):
            letter = None
        if letter is None:
            yield None
            continue
        key = xxh3_64_intdigest(key_of(letter))
        if key in newer or key in older:
            continue
        newer.add(key)
        if len(newer) == _KEYS:
            older, newer = newer, set()
        yield letter
