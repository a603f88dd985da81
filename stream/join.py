"""The label join: impressions wait for their feedback and settle (docs/architecture.md §2).

n events, m matched, s settled; all times are `EventColumns.at`, ms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream import joinkernel as kernel
from stream.events import EventColumns, EventSchema
from stream.policy import Policy
from stream.state import State
from stream.table import capacity_for, grown, new_table

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

FOREVER = 1 << 62  # a time after all others


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """How long impressions wait and are remembered, and how many at most."""

    window_s: float = 600.0  # most clicks on a list come within minutes; fresh beats complete
    early_s: float = 600.0  # as long as the window: topics may lag each other both ways
    remember_s: float = 3600.0  # redeliveries and late clicks come within the hour
    label_actions: tuple[str, ...] = ("click",)  # what makes a positive
    max_pending: int = 2_000_000  # 3,300 impressions/s at the default window
    max_remembered: int = 4_000_000  # 1,100 impressions/s at the default hour; 32 bytes each
    max_early: int = 200_000  # feedback without an impression is rare, or junk

    def __post_init__(self) -> None:
        for name in ("window_s", "early_s", "remember_s", "max_remembered"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to 0 or more.")
        for name in ("max_pending", "max_early"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to 1 or more.")


class UnknownLabelAction(ValueError):
    """A label action that no event can carry."""

    def __init__(self, action: str, actions: tuple[str, ...]) -> None:
        super().__init__(
            f"The label action {action!r} is none of the schema's actions {list(actions)}. "
            "Add it to the schema's actions or take it out of label_actions."
        )


class EventsOutOfOrder(ValueError):
    """Events that are not in canonical order."""

    def __init__(self, index: int, at: int, after: int) -> None:
        super().__init__(
            f"Event {index} of the block lies at {at}, after one at {after}. "
            "Pass events through EventTimeOrder before the join."
        )


@dataclass(frozen=True, eq=False)
class Settled:
    """Examples that go to the learner, in order; s of each."""

    seq: I64
    label: U8  # 0 or 1
    label_at: I64  # when the label became known, -1 for a negative
    actions: U8  # bits over EventSchema.actions: all feedback by then
    kind: U8  # SETTLED, EARLY_POSITIVE or CORRECTION (stream/policy)
    before: I64  # index of the event before which it settled; ascends; n: after all events

    def __len__(self) -> int:
        return self.seq.size


@dataclass(frozen=True, eq=False)
class Joined:
    """What became of a block of events, in order."""

    accepted: I64  # indices of the impressions that got a seq: first_seq + arange
    first_seq: int
    matched_event: I64  # (m,) index of the feedback; if that came early, of its impression
    matched_seq: I64  # (m,)
    matched_action: U8  # (m,) index into EventSchema.actions
    matched_is_label: npt.NDArray[np.bool_]  # (m,) it made its impression a positive
    refused: I64  # indices of the impressions that came too late to know whether they were learned
    settled: Settled


class LabelJoin:
    """Gives every impression a label and a moment at which it is learned.

    How the events are cut into blocks, and when `advance` is called, changes no result. Memory:
    at most 32 bytes (kept at a power of two) and two table slots of 16 bytes for each of
    ``max_pending + max_remembered`` impressions, and the like for ``max_early`` feedbacks.
    """

    def __init__(self, config: JoinConfig, policy: Policy, schema: EventSchema) -> None:
        self._config = config
        self._codes = policy.emissions.codes()
        self._outlive = policy.emissions.outlive_the_deadline
        labels = 0
        for action in config.label_actions:
            if action not in schema.actions:
                raise UnknownLabelAction(action, schema.actions)
            labels |= 1 << schema.actions.index(action)
        self._limits = np.zeros(kernel.LIMITS, np.int64)
        self._limits[kernel.WINDOW] = round(config.window_s * 1000)
        self._limits[kernel.EARLY] = round(config.early_s * 1000)
        self._limits[kernel.REMEMBER] = round(config.remember_s * 1000)
        self._limits[kernel.MAX_PENDING] = config.max_pending
        self._limits[kernel.MAX_REMEMBERED] = config.max_remembered
        self._limits[kernel.MAX_EARLY] = config.max_early
        self._limits[kernel.LABEL_ACTIONS] = labels
        self._clear()

    def _clear(self) -> None:
        self._cursor = np.zeros(kernel.CURSORS, np.int64)
        self._cursor[kernel.NOW] = self._cursor[kernel.FORGOTTEN_AT] = -FOREVER
        self._shown = np.zeros(16, kernel.SHOWN)  # grows up to the bound, as do the others
        self._by_id = new_table(16)
        self._early = np.zeros(16, kernel.EARLY_FEEDBACK)
        self._early_by_id = new_table(16)

    def counts(self) -> dict[str, int]:
        """Return counts since the beginning of the stream; `pending` and `waiting` are of now."""
        counts = {name: int(self._cursor[i]) for name, i in kernel.COUNTERS.items()}
        counts["pending"] = self.next_seq - int(self._cursor[kernel.SETTLE])
        counts["waiting"] = int(self._cursor[kernel.EARLY_LIVE])  # feedback, for its impression
        return counts

    @property
    def first_pending(self) -> int:
        """Every seq below it has left for good: its row may be released."""
        return int(self._cursor[kernel.FORGET if self._outlive else kernel.SETTLE])

    @property
    def next_seq(self) -> int:
        """The seq of the next impression accepted."""
        return int(self._cursor[kernel.NEXT])

    def feed(self, events: EventColumns) -> Joined:
        """Take the next events, in canonical order."""
        self._check_order(events.at)
        self._make_room(events)
        self._cursor[kernel.MATCHED] = self._cursor[kernel.EMITTED] = 0
        matched = np.empty(len(events) + int(self._cursor[kernel.EARLY_LIVE]), kernel.MATCH)
        first_seq = self.next_seq
        fate, emitted = kernel.feed(
            events.kind,
            events.ts,
            events.at,
            events.impression.view(np.int64),
            events.action,
            self._shown,
            self._by_id,
            self._early,
            self._early_by_id,
            self._cursor,
            self._limits,
            self._codes,
            matched,
            np.empty(len(events) + 64, kernel.EMITTED_ROW),
        )
        matched = matched[: self._cursor[kernel.MATCHED]]
        return Joined(
            accepted=np.flatnonzero(fate == kernel.ACCEPTED),
            first_seq=first_seq,
            matched_event=matched["event"].copy(),
            matched_seq=matched["seq"].copy(),
            matched_action=matched["action"].copy(),
            matched_is_label=matched["is_label"].astype(np.bool_),
            refused=np.flatnonzero(fate == kernel.TOO_LATE),
            settled=self._settled(emitted),
        )

    def advance(self, at_ms: int) -> Joined:
        """Let time pass: no event before ``at_ms`` will come. Earlier than before: no effect."""
        return self._expire(at_ms, horizon=True)

    def drain(self) -> Joined:
        """Settle everything that is pending: the log has ended. What was shown stays remembered."""
        return self._expire(FOREVER, horizon=self._outlive)

    def _expire(self, at_ms: int, *, horizon: bool) -> Joined:
        self._cursor[kernel.EMITTED] = 0
        first_seq = self.next_seq
        emitted = kernel.expire(
            at_ms,
            horizon,
            self._shown,
            self._by_id,
            self._early,
            self._early_by_id,
            self._cursor,
            self._limits,
            self._codes,
            np.empty(64, kernel.EMITTED_ROW),
            0,
        )
        if at_ms != FOREVER:  # a drained join can go on where it was
            self._cursor[kernel.NOW] = max(int(self._cursor[kernel.NOW]), at_ms)
        none = np.zeros(0, np.int64)
        nothing = np.zeros(0, np.uint8)
        return Joined(
            accepted=none,
            first_seq=first_seq,
            matched_event=none,
            matched_seq=none,
            matched_action=nothing,
            matched_is_label=nothing.astype(np.bool_),
            refused=none,
            settled=self._settled(emitted),
        )

    def _settled(self, emitted: npt.NDArray[np.void]) -> Settled:
        emitted = emitted[: self._cursor[kernel.EMITTED]]
        return Settled(**{name: emitted[name].copy() for name in kernel.EMITTED_ROW.names or ()})

    def _check_order(self, at: I64) -> None:
        if not at.size:
            return
        now = int(self._cursor[kernel.NOW])
        if at[0] < now:
            raise EventsOutOfOrder(0, int(at[0]), now)
        if not (at[1:] >= at[:-1]).all():
            i = int(np.argmax(at[1:] < at[:-1])) + 1
            raise EventsOutOfOrder(i, int(at[i]), int(at[i - 1]))

    def _make_room(self, events: EventColumns) -> None:
        """Grow what the block could fill, so that the kernel never has to."""
        impressions = len(events) - int(np.count_nonzero(events.kind))
        bound = self._config.max_pending + self._config.max_remembered + 1
        shown = min(self.next_seq - int(self._cursor[kernel.FORGET]) + impressions, bound)
        self._shown = _grown_ring(
            self._shown, shown, int(self._cursor[kernel.FORGET]), self.next_seq
        )
        self._by_id = grown(self._by_id, shown)
        first, end = int(self._cursor[kernel.EARLY_FIRST]), int(self._cursor[kernel.EARLY_NEXT])
        early = min(end - first + len(events) - impressions, self._config.max_early)
        self._early = _grown_ring(self._early, early, first, end)
        self._early_by_id = grown(self._early_by_id, early)

    def state(self) -> State:
        """Return a copy of all that is remembered, oldest first, and the counters."""
        forget = int(self._cursor[kernel.FORGET])
        shown = _unrolled(self._shown, forget, self.next_seq)
        early = _unrolled(
            self._early,
            int(self._cursor[kernel.EARLY_FIRST]),
            int(self._cursor[kernel.EARLY_NEXT]),
        )
        return {
            "shown": {name: shown[name].copy() for name in kernel.SHOWN.names or ()},
            "early": {name: early[name].copy() for name in kernel.EARLY_FEEDBACK.names or ()},
            "cursor": {name: int(self._cursor[i]) for name, i in kernel.NAMED_CURSORS.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self._clear()
        for name, i in kernel.NAMED_CURSORS.items():
            self._cursor[i] = state["cursor"][name]
        first, end = int(self._cursor[kernel.FORGET]), self.next_seq
        self._shown = _rolled(state["shown"], kernel.SHOWN, first, end)
        self._by_id = grown(self._by_id, end - first)
        kernel.index_shown(self._shown, self._by_id, first, end)
        first, end = int(self._cursor[kernel.EARLY_FIRST]), int(self._cursor[kernel.EARLY_NEXT])
        self._early = _rolled(state["early"], kernel.EARLY_FEEDBACK, first, end)
        self._early_by_id = grown(self._early_by_id, end - first)
        kernel.index_early(self._early, self._early_by_id, first, end)


def _grown_ring(ring: npt.NDArray[np.void], entries: int, first: int, end: int) -> Any:
    """Return ``ring``, or a larger copy of its entries ``first … end`` if ``entries`` need one."""
    if entries <= ring.size:
        return ring
    larger = np.zeros(capacity_for(entries), ring.dtype)
    while first < end:  # in pieces that are contiguous in both
        n = min(end, (first // ring.size + 1) * ring.size) - first
        here, there = first & (ring.size - 1), first & (larger.size - 1)
        _words(larger)[there : there + n] = _words(ring)[here : here + n]
        first += n
    return larger


def _unrolled(ring: npt.NDArray[np.void], first: int, end: int) -> npt.NDArray[np.void]:
    words = _words(ring).take(np.arange(first, end) & (ring.size - 1), axis=0)
    taken: npt.NDArray[np.void] = words.view(ring.dtype)[:, 0]
    return taken


def _words(ring: npt.NDArray[np.void]) -> I64:
    """Return the entries as rows of 8 bytes, which numpy copies ten times faster than records."""
    return ring.view(np.int64).reshape(ring.size, ring.itemsize // 8)


def _rolled(columns: Mapping[str, Any], dtype: np.dtype[np.void], first: int, end: int) -> Any:
    ring = np.zeros(capacity_for(max(end - first, 16)), dtype)
    for name in dtype.names or ():
        ring[name][np.arange(first, end) & (ring.size - 1)] = columns[name]
    return ring
