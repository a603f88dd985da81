"""The order and the join once more in plain Python: slow, obvious, the measure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from stream.events import FEEDBACK, IMPRESSION, EventColumns, EventSchema
from stream.policy import Emission, Emissions, Wait
from stream.position import Partition, Position
from stream.source import Block

ACTIONS = ("click", "cart")
SCHEMA = EventSchema(ids=("colour",), lists=(("seen", 2),), actions=ACTIONS)
OTHER = 255


class Event(NamedTuple):
    """One event of a test log."""

    kind: int
    ts: int
    id: int
    action: int = OTHER


def shown(name: int, ts: int) -> Event:
    """Return the impression ``name``."""
    return Event(IMPRESSION, ts, name)


def feedback(name: int, ts: int, action: int = 0) -> Event:
    """Return a feedback on the impression ``name``: a click where nothing else is said."""
    return Event(FEEDBACK, ts, name, action)


def columns(events: Sequence[Event], partition: int = 0, first_offset: int = 0) -> EventColumns:
    """Return ``events`` as the columns of one partition, two events a message, `at` = `ts`."""
    block = EventColumns.empty(SCHEMA, len(events))
    for i, event in enumerate(events):
        block.kind[i] = event.kind
        block.ts[i] = block.at[i] = event.ts
        block.impression[i] = block.ids[i, 0] = event.id
        block.action[i] = event.action
        block.partition[i] = partition
        block.offset[i], block.row[i] = divmod(first_offset * 2 + i, 2)
        block.lists[i] = (event.id, event.ts)
    return block


def cut(events: EventColumns, at: Sequence[int]) -> list[EventColumns]:
    """Return ``events`` cut at the indices ``at``, which may repeat: empty blocks are blocks."""
    ends = [0, *sorted(min(i, len(events)) for i in at), len(events)]
    return [events.take(slice(a, b)) for a, b in pairwise(ends)]


def block_of(events: EventColumns, **said: Any) -> Block:
    """Return a source's block of ``events``."""
    return Block(events, Position(), **said)


def partitions(n: int) -> tuple[Partition, ...]:
    """Return ``n`` partitions."""
    return tuple(Partition("events", i) for i in range(n))


def beginning_too_far_ahead(log: Sequence[Event], max_jump: int, confirmations: int) -> set[int]:
    """Return the indices of the first events of a partition that those after them prove wrong."""
    times = [event.ts for event in log[:confirmations]]
    agreed = [
        (i, max(a, b))
        for i, a in enumerate(times)
        for b in times[:i]
        if a != b and abs(a - b) <= max_jump
    ]
    if agreed:
        decided = min(i for i, _ in agreed)
        start = max(time for i, time in agreed if i == decided)
        times = times[: decided + 1]
    else:
        start = min(times, key=lambda time: (-times.count(time), time), default=0)
    return {i for i, time in enumerate(times) if time > start + max_jump}


def in_order(
    logs: Sequence[Sequence[Event]], lateness: int, max_jump: int, confirmations: int
) -> tuple[list[tuple[int, int, int, int]], set[tuple[int, int]]]:
    """Return (at, kind, partition, index) of all events in canonical order, and who is refused."""
    placed, refused = [], set()
    for p, log in enumerate(logs):
        clock, doubted = None, []
        absurd = beginning_too_far_ahead(log, max_jump, confirmations)
        refused |= {(p, i) for i in absurd}
        for i, event in enumerate(log):
            if i in absurd:
                continue
            if clock is not None and event.ts > clock + max_jump:
                if doubted and abs(event.ts - log[doubted[0]].ts) > max_jump:
                    doubted.clear()  # stay refused
                doubted.append(i)
                refused.add((p, i))
                if len(doubted) < confirmations:
                    continue
                accepted, doubted = doubted, []
            else:
                accepted, doubted = [i], []
            for j in accepted:
                refused.discard((p, j))
                at = log[j].ts if clock is None else max(log[j].ts, clock - lateness)
                placed.append((at, log[j].kind, p, j))
                clock = log[j].ts if clock is None else max(clock, log[j].ts)
    return sorted(placed), refused


class Example(NamedTuple):
    """An example as the join lets it go."""

    seq: int
    label: int
    label_at: int
    actions: int
    kind: int
    before: int


def waited(events: Sequence[Event], window: int, early: int) -> list[Example]:
    """Return the examples under `wait`, by their definition; nothing is ever forgotten."""
    first = {e.id: i for i, e in reversed([*enumerate(events)]) if e.kind == IMPRESSION}
    examples = []
    for seq, i in enumerate(sorted(first.values())):
        at, deadline = events[i].ts, events[i].ts + window
        heard = [
            (max(e.ts, at), e.action)
            for j, e in enumerate(events)
            if e.kind == FEEDBACK and e.id == events[i].id and e.action != OTHER
            if (e.ts < deadline if j > i else e.ts + early > at)
        ]
        label_at = min((when for when, action in heard if action == 0), default=-1)
        before = next((j for j, e in enumerate(events) if e.ts >= deadline), len(events))
        actions = sum({1 << action for _, action in heard})
        examples.append(Example(seq, label_at >= 0, label_at, actions, 0, before))
    return examples


