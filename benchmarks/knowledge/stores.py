"""Stores of one extractor: refreshed at several intervals, aligned or not, or with a leak."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from extractor.clusters import Clusters
from extractor.extract import extract
from extractor.extraction import CLUSTER, ITEM, USER, Extraction
from extractor.refresh import Refresher
from keepstream.config import Config
from keepstream.reading import feature_schema
from knowledge_store.store import KnowledgeStore
from knowledge_store.tables import Table
from trainer.loop import Training
from trainer.view import View

U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


def content(store: KnowledgeStore, name: str) -> dict[str, tuple[U64, npt.NDArray[Any]]]:
    """Return all ids (n,) and vectors (n, W) of a generation, by kind."""
    found = {}
    for kind in store.manifest(name).kinds.values():
        table = Table(store.path(name) / kind.name, kind)
        ids, vectors = zip(*table.scan(), strict=True)
        found[kind.name] = np.concatenate(ids), np.concatenate(vectors)
        table.close()
    return found


@dataclass
class Cost:
    """What the refreshes of a store took."""

    refreshes: int = 0
    seconds: float = 0.0  # of extracting, aligning, writing, activating
    longest_s: float = 0.0
    vectors: int = 0  # written
    verdicts: dict[str, int] = field(default_factory=dict)

    def add(self, seconds: float, vectors: int, verdict: str) -> None:
        """Count one."""
        self.refreshes += 1
        self.seconds += seconds
        self.longest_s = max(self.longest_s, seconds)
        self.vectors += vectors
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1


class Aligned:
    """What the product does: `extractor.refresh.Refresher`."""

    def __init__(self, root: Path, config: Config) -> None:
        self.store = KnowledgeStore(root, create=True)
        self.cost = Cost()
        self._config = config
        self._refresher = Refresher(self.store, config.extractor, clock=time.monotonic)

    def take(
        self, extraction: Extraction, from_ms: int, extract_s: float, training: Training
    ) -> None:
        """Make a generation."""
        began = time.perf_counter()
        window = training.metrics.glance()["window"] or {}
        made = self._refresher.refresh(
            extraction,
            whole=self._refresher.rebuild_due(),
            from_ms=from_ms,
            loss=window.get("normalized_entropy"),
            clicks=window.get("clicks"),
            learned=training.metrics.examples,
        )
        took = extract_s + time.perf_counter() - began
        self.cost.add(took, sum(made.changed.values()), made.verdict.decision.value)


def turned(vectors: Mapping[str, F32], rng: np.random.Generator) -> dict[str, F32]:
    """Return the vectors of kinds (n, W) as another training would have them: turned.

    Users and items by one rotation, since only their products mean something; others by their own,
    and the numbers of clusters by none.
    """
    turns = {
        name: np.linalg.qr(rng.normal(size=(each.shape[1], each.shape[1])))[0].astype(np.float32)
        if name != CLUSTER
        else np.eye(1, dtype=np.float32)
        for name, each in vectors.items()
    }
    if ITEM in turns and USER in turns:
        turns[USER] = turns[ITEM]
    return {name: each @ turns[name] for name, each in vectors.items()}


def turned_extraction(extraction: Extraction, rng: np.random.Generator) -> Extraction:
    """Return an extraction with all its vectors `turned`."""
    made = turned({name: each.vectors for name, each in extraction.kinds.items()}, rng)
    kinds = {name: replace(each, vectors=made[name]) for name, each in extraction.kinds.items()}
    return replace(extraction, kinds=kinds)


class Raw:
    """Generations as they were extracted, each in a space of its own.

    ``turned``: by a random rotation too, as the vectors of an extractor that is trained anew are.
    ``early_ms``: each is said to have been there so long before what it knows, which is a leak.
    """

    def __init__(self, root: Path, config: Config, *, turned: bool = False, early_ms: int = 0):
        self.store = KnowledgeStore(root, create=True)
        self.cost = Cost()
        self._turned = np.random.default_rng(config.train.seed) if turned else None
        self._early_ms = early_ms
        self._config = config.extractor
        self._clusters: Clusters | None = None

    def take(
        self, extraction: Extraction, from_ms: int, extract_s: float, training: Training
    ) -> None:
        """Make a generation."""
        if extraction.pairs is not None:
            extraction = extraction.with_clusters(self._clustered(extraction.kinds[ITEM].vectors))
        if self._turned is not None:
            extraction = turned_extraction(extraction, self._turned)
        kinds = extraction.stored()
        until = extraction.at_ms - self._early_ms
        with self.store.build(kinds) as build:
            for name in kinds:
                found = extraction.kinds[name]
                build.put(name, found.ids, found.vectors)
            manifest = build.commit(trained_until_ms=until, about={})
        self.store.activate(manifest.name, from_ms - self._early_ms)
        self.cost.add(extract_s, sum(map(len, extraction.kinds.values())), "accept")

    def _clustered(self, vectors: F32) -> I32:
        """Return the number (n,) of each item's cluster, which it keeps from one to the next."""
        if self._clusters is None:
            self._clusters = Clusters(self._config.clusters, vectors.shape[1])
            self._clusters.fit(vectors)
        else:
            self._clusters.refresh(vectors)
        return self._clusters.assign(vectors)


class Stores:
    """Fills several stores from the views of one extractor's run."""

    def __init__(
        self,
        config: Config,
        stores: Mapping[int, Sequence[Aligned | Raw]],
        *,
        turn: np.random.Generator | None = None,
        not_before_ms: int = 0,
    ) -> None:
        """Fill ``stores``, by their interval in ms; ``turn``: each time from another space.

        No generation is made as of a time before ``not_before_ms``: nobody would look it up.
        """
        self._turn = turn
        self._not_before_ms = not_before_ms
        self._config = config
        self._schema = feature_schema(config)
        self._stores = stores
        self._lag_ms = round(1000 * config.extractor.lag_s)

    def view(self, view: View, training: Training) -> None:
        """Make the generations that are due."""
        due = [
            one for every, some in self._stores.items() if not view.at_ms % every for one in some
        ]
        if not due or view.at_ms < self._not_before_ms:
            return
        began = time.perf_counter()
        extraction = extract(
            self._schema, self._config.state, training.learner, view, self._config.extractor,
            everybody=True,
        )  # fmt: skip
        if self._turn is not None:
            extraction = turned_extraction(extraction, self._turn)
        took = time.perf_counter() - began
        for one in due:
            one.take(extraction, view.at_ms + self._lag_ms, took, training)
