"""From a source's blocks to the learner's work, in one canonical order.

`Ingest` holds everything between the log and the learner: order, join, features, waiting rows,
batches and the id map. It is a function of the logs alone, whatever blocks they come in, and its
whole state is a value (invariants 1 and 2).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stream.deadletters import too_late
from stream.digest import ExamplesDigest
from stream.events import EventColumns
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
from trainer.entities import Entities
from trainer.features import Features
from trainer.growth import places_of, renumbered
from trainer.idmap import IdMap
from trainer.items import Barrier, Counts, Item, LearnItem, ScoreItem
from trainer.knowledge_rows import KnowledgeRows, refitted
from trainer.rehearsal import CARRIED, Rehearsal
from trainer.relative import relative_to_request
from trainer.view import View, ViewTimes

if TYPE_CHECKING:  # who uses no knowledge needs no RocksDB
    from trainer.knowledge_feed import KnowledgeFeed
    from trainer.knowledge_in_force import InForce

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
        entities: Entities | None = None,
        view_every_s: float | None = None,
    ) -> None:
        """Put the parts together; ``pending`` has the columns of all of them.

        ``actions``: examples carry all feedback, for models of several tasks. ``entities`` are
        kept for whom a `View` comes every ``view_every_s`` of event time (None: by `view` alone).
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
        self._entities = entities
        self._views = ViewTimes(view_every_s)
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

    def view(self, at_ms: int) -> View:
        """Return what is known of items and users, all of it from before ``at_ms``."""
        return View(
            features=self._features.state(),
            ids=self._ids.state(),
            entities=self._entities.state() if self._entities is not None else {},
            at_ms=at_ms,
            newest_ms=self._newest,
        )

    def view_now(self) -> View | None:
        """Return what is known by now; None: nothing has come."""
        last = self._features.last_ms
        return None if last is None else self.view(max(last + 1, self._order.watermark))

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
        at, start = ordered.events.at, 0
        while start < at.size:
            end, due = self._views.stretch(at, start)
            for piece in range(start, end, PIECE):
                yield from self._observe(ordered.events.take(slice(piece, min(piece + PIECE, end))))
            if due is not None:
                yield from self._view_at(due)
            start = end
        if (due := self._views.passed(self._order.watermark)) is not None:
            yield from self._view_at(due)
        yield from self._settle(self._join.advance(self._order.watermark))

    def _observe(self, events: EventColumns) -> Iterator[Item]:
        joined = self._join.feed(events)
        self._refuse(too_late(events.take(joined.refused), self._partitions))
        rows = self._features.observe(events, joined, self._pending)
        if self._entities is not None:
            fields = events.ids[joined.accepted]
            self._entities.observe(rows["item"], rows["user"], rows["at"], fields)
        if self._knowledge is not None:
            rows |= self._knowledge.observe(events, joined.accepted)
        first = self._pending.append(rows)
        assert first == joined.first_seq, "the join and the waiting rows count alike"
        yield from self._settle(joined)

    def _view_at(self, at_ms: int) -> Iterator[Item]:
        yield from self._settle(self._join.advance(at_ms))  # or blocks would decide what is learned
        yield self.view(at_ms)

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
            **({"entities": self._entities.state()} if self._entities is not None else {}),
            **({"views": views} if (views := self._views.state()) else {}),
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
        if self._entities is not None:
            self._entities.restore(state["entities"])
        self._views.restore(state.get("views", {}))

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
