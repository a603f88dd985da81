import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.table import FREE, capacity_for, find, grown, home, new_table, put, remove

# Keys that share few homes in a table of 16 slots, so that clusters form, wrap around and merge.
CLASHING = [key for key in range(-400, 400) if home(key, 15) in (0, 1, 14, 15)][:24]

operations = st.lists(
    st.tuples(st.sampled_from(["put", "put", "remove"]), st.sampled_from(CLASHING)), max_size=80
)


@settings(deadline=None)  # the first example may compile
@given(operations)
def test_it_is_a_dictionary(operations):
    """Removal moves entries: every other key must stay where its search finds it."""
    slots, model = new_table(8), {}
    for value, (operation, key) in enumerate(operations):
        if operation == "remove":
            remove(slots, key)
            model.pop(key, None)
        elif key in model or len(model) < 15:
            put(slots, key, value)
            model[key] = value

        assert [model.get(k, FREE) for k in CLASHING] == [find(slots, k) for k in CLASHING]
        assert len(model) == np.count_nonzero(slots[:, 1] != FREE)


def test_a_grown_table_holds_the_same():
    """Growth is invisible, and happens only where it must."""
    slots = new_table(8)
    for key in range(8):
        put(slots, key, key * key)

    assert slots is grown(slots, 8)
    larger = grown(slots, 9)
    assert 32 == len(larger)
    assert [key * key for key in range(8)] == [find(larger, key) for key in range(8)]


def test_capacities_are_powers_of_two():
    """Places are found by a mask."""
    assert [1, 1, 2, 4, 4, 8] == [capacity_for(n) for n in (0, 1, 2, 3, 4, 5)]
