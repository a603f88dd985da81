import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.pending import PendingRows, RowsGone, WrongColumns
from stream.state import flatten, unflatten

COLUMNS = {
    "at": (np.int64, None),
    "ids": (np.uint64, 3),
    "none": (np.float32, 0),
    "x": (np.float32, None),
}


def rows(first: int, n: int) -> dict[str, np.ndarray]:
    """Return ``n`` rows that tell their seq in every column."""
    seq = np.arange(first, first + n)
    return {
        "at": seq * 7,
        "ids": np.stack([seq, seq + 1, seq + 2], 1).astype(np.uint64),
        "none": np.zeros((n, 0), np.float32),
        "x": (seq % 100).astype(np.float32),
    }


def same(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> bool:
    """Return whether the columns are the same, types included."""
    return [*expected] == [*actual] and all(
        np.array_equal(expected[k], actual[k]) and expected[k].dtype == actual[k].dtype
        for k in expected
    )


operations = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "take", "release", "restart"]), st.integers(0, 40)
    ),
    max_size=30,
)


@settings(deadline=None)  # the disk may be slow
@given(operations, st.sampled_from([0, 8, 1_000]), st.randoms(use_true_random=False))
def test_it_is_a_dictionary_of_rows(operations, memory_rows, random):
    """Chunks, the scratch file and restarts are invisible: rows come back as they went in."""
    with tempfile.TemporaryDirectory() as folder:

        def make() -> PendingRows:
            return PendingRows(
                COLUMNS, chunk_rows=8, memory_rows=memory_rows, scratch=Path(folder) / "scratch"
            )

        pending, first, end = make(), 0, 0
        for operation, n in operations:
            if operation == "append":
                assert end == pending.append(rows(end, n))
                end += n
            elif operation == "release":
                pending.release(first := min(first + n, end))
            elif operation == "restart":
                state = unflatten(*flatten(pending.state()))
                pending.append(rows(end, 20))  # a state is a copy
                pending = make()
                pending.restore(state)
            elif end > first:
                seqs = np.array([random.randrange(first, end) for _ in range(n)], np.int64)
                expected = {name: column[seqs] for name, column in rows(0, end).items()}
                assert same(expected, pending.take(seqs))
                seqs.sort()
                assert same({"x": rows(0, end)["x"][seqs]}, pending.take(seqs, ["x"]))
            assert (first, end) == (pending.first, pending.next)
            assert end - first == len(pending)


def test_memory_is_bounded_and_the_scratch_folder_stays_empty(tmp_path):
    """Chunks beyond the bound lie in files without a name: a crash leaves nothing behind."""
    pending = PendingRows(COLUMNS, chunk_rows=100, memory_rows=300, scratch=tmp_path)
    pending.append(rows(0, 1_050))

    assert 700 == pending.spilled_rows
    assert [] == [*tmp_path.iterdir()]
    assert same(rows(0, 1_050), pending.take(np.arange(1_050)))
    pending.release(950)
    assert 100 == pending.spilled_rows
    pending.append(rows(1_050, 200))
    assert 100 == pending.spilled_rows  # memory is free again: what is appended now stays


def test_a_state_copies_no_more_than_the_last_chunk(tmp_path):
    """A checkpoint of rows that hardly fit must not need room for them twice."""
    pending = PendingRows(COLUMNS, chunk_rows=100, memory_rows=300, scratch=tmp_path)
    pending.append(rows(0, 1_050))
    pending.release(150)
    chunks = pending.state()["chunks"]
    shared = [np.shares_memory(c["at"], pending._chunks[int(n)]["at"]) for n, c in chunks.items()]

    assert [50, *[100] * 8, 50] == [len(c["at"]) for c in chunks.values()]
    assert [*[True] * 9, False] == shared


def test_rows_in_memory_need_no_folder():
    """Without a scratch folder the join's own bound is the bound."""
    pending = PendingRows(COLUMNS, chunk_rows=10, memory_rows=0)
    pending.append(rows(0, 95))

    assert 0 == pending.spilled_rows
    assert same(rows(0, 95), pending.take(np.arange(95)))


def test_columns_are_put_into_rows_that_wait():
    """What is known of an impression later lies with it: the place of its click."""
    pending = PendingRows(COLUMNS, chunk_rows=10)
    pending.append(rows(0, 35))
    pending.release(4)
    seqs = np.array([30, 5, 12, 34])
    expected = {name: column[4:].copy() for name, column in rows(0, 35).items()}
    expected["x"][seqs - 4] = [1, 2, 3, 4]
    pending.put(seqs, {"x": np.array([1, 2, 3, 4], np.float32)})

    assert same(expected, pending.take(np.arange(4, 35)))
    for gone in (3, 35):
        with pytest.raises(RowsGone, match=f"Row {gone} "):
            pending.put(np.array([5, gone]), {"x": np.zeros(2, np.float32)})


def test_rows_taken_are_copies():
    """The learner may write into its batch while the row waits for a second use."""
    pending = PendingRows(COLUMNS, chunk_rows=10)
    pending.append(rows(0, 5))
    pending.take(np.arange(5))["at"][:] = -1

    assert same(rows(0, 5), pending.take(np.arange(5)))


def test_rows_that_are_not_here_are_named():
    """A row that was released must not come back as another's."""
    pending = PendingRows(COLUMNS, chunk_rows=10)
    pending.append(rows(0, 5))
    pending.release(2)

    for seq in (1, 5, -1):
        with pytest.raises(RowsGone, match=f"Row {seq} is not among the pending rows 2 to 4"):
            pending.take(np.array([3, seq]))


def test_columns_must_be_those_agreed_on():
    """A missing column would be the rows of another chunk, a longer one would vanish."""
    pending = PendingRows(COLUMNS)
    good = rows(0, 5)

    with pytest.raises(WrongColumns, match=r"\['x'\] are missing or unknown"):
        pending.append({k: v for k, v in good.items() if k != "x"})
    with pytest.raises(WrongColumns, match=r"have \[4, 5\] rows"):
        pending.append(good | {"x": good["x"][:4]})
