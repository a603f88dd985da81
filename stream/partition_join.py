"""The join of one partition number, that begins where an earlier one was killed.

A worker's examples are a function of its input logs, so nothing is saved: with every record of
examples goes how far back the logs are to be read again (`stream.examples.Progress`), and readers
drop what they have (`stream.delivered`). Why that is enough: docs/decisions/0011.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.deadletters import too_late
from stream.events import IMPRESSION, EventColumns, EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import ExampleBlock, Progress
from stream.join import JoinConfig, Joined, LabelJoin
from stream.marks import InputMarks
from stream.order import NEVER, EventTimeOrder, OrderConfig, Ordered
from stream.pending import ColumnSpec, PendingRows
from stream.policy import Emissions, Policy
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected

BLOCK_ROWS: Final = 4_096  # examples of a record, at most
BLOCK_BYTES: Final = 512 << 10  # of their columns, at most: half of what a broker takes by default
PIECE: Final = 65_536  # events gone through at once: a backlog takes no more memory
MAX_NAMES: Final = 10_000  # names of scenes kept
TOLD_MS: Final = 1_000  # how far time goes on before it is told without examples

_COPIED: Final[dict[str, npt.DTypeLike]] = {
    "ts": np.int64,
    "at": np.int64,
    "impression": np.uint64,
    "user": np.uint64,
    "item": np.uint64,
    "request": np.uint64,
    "scene": np.uint64,
    "position": np.int32,
}
_ORIGIN: Final = {"partition": np.int16, "offset": np.int64, "row": np.int32}

Columns = dict[str, npt.NDArray[Any]]


class NotOneExample(ValueError):
    """A label policy that workers cannot carry."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(
            f"Under {policy!r} an impression does not become exactly one example, and readers of "
            "examples know them by their impressions. Let workers label by Wait, or let the "
            "trainer join by itself."
        )


