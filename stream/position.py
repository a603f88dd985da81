"""Where to read next: for every (topic, partition) the next offset and row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple


class Partition(NamedTuple):
    """One ordered log: a topic's partition."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Offset(NamedTuple):
    """The next message of a partition, and the next event (row) inside it."""

    message: int
    row: int = 0


@dataclass(frozen=True)
class Position:
    """The next event to read of every partition; a partition it does not name starts at 0.

    >>> here = Position({Partition("impressions", 0): Offset(7, row=2)})
    >>> Position.from_json(here.to_json()) == here
    True
    """

    offsets: Mapping[Partition, Offset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", MappingProxyType(dict(self.offsets)))

    def of(self, partition: Partition) -> Offset:
        """Return the next offset of ``partition``."""
        return self.offsets.get(partition, Offset(0))

    def moved(self, partition: Partition, to: Offset) -> "Position":
        """Return this position with ``partition`` at ``to``."""
        return Position({**self.offsets, partition: to})

    def to_json(self) -> list[list[str | int]]:
        """Return rows of [topic, partition, message, row], sorted."""
        return [[p.topic, p.number, o.message, o.row] for p, o in sorted(self.offsets.items())]

    @classmethod
    def from_json(cls, rows: list[list[str | int]]) -> "Position":
        """Return the position that `to_json` wrote."""
        return cls({Partition(str(t), int(n)): Offset(int(m), int(r)) for t, n, m, r in rows})
