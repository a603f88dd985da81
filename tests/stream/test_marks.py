from stream.marks import MOST, InputMarks, Mark, Marks
from stream.order import NEVER
from stream.position import Offset


def mark(k):
    """Return a mark after ``k`` events, of which there is one in 7 ms."""
    return Mark(Offset(k), 7 * k, 7 * k, 7 * k)


def test_marks_are_bounded():
    """Inputs that are far apart in time take no more memory."""
    marks = Marks(Mark(Offset(0), NEVER, NEVER, NEVER), 10)
    for k in range(1, 20_000):
        marks.add(mark(k))

    assert len(marks._marks) <= MOST
    assert 0 == marks.latest(5).offset.message
    late = marks.latest(100_000)
    assert late.before < 100_000
    assert 100_000 - late.before < 2 * marks._step + 14
    marks.forget(100_000)
    assert late == marks._marks[0]


def test_marks_are_close_again_when_inputs_are():
    """A step of them is written twice after a kill: one night of lag must not cost for good."""
    marks = Marks(Mark(Offset(0), NEVER, NEVER, NEVER), 10)
    for k in range(1, 20_000):
        marks.add(mark(k))
    thinned = marks._step
    for k in range(20_000, 22_000):
        marks.add(mark(k))
        marks.forget(7 * k - 500)

    assert 10 == marks._step < thinned
    assert 7 * 21_999 - 1000 - marks.latest(7 * 21_999 - 1000 + 500).before < 30


def test_a_silent_input_is_passed_by_the_watermark():
    """What it still brings is placed there: nothing older has to be known for that."""
    marks = InputMarks([(Offset(0), NEVER), (Offset(5), NEVER)], 10, 100)
    for k in range(1, 1000):
        marks.add(0, Offset(k), 100 * k, 100 * k - 100)
        marks.add(1, Offset(7), 300, 100 * k - 100)
    after = marks.going_on(90_000, 5000)

    assert [Offset(899), Offset(7)] == after.settled
    assert 89_800 - 5000 == after.forgotten
    assert [(Offset(847), 84_700), (Offset(7), 300)] == [(m.offset, m.clock) for m in after.resume]


def test_an_input_that_brought_nothing_has_no_clock_and_a_place():
    """Only its letters were read; its first event will be judged as a first one."""
    marks = InputMarks([(Offset(0), NEVER), (Offset(5), NEVER)], 10, 100)
    marks.add(1, Offset(6), NEVER, NEVER)
    assert NEVER == marks.going_on(10, 5000).forgotten
    for k in range(1, 1000):
        marks.add(0, Offset(k), 100 * k, 100 * k - 100)
        marks.add(1, Offset(9), NEVER, 100 * k - 100)

    assert (Offset(9), NEVER) == (
        marks.going_on(90_000, 5000).resume[1].offset,
        marks.going_on(90_000, 5000).resume[1].clock,
    )
