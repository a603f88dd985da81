import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.align import align, canonical, mapped, procrustes, stable
from extractor.errors import BadVectors, NotFinite, NothingInCommon
from extractor.gram import Gram, moment

W = 8
seeds = st.integers(0, 2**32 - 1)


def rotation(rng, width=W):
    """Return a random orthogonal matrix, a reflection half of the time."""
    q, r = np.linalg.qr(rng.normal(size=(width, width)))
    return q * np.sign(np.diag(r))


def skewed(rng, condition=30.0):
    """Return a random linear map that is far from orthogonal."""
    stretch = np.geomspace(condition**-0.5, condition**0.5, W)
    return rotation(rng) * stretch @ rotation(rng)


def vectors(rng, rows, spread=3.0):
    """Return vectors with directions of unequal spread, as trained ones have."""
    scale = np.geomspace(1, 1 / spread, W)
    return (rng.normal(size=(rows, W)) * scale @ rotation(rng)).astype(np.float32)


def gram(new, last, weights=None):
    """Return the Gram of two arrays of vectors."""
    sums = Gram(new.shape[1])
    sums.add(new, last, weights)
    return sums


def canonicalised(users, items):
    """Return users and items in canonical form."""
    of_users, of_items = canonical(moment(users), moment(items))
    return mapped(users, of_users), mapped(items, of_items)


@given(seeds)
@settings(max_examples=25)
def test_a_rotation_is_found_again(seed):
    """A new training that says the same in other axes must not be noticed downstream."""
    rng = np.random.default_rng(seed)
    last, turn = vectors(rng, 200), rotation(rng)
    new = mapped(last, turn.T)

    found = procrustes(gram(new, last))

    np.testing.assert_allclose(turn, found.matrix, atol=1e-5)
    np.testing.assert_allclose(last, found.apply(new), atol=1e-5)
    assert found.mean_cosine == pytest.approx(1.0, abs=1e-6)
    assert found.error == pytest.approx(0.0, abs=1e-6)
    assert 200 == found.count


def test_the_figures_are_those_of_the_vectors():
    """The guard judges by them: they must say what comparing every row would say."""
    rng = np.random.default_rng(3)
    last = vectors(rng, 300)
    new = mapped(last, rotation(rng)) + rng.normal(0, 0.3, (300, W)).astype(np.float32)

    found = procrustes(gram(new, last))

    def mean_cosine(a, b):
        return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()

    turned = found.apply(new)
    assert mean_cosine(new, last) == pytest.approx(found.cosine_before, abs=1e-5)
    assert mean_cosine(turned, last) == pytest.approx(found.mean_cosine, abs=1e-5)
    assert ((turned - last) ** 2).sum() / (last**2).sum() == pytest.approx(found.error, abs=1e-5)
    assert 0.1 < found.error < 0.9  # or it would compare noughts


@given(seeds)
@settings(max_examples=25)
def test_no_other_rotation_fits_better(seed):
    """Procrustes is the least-squares optimum over all orthogonal maps."""
    rng = np.random.default_rng(seed)
    new, last = vectors(rng, 50), vectors(rng, 50)
    found = procrustes(gram(new, last))

    def error(matrix):
        return ((new @ matrix - last) ** 2).sum()

    np.testing.assert_allclose(np.eye(W), found.matrix @ found.matrix.T, atol=1e-12)
    tilt, _ = np.linalg.qr(np.eye(W) + 0.05 * rng.normal(size=(W, W)))
    tilt *= np.sign(np.diag(tilt))
    for other in (rotation(rng), found.matrix @ tilt):
        assert error(found.matrix) <= error(other) + 1e-6


@given(seeds)
@settings(max_examples=25)
def test_canonical_maps_change_no_score(seed):
    """Users and items get different maps, and every dot product of theirs stays."""
    rng = np.random.default_rng(seed)
    users, items = vectors(rng, 60) @ skewed(rng), vectors(rng, 40)
    of_users, of_items = canonical(moment(users), moment(items))

    np.testing.assert_allclose(np.eye(W), of_users @ of_items.T, atol=1e-9)
    np.testing.assert_allclose(
        users @ items.T, (users @ of_users) @ (items @ of_items).T, atol=1e-7
    )


def test_the_canonical_form_has_one_diagonal_second_moment():
    """What makes it canonical: nothing is left to choose but the signs of the axes."""
    rng = np.random.default_rng(1)
    users, items = canonicalised(vectors(rng, 300) @ skewed(rng), vectors(rng, 200))

    diagonal = np.diag(np.diag(moment(users)))
    np.testing.assert_allclose(diagonal, moment(users), atol=1e-3 * diagonal.max())
    np.testing.assert_allclose(diagonal, moment(items), atol=1e-3 * diagonal.max())


