import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.delivered import Delivered
from stream.examples import Progress
from stream.position import Offset, Partition
from stream.state import flatten, unflatten

INPUTS = (Partition("feedback", 2), Partition("impressions", 2))
LINES = 1 << 24  # of a message of nothing but ends of lines

places = st.tuples(
    st.integers(0, 1), st.integers(0, 6), st.sampled_from([0, 1, 2, LINES, 2 * LINES + 1])
)
steps = st.lists(
    st.one_of(
        st.lists(places, max_size=8),
        st.tuples(st.integers(0, 1), st.builds(Offset, st.integers(0, 7), st.integers(0, 3))),
    ),
    max_size=20,
)


def told(settled):
    """Return a record's progress of which only ``settled`` matters here."""
    return Progress(resume={}, settled=settled, complete_to=None, read={})


def fresh(delivered, origins):
    """Return which of the origins are let through."""
    partition, offset, row = np.array(origins, np.int64).reshape(-1, 3).T
    return delivered.fresh(partition.astype(np.int16), offset, row.astype(np.int32)).tolist()


def reborn(delivered):
    """Return one that goes on from a checkpoint."""
    arrays, rest = flatten(delivered.state())
    other = Delivered()
    other.restore(unflatten(arrays, json.loads(json.dumps(rest))))
    return other


@given(steps, st.sets(st.integers(0, 20)))
def test_it_is_a_set_of_origins_and_a_place_below_which_all_are_known(operations, restarts):
    """Each origin once, in whatever record it comes again, and over any restart."""
    delivered, known, settled = Delivered(), set(), dict.fromkeys(INPUTS, Offset(0))
    for number, step in enumerate(operations):
        if isinstance(step, tuple):
            delivered.advance(told(settled | {INPUTS[step[0]]: step[1]}))
            settled[INPUTS[step[0]]] = max(step[1], settled[INPUTS[step[0]]])
        else:
            expected = []
            for i, offset, row in step:
                expected.append(
                    (offset, row) >= settled[INPUTS[i]] and (i, offset, row) not in known
                )
                known.add((i, offset, row))
            assert expected == fresh(delivered, step)
        if number in restarts:
            delivered = reborn(delivered)


def test_a_restored_one_has_the_same_state():
    """A checkpoint of a run that was resumed is that of a run that was not."""
    delivered = Delivered()
    fresh(delivered, [(1, 9, 1), (1, 4, 0), (0, 3, 0), (1, 9, 0)])
    delivered.advance(told({INPUTS[0]: Offset(0), INPUTS[1]: Offset(5)}))
    states = [flatten(d.state()) for d in (delivered, reborn(delivered))]

    assert states[0][1] == states[1][1]
    assert [9, 9] == states[0][0]["1/offset"].tolist()
    assert [0, 1] == states[0][0]["1/row"].tolist()
    assert all((states[0][0][k] == states[1][0][k]).all() for k in states[0][0])


def test_a_place_told_by_one_that_is_behind_takes_nothing_back():
    """Of two workers that write at once, either may have got further."""
    delivered = Delivered()
    delivered.advance(told({INPUTS[1]: Offset(0), INPUTS[0]: Offset(8)}))
    delivered.advance(told({INPUTS[1]: Offset(0), INPUTS[0]: Offset(3)}))

    assert [False, True] == fresh(delivered, [(0, 5, 0), (0, 8, 0)])


def test_what_has_settled_takes_no_memory():
    """A trainer reads a topic for years; its checkpoints stay small."""
    delivered = Delivered()
    for k in range(0, 200_000, 1000):
        assert all(fresh(delivered, [(0, k + i, 0) for i in range(1000)]))
        delivered.advance(told({INPUTS[0]: Offset(k + 500)}))
    one = delivered._inputs[0]

    assert 500 == delivered.state()["0"]["offset"].size
    assert one._offset.size <= 4 * 1500
    assert one._table.nbytes + one._offset.nbytes + one._row.nbytes <= 1 << 20
