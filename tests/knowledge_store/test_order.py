"""The order of ids by key."""

import time

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


@pytest.mark.parametrize("swaps", [1, 20, 150])
def test_dense_ids_that_are_nearly_in_order_take_no_longer(swaps):
    """All of them begin alike, so a few that are out of order concern all of them, once."""
    rng = np.random.default_rng(swaps)
    ids = np.arange(1, 200_001, dtype=np.uint64)
    for at in rng.integers(0, ids.size - 1, swaps):
        ids[at], ids[at + 1] = ids[at + 1], ids[at]
    began = time.process_time()

    order, found = rising(ids)

    assert time.process_time() - began < 0.5
    assert np.array_equal(np.sort(ids), found)
    assert np.array_equal(ids[order], found)


def test_many_groups_are_each_put_right():
    """Pairs that differ in their last bits alone, out of order here and there."""
    begins = np.arange(1, 50_001, dtype=np.uint64) << np.uint64(40)
    ids = np.stack([begins + np.uint64(1), begins], axis=1).ravel()
    ids[: -2 * 40] = np.sort(ids[: -2 * 40])

    order, found = rising(ids)

    assert np.array_equal(np.sort(ids), found)
    assert np.array_equal(ids[order], found)
