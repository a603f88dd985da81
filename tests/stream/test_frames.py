import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.frames import BROKEN, CUT_OFF, WHOLE, find, frame, scan


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 2**39))
def test_frames_come_back_as_they_were(values, place):
    """What is written is what is read, at any place."""
    data = np.frombuffer(frame(values, place), np.uint8)
    found = scan(data, 0, place, 100)

    bounds = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    assert values == [data[a:b].tobytes() for a, b in bounds]
    assert (found.end, found.status) == (data.size, WHOLE)
    if values:
        cut = scan(data[:-1], 0, place, 100)
        assert (cut.status, cut.starts.size) == (CUT_OFF, len(values) - 1)
        moved = scan(data, 0, place + 1, 100)
        assert (moved.status, moved.starts.size) == (BROKEN, 0)
        assert find(data, 0, place) == 0


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_a_flipped_bit_is_noticed(values, data):
    """A frame that is not as it was written is none, wherever it was changed."""
    raw = bytearray(frame(values, 16))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    found = scan(np.frombuffer(bytes(raw), np.uint8), 0, 16, 100)

    assert found.status == BROKEN
    assert found.end <= bit // 8
