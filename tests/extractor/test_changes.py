import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from extractor.changes import changed, cosines, smooth, stored
from extractor.errors import BadVectors, ExtractorError, NotFinite

rows = arrays(np.float32, (6, 3), elements=st.floats(-100, 100, width=32))
masks = arrays(np.bool_, 6)


@given(rows, rows, masks, st.floats(0, 1))
def test_smoothing_lies_between_old_and_new(old, new, present, weight):
    """A moving average where there is a past; what is new is taken as it is."""
    actual = smooth(old, new, present, weight)

    np.testing.assert_array_equal(new[~present], actual[~present])
    expected = weight * old.astype(np.float64) + (1 - weight) * new
    np.testing.assert_allclose(expected[present], actual[present], rtol=1e-5, atol=1e-5)
    assert np.float32 == actual.dtype


def test_smoothing_keeps_four_fifths_of_the_old():
    """0.8 is what was best of the published weights."""
    old, new = np.full((1, 2), 10, np.float16), np.full((1, 2), 20, np.float32)

    np.testing.assert_allclose([[12, 12]], smooth(old, new, np.array([True])))


@given(rows, masks)
def test_an_unchanged_vector_is_not_written(vectors, present):
    """Tolerance 0 writes what differs as stored, and what was not there."""
    old = vectors.astype(np.float16)

    assert not changed(old, vectors, 0.0).any()
    np.testing.assert_array_equal(~present, changed(old, vectors, 0.0, present))


@given(rows, st.integers(0, 5), st.integers(0, 2))
def test_without_a_tolerance_every_bit_counts(old, row, column):
    """Also that of a sign of nought: a table is to be what a full build would make."""
    new = old.copy()
    new.view(np.uint32)[row, column] ^= 1 << 31

    assert [row] == np.flatnonzero(changed(old, new, 0.0)).tolist()


def test_a_difference_that_the_stored_dtype_cannot_hold_is_none():
    """Half the rows would be written for digits that float16 drops."""
    old = np.array([[1.0], [1.0]], np.float16)
    new = np.array([[1.0001], [1.001]], np.float32)

    assert [False, True] == changed(old, new, 0.0).tolist()
    assert [True, True] == changed(old.astype(np.float32), new, 0.0).tolist()


def test_the_tolerance_is_relative_to_the_old_vector():
    """A hundredth of a long vector may be more than all of a short one."""
    old = np.array([[100, 0], [1, 0], [0, 0], [0, 0]], np.float32)
    new = np.array([[100, 0.9], [1, 0.9], [0, 1e-6], [0, 0]], np.float32)

    assert [False, True, True, False] == changed(old, new, 0.01).tolist()


def test_what_is_left_unwritten_never_adds_up():
    """Each generation is compared with what is stored, not with the one before."""
    truth = np.ones((1, 4), np.float32)
    table, written = truth.copy(), 0
    for _ in range(100):
        truth = truth * np.float32(1.001)
        write = changed(table, truth, 0.01)
        table[write] = truth[write]
        written += int(write.sum())
        assert np.linalg.norm(truth - table) <= 0.01 * np.linalg.norm(table)

    assert 1 <= written <= 10


@given(rows, rows)
def test_cosines_are_those_of_the_rows(old, new):
    """The mean of them is the drift that a manifest tells."""
    actual = cosines(old, new)

    assert (np.abs(actual) <= 1 + 1e-6).all()
    for a, b, cosine in zip(old.astype(np.float64), new.astype(np.float64), actual, strict=True):
        length = np.linalg.norm(a) * np.linalg.norm(b)
        assert (a @ b / length if length else 0.0) == pytest.approx(cosine, abs=1e-6)


def test_blocks_make_no_difference(monkeypatch):
    """Millions of rows pass through a bounded buffer, and every row gets its own answer."""
    rng = np.random.default_rng(0)
    old = rng.normal(size=(30, 4)).astype(np.float16)
    new = (old + rng.choice([0, 0.1], (30, 1))).astype(np.float32)
    present = rng.random(30) < 0.5
    whole = (cosines(old, new), smooth(old, new, present), changed(old, new, 0.01, present))
    monkeypatch.setattr("extractor.gram.ROWS", 7)

    np.testing.assert_array_equal(whole[0], cosines(old, new))
    np.testing.assert_array_equal(whole[1], smooth(old, new, present))
    np.testing.assert_array_equal(whole[2], changed(old, new, 0.01, present))


def test_what_would_not_be_finite_when_stored_is_refused():
    """float16 ends at 65,504: an extractor that blows up must not reach the table as inf."""
    large = np.full((2, 2), 1e5, np.float32)

    with pytest.raises(NotFinite, match="float16"):
        changed(np.ones((2, 2), np.float16), large, 0.0)
    with pytest.raises(NotFinite, match="float16"):
        stored(large, np.float16)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad):
    """On either side: a comparison with NaN is always false, and would pass for unchanged."""
    good, spoiled = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    spoiled[1, 0] = bad
    present = np.ones(3, np.bool_)

    for old, new in ((good, spoiled), (spoiled, good)):
        with pytest.raises(NotFinite, match="Row 1"):
            changed(old, new, 0.1)
        with pytest.raises(NotFinite, match="Row 1"):
            smooth(old, new, present)
        with pytest.raises(NotFinite, match="Row 1"):
            cosines(old, new)


def test_nonsense_is_refused():
    """Each with what is wrong about it."""
    rows, present = np.ones((3, 2), np.float32), np.ones(3, np.bool_)

    with pytest.raises(BadVectors, match="as the old ones"):
        changed(rows, rows[:1], 0.1)
    with pytest.raises(BadVectors, match="presence mask"):
        changed(rows, rows, 0.1, present[:1])
    with pytest.raises(BadVectors, match="presence mask"):
        smooth(rows, rows, present[:1])
    for tolerance in (-0.1, np.nan):
        with pytest.raises(ExtractorError, match="tolerance"):
            changed(rows, rows, tolerance)
    for weight in (-0.1, 1.1, np.nan):
        with pytest.raises(ExtractorError, match="weight of old"):
            smooth(rows, rows, present, weight)
