import numpy as np
import pytest

from replay.delays import DrawnDelay
from stream.ids import hash_integers

IDS = hash_integers(np.arange(200_000))
TS = np.full(IDS.size, 1_700_000_000_000)


def _seconds(delay, ids=IDS):
    return (delay.feedback_ms(TS[: ids.size], ids, None) - TS[: ids.size]) / 1000


def test_a_drawn_delay_belongs_to_its_impression():
    """Blocks, order and restarts must not change when a click comes."""
    delay = DrawnDelay(distribution="lognormal", scale_s=200.0, sigma=1.8)
    order = np.random.default_rng(0).permutation(1_000)

    np.testing.assert_array_equal(_seconds(delay)[order], _seconds(delay, IDS[order]))


def test_another_seed_draws_other_delays():
    """To see what a result owes to the draw, draw again."""
    first, second = (
        _seconds(DrawnDelay(distribution="exponential", scale_s=60.0, seed=s)) for s in (0, 1)
    )

    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


def test_the_lognormal_has_its_median_and_spread():
    """The configuration speaks of a median and of sigma: they must be what comes out."""
    logs = np.log(_seconds(DrawnDelay(distribution="lognormal", scale_s=200.0, sigma=0.7)))

    assert abs(np.median(logs) - np.log(200.0)) < 0.01
    assert abs(logs.std() - 0.7) < 0.01
    assert abs(((logs - logs.mean()) ** 3).mean() / logs.std() ** 3) < 0.03


def test_the_exponential_has_its_mean():
    """So it is with mean_s."""
    seconds = _seconds(DrawnDelay(distribution="exponential", scale_s=60.0))

    assert pytest.approx(60.0, rel=0.01) == seconds.mean()
    assert pytest.approx(60.0, rel=0.02) == seconds.std()


def test_no_draw_is_longer_than_a_year():
    """A heavy tail must not put a click past the times that the stream takes."""
    seconds = _seconds(DrawnDelay(distribution="lognormal", scale_s=1e6, sigma=9.0))

    assert seconds.max() == 366 * 86_400
