"""A simulated world as a log: events in NDJSON messages, with the troubles of real ones if wanted.

Impressions carry the features device, age_group, category and price, and `true_ctr`, the
probability of a click: never a feature, but what an oracle is scored by.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from replay.world import AGE_GROUPS, CATEGORIES, DEVICES, Clicks, Impressions, World
from stream.ids import hash_ids
from stream.position import Partition

TOPICS: Final = ("impressions", "feedback")
_BROKEN: Final = (  # no events, each for another reason; a line cut short is one more
    b"not json\n",
    b'["a", "list"]\n',
    b'{"impression_id": "x", "user_id": "u1"}\n',
    b'{"impression_id": "x", "user_id": "u1", "item_id": "i1", "scene": "s", "action": "click",'
    b' "ts": "soon"}\n',
    b'{"impression_id": "x", "user_id": "u1", "item_id": "i1", "scene": "s", "action": "click",'
    b' "ts": 1}\n',
    b'{"impression_id": "\xff\xfe", "user_id": "u1", "ts": 1700006400000}\n',
)


@dataclass(frozen=True, kw_only=True)
class Chaos:
    """What goes wrong on the way to the log. Shares of all events, of both topics."""

    duplicates: float = 0.0  # written twice
    duplicate_after_s: float = 60.0  # at most so much later
    late: float = 0.0  # written late
    late_by_s: float = 300.0  # by at least half as much, at most so much
    malformed: float = 0.0  # followed by a line that is no event; the event itself is unharmed
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("duplicates", "late", "malformed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is a share: 0 to 1")


@dataclass(frozen=True)
class Message:
    """One message to append: NDJSON of one event or more."""

    partition: Partition
    at_ms: int  # when its last line is written, on the clock of the world
    value: bytes
    lines: int


@dataclass(kw_only=True)
class Written:
    """What a log holds: what a reader of it must find again."""

    messages: int = 0
    impressions: int = 0  # without duplicates
    feedback: int = 0
    duplicates: int = 0
    late: int = 0
    malformed: int = 0
    until_ms: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass
class Simulation:
    """Messages of a world, in the order in which they are written; ``written`` counts along.

    A message holds up to ``per_message`` events of one partition. Users are spread over the
    partitions by the hash of their id, so a user's impressions and feedback share a number.
    """

    world: World
    partitions: int = 1
    per_message: int = 1
    chaos: Chaos = field(default_factory=Chaos)
    written: Written = field(default_factory=Written)

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.per_message < 1:
            raise ValueError("partitions and per_message must be at least 1")

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages from the beginning of the world."""
        self.written = Written()
        rng = np.random.default_rng([self.chaos.seed, 0xC4A05])
        held: list[_Lines] = [_Lines.none() for _ in TOPICS]
        for block in self.world.blocks():
            fresh = (self._impressions(block.impressions), self._feedback(block.clicks))
            self.written.impressions += len(block.impressions)
            self.written.feedback += block.clicks.at_ms.size
            due = []
            for topic, lines in enumerate(fresh):
                held[topic] = _Lines.concat([held[topic], self._troubled(rng, lines)])
                due.append(held[topic].take(held[topic].at_ms <= block.until_ms))
                held[topic] = held[topic].take(held[topic].at_ms > block.until_ms)
            yield from self._messages(due)
        yield from self._messages(held)

    def _messages(self, due: list["_Lines"]) -> Iterator[Message]:
        messages = []
        for topic, lines in zip(TOPICS, due, strict=True):
            for number in range(self.partitions):
                of = np.flatnonzero(lines.partition == number)
                of = of[np.argsort(lines.at_ms[of], kind="stable")]
                at, texts = lines.at_ms[of].tolist(), [lines.text[k] for k in of.tolist()]
                for start in range(0, len(texts), self.per_message):
                    part = texts[start : start + self.per_message]
                    last = at[start + len(part) - 1]
                    partition = Partition(topic, number)
                    messages.append(Message(partition, last, b"".join(part), len(part)))
        messages.sort(key=lambda m: m.at_ms)
        self.written.messages += len(messages)
        if messages:
            self.written.until_ms = messages[-1].at_ms
        yield from messages

    def _impressions(self, shown: Impressions) -> "_Lines":
        scenes = self.world.config.scenes
        columns = (shown.request, shown.position, shown.user, shown.item, shown.at_ms, shown.scene,
                   shown.device, shown.age_group, shown.category, shown.price, shown.p)  # fmt: skip
        text = [
            f'{{"impression_id":"r{r}.{k}","request_id":"r{r}","user_id":"u{u}","item_id":"i{i}",'
            f'"ts":{ts},"scene":"{scenes[s]}","position":{k},"features":{{'
            f'"device":"{DEVICES[d]}","age_group":"{AGE_GROUPS[g]}","category":"{CATEGORIES[c]}",'
            f'"price":{price},"true_ctr":{p}}}}}\n'.encode()
            for r, k, u, i, ts, s, d, g, c, price, p in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]
        return _Lines(text, shown.at_ms, self._partition(shown.user))

    def _feedback(self, clicks: Clicks) -> "_Lines":
        columns = clicks.request, clicks.position, clicks.user, clicks.at_ms
        text = [
            f'{{"impression_id":"r{r}.{k}","user_id":"u{u}","ts":{ts},"action":"click"}}\n'.encode()
            for r, k, u, ts in zip(*(column.tolist() for column in columns), strict=True)
        ]
        return _Lines(text, clicks.at_ms, self._partition(clicks.user))

    def _partition(self, user: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.partitions == 1 or not user.size:
            return np.zeros(user.size, np.int64)
        hashed = hash_ids([f"u{u}" for u in user.tolist()])
        return (hashed % np.uint64(self.partitions)).astype(np.int64)

    def _troubled(self, rng: np.random.Generator, lines: "_Lines") -> "_Lines":
        """Return the lines with their time of writing, and what chaos adds to them."""
        chaos, n = self.chaos, len(lines.text)
        if not (chaos.duplicates or chaos.late or chaos.malformed):
            return lines
        late = rng.random(n) < chaos.late
        by_ms = (chaos.late_by_s * 1000 * rng.uniform(0.5, 1.0, n)).astype(np.int64)
        at = lines.at_ms + np.where(late, by_ms, 0)
        again = np.flatnonzero(rng.random(n) < chaos.duplicates)
        after = (chaos.duplicate_after_s * 1000 * rng.random(again.size)).astype(np.int64)
        broken = np.flatnonzero(rng.random(n) < chaos.malformed)
        kinds = rng.integers(0, len(_BROKEN) + 1, broken.size).tolist()
        self.written.late += int(late.sum())
        self.written.duplicates += again.size
        self.written.malformed += broken.size
        return _Lines.concat(
            [
                _Lines(lines.text, at, lines.partition),
                lines.take(again).at(at[again] + after),
                _Lines(
                    [_broken(lines.text[k], kind) for k, kind in zip(broken.tolist(), kinds,
                                                                     strict=True)],
                    at[broken],
                    lines.partition[broken],
                ),
            ]
        )  # fmt: skip


def write(
    world: World,
    append: Callable[[Partition, bytes], Any],
    *,
    partitions: int = 1,
    per_message: int = 1,
    chaos: Chaos | None = None,
) -> Written:
    """Append the whole (finite) world to a log; return what was written."""
    simulation = Simulation(world, partitions, per_message, chaos or Chaos())
    for message in simulation:
        append(message.partition, message.value)
    return simulation.written


def _broken(line: bytes, kind: int) -> bytes:
    return _BROKEN[kind] if kind < len(_BROKEN) else line[:20] + b"\n"


@dataclass(frozen=True, eq=False)
class _Lines:
    """Lines, when each is written, and to which partition."""

    text: list[bytes]
    at_ms: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> "_Lines":
        return cls([], np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def concat(cls, parts: list["_Lines"]) -> "_Lines":
        return cls(
            [line for part in parts for line in part.text],
            np.concatenate([part.at_ms for part in parts]),
            np.concatenate([part.partition for part in parts]),
        )

    def take(self, index: npt.NDArray[Any]) -> "_Lines":
        where = np.flatnonzero(index) if index.dtype == bool else index
        return _Lines(
            [self.text[k] for k in where.tolist()], self.at_ms[where], self.partition[where]
        )

    def at(self, at_ms: npt.NDArray[np.int64]) -> "_Lines":
        return _Lines(self.text, at_ms, self.partition)
