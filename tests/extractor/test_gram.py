from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import extractor.gram
from extractor.errors import BadVectors, NotFinite
from extractor.gram import Gram, moment

W = 5
SUMS = ("cross", "of_a", "of_b", "directions")


def pairs(rows, seed=0):
    """Return new and last vectors, and weights, of ``rows`` entities."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, W)).astype(np.float32)
    return a, b, rng.random(rows)


def summed(*parts):
    """Return the Gram of several blocks of pairs."""
    gram = Gram(W)
    for a, b, weights in parts:
        gram.add(a, b, weights)
    return gram


def assert_same(expected, actual):
    """Compare two Grams, but for rounding."""
    for name in SUMS:
        np.testing.assert_allclose(
            getattr(expected, name), getattr(actual, name), rtol=1e-12, atol=1e-12
        )
    assert expected.count == actual.count
    assert expected.weight == pytest.approx(actual.weight)


def test_the_sums_are_what_they_are_called(monkeypatch):
    """Everything fitted later rests on these four products, weights and block borders included."""
    monkeypatch.setattr(extractor.gram, "ROWS", 7)
    a, b, weights = pairs(40)
    a[3] = 0.0  # without a direction

    gram = summed((a, b, weights))

    a, b = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_allclose((a.T * weights) @ b, gram.cross)
    np.testing.assert_allclose((a.T * weights) @ a, gram.of_a)
    np.testing.assert_allclose((b.T * weights) @ b, gram.of_b)
    with np.errstate(invalid="ignore"):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.nansum(weights * cosine) == pytest.approx(np.trace(gram.directions))
    assert 40 == gram.count
    assert weights.sum() == pytest.approx(gram.weight)


@given(st.lists(st.integers(0, 60), max_size=4), st.booleans())
def test_the_cut_into_blocks_makes_no_difference(cuts, merged):
    """A table of millions streams through, or is shared among several that are merged."""
    a, b, weights = pairs(60)
    bounds = [0, *sorted(cuts), 60]
    slices = [slice(*pair) for pair in pairwise(bounds)]
    parts = [(a[cut], b[cut], weights[cut]) for cut in slices]

    if merged:
        actual = Gram(W)
        for part in parts:
            actual.merge(summed(part))
    else:
        actual = summed(*parts)

    assert_same(summed((a, b, weights)), actual)


def test_a_weight_counts_as_so_many_entities():
    """Weights by exposure mean what repeating a row would mean."""
    a, b, _ = pairs(6)
    times = np.array([0, 1, 2, 3, 1, 5])

    weighted, repeated = Gram(W), Gram(W)
    weighted.add(a, b, times)
    repeated.add(np.repeat(a, times, axis=0), np.repeat(b, times, axis=0))

    np.testing.assert_allclose(repeated.cross, weighted.cross, rtol=1e-12)
    assert repeated.weight == weighted.weight


def test_the_callers_vectors_stay_as_they_are():
    """float64 input is scaled in a copy: a Gram only looks."""
    a, b, weights = pairs(6)
    a64, b64 = a.astype(np.float64), b.astype(np.float64)

    Gram(W).add(a64, b64, weights)

    np.testing.assert_array_equal(a, a64)
    np.testing.assert_array_equal(b, b64)


def test_stored_vectors_are_summed_in_float64():
    """A sum in float16 has three digits: what is stored in it must not be added in it."""
    tenths = np.full((10_000, W), 0.1, np.float16)
    expected = np.full((W, W), 10_000 * float(tenths[0, 0]) ** 2)
    gram = Gram(W)
    gram.add(tenths, tenths)

    np.testing.assert_allclose(expected, moment(tenths), rtol=1e-12)
    np.testing.assert_allclose(expected, gram.cross, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_refused_before_anything_is_added(bad, side):
    """One NaN in millions would make NaN of every vector of the generation."""
    parts = pairs(6_000)
    parts[side][5_000, 2] = bad
    gram = Gram(W)

    with pytest.raises(NotFinite, match="Row 5000"):
        gram.add(*parts)
    assert_same(Gram(W), gram)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_weights_are_refused(bad):
    """A negative weight would turn a vector away from its own past."""
    a, b, weights = pairs(6)
    weights[4] = bad

    with pytest.raises(NotFinite, match="Row 4 of weights"):
        Gram(W).add(a, b, weights)


def test_shapes_that_do_not_fit_are_refused():
    """Broadcasting would take some of them."""
    a, b, weights = pairs(6)

    for wrong in [(a[:, :4], b), (a, b[:, :4]), (a, b[:1]), (a[0], b[0]), (a, b, weights[:1])]:
        with pytest.raises(BadVectors, match="has the shape"):
            Gram(W).add(*wrong)
    with pytest.raises(BadVectors, match="width 5"):
        Gram(W).merge(Gram(4))
