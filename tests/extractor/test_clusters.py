import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from extractor.clusters import Clusters, ClustersConfig, matching
from extractor.errors import BadVectors, ExtractorError, NotFinite, NotFitted
from stream.state import flatten, unflatten

K, W = 6, 8
seeds = st.integers(0, 2**32 - 1)


def groups(rows, seed=0, spread=0.2, k=K):
    """Return vectors (n, W) of all lengths around k directions, and each one's group (n,)."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(W, W)))[0][:k]
    group = np.arange(rows) % k
    noise = rng.normal(0, spread / np.sqrt(W), (rows, W))
    return ((directions[group] + noise) * rng.uniform(0.1, 9, (rows, 1))).astype(np.float32), group


def fitted(vectors, k=K, **config):
    """Return clusters of vectors."""
    clusters = Clusters(k, vectors.shape[1], ClustersConfig(**config))
    clusters.fit(vectors)
    return clusters


def agreement(a, b):
    """Return the share of items with equal numbers."""
    return float((a == b).mean())


@given(seeds)
@settings(max_examples=15)
def test_groups_are_found_whatever_the_lengths(seed):
    """The length of an item vector is its popularity: a category is a direction."""
    vectors, group = groups(300, seed)

    numbers = fitted(vectors).assign(vectors)

    assert K == len(set(zip(group, numbers, strict=True)))  # one number a group, and one to one
    assert np.int32 == numbers.dtype


def test_the_same_vectors_give_the_same_clusters():
    """A refresh that is resumed, or repeated elsewhere, must not number anew."""
    vectors, _ = groups(500, spread=2.0)
    a, b, other = fitted(vectors), fitted(vectors), fitted(vectors, seed=1)

    np.testing.assert_array_equal(a.centres, b.centres)
    assert (a.centres != other.centres).any()


def test_a_refresh_keeps_the_numbers():
    """User × category knowledge is keyed by them: a new number would be another category."""
    vectors, _ = groups(600, spread=1.0)
    clusters = fitted(vectors)
    numbers = clusters.assign(vectors)
    rng = np.random.default_rng(1)

    for _ in range(5):
        vectors += rng.normal(0, 0.02, vectors.shape).astype(np.float32) * vectors.std()
        clusters.refresh(vectors)

    assert agreement(numbers, clusters.assign(vectors)) > 0.95


def test_an_item_stays_unless_another_cluster_is_nearer_by_the_margin():
    """At a border every refresh would toss an item to and fro."""
    clusters = Clusters(2, 2, ClustersConfig(margin=0.1))
    clusters.restore({"centres": np.eye(2, dtype=np.float32), "members": np.ones(2, np.int64)})
    angle = np.array([0.75, 0.75, 0.75, 0.9, 0.0])  # π/4 is the border
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    assert [0, 0, 0, 1, 0] == clusters.assign(vectors).tolist()
    last = np.array([0, 1, -1, 0, 1], np.int32)
    assert [0, 1, 0, 1, 0] == clusters.assign(vectors, last).tolist()


def test_the_margin_calms_a_refresh():
    """Without groups, where all is border, it is the margin that keeps categories."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(4_000, W)).astype(np.float32)
    clusters = fitted(vectors, k=20)
    last = clusters.assign(vectors)
    moved = (vectors + rng.normal(0, 0.1, vectors.shape)).astype(np.float32)
    clusters.refresh(moved)

    calm, loose = clusters.assign(moved, last), clusters.assign(moved)

    assert 1 - agreement(last, calm) < 0.5 * (1 - agreement(last, loose))


def test_a_number_that_is_no_cluster_of_ours_is_given_up():
    """A table may hold numbers of more clusters than there are now."""
    vectors, _ = groups(60)
    clusters = fitted(vectors)

    np.testing.assert_array_equal(
        clusters.assign(vectors), clusters.assign(vectors, np.full(60, K, np.int32))
    )


def test_a_vector_of_zeros_has_no_cluster():
    """−1 + 1 is category 0, which is absent everywhere; it must not pull a centre either."""
    vectors, _ = groups(60)
    vectors[7] = 0.0
    clusters = fitted(vectors)

    numbers = clusters.assign(vectors, np.zeros(60, np.int32))

    assert -1 == numbers[7]
    assert (numbers[np.arange(60) != 7] >= 0).all()


def test_an_emptied_cluster_starts_anew_and_no_other_changes():
    """A topic dies, another grows: the free number goes to part of the largest cluster."""
    vectors, group = groups(600)
    clusters = fitted(vectors)
    number = clusters.assign(vectors)
    gone = int(number[group == 0][0])
    kept = group != 0
    rng = np.random.default_rng(3)
    topic = groups(5 * W, seed=77, k=1)[0]
    new = np.concatenate([vectors[kept], topic + rng.normal(0, 0.01, topic.shape)])

    clusters.refresh(new.astype(np.float32))

    np.testing.assert_array_equal(number[kept], clusters.assign(vectors[kept]))
    assert {gone} == set(clusters.assign(topic).tolist())


