"""Small stores of knowledge for tests, of the ids of `tests.trainer.parts`."""

import numpy as np

from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_integers

ITEMS, USERS = hash_integers(np.arange(9)), hash_integers(np.arange(7))  # items 9 and 10: no vector
KINDS = {
    "item": Kind("item", 4),
    "user": Kind("user", 4),
    "interaction": Kind("interaction", 2),
    "cluster": Kind("cluster", 1, "float32"),
}
CLUSTERS = np.arange(ITEMS.size) % 3


def store_in(folder, *generations, activate=True):
    """Return a store with a generation, in force from then on, for each time (ms) given."""
    store = KnowledgeStore(folder / "knowledge", create=True)
    for until_ms in generations:
        name = add(store, until_ms)
        if activate:
            store.activate(name, until_ms)
    return store


def vectors(seed, rows, kind):
    """Return the vectors that generation ``seed`` has of a kind."""
    rng = np.random.default_rng([seed, len(kind.name)])
    return rng.normal(size=(rows, kind.width)).astype(kind.dtype)


def add(store, until_ms, kinds=KINDS):
    """Build the next generation and return its name; its number decides its vectors."""
    pairs = pair_ids(np.repeat(USERS, 3), np.tile(np.arange(1, 4, dtype=np.uint64), USERS.size))
    ids = {"item": ITEMS, "user": USERS, "interaction": pairs, "cluster": ITEMS}
    with store.build(kinds) as build:
        seed = int(build.name[2:])
        for kind in kinds.values():
            values = vectors(seed, ids[kind.name].size, kind)
            if kind.name == "cluster":
                values = CLUSTERS[:, None].astype(np.float32)
            build.put(kind.name, ids[kind.name], values)
        return build.commit(trained_until_ms=until_ms, about={}).name
