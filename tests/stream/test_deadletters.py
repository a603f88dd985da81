from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.deadletters import RAW_BYTES, DeadLetterFile, NotDeadLetters
from stream.position import Partition
from stream.source import Rejected

HERE = Partition("impressions", 3)


def letter(number, *, raw=b"{", reason="bad_json"):
    """Return a letter."""
    return Rejected(HERE, number, 0, reason, "it broke", raw)


@pytest.fixture
def path(tmp_path):
    """Where the letters go."""
    return tmp_path / "deadletters.ndjson"


@pytest.mark.parametrize("raw", [b"{", "ü\n\0".encode(), b"\xff\xfe{", b""])
def test_a_letter_comes_back_as_it_was(path, raw):
    """The input is evidence: even what is not UTF-8 is kept byte for byte."""
    letters = [letter(7, raw=raw), letter(2**40, raw=raw, reason="bad_utf8")]
    DeadLetterFile(path).extend(letters)

    assert letters == list(DeadLetterFile.read(path))


def test_a_huge_input_is_kept_in_part(path):
    """One letter may not fill the disk."""
    DeadLetterFile(path).extend([letter(1, raw=b"x" * 10_000_000)])

    assert [x.raw for x in DeadLetterFile.read(path)] == [b"x" * RAW_BYTES]


def test_the_file_is_bounded_and_what_it_drops_is_counted(path):
    """A stream of nothing but errors must neither fill the disk nor hide how many there were."""
    file = DeadLetterFile(path, max_bytes=2000)
    for number in range(1000):
        file.extend([letter(number)])
    kept = [x.offset for x in DeadLetterFile.read(path)]
    size = sum(p.stat().st_size for p in path.parent.iterdir())

    assert list(range(1000 - len(kept), 1000)) == kept
    assert 1000 - len(kept) == file.dropped
    assert file.counts == {"bad_json": 1000}
    assert 2000 < size <= 4000


def test_a_new_object_goes_on_behind_what_is_there(path):
    """The counts are those of the run, however often its process begins."""
    DeadLetterFile(path).extend([letter(1), letter(2, reason="too_late")])
    DeadLetterFile(path).extend([letter(3)])

    assert DeadLetterFile(path).counts == {"bad_json": 2, "too_late": 1}
    assert [x.offset for x in DeadLetterFile.read(path)] == [1, 2, 3]


def test_a_line_that_a_crash_cut_off_is_no_letter(path):
    """A torn line may not hide the letters before it, nor spoil the next one."""
    DeadLetterFile(path).extend([letter(1), letter(2)])
    path.write_bytes(path.read_bytes()[:-5])

    assert [x.offset for x in DeadLetterFile.read(path)] == [1]

    DeadLetterFile(path).extend([letter(3)])

    assert [x.offset for x in DeadLetterFile.read(path)] == [1, 3]


def test_a_crash_between_two_files_loses_nothing(path):
    """The older file is renamed before the new one begins: what lies between is a crash site."""
    DeadLetterFile(path).extend([letter(1)])
    path.replace(path.with_name(path.name + ".1"))
    DeadLetterFile(path).extend([letter(2)])

    assert [x.offset for x in DeadLetterFile.read(path)] == [1, 2]


def test_another_file_is_not_overwritten(path):
    """A wrong path in a configuration may not cost a log."""
    path.write_text("precious\n")

    with pytest.raises(NotDeadLetters):
        DeadLetterFile(path)
    assert path.read_text() == "precious\n"


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 60), after=st.integers(0, 25), reopened=st.booleans())
def test_a_resumed_run_writes_no_letter_twice(tmp_path, cut, after, reopened):
    """The run reads on from its checkpoint, and finds the same bad input again."""
    path = tmp_path / "resumed"
    for old in tmp_path.iterdir():
        old.unlink()
    letters = [letter(n) for n in range(100)]
    file = DeadLetterFile(path, max_bytes=4000)
    file.extend(letters[:cut])
    state = file.state()
    file.extend(letters[cut : cut + after])
    if reopened:
        file = DeadLetterFile(path, max_bytes=4000)
    file.restore(state)
    file.extend(letters[cut:])
    kept = [x.offset for x in DeadLetterFile.read(path)]

    assert list(range(100 - len(kept), 100)) == kept
    assert len(kept) + file.dropped == 100
    assert file.counts == {"bad_json": 100}


def test_a_run_that_starts_over_finds_an_empty_file(path):
    """`NOTHING` is the state of a run without a checkpoint."""
    file = DeadLetterFile(path, max_bytes=1000)
    file.extend([letter(n) for n in range(20)])
    file.restore(DeadLetterFile.NOTHING)

    assert list(islice(DeadLetterFile.read(path), 5)) == []
    assert file.counts == {}
    assert DeadLetterFile.NOTHING["counts"] == {}
