import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from stream.ids import DIGITS, NotAnId, hash_ids, hash_integers, hash_text, salted
from stream.xxh3 import LONGEST, xxh3

INTEGERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 20).map(lambda power: 10**power),
    st.integers(0, 18).map(lambda power: -(10**power)),
    st.integers(0, 20).map(lambda power: 10**power - 1),
)


@given(st.binary(min_size=1, max_size=LONGEST), st.integers(0, 9))
def test_the_compiled_hash_is_the_published_one(text, start):
    """Ids hashed elsewhere, with any XXH3, must meet ours."""
    data = np.frombuffer(bytes(start) + text, np.uint8)

    assert xxh3_64_intdigest(text) == xxh3(data, start, len(text))


def test_every_length_takes_the_published_path():
    """The hash has a branch per length: none may be left to chance."""
    data = np.arange(LONGEST, dtype=np.uint8) * 37
    expected = [xxh3_64_intdigest(data[:n].tobytes()) for n in range(1, LONGEST + 1)]

    assert expected == [xxh3(data, 0, n) for n in range(1, LONGEST + 1)]


@given(st.lists(INTEGERS))
def test_an_integer_is_its_text(values):
    """A log may write an id as a number today and as text tomorrow."""
    assert hash_ids([str(v) for v in values]).tolist() == hash_ids(values).tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_a_signed_column_is_the_texts_of_its_integers(values):
    """A Parquet column and an NDJSON log name the same users."""
    column = np.array(values, np.int64)

    assert hash_ids([str(v) for v in values]).tolist() == hash_integers(column).tolist()


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), INTEGERS.filter(lambda v: 0 <= v < 2**64))))
def test_an_unsigned_column_is_the_texts_of_its_integers(values):
    """Ids past 2**63 must not wrap around to negative ones."""
    column = np.array(values, np.uint64)

    assert hash_ids([str(v) for v in values]).tolist() == hash_integers(column).tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_narrow_columns_are_no_other_ids(dtype):
    """The width of a column is a matter of storage."""
    column = np.array([0, 1, 7, 100], dtype)

    assert hash_ids([0, 1, 7, 100]).tolist() == hash_integers(column).tolist()


@given(st.lists(st.text(max_size=300), unique=True))
def test_different_texts_are_different_ids(texts):
    """Leading zeros, signs and spaces are part of a name; a collision would merge two users."""
    assert len(texts) == len(set(hash_ids(texts).tolist()))


@given(st.lists(st.one_of(st.text(max_size=200), INTEGERS, st.booleans(), st.none())))
def test_company_does_not_change_an_id(ids):
    """How events are cut into blocks decides which ids are hashed together."""
    assert [int(hash_ids([i])[0]) for i in ids] == hash_ids(ids).tolist()


def test_zero_is_no_id():
    """0 marks what is absent: nothing that is there may have it; the empty text names nothing."""
    ids = ["", None, "0", 0, "\0", " ", "x" * (LONGEST + 1)]
    absent = np.flatnonzero(hash_ids(ids) == 0)

    assert absent.tolist() == [0, 1]


@pytest.mark.parametrize("text", ["07", "-0", "+7", " 7", "7.0", "٧", "-", "1" * (DIGITS + 1)])
def test_only_the_printed_form_is_an_integer(text):
    """An id is its text: what prints otherwise is another id."""
    assert xxh3_64_intdigest(text.encode()) == hash_text(text)


def test_numbers_without_a_fraction_are_integers():
    """Tables turn integer columns with gaps into floats."""
    assert hash_ids(["7", "true"]).tolist() == hash_ids([7.0, True]).tolist()


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), b"7", ["7"]])
def test_what_has_no_text_is_refused(value):
    """A hash of it would be an id that no one else can write."""
    with pytest.raises(NotAnId):
        hash_ids([value])


def test_the_hash_is_pinned():
    """Checkpoints and logs outlive a release: ids may never change."""
    assert [
        7195639206139662248,
        xxh3_64_intdigest(b"u1"),
    ] == hash_ids([7, "u1"]).tolist()


def test_salts_part_features_and_keep_no_id():
    """Item 7 and user 7 are different rows of a table; an absent one is absent in each."""
    values = np.array([0, 7], np.uint64)

    assert salted(values, "item")[1] != salted(values, "user")[1]
    assert (salted(values, "item") == 0).tolist() == [True, False]
