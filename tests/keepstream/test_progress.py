import io
import os
from contextlib import suppress
from dataclasses import replace

import pytest

from keepstream.progress import Progress, Snapshot

FIGURES = {
    "examples": 12000, "clicks": 1100, "logloss": 0.28124, "auc_request": 0.7431, "auc": 0.75,
    "normalized_entropy": 0.9, "calibration": 1.0123, "logloss_oracle": 0.25,
    "auc_request_oracle": 0.8, "window": {"logloss": 0.2712, "auc_request": None},
}  # fmt: skip
SNAPSHOT = Snapshot(
    events=13000, at_ms=1_700_000_000_000, figures=FIGURES, late=3, checkpoint="00000012"
)


class Clock:
    """Seconds that stand until they are set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        """Return the time set."""
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


def test_a_log_gets_a_line_every_few_seconds():
    """Where nobody watches, ten thousand lines would hide the one that matters."""
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock)
    for i in range(100):
        progress.update(replace(SNAPSHOT, events=i))
        clock.now += 0.1  # 10 s in all
    progress.close()

    assert len(out.getvalue().splitlines()) == 3


def test_a_run_in_which_nothing_happens_says_so_once_a_minute():
    """Somebody who looks must see that it lives; a night of silence must not fill a disk."""
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock)
    for _ in range(1310):
        progress.update(SNAPSHOT)
        clock.now += 0.1  # 131 s in all
    progress.close()

    assert len(out.getvalue().splitlines()) == 3


def test_the_speed_of_a_resumed_run_is_its_own():
    """What it had learned before is not what it learns in its first second."""
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock)
    progress.update(SNAPSHOT)
    clock.now += 10
    progress.update(replace(SNAPSHOT, figures={**FIGURES, "examples": 12_500}))

    assert [x.split("  ")[1] for x in out.getvalue().splitlines()] == ["0/s", "50/s"]


def test_a_line_holds_the_figures_that_matter():
    """One line must be enough to see whether the model learns."""
    out = io.StringIO()
    with_line = Progress(out, Clock())
    with_line.update(SNAPSHOT)
    with_line.close()
    text = out.getvalue()

    for part in ("12,000 examples", "2023-11-14 22:13:20 UTC", "log loss 0.2812", "0.7431",
                 "calibration 1.0123", "oracle 0.2500", "3 late"):  # fmt: skip
        assert part in text
    assert "\x1b" not in text


def test_a_snapshot_is_made_only_when_it_is_due():
    """The loop asks after every batch: figures that nobody sees must cost nothing."""
    made, clock = [], Clock()

    def make():
        made.append(clock.now)
        return SNAPSHOT

    progress = Progress(io.StringIO(), clock)
    for _ in range(1000):
        progress.update(make)

    assert made == [100.0]


def test_the_last_snapshot_is_always_shown():
    """A run shorter than the interval ends with its result on the screen."""
    out = io.StringIO()
    progress = Progress(out, Clock())
    progress.update(Snapshot())
    progress.update(SNAPSHOT)
    progress.close()
    progress.close()

    assert [text.split("  ")[0] for text in out.getvalue().splitlines()] == [
        "0 examples",
        "12,000 examples",
    ]


def test_a_run_whose_watcher_has_left_goes_on():
    """A log collector that dies must not take a trainer with it."""
    read, write = os.pipe()
    out = os.fdopen(write, "w")
    clock = Clock()
    progress = Progress(out, clock)
    os.close(read)
    asked = []
    for i in range(100):
        progress.update(lambda i=i: asked.append(i) or replace(SNAPSHOT, events=i))
        clock.now += 1
    progress.close()

    assert asked  # it tried to show something, to nobody
    with suppress(BrokenPipeError):
        out.close()


def test_quiet_writes_nothing():
    """A script that wants JSON alone gets it."""
    out = Terminal()
    progress = Progress(out, Clock(), quiet=True)
    progress.update(SNAPSHOT)
    progress.close()

    assert out.getvalue() == ""


@pytest.mark.parametrize("snapshot", [SNAPSHOT, Snapshot()])
def test_a_terminal_gets_a_table(snapshot):
    """The table shows the model beside what is reachable, and the events that went wrong."""
    out, clock = Terminal(), Clock()
    progress = Progress(out, clock)
    progress.update(snapshot)
    progress.close()

    for part in ("log loss", "AUC per request", f"{snapshot.late:,} late"):
        assert part in out.getvalue()
    assert ("oracle" in out.getvalue()) == ("logloss_oracle" in snapshot.figures)
