"""From a source's blocks to the learner's work, in one canonical order.

`Ingest` holds everything between the log and the learner: order, join, features, waiting rows,
batches and the id map. It is a function of the logs alone, whatever blocks they come in, and its
whole state is a value (invariants 1 and 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stream.deadletters import too_late
from stream.digest import ExamplesDigest
from stream.example_join import ExampleJoin
from stream.example_order import ExampleOrder
from stream.join import Joined, LabelJoin
from stream.order import EventTimeOrder, Ordered
from stream.pending import PendingRows
from stream.position import Partition, Position
from stream.source import Block, Rejected
from stream.state import State
from trainer.batch import Batch
from trainer.batcher import Batcher
from trainer.features import Features
from trainer.growth import places_of, renumbered
from trainer.idmap import IdMap
from trainer.knowledge_rows import KnowledgeRows, refitted
from trainer.rehearsal import CARRIED, Rehearsal
from trainer.relative import relative_to_request
from trainer.view import View

if TYPE_CHECKING:  # who uses no knowledge needs no RocksDB
    from trainer.knowledge_feed import InForce, KnowledgeFeed

Columns = dict[str, npt.NDArray[Any]]

SCORE_ROWS = 4096  # at most so many impressions are scored at once, from the last learned batch on
PIECE = (
    65_536  # events, or examples, gone through at once: a backlog or a drain takes no more memory
)
MAX_NAMES = 10_000  # names of scenes kept, over all restarts

EXAMPLE_COLUMNS = (  # what an example is, wherever and in whatever messages its log was kept
    "at", "ids", "impression", "item", "label", "label_at", "numbers", "request", "scene",
    "sequences", "ts", "user",
)  # fmt: skip


@dataclass(frozen=True)
class ScoreItem:
    """Impressions to score now, by the model of this moment ("as served")."""

    batch: Batch
    first_seq: int  # their sequence numbers follow one another


@dataclass(frozen=True)
class LearnItem:
    """A batch to score, then learn."""

    batch: Batch
    fresh_rows: npt.NDArray[np.int32]  # embedding rows given to new ids: to reset before learning
    fresh_ids: npt.NDArray[np.uint64]
    examples: Columns  # what metrics need of its examples; the rehearsed ones are not among them
    served_below: int  # served scores of sequence numbers below this are no longer needed
    examples_digest: str  # of all examples up to this batch


@dataclass(frozen=True)
class Barrier:
    """The state of all that lies before the learner, at this point of the order."""

    state: State
    position: Position
    watermark: int  # ms
    ended: bool  # the log has no more
    changed: bool = True  # something has happened since the last one: worth a checkpoint


Item = ScoreItem | LearnItem | View | Barrier


@dataclass(frozen=True)
class Counts:
    """What has happened to events so far, for people."""

    events: int
    impressions: int
    rejected: int
    late: int
    after_idle: int  # placed at the watermark: where there are any, replay may differ
    hurried: int  # let go by the order before their turn, for want of room
    join: dict[str, int]
    pending: int
    held: int
    newest_ms: int  # the newest event read


class Ingest:
    """Turns blocks of events into items for the learner."""

    def __init__(
        self,
        *,
        partitions: tuple[Partition, ...],
        order: EventTimeOrder | ExampleOrder,
        join: LabelJoin | ExampleJoin,
        features: Features,
        pending: PendingRows,
        batcher: Batcher,
        ids: IdMap,
        rehearsal: Rehearsal,
        as_served: bool,
        request_relative: slice | None,
        own_sequences: npt.NDArray[np.intp],
        knowledge: "KnowledgeFeed | None" = None,
        actions: bool = False,
    ) -> None:
        """Put the parts together; ``pending`` has the columns of all of them.

        ``actions``: examples carry all feedback, for models of several tasks.
        """
        self._partitions = partitions
        self._order = order
        self._join = join
        self._features = features
        self._pending = pending
        self._batcher = batcher
        self._ids = ids
        self._rehearsal = rehearsal
        self._as_served = as_served
        self._relative = request_relative
        self._own_sequences = own_sequences
        self._knowledge = knowledge
        self._actions = actions
        self._digested = (*EXAMPLE_COLUMNS, *(("actions",) if actions else ()))
        self._digest = ExamplesDigest()
        self._scored = 0  # impressions with a smaller seq have been given to the scorer
        self._events = 0
        self._rejected = 0
        self._newest = 0  # event time, ms
        self.position = Position()
        self.names: dict[int, str] = {}
        self.refused: list[Rejected] = []  # dead letters since they were last taken

    def feed(self, block: Block) -> Iterator[Item]:
        """Take the next block; yield the work it makes possible."""
        self.position = block.position
        if len(self.names) < MAX_NAMES:
            self.names.update(block.names)
        self._refuse(block.rejected)
        self._events += len(block.events)
        self._newest = max(self._newest, int(block.events.ts.max(initial=0)))
        yield from self._take(self._order.feed(block))

    def tick(self, elapsed_ms: int) -> Iterator[Item]:
        """Let time pass where all partitions are silent (architecture §1, idle rule)."""
        yield from self._take(self._order.tick(elapsed_ms))

    def finish(self) -> Iterator[Item]:
        """Settle and learn everything that waits: the log has ended."""
        yield from self._take(self._order.finish())
        yield from self._settle(self._join.drain())
        rest = self._batcher.drain()
        if self._as_served:
            yield from self._score(self._pending.next)
        if rest is not None:
            yield self._learn(rest, self._join.first_pending)

    def barrier(self, *, ended: bool = False, changed: bool = True) -> Barrier:
        """Return a copy of the state; nothing before it is in flight once it is reached."""
        return Barrier(self.state(), self.position, self._order.watermark, ended, changed)

    @property
    def examples_set_digest(self) -> str:
        """The digest of all examples given to the learner, in whatever order."""
        return self._digest.set_hexdigest()

    def knowledge_in_force(self) -> "InForce | None":
        """Return which knowledge is used at this moment; None: there is none to use."""
        return self._knowledge.in_force() if self._knowledge is not None else None

    def take_refused(self) -> list[Rejected]:
        """Return the dead letters since the last call."""
        refused, self.refused = self.refused, []
        return refused

    def counts(self) -> Counts:
        """Return what has happened to events so far."""
        join = self._join.counts()
        return Counts(
            events=self._events,
            impressions=join["impressions"],
            rejected=self._rejected,
            late=self._order.late,
            after_idle=self._order.after_idle,
            hurried=self._order.hurried,
            join=join,
            pending=join["pending"],
            held=self._order.held,
            newest_ms=self._newest,
        )

    def _refuse(self, rejected: Sequence[Rejected]) -> None:
        self._rejected += len(rejected)
        self.refused.extend(rejected)

    def _take(self, ordered: Ordered) -> Iterator[Item]:
        self._refuse(ordered.rejected)
        for start in range(0, len(ordered.events), PIECE):
            events = ordered.events.take(slice(start, start + PIECE))
            joined = self._join.feed(events)
            self._refuse(too_late(events.take(joined.refused), self._partitions))
            rows = self._features.observe(events, joined, self._pending)
            if self._knowledge is not None:
                rows |= self._knowledge.observe(events, joined.accepted)
            first = self._pending.append(rows)
            assert first == joined.first_seq, "the join and the waiting rows count alike"
            yield from self._settle(joined)
        yield from self._settle(self._join.advance(self._order.watermark))

    def _settle(self, joined: Joined) -> Iterator[Item]:
        settled = joined.settled
        for start in range(0, len(settled), PIECE):
            some = slice(start, start + PIECE)
            needed = int(settled.seq[start + PIECE :].min(initial=self._join.first_pending))
            examples = self._pending.take(settled.seq[some])
            del examples["keys"]  # only feedback needs them
            examples |= {
                "seq": settled.seq[some],
                "label": settled.label[some],
                "label_at": settled.label_at[some],
                "label_kind": settled.kind[some],
                **({"actions": settled.actions[some]} if self._actions else {}),
            }
            for batch, before in self._batcher.add(examples, settled.before[some]):
                if self._as_served:
                    yield from self._score(_seq_before(joined, before, self._pending.next))
                yield self._learn(batch, needed)
        needed = self._join.first_pending
        if self._as_served:
            ready = self._pending.next
            while ready - self._scored > SCORE_ROWS:
                yield self._score_item(self._last_request_end())
            needed = min(needed, self._scored)
        self._pending.release(needed)

    def _score(self, until: int) -> Iterator[Item]:
        while until - self._scored > SCORE_ROWS:
            yield self._score_item(self._last_request_end())
        if self._scored < until:
            yield self._score_item(until)

    def _last_request_end(self) -> int:
        """Return the last end of a request within `SCORE_ROWS`, as what is relative to it needs."""
        seqs = np.arange(self._scored, self._scored + SCORE_ROWS + 1, dtype=np.int64)
        request = self._pending.take(seqs, names=("request",))["request"]
        ends = 1 + np.flatnonzero(request[1:] != request[:-1])
        return self._scored + (int(ends[-1]) if ends.size else SCORE_ROWS)

    def _score_item(self, until: int) -> ScoreItem:
        first, self._scored = self._scored, until
        knowledge = self._knowledge.columns() if self._knowledge is not None else ()
        names = [*_MODEL_COLUMNS, *knowledge]
        rows = self._pending.take(np.arange(first, until, dtype=np.int64), names=names)
        numbers = self._numbers(rows)
        batch = Batch(
            rows=self._ids.rows(rows["ids"]),
            sequences=self._ids.rows(rows["sequences"]),
            numbers=numbers,
            label=np.zeros(len(numbers), np.float32),
            request=rows["request"],
            fresh=len(numbers),
            **_carried(rows),
        )
        return ScoreItem(batch, first)

    def _learn(self, examples: Columns, needed: int) -> LearnItem:
        """Return a batch to learn; seqs that come later are ``needed`` or more, or held."""
        size = len(examples["label"])
        examples["numbers"] = self._numbers(examples)
        self._digest.update({name: examples[name] for name in self._digested})
        fields = examples["ids"].shape[1]
        known_by_list = examples["sequences"][:, self._own_sequences]
        admitted = self._ids.admit(
            np.concatenate([examples["ids"], known_by_list], axis=1), int(examples["at"].max())
        )
        learned = {
            "rows": admitted.rows[:, :fields],
            "sequences": self._ids.rows(examples["sequences"]),
            "numbers": examples["numbers"],
            "label": examples["label"].astype(np.float32),
            "request": examples["request"],
            **_carried(examples),
        }
        rehearsed = self._rehearsal.draw()
        if rehearsed is not None:
            again = {
                "rows": self._ids.rows(rehearsed["ids"]),
                "sequences": self._ids.rows(rehearsed["sequences"]),
                "numbers": rehearsed["numbers"],
                "label": rehearsed["label"].astype(np.float32),
                "request": rehearsed["request"],
                **_carried(rehearsed),
            }
            learned = {k: np.concatenate([v, again[k]]) for k, v in learned.items()}
        self._rehearsal.keep(examples)
        held = self._batcher.first_held()
        return LearnItem(
            Batch(**learned, fresh=size),
            admitted.fresh_rows,
            admitted.fresh_ids,
            {k: v for k, v in examples.items() if k not in _MODEL_ONLY},
            needed if held is None else min(held, needed),
            self._digest.hexdigest(),
        )

    def _numbers(self, rows: Columns) -> npt.NDArray[np.float32]:
        numbers: npt.NDArray[np.float32] = rows["numbers"]
        if self._relative is None:
            return numbers
        relative = relative_to_request(numbers[:, self._relative], rows["request"])
        return np.concatenate([numbers, relative], axis=1)

    def state(self) -> State:
        """Return everything that a restart needs, the model apart."""
        return {
            "partitions": [str(p) for p in self._partitions],
            "position": self.position.to_json(),
            "events": self._events,
            "rejected": self._rejected,
            "newest": self._newest,
            "scored": self._scored,
            "names": {str(k): v for k, v in self.names.items()},
            "order": self._order.state(),
            "join": self._join.state(),
            "features": self._features.state(),
            "pending": self._pending.state(),
            "batcher": self._batcher.state(),
            "ids": self._ids.state(),
            "rehearsal": self._rehearsal.state(),
            "digest": self._digest.state(),
            **({"knowledge": self._knowledge.state()} if self._knowledge is not None else {}),
        }

    def restore(self, state: State) -> None:
        """Go on from a saved state; the source is to be opened at `position`.

        Its topics may have more partitions than they had, and its examples may carry other
        knowledge. Raises `OtherPartitions` where anything else is not as it was.
        """
        state = self._with_our_knowledge(state)
        places = places_of(state["partitions"], [str(p) for p in self._partitions])
        if places is not None:
            state = renumbered(state, places)
        self.position = Position.from_json(state["position"])
        self._events = int(state["events"])
        self._rejected = int(state["rejected"])
        self._newest = int(state["newest"])
        self._scored = int(state["scored"])
        self.names = {int(k): str(v) for k, v in state["names"].items()}
        self._order.restore(state["order"], places)
        self._order.reopen()
        self._join.restore(state["join"])
        self._features.restore(state["features"])
        self._pending.restore(state["pending"])
        self._batcher.restore(state["batcher"])
        self._ids.restore(state["ids"])
        self._rehearsal.restore(state["rehearsal"])
        self._digest.restore(state["digest"])
        if self._knowledge is not None and "knowledge" in state:
            self._knowledge.restore(state["knowledge"])

    def _with_our_knowledge(self, state: State) -> State:
        before = state.get("knowledge")
        carried = KnowledgeRows.from_json(before["kinds"]) if before is not None else None
        wanted = self._knowledge.rows if self._knowledge is not None else None
        if (carried and carried.kinds) == (wanted and wanted.kinds):
            return state
        return refitted(state, carried, wanted)


_MODEL_COLUMNS = ("ids", "sequences", "numbers", "request")
_MODEL_ONLY = ("ids", "sequences", "numbers", "knowledge", "known")


def _carried(columns: Columns) -> Columns:
    """Return those columns of a batch that not every run has."""
    return {name: columns[name] for name in CARRIED if name in columns}


def _seq_before(joined: Joined, before: int, known: int) -> int:
    """Return the first seq that was not yet shown when the event ``before`` came."""
    if not len(joined.accepted):
        return known
    return joined.first_seq + int(np.searchsorted(joined.accepted, before))
