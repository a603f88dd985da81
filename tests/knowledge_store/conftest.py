"""Fixtures of the knowledge store's tests."""

import pytest

from knowledge_store.store import KnowledgeStore


@pytest.fixture
def store(tmp_path):
    """Yield an empty store; after the test what must hold between its parts is checked."""
    store = KnowledgeStore(tmp_path / "store", create=True)
    yield store
    store.check()
