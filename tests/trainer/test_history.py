import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.history import ClickHistory
from trainer.timeline import Timeline

moments = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5), st.integers(0, 1)), max_size=40
)


def observe(history, length, shows, clicks):
    """Return recent, last and activity; ``shows`` of (at, user), ``clicks`` of (at, user, item)."""
    show = np.array(shows, np.int64).reshape(-1, 2)
    click = np.array(clicks, np.int64).reshape(-1, 3)
    timeline = Timeline.of(show[:, 0].copy(), click[:, 0].copy(), click[:, 0].copy(), 0)
    recent = np.full((len(show), length + 1), 99, np.uint64)  # one column is not its own
    users = [c.astype(np.uint64) for c in (show[:, 1], click[:, 1], click[:, 2])]
    last, activity = history.observe(timeline, *users, recent)
    assert (recent[:, length] == 99).all()
    return recent[:, :length].tolist(), last.tolist(), activity.tolist()


@settings(deadline=None)
@given(moments, st.integers(0, 4))
def test_recent_clicks_are_those_before_the_moment(log, length):
    """Most recent first, padded with zeros, and nothing of the moment itself."""
    at, shows, clicks, want = 0, [], [], []
    for is_show, user, item, later in log:
        at += later
        if is_show:
            mine = [i for t, u, i in clicks if t < at and u == user and user and i]
            recent = mine[::-1][:length]
            seen = sum(t < at and u == user and user > 0 for t, u in shows)
            want.append((recent + [0] * (length - len(recent)), mine[-1] if mine else 0, seen))
            shows.append((at, user))
        else:
            clicks.append((at, user, item))
    if not log:
        return
    recent, last, activity = observe(ClickHistory(length, max_users=10), length, shows, clicks)

    assert [w[0] for w in want] == recent
    assert [w[1] for w in want] == last
    assert [w[2] for w in want] == activity


def test_users_unseen_for_longest_are_forgotten():
    """The bound holds, and a user who keeps coming is kept."""
    history = ClickHistory(2, max_users=4)
    shows = [(2 * i, 1 if i % 3 == 0 else 100 + i) for i in range(31)]
    recent, _, activity = observe(history, 2, shows, [(1, 1, 55)])

    assert recent[-1] == [55, 0]
    assert activity[-1] == 10
    assert len(history) <= 8
    assert observe(history, 2, [(100, 101)], [])[0] == [[0, 0]]
