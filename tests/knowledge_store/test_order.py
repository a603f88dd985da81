"""The order of ids by key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from knowledge_store.order import rising
from stream.ids import hash_integers

ANY = st.integers(0, 2**64 - 1)
NEAR = st.integers(0, 3000)  # told apart by their last bits alone


@given(arrays(np.uint64, st.integers(0, 50), elements=ANY | NEAR))
def test_it_is_that_of_a_sort(ids):
    """Whatever they are, doubles included: each place comes once, and no id falls."""
    order, found = rising(ids)

    assert sorted(order.tolist()) == list(range(ids.size))
    assert np.array_equal(np.sort(ids), found)
    assert np.array_equal(ids[order], found)


@pytest.mark.parametrize("alike", [2, 5, 40])
def test_hashes_that_begin_alike_are_put_right(alike):
    """A few of many ids differ in the bits only that were lent to their places."""
    ids = hash_integers(np.arange(60_000))
    ids[1000 : 1000 + alike] = (ids[7] >> np.uint64(12) << np.uint64(12)) + np.arange(
        alike, 0, -1, dtype=np.uint64
    )

    order, found = rising(ids)

    assert np.array_equal(np.sort(ids), found)
    assert np.array_equal(ids[order], found)


def test_small_numbers_are_sorted_too():
    """Nothing says that an id is a hash."""
    ids = np.random.default_rng(0).permutation(100_000).astype(np.uint64)

    order, found = rising(ids)

    assert np.array_equal(np.arange(100_000), found)
    assert np.array_equal(np.argsort(ids), order)
