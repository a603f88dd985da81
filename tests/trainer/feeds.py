"""Feeds of small stores, and what they give."""

import resource
import signal
from contextlib import contextmanager

import numpy as np

from knowledge_store.store import KnowledgeStore
from stream.events import EventColumns, EventSchema
from stream.ids import hash_integers
from tests.trainer.knowledge import ITEMS, KINDS, vectors
from tests.trainer.parts import START_MS
from trainer.knowledge_config import KnowledgeConfig
from trainer.knowledge_feed import KnowledgeFeed
from trainer.knowledge_journal import (
    KnowledgeJournal,
)

ITEM_ONLY = {"item": KINDS["item"]}
SCHEMA = EventSchema(ids=("topic", "place"))
SECONDS = 60


def shown(seconds, users=None, items=None):
    """Return impressions at these seconds."""
    at = START_MS + np.rint(1000 * np.asarray(seconds, float)).astype(np.int64)
    events = EventColumns.empty(SCHEMA, at.size).with_at(at)
    events.ts[:] = at
    which = np.arange(at.size) if users is None else np.asarray(users)
    events.user[:] = hash_integers(which % 8)
    events.item[:] = hash_integers((which if items is None else np.asarray(items)) % 11)
    events.ids[:] = hash_integers(np.arange(2 * at.size) % 3).reshape(-1, 2)
    return events


def feed_of(store, *, journal=None, given=None, live=False, clock=None, tell=None, **config):
    """Return a feed of a store; a live one looks at it at every block."""
    return KnowledgeFeed(
        KnowledgeConfig(store=str(store.root), **{"watch_s": 0, **config}),
        features=SCHEMA.ids,
        journal=KnowledgeJournal(journal),
        given=given,
        live=live,
        clock=clock,
        tell=tell or (lambda line: None),
    )


def given_to(feed, events):
    """Return what a feed gives to events, all accepted: (vectors, known)."""
    columns = feed.observe(events, np.arange(len(events)))
    assert {k: (v.dtype, v.shape[1:]) for k, v in columns.items()} == {
        name: (np.dtype(kind), (width,)) for name, (kind, width) in feed.columns().items()
    }
    return columns["knowledge"], columns["known"]


def of_item(store, feed, number):
    """Return which generation's vector of item ``number`` a feed gives at a time, by second."""

    def generation_at(second):
        vectors_, known = given_to(feed, shown([second], [number]))
        return found_in(vectors_[0]) if known[0, 0] else 0

    return generation_at


def found_in(vector, number=1, generations=9):
    """Return the number of the generation that has this vector of an item."""
    for seed in range(1, generations + 1):
        if (vectors(seed, ITEMS.size, KINDS["item"])[number] == vector[:4]).all():
            return seed
    return None


def another(built, folder):
    """Return a store over the generations of ``built``, with switches of its own."""
    (folder / "store").mkdir()
    (folder / "store" / "generations").symlink_to(built.root / "generations")
    return KnowledgeStore(folder / "store")


def activate(store, number, second):
    """Put a generation in force from a second on."""
    store.activate(f"g-{number:08d}", START_MS + 1000 * second)


@contextmanager
def files_of_at_most(size):
    """Let no file grow beyond so many bytes, as a quota or a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def damage(store, generation):
    """Flip a bit in the midst of a generation's vectors of items."""
    table = max((store.path(generation) / "item").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.chmod(0o644)
    table.write_bytes(bytes(data))
