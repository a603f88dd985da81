import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.relative import relative_to_request


@settings(deadline=None)  # the first one compiles
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 3))
def test_each_row_is_compared_with_its_own_request(requests, width):
    """Rows of a request need not lie side by side."""
    numbers = np.random.default_rng(0).normal(size=(len(requests), width)).astype(np.float32)
    request = np.array(requests, np.uint64)
    want = np.zeros_like(numbers)
    for r in set(requests):
        mine = request == r
        want[mine] = numbers[mine] - numbers[mine].astype(np.float64).mean(0)

    np.testing.assert_allclose(relative_to_request(numbers, request), want, atol=1e-6)


def test_an_item_shown_alone_is_like_its_request():
    """There is nothing to compare with: zero, whatever it is."""
    assert not relative_to_request(np.float32([[3, -7]]), np.uint64([1])).any()


def test_other_requests_of_the_batch_change_no_bit():
    """Scores of a request must not depend on what else was scored with it."""
    rng = np.random.default_rng(1)
    numbers = rng.lognormal(size=(50, 4)).astype(np.float32)
    request = rng.integers(0, 7, 50).astype(np.uint64)
    mine = request == 3

    alone = relative_to_request(numbers[mine], request[mine])

    np.testing.assert_array_equal(relative_to_request(numbers, request)[mine], alone)
