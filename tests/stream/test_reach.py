import pytest

from stream.position import Partition
from stream.reach import HandOverGap, Reach, check_reach, handover_ms

HERE, THERE = Partition("feedback", 1), Partition("impressions", 0)
NEWEST, LATENESS = 1_700_000_600_000, 60_000


def reach(first, before_s):
    """Return the reach of a partition that begins so many seconds before the newest impression."""
    return Reach(first=first, oldest_ms=None if before_s is None else NEWEST - 1000 * before_s)


def test_the_last_of_a_history_is_left_to_what_is_live():
    """When it was taken, events of its last minute were still on their way."""
    reaches = {HERE: reach(0, 500), THERE: reach(70, 500)}

    assert NEWEST - LATENESS == handover_ms(reaches, NEWEST, LATENESS)


@pytest.mark.parametrize(
    ("begins", "expected"),
    [
        ([20, 10], -20_000),  # it begins within the last minute of the history
        ([-30, None], 1),  # after the history: all of that
        ([None, None], 1),  # it has not begun
        ([500, None], -60_000),
    ],
)
def test_a_log_that_lost_nothing_begins_where_it_begins(begins, expected):
    """What the history has of the time before it, nobody else has."""
    reaches = {p: reach(0, s) for p, s in zip((HERE, THERE), begins, strict=True)}

    at_ms = handover_ms(reaches, NEWEST, LATENESS)

    assert expected == at_ms - NEWEST
    check_reach(reaches, at_ms, LATENESS)


@pytest.mark.parametrize(("before_s", "gap"), [(61, False), (60, False), (59, True), (-5, True)])
def test_a_log_that_lost_its_beginning_must_reach_back_behind_the_history(before_s, gap):
    """What was deleted may have been as late as events are allowed to be."""
    reaches = {HERE: reach(0, None), THERE: reach(3, before_s)}
    if not gap:
        check_reach(reaches, NEWEST, LATENESS)
        return

    with pytest.raises(HandOverGap, match=r"impressions/0 begins at 20.*offset 3.*--handover"):
        check_reach(reaches, NEWEST, LATENESS)


def test_the_gap_names_a_hand_over_without_one():
    """The next move is a number that can be copied."""
    with pytest.raises(HandOverGap) as found:
        check_reach({THERE: Reach(first=3, oldest_ms=NEWEST)}, NEWEST - 1, LATENESS)

    assert "up to 2023-11-14T22:24:20.000Z, with" in str(found.value)
    check_reach({THERE: Reach(first=3, oldest_ms=NEWEST)}, NEWEST + LATENESS, LATENESS)


def test_a_partition_that_lost_everything_is_a_gap():
    """Nobody knows how young what was deleted was."""
    with pytest.raises(HandOverGap, match=r"feedback/1 keeps none of its 12 messages.*, or wait\."):
        check_reach({HERE: reach(12, None)}, NEWEST, LATENESS, ", or wait")