class PartitionJoin:
    """Joins the partitions of one number, of the topics that are read together.

    Feed it blocks whose partitions are indices into ``inputs``; `take` what is to be written.
    Memory: what the order and the join hold, a row for each pending impression (their
    ``max_pending``), the examples since the last `take`, and some thousand marks.
    """

    def __init__(
        self,
        number: int,
        inputs: tuple[Partition, ...],
        order: OrderConfig,
        join: JoinConfig,
        policy: Policy,
        schema: EventSchema,
        progress: Progress | None = None,
    ) -> None:
        """Begin, or go on after ``progress``: the newest that was written of this partition.

        ``inputs`` are sorted; they are to be read from `position` on. Raises `NotOneExample`.
        """
        if not _is_one_example(policy.emissions):
            raise NotOneExample(policy)
        assert tuple(sorted(inputs)) == tuple(inputs), "inputs are sorted"
        self.number = number
        self.inputs = inputs
        self._schema = schema
        self._order = EventTimeOrder(order, schema, inputs)
        self._join = LabelJoin(join, policy, schema)
        self._rows = PendingRows(_row_columns(schema))
        self._window = round(join.window_s * 1000)
        # What may have to do with an impression is younger: its doubles are remembered for window
        # and remember_s, and what was early for those came early_s before.
        self._memory = round(1000 * (join.window_s + join.remember_s + join.early_s))
        self._resumed = progress
        resume = progress.resume if progress else {}
        starts = [resume.get(p, (Offset(0), None)) for p in inputs]
        clocks = np.array([NEVER if c is None else c for _, c in starts], np.int64)
        self._order.begin_at(clocks)
        read = progress.read if progress else {}
        self._unread = {  # their logs may begin behind offset 0, where retention took the head
            i
            for i, (p, (start, _)) in enumerate(zip(inputs, starts, strict=True))
            if start == Offset(0) == read.get(p, Offset(0))
        }
        self._position = Position(
            {p: starts[i][0] for i, p in enumerate(inputs) if i not in self._unread}
        )
        lateness = round(order.lateness_s * 1000)
        self._marks = InputMarks(
            [(start, int(clock)) for (start, _), clock in zip(starts, clocks, strict=True)],
            (self._memory + self._window + lateness) // 512,
            lateness,
        )
        self._written_below = self._below(progress.settled if progress else {})
        self._settled: list[ExampleColumns] = []
        self._size = 0  # of them
        self._bytes = _row_bytes(schema)
        self._told: Progress | None = None  # with the newest record
        self._names: dict[int, str] = {}
        self._refused: list[Rejected] = []

    @property
    def position(self) -> Position:
        """Where the inputs are to be read on; one it does not name, where its log begins."""
        return self._position

    def feed(self, block: Block) -> None:
        """Take the next events of the inputs."""
        if len(self._names) < MAX_NAMES:
            self._names.update(block.names)
        self._refuse(block.rejected)
        self._begin(block)
        self._mark()
        ordered = self._order.feed(block)
        there = block.position.offsets
        self._position = Position({p: there[p] for p in self.inputs if p in there})
        self._take(ordered)

    def tick(self, elapsed_ms: int) -> None:
        """Let time pass in which no input brought anything."""
        self._take(self._order.tick(elapsed_ms))

    def finish(self) -> None:
        """Settle everything that waits: the logs have ended for good."""
        self._take(self._order.finish())
        self._settle(self._join.drain())

    def take(self, *, at_least: int = 0, alive: bool = False) -> list[ExampleBlock]:
        """Return what is to be written now, in order; nothing where there are fewer examples.

        Where there are none, a block that only tells the progress, if that has gone on by a second;
        or (``alive``) if something was read, as it is for long after a crash.
        """
        if self._size < at_least:
            return []
        progress = self._progress()
        if not self._size:
            reads = alive and progress.complete_to is not None and self._has_read(progress)
            if at_least or not (reads or self._has_gone_on(progress)):
                return []
            self._told = progress
            return [self._block(ExampleColumns.empty(self._schema), progress)]
        examples = ExampleColumns.concat(self._settled)
        self._settled, self._size = [], 0
        rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // self._bytes))
        starts = range(0, len(examples), rows)
        before = self._told or self._at_first(progress)
        blocks = [
            self._block(
                examples.take(slice(start, start + rows)),
                progress if start == starts[-1] else before,
            )
            for start in starts
        ]
        self._told = progress
        return blocks

    def take_refused(self) -> list[Rejected]:
        """Return the dead letters since the last call.

        They are to be written before what is taken afterwards: that says they were.
        """
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        """Return the join's counts, and those of the order, since this join began."""
        return {
            **self._join.counts(),
            "held": self._order.held,
            "late_events": self._order.late,
            "after_idle": self._order.after_idle,
            "hurried": self._order.hurried,
        }

    def _take(self, ordered: Ordered) -> None:
        self._refuse(ordered.rejected)
        for start in range(0, len(ordered.events), PIECE):
            events = ordered.events.take(slice(start, start + PIECE))
            self._joined(events)
        self._settle(self._join.advance(self._order.watermark))

    def _joined(self, events: EventColumns) -> None:
        if (was_late := self._was_too_late(events)).any():
            self._refuse(too_late(events.take(was_late), self.inputs))
            events = events.take(~was_late)
        joined = self._join.feed(events)
        self._refuse(too_late(events.take(joined.refused), self.inputs))
        accepted = events.take(joined.accepted)
        n = len(accepted)
        self._rows.append(
            {
                **{name: getattr(accepted, name) for name in _COPIED},
                **{f"origin_{name}": getattr(accepted, name) for name in _ORIGIN},
                **{f"click_{name}": np.full(n, -1, kind) for name, kind in _ORIGIN.items()},
                "ids": accepted.ids,
                "numbers": accepted.numbers,
                "lists": accepted.lists,
            }
        )
        labels = joined.matched_is_label
        if labels.any():
            clicks = joined.matched_event[labels]
            place = {f"click_{name}": getattr(events, name)[clicks] for name in _ORIGIN}
            self._rows.put(joined.matched_seq[labels], place)
        self._settle(joined)

    def _settle(self, joined: Joined) -> None:
        settled = joined.settled
        if len(settled):
            rows = self._rows.take(settled.seq)
            keep = self._is_new(*(rows[f"origin_{name}"] for name in _ORIGIN))
            n = int(np.count_nonzero(keep))
            if n:
                columns: Columns = dict(ExampleColumns.empty(self._schema, n).columns())
                columns |= {name: column[keep] for name, column in rows.items()}
                columns["label"] = settled.label[keep]
                columns["label_at"] = settled.label_at[keep]
                columns["label_kind"] = settled.kind[keep]
                columns["actions"] = settled.actions[keep]
                self._settled.append(ExampleColumns(**columns))
                self._size += n
        self._rows.release(self._join.first_pending)

    def _was_too_late(self, events: EventColumns) -> npt.NDArray[np.bool_]:
        """Return which events (n,) came so long after their time that nobody reads it again.

        In the logs alone they are in time: others had gone on while their input was silent.
        """
        forgotten = self._resumed.forgotten if self._resumed else None
        if forgotten is None or not len(events) or events.at[0] >= forgotten + self._memory:
            return np.zeros(len(events), np.bool_)
        old = (events.ts < forgotten) & (events.at < forgotten + self._memory)
        old &= events.kind == IMPRESSION
        old &= self._is_new(events.partition, events.offset, events.row)
        return old

    def _is_new(
        self,
        partition: npt.NDArray[np.int16],
        offset: npt.NDArray[np.int64],
        row: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.bool_]:
        """Return which places (n,) lie behind what an earlier join is known to have written."""
        message, first = self._written_below
        same = (offset == message[partition]) & (row >= first[partition])
        new: npt.NDArray[np.bool_] = same | (offset > message[partition])
        return new

    def _begin(self, block: Block) -> None:
        """Note where the logs begin that are read for the first time."""
        for i in sorted(self._unread):
            partition = self.inputs[i]
            first = block.events.offset[block.events.partition == i][:1].tolist()
            first += [r.offset for r in block.rejected if r.partition == partition][:1]
            if first:
                start = Offset(min(first))
                self._unread.discard(i)
            elif partition in block.position.offsets:
                start = block.position.of(partition)
            else:
                continue
            self._marks.begin(i, start)

    def _mark(self) -> None:
        """Note where the inputs have got to, before what comes next."""
        clocks, in_doubt = self._order.clocks.tolist(), self._order.in_doubt
        for i, partition in enumerate(self.inputs):
            offset = in_doubt.get(i, self._position.of(partition))
            self._marks.add(i, offset, clocks[i], self._order.watermark)

    def _progress(self) -> Progress:
        """Return what is true now; never less than what an earlier join has said."""
        read = {p: self._position.of(p) for p in self.inputs}
        watermark = self._order.watermark
        if watermark == NEVER:
            return self._earlier(read)
        complete_to = min(watermark, watermark - self._window + 1)
        earlier = self._resumed
        if earlier and earlier.complete_to is not None and complete_to < earlier.complete_to:
            return self._earlier(read)
        places = self._marks.going_on(complete_to, self._memory)
        settled = dict(zip(self.inputs, places.settled, strict=True))
        forgotten = None if places.forgotten == NEVER else places.forgotten
        if earlier:
            before = earlier.settled
            settled = {p: max(offset, before.get(p, Offset(0))) for p, offset in settled.items()}
            known = [ms for ms in (forgotten, earlier.forgotten) if ms is not None]
            forgotten = max(known, default=None)
        return Progress(
            resume={
                p: (mark.offset, None if mark.clock == NEVER else mark.clock)
                for p, mark in zip(self.inputs, places.resume, strict=True)
            },
            settled=settled,
            complete_to=complete_to,
            read=read,
            forgotten=forgotten,
        )

    def _earlier(self, read: Mapping[Partition, Offset]) -> Progress:
        earlier = self._resumed
        if earlier is None:
            return self._nothing(read)
        return replace(earlier, read=read)

    def _nothing(self, read: Mapping[Partition, Offset]) -> Progress:
        """Return what holds where nothing is known: all is to be read again."""
        return Progress(
            resume={
                p: (first, None) for p, first in zip(self.inputs, self._marks.first, strict=True)
            },
            settled=dict(zip(self.inputs, self._marks.first, strict=True)),
            complete_to=None,
            read=read,
        )

    def _at_first(self, now: Progress) -> Progress:
        return self._earlier(now.read)

    def _has_gone_on(self, progress: Progress) -> bool:
        told = self._told or self._resumed
        if progress.complete_to is None:
            return False
        if told is None or told.complete_to is None:
            return True
        return progress.complete_to - told.complete_to >= TOLD_MS

    def _has_read(self, progress: Progress) -> bool:
        told = self._told or self._resumed
        return told is None or told.read != progress.read

    def _block(self, examples: ExampleColumns, progress: Progress) -> ExampleBlock:
        scenes = np.unique(examples.scene).tolist() if len(examples) else []
        names = {scene: self._names[scene] for scene in scenes if scene in self._names}
        return ExampleBlock(examples=examples, schema=self._schema, progress=progress, names=names)

    def _below(self, places: Mapping[Partition, Offset]) -> tuple[Any, Any]:
        offsets = [places.get(p, Offset(0)) for p in self.inputs]
        return (
            np.array([o.message for o in offsets], np.int64),
            np.array([o.row for o in offsets], np.int32),
        )

    def _refuse(self, letters: Iterable[Rejected]) -> None:
        written = self._resumed.settled if self._resumed else {}
        for letter in letters:
            if (letter.offset, letter.row) >= written.get(letter.partition, Offset(0)):
                self._refused.append(letter)


def _is_one_example(emits: Emissions) -> bool:
    others = (emits.arrival, emits.later_click, emits.horizon_negative, emits.horizon_positive)
    positive = (emits.click, emits.deadline_positive)
    return (
        emits.deadline_negative is not None
        and sum(e is not None for e in positive) == 1
        and all(e is None for e in others)
    )


def _row_columns(schema: EventSchema) -> ColumnSpec:
    return {
        **{name: (kind, None) for name, kind in _COPIED.items()},
        **{f"origin_{name}": (kind, None) for name, kind in _ORIGIN.items()},
        **{f"click_{name}": (kind, None) for name, kind in _ORIGIN.items()},
        "ids": (np.uint64, len(schema.ids)),
        "numbers": (np.float32, len(schema.numbers)),
        "lists": (np.uint64, schema.list_width),
    }


def _row_bytes(schema: EventSchema) -> int:
    return 120 + 8 * len(schema.ids) + 4 * len(schema.numbers) + 8 * schema.list_width
