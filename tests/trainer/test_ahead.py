import itertools
import threading

import pytest

from stream.deadletters import DeadLetterFile
from stream.events import EventColumns
from stream.position import Position
from stream.source import Block
from tests.trainer.parts import (
    CLICKED,
    SHOWN,
    clicked,
    config,
    equal,
    ingest_of,
    log,
    shown,
    source,
)
from trainer.ahead import Ahead
from trainer.items import Barrier, LearnItem

SETTINGS = config()


class Scripted:
    """A source of given blocks, and then: its end, an error, or silence until it is closed."""

    def __init__(self, blocks, then=None, silent=0):
        self.partitions = (CLICKED, SHOWN)
        self.schema = source(SETTINGS, {}).schema
        self._blocks, self._then, self._silent = blocks, then, silent
        self.closed = False

    def __iter__(self):
        """Yield the blocks; of silence a number of looks, or as many as are asked for."""
        for block in self._blocks:
            if self.closed:
                return
            yield block
        if self._then is not None:
            raise self._then
        position = self._blocks[-1].position if self._blocks else Position()
        for _ in itertools.count() if self._silent is None else range(self._silent):
            if self.closed:
                return
            yield Block(EventColumns.empty(self.schema), position, idle=frozenset({0, 1}))

    def close(self):
        """Take note."""
        self.closed = True


class Clock:
    """A clock that goes on by a second, or another step, whenever it is asked."""

    def __init__(self, step=1.0):
        self.now, self._step = 0.0, step

    def __call__(self):
        """Return the time."""
        self.now += self._step
        return self.now


@pytest.fixture
def make(tmp_path):
    """Return a function that builds `Ahead` over a source."""

    def ahead(over, **options):
        letters = DeadLetterFile(tmp_path / "letters.ndjson")
        given = {"barrier_every_s": None, "drain": True, "clock": Clock(), **options}
        return Ahead(over, ingest_of(SETTINGS, tmp_path), letters=letters, **given)

    return ahead


def blocks(messages, block_events=20, **options):
    """Return the blocks of a log."""
    return [*source(SETTINGS, messages, block_events=block_events, **options)]


def test_items_come_in_order_and_the_last_is_the_barrier_of_the_end(make, tmp_path):
    """A thread of its own changes nothing but the time it takes."""
    messages = log(200)
    direct = ingest_of(SETTINGS, tmp_path)
    expected = [item for block in blocks(messages) for item in direct.feed(block)]
    expected += direct.finish()

    with make(Scripted(blocks(messages))) as ahead:
        *items, last = ahead

    assert [i.examples_digest for i in expected] == [i.examples_digest for i in items]
    assert isinstance(last, Barrier)
    assert last.ended
    state = {k: v for k, v in last.state.items() if k != "letters"}
    assert equal(direct.state(), state)
    assert direct.counts() == ahead.counts


class Boom(Exception):
    """What goes wrong."""


def test_what_the_source_raises_comes_out_behind_what_came_before_it(make):
    """An error in a thread that nobody hears of is a trainer that stands still for ever."""
    ahead = make(Scripted(blocks(log(200)), then=Boom()))
    came = []

    with pytest.raises(Boom), ahead:
        came += ahead

    assert len(came) > 3
    assert all(isinstance(item, LearnItem) for item in came)
    assert not ahead._thread.is_alive()


def test_what_the_ingest_raises_comes_out(make):
    """A fault between the log and the learner ends the run too."""
    broken = blocks(log(50))
    broken.insert(1, "no block")

    with pytest.raises(AttributeError), make(Scripted(broken)) as ahead:
        list(ahead)


@pytest.mark.parametrize("silent", [0, None])
def test_a_learner_that_raises_ends_the_thread(make, silent):
    """Even one that waits for room in the queue, or for a log that brings nothing."""
    over = Scripted(blocks(log(2_000)), silent=silent)
    ahead = make(over)

    with pytest.raises(Boom), ahead:
        for _ in ahead:
            raise Boom

    assert over.closed
    assert not ahead._thread.is_alive()


def test_a_stop_lets_out_what_was_read_and_settles_nothing_early(make):
    """What waits for its label must wait on in the checkpoint: the clicks may be coming."""
    ahead = make(Scripted(blocks(log(200)), silent=None))
    items = []

    with ahead:
        for item in ahead:
            items.append(item)
            ahead.stop()

    last = items[-1]
    assert isinstance(last, Barrier)
    assert not last.ended
    assert ahead.counts.pending > 0
    assert 1 == sum(isinstance(item, Barrier) for item in items)


