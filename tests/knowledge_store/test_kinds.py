import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_store.kinds import Kind, ids_of, keys_of, pair_ids
from stream.ids import hash_integers

ids = st.lists(st.integers(0, (1 << 64) - 1))


@given(ids)
def test_keys_sort_as_their_ids_do_and_lead_back_to_them(given):
    """Tables are written in the order of ids and scanned in that of keys."""
    given = np.array(given, np.uint64)
    keys = keys_of(given)

    assert keys_of(np.sort(given)) == sorted(keys)
    assert all(len(key) == 8 for key in keys)
    assert given.tolist() == ids_of(keys).tolist()


@pytest.mark.parametrize("name", ["", "Item", "2nd", "user item", "a/b", "../item", "ïtem"])
def test_a_kind_has_a_name_that_can_be_a_folder_and_a_key(name):
    """Its table is a folder of that name, its configuration a bare word."""
    with pytest.raises(ValueError, match="cannot name a kind"):
        Kind(name, 4)


@pytest.mark.parametrize(("width", "dtype"), [(0, "float16"), (4097, "float16"), (8, "float64")])
def test_a_kind_of_no_width_or_another_type_is_refused(width, dtype):
    """The message names the kind and what it may be."""
    with pytest.raises(ValueError, match="kind item"):
        Kind("item", width, dtype)


def test_a_kind_knows_its_bytes():
    """Bounds of memory are made of them."""
    assert (128, 128) == (Kind("item", 64).bytes, Kind("item", 32, "float32").bytes)


def test_pairs_have_ids_of_their_own():
    """Two of a million that shared one would share a vector."""
    users = hash_integers(np.arange(1000))
    found = pair_ids(np.repeat(users, 1000), np.tile(users, 1000))

    assert 1_000_000 == np.unique(found).size


def test_clusters_are_numbered_close_together_and_pair_as_well():
    """Their categories are 1, 2, 3 …, not hashes."""
    users = hash_integers(np.arange(1000))
    found = pair_ids(np.repeat(users, 64), np.tile(np.arange(1, 65, dtype=np.uint64), 1000))

    assert 64_000 == np.unique(found).size


def test_the_order_of_a_pair_matters():
    """User 5 in category 7 is not user 7 in category 5."""
    five, seven = np.array([5], np.uint64), np.array([7], np.uint64)

    assert pair_ids(five, seven) != pair_ids(seven, five)


def test_a_pair_with_nobody_is_nobody():
    """Id 0 stands for no id, and has no vector."""
    found = pair_ids(np.array([0, 1, 0, 1], np.uint64), np.array([0, 0, 1, 1], np.uint64))

    assert [True, True, True, False] == (found == 0).tolist()


def test_one_user_pairs_with_many_categories():
    """All of a user's categories are looked up at once."""
    user, categories = np.array([5], np.uint64), np.array([7, 8], np.uint64)

    assert pair_ids(np.repeat(user, 2), categories).tolist() == pair_ids(user, categories).tolist()


def test_pair_ids_stay_what_they_are():
    """They are keys of tables on disk: another hash would lose every interaction vector."""
    found = pair_ids(np.array([1, 2], np.uint64), np.array([3, 4], np.uint64))

    assert ["0xce52f3fc9cc94963", "0x687514366b28b15e"] == [hex(value) for value in found.tolist()]