@given(seeds)
@settings(max_examples=25)
def test_a_linear_map_that_is_no_rotation_needs_the_canonical_form_first(seed):
    """Two trainings with equal scores may differ by any linear map: rotating alone fails."""
    rng = np.random.default_rng(seed)
    users, items, skew = vectors(rng, 150), vectors(rng, 100), skewed(rng)
    new_users, new_items = users @ skew, items @ np.linalg.inv(skew).T

    plain = align({"user": gram(new_users, users), "item": gram(new_items, items)})
    stored_users, stored_items = canonicalised(users, items)
    new_users, new_items = canonicalised(new_users, new_items)
    found = align({"user": gram(new_users, stored_users), "item": gram(new_items, stored_items)})

    assert plain["user"].error > 0.1
    assert found["user"].error < 1e-6
    np.testing.assert_allclose(stored_users, found["user"].apply(new_users), atol=2e-3)
    np.testing.assert_allclose(stored_items, found["item"].apply(new_items), atol=2e-3)


@pytest.mark.parametrize("rank", [0, 1, W - 2])
def test_a_direction_without_mass_does_no_harm(rank):
    """Dead dimensions, or fewer users than dimensions: a Cholesky factor would not exist."""
    rng = np.random.default_rng(2)
    users, items = vectors(rng, 50), vectors(rng, 40)
    users[:, rank:] = 0.0

    of_users, of_items = canonical(moment(users), moment(items))

    for matrix in (of_users, of_items):
        assert np.isfinite(matrix).all()
        assert np.linalg.cond(matrix) < 3_000
    np.testing.assert_allclose(
        users @ items.T, (users @ of_users) @ (items @ of_items).T, atol=1e-6
    )


def test_a_nearly_singular_moment_is_not_blown_up():
    """A direction of 1e-9 of the mass is rounding, not knowledge: it must stay small."""
    rng = np.random.default_rng(4)
    users, items = vectors(rng, 500), vectors(rng, 400)
    users[:, 3] *= 1e-6

    stored_users, stored_items = canonicalised(users, items)

    assert np.abs(stored_users).max() < 30 * np.abs(users).max()
    assert np.abs(stored_items).max() < 30 * np.abs(items).max()


def test_what_the_entities_leave_open_is_not_turned():
    """Two entities in eight dimensions turn their own plane; what is across it stays."""
    rng = np.random.default_rng(5)
    plane = rotation(rng)[:2]
    turn = np.eye(W) + plane.T @ (rotation(rng, 2) - np.eye(2)) @ plane
    last = (rng.normal(size=(2, 2)) @ plane).astype(np.float32)

    found = procrustes(gram(mapped(last, turn.T), last))

    np.testing.assert_allclose(turn, found.matrix, atol=1e-3)


def test_users_and_items_turn_together_and_interactions_on_their_own():
    """Their score is u · i: different rotations would make noise of it."""
    rng = np.random.default_rng(6)
    shared, own = rotation(rng), rotation(rng)
    last = {kind: vectors(rng, 200) for kind in ("user", "item", "interaction")}
    new = {kind: mapped(last[kind], (shared if kind != "interaction" else own).T) for kind in last}

    found = align({kind: gram(new[kind], last[kind]) for kind in last})

    assert found["user"].matrix is found["item"].matrix
    np.testing.assert_allclose(shared, found["item"].matrix, atol=1e-5)
    np.testing.assert_allclose(own, found["interaction"].matrix, atol=1e-5)
    scores = new["user"] @ new["item"].T
    turned = found["user"].apply(new["user"]) @ found["item"].apply(new["item"]).T
    np.testing.assert_allclose(scores, turned, atol=1e-4)


def test_many_users_do_not_outvote_the_items():
    """In a tie each kind has the same say, or items would jump where users are many."""
    rng = np.random.default_rng(7)
    users, items = vectors(rng, 3_000), vectors(rng, 30)
    new = {
        "user": gram(mapped(users, rotation(rng)), users),
        "item": gram(mapped(items, rotation(rng)), items),
    }
    few = Gram(W)
    few.merge(new["user"])
    for name in ("cross", "of_a", "of_b"):
        getattr(few, name)[:] /= 1_000

    many = align(new)["item"]

    np.testing.assert_allclose(many.matrix, align({**new, "user": few})["item"].matrix, atol=1e-6)
    assert many.mean_cosine > 0.3


def test_a_kind_without_common_entities_follows_the_one_it_is_tied_to():
    """No user came back, the items did: users must still fit the items."""
    rng = np.random.default_rng(8)
    items = vectors(rng, 100)
    found = align({"user": Gram(W), "item": gram(mapped(items, rotation(rng)), items)})

    assert found["user"].matrix is found["item"].matrix
    assert (0, 0.0, 0.0, 0.0) == (
        found["user"].count,
        found["user"].cosine_before,
        found["user"].mean_cosine,
        found["user"].error,
    )