def test_a_silent_log_brings_one_barrier_and_calls_who_waits(make):
    """A checkpoint every half minute of a night without events would wear a disk for nothing."""
    over = Scripted(blocks(log(200)), silent=None)
    looks = []

    def waiting():
        looks.append(1)
        if len(looks) == 4:
            ahead.stop()

    ahead = make(over, barrier_every_s=5.0, waiting=waiting)
    with ahead:
        items = []
        for item in ahead:
            items.append(item)
            if isinstance(item, Barrier) and item.changed:
                ahead.saved(True)

    barriers = [item for item in items if isinstance(item, Barrier)]
    assert 4 == len(looks)
    assert [True] * (len(barriers) - 1) + [False] == [b.changed for b in barriers]
    positions = [str(b.position) + str(b.state["join"]["cursor"]) for b in barriers]
    assert len(set(positions[:-1])) == len(positions) - 1


def test_no_barrier_comes_while_a_checkpoint_is_written_and_one_again_after_a_failure(make):
    """Two copies of a large state are enough; what could not be saved must be saved later."""
    over = Scripted(blocks(log(400), block_events=4), silent=200)

    with make(over, barrier_every_s=1.0) as ahead:
        while_saving = [item for item in ahead if isinstance(item, Barrier)]
    assert 2 == len(while_saving)  # the first, never reported as saved; and the end

    over = Scripted(blocks(log(400)), silent=None)  # what failed is tried again, silence or not
    seen = 0
    with make(over, barrier_every_s=1.0) as ahead:
        for item in ahead:
            if isinstance(item, Barrier):
                seen += 1
                ahead.saved(False)
            if seen == 5:
                ahead.stop()
    assert seen > 5
    assert item.changed


def test_a_resumed_run_to_which_nothing_happens_changes_nothing(make, tmp_path):
    """Its last barrier says so, and no checkpoint is written."""
    with make(Scripted([], silent=3), resumed=True, drain=False) as ahead:
        items = [*ahead]

    assert [False] == [item.changed for item in items]
    with make(Scripted([], silent=3), drain=False) as ahead:
        assert [True] == [item.changed for item in ahead]


def test_letters_are_on_disk_before_the_barrier_that_counts_them(make, tmp_path):
    """A checkpoint behind which letters are missing would lose them for good."""
    messages = {
        SHOWN: [line for i in range(300) for line in (shown(i, i), b"{")],
        CLICKED: [clicked(i, i + 5) for i in range(0, 300, 9)],
    }
    over = Scripted(blocks(messages, block_events=30))
    with make(over, barrier_every_s=3.0) as ahead:
        for item in ahead:
            if isinstance(item, Barrier):
                ahead.saved(True)
                letters = item.state["letters"]
                assert letters["letters"] == item.state["rejected"]
                assert (tmp_path / "letters.ndjson").stat().st_size >= letters["bytes"]
    assert {"bad_json": 300} == letters["counts"]


class Waiting(DeadLetterFile):
    """Letters that wait for somebody to take them, until that is to be hurried."""

    def __init__(self, path):
        super().__init__(path)
        self.waits, self._hurried = threading.Event(), threading.Event()

    def flush(self):
        """Wait."""
        self.waits.set()
        assert self._hurried.wait(60)
        super().flush()

    def hurry(self):
        """Wait no longer."""
        self._hurried.set()


@pytest.mark.parametrize("leave", [False, True], ids=["stop", "leave"])
def test_a_run_whose_letters_wait_can_be_stopped(tmp_path, leave):
    """A broker that is away keeps letters waiting for minutes; a signal must end that."""
    letters = Waiting(tmp_path / "waiting.ndjson")
    over = Scripted(blocks(log(200)), silent=None)
    ahead = Ahead(over, ingest_of(SETTINGS, tmp_path), letters=letters, clock=Clock(),
                  barrier_every_s=1.0, drain=False)  # fmt: skip
    barriers = []

    with ahead:
        assert letters.waits.wait(60)
        if not leave:
            ahead.stop()
            barriers = [item for item in ahead if isinstance(item, Barrier)]

    assert not ahead._thread.is_alive()
    assert leave or all("letters" in b.state for b in barriers)
    assert leave or barriers


@pytest.mark.parametrize(("looks", "held"), [(3, True), (200, False)])
def test_time_in_which_nobody_looked_is_no_silence_of_the_log(make, looks, held):
    """A broker that is away for an hour has not let an hour pass without events."""
    read = blocks(log(200))[:-1]  # not its end
    ahead = make(Scripted(read, silent=looks), clock=Clock(3600.0), drain=False)
    with ahead:
        list(ahead)

    assert held == (ahead.counts.held > 0)
