"""Runs of the downstream and of the extractor, with every score kept. n examples measured."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keepstream.config import Config
from keepstream.inputs import opener
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest, build_training
from stream.deadletters import DeadLetterFile
from stream.ids import hash_text
from stream.position import Position
from trainer.ahead import Ahead
from trainer.batch import Batch
from trainer.items import LearnItem
from trainer.loop import Training, train
from trainer.view import View

_KEPT: Final = ("at", "request", "user", "item", "scene", "user_activity", "item_age_h", "oracle")


_OF_BATCH: Final = (
    "rows", "sequences", "numbers", "label", "request", "knowledge", "known", "actions",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model said of each impression when it was shown, and what became of it."""

    p: npt.NDArray[np.float32]  # (n,) as served
    label: npt.NDArray[np.float32]
    columns: Mapping[str, npt.NDArray[Any]]  # of `_KEPT`, (n,) each


class _Kept:
    """Metrics that keep what they are given: of one scene, where ``scene`` names one."""

    def __init__(self, scene: str | None) -> None:
        self._scene = None if scene is None else np.uint64(hash_text(scene))
        self._p: list[Any] = []
        self._label: list[Any] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in _KEPT}

    def add(self, p: Any, label: Any, examples: Mapping[str, Any]) -> None:
        """Keep a batch."""
        rows = self.of(examples)
        self._p.append(p[rows])
        self._label.append(label[rows].astype(np.float32))
        for name, kept in self._columns.items():
            kept.append(examples[name][rows])

    def of(self, examples: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """Return which examples are of the scene."""
        scene = examples["scene"]
        return np.ones(scene.size, np.bool_) if self._scene is None else scene == self._scene

    def scores(self) -> Scores:
        """Return all that was kept."""
        columns = {name: np.concatenate(kept) for name, kept in self._columns.items()}
        return Scores(np.concatenate(self._p), np.concatenate(self._label), columns)


def served(
    config: Config,
    events: Path,
    scratch: Path,
    *,
    scene: str | None = None,
    learns: Callable[[Mapping[str, Any]], npt.NDArray[np.bool_]] | None = None,
) -> Scores:
    """Train over ``events`` and return what was said of each impression when it was shown.

    Of ``scene`` alone where one is named. ``learns`` says which examples of a batch are learned.
    """
    config = replace(config, train=replace(config.train, as_served=True))
    kept = _Kept(scene)
    scratch.mkdir(parents=True, exist_ok=True)
    training = build_training(config, None, scratch)
    learn = training.learn
    measure = training._measure
    chosen = _Chosen(training, config.train.batch_size)

    def measured(arms: dict[str, Any], examples: dict[str, Any]) -> None:
        kept.add(arms["as_served"], examples["label"], examples)
        measure(arms, examples)

    def learned(item: LearnItem) -> None:
        rows = None if learns is None else learns(item.examples)
        if rows is None or (rows.all() and not len(chosen)):
            learn(item)
            return
        full = training.learner.learn
        training.learner.learn = lambda batch: chosen.learn(full, batch, rows)  # type: ignore[method-assign]
        try:
            learn(item)
        finally:
            training.learner.learn = full  # type: ignore[method-assign]

    training._measure = measured  # type: ignore[method-assign]
    training.learn = learned  # type: ignore[method-assign]
    _run(config, events, scratch, training)
    return kept.scores()


class _Chosen:
    """Learns some of the examples that come, in batches as large as if no others had come.

    What waits keeps its rows of the table, so ``ids.max_rows`` must be enough to give none away.
    """

    def __init__(self, training: Training, size: int) -> None:
        self._training = training
        self._size = size
        self._waiting: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return sum(len(columns["label"]) for columns in self._waiting)

    def learn(self, learn: Any, batch: Batch, rows: Any) -> Any:
        """Take the examples ``rows`` of a batch; return the scores of all of it."""
        assert batch.fresh == len(batch), "what is rehearsed has no place here"
        scores = self._training.learner.score(batch)
        columns = {name: getattr(batch, name) for name in _OF_BATCH}
        self._waiting.append({n: c[rows] for n, c in columns.items() if c is not None})
        while len(self) >= self._size:
            all_of = {n: np.concatenate([w[n] for w in self._waiting]) for n in self._waiting[0]}
            self._waiting = [{n: c[self._size :] for n, c in all_of.items()}]
            learn(Batch(**{n: c[: self._size] for n, c in all_of.items()}, fresh=self._size))
        return scores


def _run(
    config: Config,
    events: Path,
    scratch: Path,
    training: Training,
    view: Callable[[View, Training], None] = lambda *_: None,
    view_every_s: float | None = None,
) -> None:
    source = opener(config, [events])(event_schema(config), Position())
    ingest = build_ingest(config, source.partitions, scratch, view_every_s=view_every_s)
    letters = DeadLetterFile(scratch / "letters.ndjson")
    with Ahead(
        source, ingest, letters=letters, clock=time.monotonic, barrier_every_s=None, drain=True
    ) as items:
        train(items, training, lambda *_: None, lambda _: None, view)


def extracted(
    config: Config,
    events: Path,
    scratch: Path,
    *,
    every_s: float,
    view: Callable[[View, Training], None],
    scene: str | None = None,
) -> Scores:
    """Train the extractor over ``events``; ``view`` is called every ``every_s`` of event time."""
    kept = _Kept(scene)
    scratch.mkdir(parents=True, exist_ok=True)
    training = build_training(config, None, scratch)
    measure = training._measure

    def measured(arms: dict[str, Any], examples: dict[str, Any]) -> None:
        kept.add(arms["model"], examples["label"], examples)
        measure(arms, examples)

    training._measure = measured  # type: ignore[method-assign]
    _run(config, events, scratch, training, view, every_s)
    return kept.scores()
