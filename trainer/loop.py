"""The loop: score, then learn; at a barrier, save. Reads from top to bottom."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.pending import PendingRows
from stream.state import State
from trainer.items import Barrier, Item, LearnItem, ScoreItem
from trainer.learner import Learner
from trainer.metrics import Prequential
from trainer.trace import Trace
from trainer.view import View


@dataclass
class Training:
    """What learning owns: the model, its metrics, the served scores that wait for their labels."""

    learner: Learner
    metrics: Prequential
    trace: Trace
    served: PendingRows | None  # None: nothing is scored as served
    oracle: bool = False  # the events carry their true probability (a simulated world)
    batches: int = 0
    examples_digest: str = ""
    at_ms: int = 0  # event time of the newest example learned

    def score(self, item: ScoreItem) -> None:
        """Score impressions as a server would have, with the model of this moment."""
        assert self.served is not None, "score items come only where they were asked for"
        self.served.append({"p": self.learner.score(item.batch)})

    def learn(self, item: LearnItem) -> None:
        """Score a batch, then learn it; the scores of the model before it are the metric."""
        self.learner.reset_rows(item.fresh_rows.astype(np.int64), item.fresh_ids)
        arms = {"model": self.learner.learn(item.batch)}  # scored before it was learned
        examples = item.examples
        if self.served is not None:
            arms["as_served"] = self.served.take(examples["seq"])["p"]
            self.served.release(item.served_below)
        if self.oracle:
            arms["oracle"] = examples["oracle"]
        self._measure(arms, examples)
        self.batches += 1
        self.examples_digest = item.examples_digest
        self.at_ms = int(examples["at"].max())
        self.trace.record(self.batches, self.metrics, item, self.learner)

    def _measure(
        self, arms: dict[str, npt.NDArray[np.float32]], examples: dict[str, npt.NDArray[Any]]
    ) -> None:
        self.metrics.update(
            arms,
            examples["label"].astype(np.float32),
            at_ms=examples["at"],
            request=examples["request"],
            user=examples["user"],
            scene=examples["scene"],
            user_activity=examples["user_activity"],
            item_age_h=examples["item_age_h"],
        )

    def state(self) -> State:
        """Return everything that a restart needs, the ingest apart."""
        return {
            "batches": self.batches,
            "examples_digest": self.examples_digest,
            "at_ms": self.at_ms,
            "learner": self.learner.state(),
            "metrics": self.metrics.state(),
            "trace": self.trace.state(),
            **({"served": self.served.state()} if self.served is not None else {}),
        }

    def recycle(self, state: State) -> None:
        """Take back the memory of a `state` that nobody reads any more."""
        self.learner.recycle(state["learner"])

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self.batches = int(state["batches"])
        self.examples_digest = str(state["examples_digest"])
        self.at_ms = int(state["at_ms"])
        self.learner.restore(state["learner"])
        self.metrics.restore(state["metrics"])
        self.trace.restore(state["trace"])
        if self.served is not None:
            self.served.restore(state["served"])


def train(
    items: Iterable[Item],
    training: Training,
    save: Callable[[Barrier, State, int], None],
    show: Callable[[Training], None],
    view: Callable[[View, Training], None] = lambda *_: None,
) -> bool:
    """Learn from ``items`` until they end; return whether their log had ended too."""
    ended = False
    for item in items:
        match item:
            case ScoreItem():
                training.score(item)
            case LearnItem():
                training.learn(item)  # scores first: no label has been seen
                show(training)
            case View():
                view(item, training)
            case Barrier():
                if item.changed:
                    save(item, training.state(), training.batches)
                ended = item.ended
    return ended