def test_fewer_directions_than_clusters_leave_some_empty():
    """Three articles on the first day: empty clusters take nothing, and wait."""
    few = np.eye(3, W, dtype=np.float32)
    clusters = fitted(np.repeat(few, 5, axis=0))
    numbers = clusters.assign(few)

    assert 3 == len(set(numbers.tolist()))
    assert 3 == (~clusters.centres.any(axis=1)).sum()
    assert set(clusters.assign(-few.sum(0, keepdims=True))) <= set(numbers)  # far from all three
    clusters.refresh(np.eye(W, dtype=np.float32))
    assert clusters.centres.any(axis=1).all()
    np.testing.assert_array_equal(numbers, clusters.assign(few))


def test_a_fit_from_scratch_takes_over_the_numbers():
    """Now and then centres are found anew; categories must survive that."""
    vectors, _ = groups(600, spread=0.5)
    clusters = fitted(vectors)
    numbers = clusters.assign(vectors)
    again = Clusters(K, W, ClustersConfig(seed=5))
    again.restore(clusters.state())

    again.fit(vectors)

    assert agreement(numbers, fitted(vectors, seed=5).assign(vectors)) < 0.9  # or it is no test
    assert agreement(numbers, again.assign(vectors)) > 0.99


def test_a_sample_is_enough():
    """The time of a refresh must not grow with the number of items."""
    vectors, group = groups(3_000)

    numbers = fitted(vectors, sample=300).assign(vectors)

    assert K == len(set(zip(group, numbers, strict=True)))


def test_blocks_make_no_difference(monkeypatch):
    """Millions of rows pass through a bounded buffer."""
    vectors, _ = groups(200)
    whole = fitted(vectors)
    numbers = whole.assign(vectors, np.zeros(200, np.int32))
    monkeypatch.setattr("extractor.gram.ROWS", 7)
    cut = fitted(vectors)

    np.testing.assert_allclose(whole.centres, cut.centres, atol=1e-6)
    np.testing.assert_array_equal(numbers, cut.assign(vectors, np.zeros(200, np.int32)))


@given(seeds)
@settings(max_examples=10)
def test_a_restart_changes_nothing(seed):
    """The centres lie beside the generation: the next refresh goes on from the same bits."""
    vectors, _ = groups(120, seed, spread=2.0)
    clusters = fitted(vectors)
    state = clusters.state()
    arrays_, rest = flatten(state)

    resumed = Clusters(K, W)
    resumed.restore(unflatten(arrays_, rest))
    for each in (clusters, resumed):
        each.refresh(vectors[::2])

    np.testing.assert_array_equal(clusters.centres, resumed.centres)
    np.testing.assert_array_equal(clusters.assign(vectors), resumed.assign(vectors))
    assert not np.shares_memory(state["centres"], resumed.state()["centres"])
    assert not np.shares_memory(clusters.state()["centres"], clusters.state()["centres"])


def test_nonsense_is_refused():
    """Each with what is wrong about it."""
    vectors, _ = groups(60)
    clusters = Clusters(K, W)

    with pytest.raises(NotFitted):
        clusters.assign(vectors)
    with pytest.raises(NotFitted):
        clusters.refresh(vectors)
    with pytest.raises(ExtractorError, match="has a direction"):
        clusters.fit(np.zeros((5, W), np.float32))
    with pytest.raises(ExtractorError, match="at least 1"):
        Clusters(0, W)
    with pytest.raises(BadVectors, match=r"\(rows, 8\)"):
        clusters.fit(vectors[:, :3])
    with pytest.raises(BadVectors, match="saved centres"):
        clusters.restore({"centres": np.zeros((K, W + 1)), "members": np.zeros(K)})
    clusters.fit(vectors)
    with pytest.raises(BadVectors, match="last clusters"):
        clusters.assign(vectors, np.zeros(3, np.int32))
    vectors[5, 1] = np.nan
    for call in (clusters.fit, clusters.refresh, clusters.assign):
        with pytest.raises(NotFinite, match="Row 5"):
            call(vectors)


@given(arrays(np.float64, (5, 5), elements=st.integers(-20, 20).map(float)))
@settings(max_examples=50)
def test_the_matching_is_the_cheapest_of_all(cost):
    """Compared with every permutation of five."""
    columns = matching(cost)

    assert sorted(columns.tolist()) == list(range(5))
    cheapest = min(
        sum(cost[row, column] for row, column in enumerate(order))
        for order in itertools.permutations(range(5))
    )
    assert cheapest == cost[np.arange(5), columns].sum()
