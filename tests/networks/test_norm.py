import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.norm import CLAMP, RunningNorm


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_merged_moments_are_those_of_all_batches_together(seed, sizes):
    """How a stream is cut into batches must not show in the mean and variance."""
    rng = np.random.default_rng(seed)
    x_BD = rng.normal([0, 1e4, -3], [1, 10, 1e-3], (sum(sizes), 3)).astype(np.float32)
    norm = RunningNorm(3)
    for part_BD in np.split(x_BD, np.cumsum(sizes)[:-1]):
        norm.update(torch.from_numpy(part_BD.copy()))
    x64_BD = x_BD.astype(np.float64)

    np.testing.assert_allclose(norm.mean_D.numpy(), x64_BD.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(norm.variance_D.numpy(), x64_BD.var(0), rtol=1e-6, atol=1e-12)


def test_numbers_come_out_standardised_and_clamped():
    """Mean 0, deviation 1, outliers at most 8 deviations away: what a network takes well."""
    rng = np.random.default_rng(0)
    x_BD = torch.from_numpy(rng.normal(1e5, 50, (4096, 1)).astype(np.float32))
    norm = RunningNorm(1)
    norm.update(x_BD)
    z_BD = norm(x_BD)

    assert abs(z_BD.mean().item()) < 1e-3
    assert abs(z_BD.std().item() - 1) < 1e-3
    assert norm(torch.tensor([[1e9], [-1e9]])).tolist() == [[CLAMP], [-CLAMP]]


def test_a_missing_number_is_the_mean_and_is_not_counted():
    """Absence must not drag the mean towards some made-up value, nor reach the network as NaN."""
    norm = RunningNorm(1)
    norm.update(torch.tensor([[1.0], [float("nan")], [3.0], [float("inf")]]))

    assert [norm.count_D.item(), norm.mean_D.item(), norm.variance_D.item()] == [2.0, 2.0, 1.0]
    assert norm(torch.tensor([[float("nan")], [3.0]])).tolist() == [[0.0], [1.0]]


def test_before_anything_varies_every_number_is_zero():
    """The first batch is scored before its mean is known: raw values must not come in."""
    norm = RunningNorm(2)
    first = norm(torch.tensor([[1e9, -5.0]]))
    norm.update(torch.tensor([[7.0, 1.0], [7.0, 2.0]]))

    assert first.tolist() == [[0.0, 0.0]]
    assert norm(torch.tensor([[7.0, 1.5]]))[0, 0].item() == 0.0


def test_the_mean_follows_a_stream_that_moves():
    """The count is capped, so that a hundredth batch still weighs something."""
    norm = RunningNorm(1, cap=100)
    for level in (0.0, 10.0):
        for _ in range(50):
            norm.update(torch.tensor([[level - 1], [level + 1]]).repeat(10, 1))

    assert norm.count_D.item() == 100.0
    assert abs(norm.mean_D.item() - 10) < 0.01
    assert abs(norm.variance_D.item() - 1) < 0.1


def test_no_numbers_at_all_is_fine():
    """A model of ids alone has none."""
    norm = RunningNorm(0)
    norm.update(torch.zeros(5, 0))

    assert norm(torch.zeros(5, 0)).shape == (5, 0)