@dataclass
class _Shown:
    id: int
    seq: int
    at: int
    label_at: int = -1
    actions: set[int] = field(default_factory=set)


@dataclass
class ReferenceJoin:
    """The join with all its bounds and any policy, an event at a time."""

    window: int
    early: int
    remember: int
    max_pending: int = 1_000
    max_remembered: int = 1_000
    max_early: int = 1_000
    emissions: Emissions = field(default_factory=lambda: Wait().emissions)
    accepted: list[int] = field(default_factory=list)
    matched: list[tuple[int, int, int, bool]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pending: list[_Shown] = []
        self._remembered: list[_Shown] = []
        self._early: list[tuple[int, int, int] | None] = []
        self._forgotten_at = -(1 << 62)
        self._seq = 0

    def run(self, events: Sequence[Event], *, drain: bool = True) -> "ReferenceJoin":
        """Take all events, then the end of the log."""
        for i, event in enumerate(events):
            self._expire(event.ts, i)
            if event.kind == IMPRESSION:
                self._show(event, i)
            elif event.action == OTHER:
                self._count("other_actions")
            else:
                self._hear(event, i)
        if drain:
            self._expire(1 << 61, len(events), forget=self.emissions.outlive_the_deadline)
        return self

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _known(self, name: int) -> Iterator[_Shown]:
        return (s for s in self._pending + self._remembered if s.id == name)

    def _show(self, event: Event, i: int) -> None:
        if any(self._known(event.id)):
            return self._count("duplicates")
        if event.ts <= self._forgotten_at:
            self._count("too_late")
            return self.refused.append(i)
        if len(self._pending) == self.max_pending:
            self._count("forced")
            self._settle(i)
        self._count("impressions")
        self.accepted.append(i)
        impression = _Shown(event.id, self._seq, event.ts)
        self._seq += 1
        self._pending.append(impression)
        self._emit(self.emissions.arrival, impression, i + 1)
        for k, waiting in enumerate(self._early):
            if waiting and waiting[0] == event.id:
                self._early[k] = None
                self._match(impression, waiting[2], event.ts, i)

    def _hear(self, event: Event, i: int) -> None:
        for impression in self._known(event.id):
            return self._match(impression, event.action, event.ts, i)
        older = [w and (w[0], w[2]) == (event.id, event.action) for w in self._early]
        self._early = [None if old else w for w, old in zip(self._early, older, strict=True)]
        self._count("duplicate_feedback" if any(older) else "early")
        if len(self._early) == self.max_early:
            self._orphan()
        self._early.append((event.id, event.ts, event.action))

    def _match(self, impression: _Shown, action: int, at: int, i: int) -> None:
        if action in impression.actions:
            return self._count("duplicate_feedback")
        impression.actions.add(action)
        is_label = action == 0
        impression.label_at = at if is_label else impression.label_at
        if impression in self._remembered:
            self._count("late")
            return self._emit(self.emissions.later_click if is_label else None, impression, i + 1)
        self._count("matched")
        self.matched.append((i, impression.seq, action, is_label))
        return self._emit(self.emissions.click if is_label else None, impression, i + 1)

    def _emit(self, emission: Emission | None, of: _Shown, before: int) -> None:
        if emission:
            label_at = of.label_at if emission.label else -1
            actions = sum(1 << action for action in of.actions)
            self.examples.append(
                Example(of.seq, emission.label, label_at, actions, emission.kind, before)
            )

    def _expire(self, now: int, before: int, *, forget: bool = True) -> None:
        while True:
            due = [(s.at + self.window, 0) for s in self._pending[:1]]
            if forget:
                due += [(s.at + self.window + self.remember, 1) for s in self._remembered[:1]]
            if not due or min(due)[0] > now:
                break
            self._forget(before) if min(due)[1] else self._settle(before)
        while self._early and (not self._early[0] or self._early[0][1] + self.early <= now):
            self._orphan()

    def _settle(self, before: int) -> None:
        impression = self._pending.pop(0)
        e = self.emissions
        clicked = impression.label_at >= 0
        self._emit(e.deadline_positive if clicked else e.deadline_negative, impression, before)
        self._remembered.append(impression)
        if len(self._remembered) > self.max_remembered:
            self._forget(before)

    def _forget(self, before: int) -> None:
        impression = self._remembered.pop(0)
        e = self.emissions
        clicked = impression.label_at >= 0
        self._emit(e.horizon_positive if clicked else e.horizon_negative, impression, before)
        self._forgotten_at = impression.at

    def _orphan(self) -> None:
        if self._early.pop(0):
            self._count("orphans")


def same(expected: EventColumns, actual: EventColumns) -> bool:
    """Return whether two blocks hold the same events; NaN equals NaN."""
    mine, theirs = expected.columns(), actual.columns()
    return all(np.array_equal(mine[k].view(np.uint8), theirs[k].view(np.uint8)) for k in mine)
