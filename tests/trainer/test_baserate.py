import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.baserate import BaseRate

labels = st.lists(st.lists(st.sampled_from([0.0, 1.0]), max_size=40), max_size=20)


def after(batches):
    """Return the rate after batches of labels."""
    rate = BaseRate()
    for batch in batches:
        rate.update(np.array(batch, np.float32))
    return rate


def test_it_starts_at_one_in_twenty_and_becomes_the_click_rate():
    """What most click logs are near to; a few thousand examples later it no longer matters."""
    assert BaseRate().logit == pytest.approx(math.log(1 / 19))
    rate = after([[1.0] + [0.0] * 9] * 1000)

    assert rate.logit == pytest.approx(math.log(0.1 / 0.9), abs=0.01)


@given(labels)
def test_it_is_finite_whatever_is_clicked(batches):
    """Nothing but clicks, or none at all, must not make a score infinite."""
    assert math.isfinite(after(batches).logit)


@given(labels, st.integers(0, 20))
def test_a_restart_changes_nothing(batches, at):
    """Two numbers are its whole state."""
    first = after(batches[:at])
    resumed = BaseRate()
    resumed.restore(first.state())
    for batch in batches[at:]:
        resumed.update(np.array(batch, np.float32))

    assert after(batches).state() == resumed.state()