def test_without_anything_in_common_there_is_no_map():
    """An arbitrary one would be worse than none: a person decides."""
    with pytest.raises(NothingInCommon, match="No user or item"):
        align({"user": Gram(W), "item": Gram(W)})
    with pytest.raises(NothingInCommon, match="No category"):
        procrustes(Gram(W), "category")


def test_tied_kinds_of_different_widths_are_refused():
    """They cannot share a rotation: the configuration is wrong, and named."""
    with pytest.raises(BadVectors, match="user and item"):
        align({"user": Gram(W), "item": Gram(W + 1)})


def test_a_generation_that_has_hardly_turned_may_stay_as_it_is():
    """Rotating every vector by a hair would have the refresh write them all."""
    rng = np.random.default_rng(9)
    last = vectors(rng, 200)
    near = last + rng.normal(0, 0.01, last.shape).astype(np.float32)
    far = mapped(near, rotation(rng))

    kept = align({"item": gram(near, last)}, least_gain=0.001)["item"]
    turned = align({"item": gram(far, last)}, least_gain=0.001)["item"]

    np.testing.assert_array_equal(np.eye(W), kept.matrix)
    assert kept.mean_cosine == kept.cosine_before
    assert turned.mean_cosine > 0.99


def test_a_chain_of_generations_does_not_drift():
    """Each is aligned to the one before it, noise and all: the twentieth is still in its space."""
    rng = np.random.default_rng(10)
    truth_users, truth_items = vectors(rng, 600), vectors(rng, 400)
    users, items = first = canonicalised(truth_users, truth_items)

    cosines = []
    for _ in range(20):
        skew = skewed(rng)  # a new training: other axes, and noise of its own
        noisy_users = truth_users + rng.normal(0, 0.1, truth_users.shape)
        noisy_items = truth_items + rng.normal(0, 0.1, truth_items.shape)
        new = canonicalised(noisy_users @ skew, noisy_items @ np.linalg.inv(skew).T)
        found = align({"user": gram(new[0], users), "item": gram(new[1], items)})
        users, items = found["user"].apply(new[0]), found["item"].apply(new[1])
        cosines.append(procrustes(gram(users, first[0])).cosine_before)

    assert min(cosines) > 0.95
    assert cosines[-1] > cosines[0] - 0.01  # as near to the first as the second was


def test_the_fit_is_on_settled_entities_of_both_generations():
    """A rare one's vector is its first random value, which would blur the map."""
    seen = np.array([0, 4, 5, 100, 100])
    in_last = np.array([True, True, True, True, False])

    assert [False, False, True, True, False] == stable(seen, in_last).tolist()
    assert [False, True, True, True, False] == stable(seen, in_last, least=1).tolist()


@given(seeds)
@settings(max_examples=10)
def test_settled_entities_fit_better_than_all(seed):
    """The reason for the choice: new entities carry no trace of the map."""
    rng = np.random.default_rng(seed)
    last, turn = vectors(rng, 80), rotation(rng)
    new = mapped(last, turn.T) + rng.normal(0, 0.05, last.shape).astype(np.float32)
    seen = np.where(np.arange(80) < 40, 50, 1)
    new[40:] = 3 * rng.normal(size=(40, W))
    keep = stable(seen, np.ones(80, np.bool_))

    def off(found):
        return np.linalg.norm(found.matrix - turn)

    fitted = procrustes(gram(new[keep], last[keep]))
    assert off(fitted) < off(procrustes(gram(new, last)))


def test_mapping_in_blocks_is_mapping_at_once(monkeypatch):
    """Millions of rows pass through a bounded buffer."""
    rng = np.random.default_rng(11)
    rows, matrix = vectors(rng, 50), rotation(rng)
    whole = mapped(rows, matrix)
    monkeypatch.setattr("extractor.gram.ROWS", 7)

    np.testing.assert_allclose(whole, mapped(rows, matrix), rtol=1e-6, atol=1e-7)
    assert np.float32 == whole.dtype


def test_bad_moments_are_refused():
    """A diverged extractor must not get as far as a map."""
    good = np.eye(W)
    bad = good.copy()
    bad[2, 2] = np.nan

    with pytest.raises(NotFinite, match="moment of items"):
        canonical(good, bad)
    with pytest.raises(BadVectors, match="moment of items"):
        canonical(good, np.eye(W + 1))
    with pytest.raises(BadVectors, match=r"\(rows, 8\)"):
        mapped(np.zeros((3, W + 1), np.float32), good)
