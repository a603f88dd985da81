import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.embeddings import BACKENDS, TableConfig, make_table
from trainer.errors import EmbeddingError

CONFIG = TableConfig(width=4, learning_rate=0.1, init_scale=0.5)
ROWS = 50


def table(backend, config=CONFIG, max_rows=ROWS, seed=0):
    """Return an empty table."""
    return make_table(replace(config, backend=backend), max_rows=max_rows, seed=seed)


def filled(backend, **options):
    """Return a table all of whose rows hold ids."""
    made = table(backend, **options)
    made.reset(np.arange(1, ROWS + 1), np.arange(1, ROWS + 1, dtype=np.uint64))
    return made


def learn(made, rows_N, weights_NE):
    """Take one step on a loss whose gradient differs by place."""
    vectors_NE = made.lookup(torch.from_numpy(rows_N))
    (vectors_NE * torch.from_numpy(weights_NE)).square().sum().backward()


def steps(count, seed=0, size=64, width=CONFIG.width):
    """Yield the rows and weights of random steps."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rows_N = rng.integers(0, ROWS + 1, size)
        yield rows_N, rng.normal(size=(size, width)).astype(np.float32)


def reference(made, rows_N, weights_NE):
    """Return the weights and accumulators of exact row-wise Adagrad, in float64, row by row."""
    w_RE, G_R = made.weights.astype(np.float64), made.accumulator.astype(np.float64)
    before_RE = w_RE.copy()
    for row in np.unique(rows_N[rows_N > 0]):
        there = rows_N == row
        g_E = (2 * before_RE[row] * np.square(weights_NE[there].astype(np.float64))).sum(0)
        G_R[row] += np.mean(g_E**2)
        w_RE[row] -= CONFIG.learning_rate * g_E / (np.sqrt(G_R[row]) + CONFIG.eps)
    return w_RE, G_R


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_exact_row_wise_adagrad(backend):
    """Gradients of a repeated row are summed, then squared, then averaged over the row."""
    made = filled(backend)
    for rows_N, weights_NE in steps(30):
        expected_w, expected_G = reference(made, rows_N, weights_NE)
        learn(made, rows_N, weights_NE)

        np.testing.assert_allclose(made.weights, expected_w, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(made.accumulator, expected_G, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("eps", [1e-8, 10.0])
def test_both_backends_stay_equal_to_rounding_over_many_steps(eps):
    """The plain-torch twin is both the fallback and the proof that the fused kernel is right.

    A large eps shows where it is added: beside the root, not inside it.
    """
    config = replace(CONFIG, eps=eps)
    fused, plain = (filled(backend, config=config) for backend in BACKENDS)
    for rows_N, weights_NE in steps(300):
        learn(fused, rows_N, weights_NE)
        learn(plain, rows_N, weights_NE)

    np.testing.assert_allclose(fused.weights, plain.weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fused.accumulator, plain.accumulator, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_a_lookup_has_the_shape_of_its_rows(backend, shape, seed):
    """Fields (B, F) and histories (B, L) are looked up alike; empty ones too."""
    made = filled(backend)
    rows = np.random.default_rng(seed).integers(0, ROWS + 1, shape)

    vectors = made.lookup(torch.from_numpy(rows))

    assert (*shape, CONFIG.width) == tuple(vectors.shape)
    np.testing.assert_array_equal(made.weights[rows], vectors.detach().numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_id_is_the_zero_vector_for_ever(backend):
    """Row 0 stands for absence: it must neither speak nor learn."""
    made = filled(backend)
    for _ in range(5):
        learn(made, np.array([0, 3, 0]), np.ones((3, CONFIG.width), np.float32))

    assert [0.0] * CONFIG.width == made.weights[0].tolist()
    assert made.accumulator[0] == 0.0
    assert made.accumulator[3] > 0.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_looking_up_without_gradients_says_the_same_and_changes_nothing(backend, mode):
    """Scoring must agree bit for bit with the forward pass of learning."""
    made = filled(backend)
    for rows_N, weights_NE in steps(3):
        learn(made, rows_N, weights_NE)
    rows = torch.arange(ROWS + 1)
    with mode():
        quiet = made.lookup(rows)
    state = made.state()

    assert torch.equal(quiet, made.lookup(rows))
    assert not quiet.requires_grad
    np.testing.assert_array_equal(state["weights"], made.weights)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [-1, ROWS + 1, 2**62])
def test_a_row_outside_the_table_is_refused(backend, bad):
    """The kernel itself would read or write memory that is not its own."""
    with pytest.raises(EmbeddingError, match=f"Row {bad} is outside the table of {ROWS} rows"):
        filled(backend).lookup(torch.tensor([1, bad, 2]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_reset_row_begins_anew(backend):
    """A row given to another id must bring nothing of the old one, its step size included."""
    made = filled(backend)
    first = made.weights[7].copy()
    for rows_N, weights_NE in steps(5):
        learn(made, rows_N, weights_NE)
    made.reset(np.array([7]), np.array([7], np.uint64))

    np.testing.assert_array_equal(first, made.weights[7])
    assert made.accumulator[7] == 0.0
    assert made.accumulator[8] > 0.0


def test_a_first_vector_depends_on_seed_and_id_alone():
    """Not on row, order or backend: so an id that comes back, or a restart, begins the same."""
    ids = np.array([11, 22, 33], np.uint64)
    one, two, other = table("fbgemm"), table("torch"), table("torch", seed=1)
    one.reset(np.array([1, 2, 3]), ids)
    two.reset(np.array([9]), ids[2:])
    two.reset(np.array([5, 4]), ids[:2])
    other.reset(np.array([1, 2, 3]), ids)

    np.testing.assert_array_equal(one.weights[[1, 2, 3]], two.weights[[5, 4, 9]])
    assert not np.any(one.weights[1:4] == other.weights[1:4])


def test_first_vectors_are_uniform_within_the_scale():
    """Mean 0 and variance scale²/3: neither biased nor wider than configured."""
    made = table("torch", replace(CONFIG, width=16), max_rows=20_000)
    made.reset(np.arange(1, 20_001), np.arange(20_000, dtype=np.uint64))
    values = made.weights[1:].astype(np.float64)

    assert 0.49 < np.abs(values).max() <= 0.5
    assert abs(values.mean()) < 0.002
    assert abs(values.var() - 0.25 / 3) < 0.001
    assert np.abs(np.corrcoef(values.T) - np.eye(16)).max() < 0.05


def test_a_scale_of_zero_begins_with_zeros():
    """An unseen id then contributes exactly nothing."""
    made = table("torch", replace(CONFIG, init_scale=0.0))
    made.reset(np.array([1]), np.array([5], np.uint64))

    assert not made.weights.any()


@pytest.mark.parametrize("bad", [0, -1, ROWS + 1])
def test_only_rows_that_hold_ids_are_reset(bad):
    """Row 0 must stay zero, and writing past the table would spoil memory."""
    with pytest.raises(EmbeddingError, match="cannot be reset"):
        table("torch").reset(np.array([bad]), np.array([1], np.uint64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_restoring_continues_bit_for_bit(backend):
    """Also into a table that has learned other things, and used more rows, in between."""
    other = filled(backend)
    for rows_N, weights_NE in steps(5, seed=1):
        learn(other, rows_N, weights_NE)
    small = table(backend)
    small.reset(np.arange(1, 11), np.arange(1, 11, dtype=np.uint64))
    learn(small, np.arange(11), np.ones((11, CONFIG.width), np.float32))
    other.restore(small.state())
    for each in (small, other):
        each.reset(np.arange(11, ROWS + 1), np.arange(11, ROWS + 1, dtype=np.uint64))
        for rows_N, weights_NE in steps(5, seed=2):
            learn(each, rows_N, weights_NE)

    np.testing.assert_array_equal(small.weights, other.weights)
    np.testing.assert_array_equal(small.accumulator, other.accumulator)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_is_a_copy_of_the_rows_in_use(backend):
    """A checkpoint is written while learning goes on, and holds no row that was never used."""
    made = table(backend)
    made.reset(np.arange(1, 6), np.arange(1, 6, dtype=np.uint64))
    state = made.state()
    kept = state["weights"].copy()
    learn(made, np.arange(6), np.ones((6, CONFIG.width), np.float32))

    assert (6, CONFIG.width) == state["weights"].shape
    np.testing.assert_array_equal(kept, state["weights"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_learned_without_a_reset_is_in_the_state(backend):
    """A restart must not lose it, whatever the caller forgot."""
    made = table(backend)
    vectors = made.lookup(torch.tensor([9]))
    vectors.sum().backward()

    assert made.state()["weights"].shape[0] == 10


def test_a_state_of_another_size_is_refused():
    """Cutting rows off, or reading them at another width, would mix up ids."""
    state = filled("torch").state()

    with pytest.raises(EmbeddingError, match="does not fit one of 10 rows x 4"):
        table("torch", max_rows=10).restore(state)
    with pytest.raises(EmbeddingError, match="does not fit one of 50 rows x 8"):
        table("torch", replace(CONFIG, width=8)).restore(state)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_learning_repeats_bit_for_bit(backend, threads):
    """Repeated rows are summed in the same order in every run, on two threads too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for _ in range(3):
            made = filled(backend, config=replace(CONFIG, width=16))
            for rows_N, weights_NE in steps(5, size=40_000, width=16):
                learn(made, rows_N, weights_NE)
            results.append(made.weights.copy())
    finally:
        torch.set_num_threads(before)

    for result in results[1:]:
        np.testing.assert_array_equal(results[0], result)


def test_an_unknown_backend_is_refused():
    """A typing error must not fall back to something slower in silence."""
    with pytest.raises(EmbeddingError, match="There is no embedding backend 'fbgem'"):
        table("fbgem")


def test_auto_takes_the_fused_kernel_where_it_is_installed():
    """Nobody should have to ask for the fast one."""
    pytest.importorskip("fbgemm_gpu")

    assert type(table("auto")).__name__ == "FbgemmTable"


def test_a_table_leaves_logging_as_it_was():
    """The kernel's package logs to the root logger while it sets up."""
    root = logging.getLogger()
    before = list(root.handlers), root.manager.disable
    table("auto")

    assert before == (list(root.handlers), root.manager.disable)


def test_a_large_table_costs_memory_only_as_it_fills():
    """A generous max_rows must be free: pages come as rows come into use."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip(f"{pages} is there on Linux only: run this test there")
    before = int(pages.read_text().split()[1])
    made = table("auto", replace(CONFIG, width=16), max_rows=10_000_000)
    made.reset(np.arange(1, 1001), np.arange(1, 1001, dtype=np.uint64))
    grown = (int(pages.read_text().split()[1]) - before) * 4096

    assert grown < 50 * 2**20  # of 680 MB reserved
