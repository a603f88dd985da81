import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.digest import ExamplesDigest, OtherColumns, example_hashes
from stream.state import flatten, unflatten

EXAMPLES = {
    "seq": np.arange(50),
    "ids": np.arange(150, dtype=np.uint64).reshape(50, 3),
    "label": (np.arange(50) % 3 == 0).astype(np.uint8),
    "x": (np.arange(50) - 25).astype(np.float32) / 4,
}


def digest(*parts: dict[str, np.ndarray]) -> ExamplesDigest:
    """Return the digest of ``parts``, one after another."""
    result = ExamplesDigest()
    for part in parts:
        result.update(part)
    return result


def pick(index: object) -> dict[str, np.ndarray]:
    """Return some of the examples."""
    return {name: column[index] for name, column in EXAMPLES.items()}


@settings(deadline=None)  # the first example may compile
@given(st.lists(st.integers(0, 50), max_size=5), st.integers(0, 5))
def test_the_cut_makes_no_difference(cuts, restart):
    """Batches are cut by size: the digest is of the examples, also across a restart."""
    ends = [0, *sorted(cuts), 50]
    actual = ExamplesDigest()
    for i in range(len(ends) - 1):
        if i == restart:
            state = unflatten(*flatten(actual.state()))
            actual.update(pick(slice(0, 9)))  # a state is a copy
            actual = ExamplesDigest()
            actual.restore(state)
        actual.update(pick(slice(ends[i], ends[i + 1])))

    assert digest(EXAMPLES).hexdigest() == actual.hexdigest()
    assert digest(EXAMPLES).set_hexdigest() == actual.set_hexdigest()
    assert 50 == actual.count


@given(st.permutations(range(50)))
def test_only_the_set_digest_forgets_the_order(order):
    """Training depends on the order; whether an example is missing does not."""
    shuffled = digest(pick(np.array(order)))

    assert digest(EXAMPLES).set_hexdigest() == shuffled.set_hexdigest()
    moved = order != [*range(50)]
    assert moved == (digest(EXAMPLES).hexdigest() != shuffled.hexdigest())


@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 49), st.integers(0, 2))
def test_every_bit_counts(name, i, k):
    """A digest that overlooks a column would prove nothing."""
    changed = {n: column.copy() for n, column in EXAMPLES.items()}
    column = changed[name].reshape(50, -1)
    raw = column[i : i + 1, k % column.shape[1]].view(np.uint8)
    raw[0] ^= 1

    assert digest(EXAMPLES).hexdigest() != digest(changed).hexdigest()
    assert digest(EXAMPLES).set_hexdigest() != digest(changed).set_hexdigest()


def test_a_missing_example_or_one_too_many_is_seen():
    """The count is part of the digest, so even an example that hashes to 0 counts."""
    assert digest(EXAMPLES).hexdigest() != digest(pick(slice(0, 49))).hexdigest()
    assert digest(EXAMPLES).set_hexdigest() != digest(EXAMPLES, pick(slice(0, 1))).set_hexdigest()


def test_equal_numbers_in_other_columns_are_other_examples():
    """The hash of a value depends on the name of its column."""
    one, two = np.array([1, 2]), np.array([2, 1])

    assert (example_hashes({"a": one, "b": two}) != example_hashes({"a": two, "b": one})).all()


def test_it_is_the_same_everywhere():
    """Digests of runs on different machines are compared: the value is part of the contract."""
    empty = {"ids": np.zeros((1, 0), np.uint64), "x": np.ones(1, np.float32)}

    assert "4716dab9dd093ba3e829891533ab198e" == digest(EXAMPLES).hexdigest()
    assert "c9052d870fb2d27e0ad5d34edb8ab47f" == digest(empty).set_hexdigest()


def test_other_columns_are_refused():
    """A digest of two kinds of examples could not be compared with anything."""
    using = digest(EXAMPLES)

    with pytest.raises(OtherColumns, match="'seq:<i8"):
        using.update({"seq": np.arange(3)})
