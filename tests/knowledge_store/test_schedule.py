import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_store.errors import SwitchOutOfOrder
from knowledge_store.schedule import Schedule, Switch

TIMES = st.lists(st.integers(-50, 50), unique=True, max_size=6).map(sorted)


def schedule(times):
    """Return a schedule with a switch at each time."""
    return Schedule(Switch(from_ms=t, generation=f"g{i}") for i, t in enumerate(times))


@given(TIMES, st.lists(st.integers(-60, 60)))
def test_each_time_gets_the_last_switch_at_or_before_it(times, asked):
    """A switch holds from its own time on, and what is before the first has no knowledge."""
    expected = [sum(t <= at for t in times) - 1 for at in asked]

    assert expected == schedule(times).at(np.array(asked, np.int64)).tolist()


@given(TIMES, st.integers(-60, 60))
def test_another_switch_changes_nothing_before_its_time(times, from_ms):
    """What was learned stays learned: a schedule grows at its end, or its end is replaced."""
    before = schedule(times)
    late = not times or from_ms >= times[-1]
    earlier = np.arange(-70, from_ms)
    if not late:
        with pytest.raises(SwitchOutOfOrder, match="cannot be in force"):
            before.with_switch(Switch(from_ms=from_ms, generation="new"))
        return

    after = before.with_switch(Switch(from_ms=from_ms, generation="new"))

    assert before.at(earlier).tolist() == after.at(earlier).tolist()
    assert Switch(from_ms=from_ms, generation="new") == after.last
    assert schedule(times) == before
    assert len(after) == len(before) + (from_ms not in times)


def test_switches_that_are_not_in_order_are_no_schedule():
    """Two generations in force at once would be decided by chance."""
    for times in ([2, 1], [1, 1]):
        with pytest.raises(SwitchOutOfOrder):
            schedule(times)
