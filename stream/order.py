"""One order for the events of all partitions, a function of the logs alone (architecture §1).

Watermarks over the least clock of the inputs are those of Akidau et al., "The Dataflow Model",
VLDB 2015. All times are event time, epoch milliseconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.events import EventColumns, EventSchema
from stream.held import HeldEvents
from stream.orderkernel import ACCEPTED, IN_DOUBT, REFUSED, place_events
from stream.orderkernel import NEVER as NEVER
from stream.position import Offset, Partition
from stream.source import Block, Rejected
from stream.state import State


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """How long the order waits for events that are behind."""

    lateness_s: float = 60.0  # clients retry within a minute; a later event is placed, not lost
    idle_s: float = 60.0  # as long as lateness: an idle partition costs no more than a late one
    max_jump_s: float = 86_400.0  # a day: longer nights without traffic are rare, wrong clocks not
    jump_confirmations: int = 16  # events in a row that a wrong clock does not bring by chance
    max_held: int = 2_000_000  # 16,000 events/s for lateness and idle time together; 0.5 GB

    def __post_init__(self) -> None:
        if self.jump_confirmations < 1:
            raise ValueError(
                f"jump_confirmations is {self.jump_confirmations}. Set it to 1 or more: "
                "1 accepts every jump."
            )
        if self.max_held < 1:
            raise ValueError(f"max_held is {self.max_held}. Set it to 1 or more events.")
        for name in ("lateness_s", "idle_s", "max_jump_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to 0 or more seconds.")


@dataclass(frozen=True, eq=False)
class Ordered:
    """Events whose turn has come, in canonical order, and those refused for their time."""

    events: EventColumns  # `at` is set and ascends, also from one `Ordered` to the next
    rejected: tuple[Rejected, ...] = ()  # reason "time_jump"; `raw` is empty: only columns are left


class EventTimeOrder:
    """Puts the events of all partitions into one order that cutting and interleaving cannot change.

    Memory: the events between the slowest partition's watermark and the newest event read, which is
    the lateness and the skew of partitions as the source reads them, but at most ``max_held``; and
    per partition fewer than ``jump_confirmations`` events in doubt. Past the bound the earliest are
    let go before their turn, and counted: what should have come before them is placed after them.
    """

    def __init__(
        self, config: OrderConfig, schema: EventSchema, partitions: tuple[Partition, ...]
    ) -> None:
        n = len(partitions)
        self._lateness = round(config.lateness_s * 1000)
        self._idle_after = round(config.idle_s * 1000)
        self._max_jump = round(config.max_jump_s * 1000)
        self._confirmations = config.jump_confirmations
        self._max_held = config.max_held
        self._schema = schema
        self._partitions = partitions
        self._held = HeldEvents(EventColumns.empty(schema), n)
        self._doubted = EventColumns.empty(schema)  # ahead of their clock, or before there is one
        self._gone = np.zeros(0, np.bool_)  # those of them that had their turn, and set clocks only
        self._clocks = np.full(n, NEVER, np.int64)
        self._silent = np.zeros(
            n, np.int64
        )  # ms for which it has been at its end, bringing nothing
        self._idle = np.zeros(n, np.bool_)
        self._ended = np.zeros(n, np.bool_)
        self._later = np.zeros(n, np.bool_)
        self._ticked = 0  # ms of silence of all since the last event
        self.watermark = NEVER  # every event before it has been let go
        self.late = 0  # came later than the lateness: placed at clock - lateness
        self.after_idle = 0  # came below the watermark: their partition was idle, or others hurried
        self.hurried = 0  # let go before their turn, for want of room
        self.jumps = 0  # refused: absurdly far ahead

    @property
    def held(self) -> int:
        """How many events wait for their turn, those in doubt included."""
        return len(self._held) + int((~self._gone).sum())

    @property
    def clocks(self) -> npt.NDArray[np.int64]:
        """The greatest event time read of each partition (n,), ms; `NEVER`: none yet. A copy."""
        return self._clocks.copy()

    @property
    def in_doubt(self) -> dict[int, Offset]:
        """The first event of a partition of which it is not decided what becomes of it.

        Of those that had their turn it is decided.
        """
        doubted = self._doubted.take(~self._gone)
        partitions, first = np.unique(doubted.partition, return_index=True)
        places = zip(doubted.offset[first].tolist(), doubted.row[first].tolist(), strict=True)
        return {p: Offset(*place) for p, place in zip(partitions.tolist(), places, strict=True)}

    def begin_at(self, clocks: npt.NDArray[np.int64]) -> None:
        """Begin in the middle of the logs, where the partitions' clocks (n,) were these."""
        self._clocks[:] = clocks

    def feed(self, block: Block) -> Ordered:
        """Take the next events of the source and return those whose turn has come."""
        before = self._now()
        came = np.zeros(len(self._partitions), np.bool_)
        came[block.events.partition] = True
        self._idle = self._mask(block.idle)
        self._ended = (self._ended & ~came) | self._mask(block.ended)
        self._later = self._mask(block.later)
        rejected = self._place(block.events)

        if came.any():
            self._ticked = 0
        passed = max(0, self._now() - before) if before != NEVER else 0
        self._silent = np.where(came | ~self._idle, 0, self._silent + passed)
        return self._let_go(rejected)

    def tick(self, elapsed_ms: int) -> Ordered:
        """Let ``elapsed_ms`` of silence pass: wall time in which no partition brought anything."""
        self._ticked += elapsed_ms
        self._silent[self._idle] += elapsed_ms
        return self._let_go(())

    def finish(self) -> Ordered:
        """Return everything that is left: no partition will have more."""
        self._ended[:] = True
        return self._let_go(self._place(EventColumns.empty(self._schema)))

    def _place(self, events: EventColumns) -> tuple[Rejected, ...]:
        """Give ``events`` their place and hold them; return those that are refused."""
        gone = np.zeros(len(self._doubted) + len(events), np.bool_)
        if len(self._doubted):  # they come first again, so that a run of them can go on
            gone[: len(self._doubted)] = self._gone
            events = EventColumns.concat([self._doubted, events])
        at = events.ts.copy()
        verdict = np.full(len(events), ACCEPTED, np.uint8)
        late, after_idle, doubted = place_events(
            events.partition,
            events.ts,
            gone,
            self._clocks,
            self._ended,
            np.array([self._lateness, self._max_jump, self._confirmations, self.watermark]),
            at,
            verdict,
        )
        self.late += late
        self.after_idle += after_idle
        events = events.with_at(at)
        if len(self._doubted) or doubted or not verdict.all():
            refused = events.take((verdict == REFUSED) & ~gone)
            self._doubted = events.take(verdict == IN_DOUBT)
            self._gone = gone[verdict == IN_DOUBT]
            events = events.take((verdict == ACCEPTED) & ~gone)
            self.jumps += len(refused)
            self._held.add(events)
            return tuple(self._rejections(refused))
        self._held.add(events)
        return ()

    def _rejections(self, refused: EventColumns) -> Iterable[Rejected]:
        hours = self._max_jump / 3_600_000
        for p, offset, row, ts in zip(
            refused.partition.tolist(),
            refused.offset.tolist(),
            refused.row.tolist(),
            refused.ts.tolist(),
            strict=True,
        ):
            partition = self._partitions[p]
            detail = (
                f"{partition} at {offset}, row {row}: ts {ts} is more than {hours:g} h ahead of "
                f"its partition, and fewer than {self._confirmations} events in a row agree"
            )
            yield Rejected(partition, offset, row, "time_jump", detail, b"")

    def _let_go(self, rejected: tuple[Rejected, ...]) -> Ordered:
        idle = self._idle & (self._silent >= self._idle_after)
        active = ~self._ended & ~self._later & ~idle
        watermark = NEVER
        if active.any():
            slowest = int(self._clocks[active].min())
            watermark = slowest - self._lateness if slowest != NEVER else NEVER
        elif not self._ended.all():
            now = self._now()
            watermark = now - self._lateness if now != NEVER else NEVER
        elif len(self._held):
            watermark = self._held.last() + 1
        ready = self._release(max(self.watermark, watermark))
        if (excess := len(self._held) - self._max_held) > 0:
            hurried = self._release(self._held.at_of(excess) + 1)
            self.hurried += len(hurried)
            ready = EventColumns.concat([ready, hurried])
        return Ordered(ready, rejected)

    def _release(self, watermark: int) -> EventColumns:
        """Move the watermark on and let go what it has passed.

        It passes a first event in doubt where its partition is idle, or others hurry: the event has
        its turn, as if it were believed, and still has its say about the start.
        """
        if len(self._doubted):
            starting = self._clocks[self._doubted.partition] == NEVER
            going = starting & ~self._gone & (self._doubted.ts < watermark)
            if going.any():
                events = self._doubted.take(going)
                self.after_idle += int((events.ts < self.watermark).sum())
                self._held.add(events.with_at(np.maximum(events.ts, self.watermark)))
                self._gone = self._gone | going
        self.watermark = watermark
        return self._held.release(watermark)

    def _now(self) -> int:
        newest = int(self._clocks.max(initial=NEVER))
        return newest + self._ticked if newest != NEVER else NEVER

    def _mask(self, partitions: frozenset[int]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self._partitions), np.bool_)
        mask[list(partitions)] = True
        return mask

    def state(self) -> State:
        """Return a copy of everything, held events included."""
        return {
            "held": {k: v.copy() for k, v in self._held.events().columns().items()},
            "doubted": {k: v.copy() for k, v in self._doubted.columns().items()},
            "gone": self._gone.copy(),
            "clocks": self._clocks.copy(),
            "silent": self._silent.copy(),
            "idle": self._idle.copy(),
            "ended": self._ended.copy(),
            "later": self._later.copy(),
            "ticked": self._ticked,
            "watermark": self.watermark,
            "late": self.late,
            "after_idle": self.after_idle,
            "hurried": self.hurried,
            "jumps": self.jumps,
        }

    def restore(
        self, state: Mapping[str, Any], places: npt.NDArray[np.int16] | None = None
    ) -> None:
        """Continue exactly where ``state`` was taken.

        Where there are more partitions now, ``places`` is where among them each of those is that
        there were then, and the events of ``state`` name them so. A new one begins with its log.
        """
        n = len(self._partitions)
        here = slice(None) if places is None else places
        self._held = HeldEvents(EventColumns.empty(self._schema), len(self._partitions))
        self._held.add(EventColumns(**{k: v.copy() for k, v in state["held"].items()}))
        self._doubted = EventColumns(**{k: v.copy() for k, v in state["doubted"].items()})
        self._gone = np.array(state["gone"], np.bool_)
        self._clocks = np.full(n, NEVER, np.int64)
        self._silent = np.zeros(n, np.int64)
        self._idle, self._ended, self._later = (np.zeros(n, np.bool_) for _ in range(3))
        self._clocks[here] = state["clocks"]
        self._silent[here] = state["silent"]
        self._idle[here] = state["idle"]
        self._ended[here] = state["ended"]
        self._later[here] = state["later"]
        self._ticked = int(state["ticked"])
        self.watermark = int(state["watermark"])
        self.late = int(state["late"])
        self.after_idle = int(state["after_idle"])
        self.hurried = int(state["hurried"])
        self.jumps = int(state["jumps"])

    def reopen(self) -> None:
        """Forget which partitions had ended: their logs are opened anew, and may have grown."""
        self._ended[:] = False
