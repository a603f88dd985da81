"""A small site whose users and items are known, and extractions from models that learned it."""

from contextlib import closing

import numpy as np

from extractor.config import ExtractorConfig
from extractor.extraction import Extracted, Extraction
from extractor.refresh import Refresher
from knowledge_store.kinds import pair_ids
from knowledge_store.tables import Table
from stream.ids import hash_integers

WIDTH = 8
CONFIG = ExtractorConfig(clusters=4)


class Site:
    """Its latent vectors: the product of a user's and an item's is the logit of a click."""

    def __init__(self, users=300, items=120, seed=0):
        rng = np.random.default_rng(seed)
        self.users, self.items = rng.normal(size=(users, WIDTH)), rng.normal(size=(items, WIDTH))
        self.states = np.maximum(self.items @ rng.normal(size=(WIDTH, 6)), 0)
        self.user_ids = hash_integers(np.arange(users))
        self.item_ids = hash_integers(np.arange(items) + 100_000)

    def extraction(
        self, at_ms, model=0, *, moved=0.0, users=None, items=None, noise=0.0, clusters=False
    ):
        """Return what a model of this number has learned: the same products, in its own space.

        ``moved``: by so much the first tenth of all vectors has changed since. ``users`` and
        ``items``: how many of them there are by then.
        """
        rng = np.random.default_rng([model, 7])
        space = np.eye(WIDTH) + (rng.normal(size=(WIDTH, WIDTH)) * 0.5 if model else 0)
        turn = np.linalg.qr(rng.normal(size=(6, 6)))[0] if model else np.eye(6)
        kinds = {
            "item": self._of(self.item_ids, self.items @ np.linalg.inv(space).T, items),
            "user": self._of(self.user_ids, self.users @ space, users),
            "item_state": self._of(self.item_ids, self.states @ turn, items),
        }
        for found in kinds.values():
            found.vectors[: len(found) // 10] += np.float32(moved)
            found.vectors[:] += noise * rng.normal(size=found.vectors.shape)
        pairs = self._pairs(kinds["user"], space) if clusters else None
        return Extraction(at_ms=at_ms, kinds=kinds, about={"of": "a site"}, pairs=pairs)

    def _of(self, ids, vectors, count):
        some = slice(count)
        rows = vectors[some].astype(np.float32)
        return Extracted(ids=ids[some], vectors=rows, seen=np.full(len(rows), 9, np.int64))

    def _pairs(self, users, space):
        def pairs(numbers):
            each = np.unique(numbers).astype(np.uint64) + np.uint64(1)
            ids = pair_ids(np.repeat(users.ids, each.size), np.tile(each, len(users)))
            vectors = np.repeat(users.vectors[:, :4], each.size, axis=0)
            return Extracted(ids=ids, vectors=vectors, seen=np.full(ids.size, 9, np.int64))

        return pairs


class Clock:
    """Seconds that go on by one at each look."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        """Return the time."""
        self.seconds += 1.0
        return self.seconds


def refresher(store, config=CONFIG, **options):
    """Return a refresher of a store, by a clock that no machine decides."""
    return Refresher(store, config, **{"clock": Clock(), **options})


def content(store, name):
    """Return all vectors of a generation by kind: ids (n,) and vectors (n, W), in their order."""
    found = {}
    for kind in store.manifest(name).kinds.values():
        with closing(Table(store.path(name) / kind.name, kind)) as table:
            blocks = list(table.scan())
        found[kind.name] = tuple(np.concatenate(part) for part in zip(*blocks, strict=True))
    return found


def same(one, other):
    """Return whether two contents are the same to the bit."""
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for kind in one
        for a, b in zip(one[kind], other[kind], strict=True)
    )
