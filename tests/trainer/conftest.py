"""Stores that several tests of feeds read."""

import pytest

from knowledge_store.store import KnowledgeStore
from tests.trainer.feeds import ITEM_ONLY, another
from tests.trainer.knowledge import add
from tests.trainer.parts import START_MS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a store of four generations of items, none in force, that learned until the start."""
    store = KnowledgeStore(tmp_path_factory.mktemp("built") / "knowledge", create=True)
    for _ in range(4):
        add(store, START_MS, ITEM_ONLY)
    return store


@pytest.fixture
def four(built, tmp_path):
    """Return a store with the four generations, and switches of its own."""
    return another(built, tmp_path)
