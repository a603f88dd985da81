from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import InputError
from replay.pace import Pace, Rate
from stream.encode import encode_event
from stream.events import EventSchema
from stream.listsource import ListSource
from stream.position import Partition
from tests.replay.tables import START, assert_same, read

SCHEMA = EventSchema()


class Wall:
    """A clock that moves when somebody sleeps."""

    def __init__(self, stop_after=10**9):
        self.now_s, self.naps, self._stop_after = 100.0, 0, stop_after

    def now(self):
        """Return the seconds on the wall."""
        return self.now_s

    def sleep(self, seconds):
        """Let the time pass; return whether to stop."""
        self.now_s += seconds
        self.naps += 1
        return self.naps > self._stop_after


class _Given:
    """A source of given blocks."""

    partitions = (Partition("impressions", 0), Partition("impressions", 1))
    schema = SCHEMA

    def __init__(self, blocks):
        self._blocks = blocks

    def __iter__(self):
        return iter(self._blocks)

    def close(self):
        """Hold nothing."""


def _shown(name, seconds):
    ts = START + int(1000 * seconds)
    return encode_event({"impression_id": name, "user_id": 1, "item_id": 1, "ts": ts})


def _source(times, block=5, position=None):
    """Return impressions at ``times`` of every partition, in seconds after the start."""
    messages = {
        Partition("impressions", p): [_shown(f"{p}-{k}", s) for k, s in enumerate(seconds)]
        for p, seconds in enumerate(times)
    }
    return ListSource(SCHEMA, messages, block_events=block, position=position)


def _log():
    return st.lists(st.lists(st.integers(0, 100), max_size=30), min_size=1, max_size=3)


@given(_log(), st.sampled_from([0.5, 1.0, 60.0]))
def test_no_event_comes_before_its_time(times, speed):
    """A replay at the speed of life must not show the trainer the future."""
    wall = Wall()
    first = None
    for block in Pace(_source(times), speed, wall.sleep, wall.now):
        if len(block.events):
            first = int(block.events.ts.max()) if first is None else first  # due at once
            reached = first + (wall.now_s - 100.0) * speed * 1000
            assert block.events.ts.max() <= reached + 1


@given(_log())
def test_the_events_are_those_of_the_source(times):
    """Pace says when, never what."""
    wall = Wall()

    expected, _ = read(_source(times))
    found, _ = read(Pace(_source(times), 3.0, wall.sleep, wall.now))
    assert_same(expected, found)


@given(_log(), st.integers(0, 100))
def test_every_piece_can_be_resumed_at(times, at):
    """A checkpoint may fall between two pieces of one block."""
    wall = Wall()
    blocks = list(Pace(_source(times), 10.0, wall.sleep, wall.now))
    k = at % len(blocks)

    expected, _ = read(blocks[k + 1 :]) if blocks[k + 1 :] else (None, None)
    found, _ = read(_source(times, position=blocks[k].position))
    if expected is None:
        assert len(found) == 0
    else:
        assert_same(expected, found)


def test_it_takes_the_time_that_the_speed_says():
    """100 s of events at 10 x are 10 s."""
    wall = Wall()
    list(Pace(_source([[0, 40, 100]]), 10.0, wall.sleep, wall.now))

    assert pytest.approx(110.0, abs=0.06) == wall.now_s


def test_as_fast_as_it_goes_nobody_waits():
    """Speed None hands on the very blocks of the source."""
    wall = Wall()
    blocks = list(Pace(_source([[0, 40, 100]]), None, wall.sleep, wall.now))

    assert wall.naps == 0
    assert len(list(_source([[0, 40, 100]]))) == len(blocks)


def test_events_due_together_come_together():
    """A block an event would cost more than the events: what is due by now comes at once."""
    wall = Wall()
    blocks = list(Pace(_source([np.arange(1000) / 1000], 1000), 1.0, wall.sleep, wall.now))

    assert len([b for b in blocks if len(b.events)]) <= 25


def test_one_absurd_time_holds_nobody_up():
    """A wrong clock a year ahead must not stop the replay for a year: it is judged later."""
    wall = Wall()
    times = [0, 1, 400 * 86_400, 2, 3]
    found, _ = read(Pace(_source([times]), 1.0, wall.sleep, wall.now))

    assert len(found) == 5
    assert wall.now_s < 110


def test_what_is_silent_stays_silent_in_every_piece():
    """The idle rule counts on it: without, a quiet partition would hold back what is paced."""
    wall = Wall()
    times = [0, 100, 200, 300]
    messages = {Partition("impressions", 0): [_shown(str(t), t) for t in times]}
    whole = [replace(b, idle=frozenset({1})) for b in ListSource(SCHEMA, messages)]
    source = _Given(whole)
    blocks = list(Pace(source, 10.0, wall.sleep, wall.now))

    assert len(blocks) >= len(times)
    assert {frozenset({1})} == {b.idle for b in blocks}


def test_a_wait_that_is_broken_off_ends_the_reading():
    """Ctrl-C must not have to wait for the next event."""
    wall = Wall(stop_after=0)
    found, _ = read(Pace(_source([[0, 50, 100]]), 1.0, wall.sleep, wall.now))

    assert found.ts.tolist() == [START]


def test_rejected_lines_come_once_and_before_what_follows_them():
    """Dead letters are not events, and must neither be lost nor doubled by a cut."""
    lines = []
    for k in range(6):
        event = {"impression_id": k, "user_id": 1, "item_id": 1, "ts": START + 10_000 * k}
        lines += [encode_event(event), b"{"]
    wall = Wall()
    source = ListSource(SCHEMA, {Partition("impressions", 0): lines})
    blocks = list(Pace(source, 1.0, wall.sleep, wall.now))

    assert [r.offset for b in blocks for r in b.rejected] == [1, 3, 5, 7, 9, 11]
    for block in blocks[:-1]:
        position = block.position.of(Partition("impressions", 0))
        assert all((r.offset, r.row) < position for r in block.rejected)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_a_speed_that_gets_nowhere_is_refused(speed):
    """Nothing would ever come."""
    wall = Wall()
    with pytest.raises(InputError, match="above 0"):
        Pace(_source([[0]]), speed, wall.sleep, wall.now)


def test_a_rate_is_kept_over_all_events_and_not_between_two():
    """A load of 1,000 a second is that over seconds; waits are no shorter than a clock can keep."""
    wall = Wall()
    rate = Rate(1_000.0, wall.sleep, wall.now)
    start = wall.now()

    assert not any(rate.wait(7) for _ in range(1_000))

    assert 6.9 <= wall.now() - start <= 7.0


def test_a_rate_that_is_broken_off_says_so():
    """Ctrl-C ends a load at once, however slow it is."""
    wall = Wall(stop_after=0)

    assert Rate(0.01, wall.sleep, wall.now).wait(1)


def test_a_rate_of_nothing_is_refused():
    """It would never end."""
    with pytest.raises(InputError, match="rate"):
        Rate(0.0, lambda s: None, lambda: 0.0)
