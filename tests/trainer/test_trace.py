import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.trace import Trace

METRICS = SimpleNamespace(examples=10, logloss=0.5)
LEARNER = SimpleNamespace(weights_digest=lambda: "w")
ITEM = SimpleNamespace(examples={"at": np.array([3, 9])}, examples_digest="e")


def record(trace, batches):
    """Let a trace see batches."""
    for batch in batches:
        trace.record(batch, METRICS, ITEM, LEARNER)


def lines(path):
    """Return the lines of a trace."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_comes_every_so_many_batches_and_weights_more_rarely(tmp_path):
    """A digest of the weights reads the whole model, that of the examples costs nothing."""
    path = tmp_path / "trace.ndjson"
    record(Trace(path, every=2, weights_every=3), range(1, 13))

    assert [2, 4, 6, 8, 10, 12] == [line["batch"] for line in lines(path)]
    assert [None, None, "w", None, None, "w"] == [line["weights_digest"] for line in lines(path)]
    assert {"examples": 10, "at_ms": 9, "examples_digest": "e", "logloss": 0.5}.items() <= lines(
        path
    )[0].items()


@pytest.mark.parametrize("torn", [b"", b'{"batch": 7, "exa'])
def test_a_resumed_trace_says_nothing_twice(tmp_path, torn):
    """What was written behind the checkpoint will be written again; a crash may have torn it."""
    path = tmp_path / "trace.ndjson"
    trace = Trace(path, every=1)
    record(trace, range(1, 4))
    state = trace.state()
    record(trace, range(4, 7))
    with path.open("ab") as file:
        file.write(torn)

    resumed = Trace(path, every=1)
    resumed.restore(state)
    record(resumed, range(4, 6))

    assert [1, 2, 3, 4, 5] == [line["batch"] for line in lines(path)]


def test_a_trace_from_the_beginning_forgets_a_run_that_was_killed(tmp_path):
    """Before its first checkpoint a run has nothing to go on from."""
    path = tmp_path / "trace.ndjson"
    record(Trace(path, every=1), range(1, 4))

    trace = Trace(path, every=1)
    trace.restore(Trace.NOTHING)

    assert "" == path.read_text()


def test_a_full_disk_ends_the_trace_alone():
    """It serves comparisons; the model must not die of it."""
    if not Path("/dev/full").exists():
        pytest.skip("a disk that is always full is a device of Linux")
    failures = []
    trace = Trace(Path("/dev/full"), every=1, failed=failures.append)
    record(trace, range(1, 4))

    assert ["No space left on device"] == [error.strerror for error in failures]
    assert {"bytes": 0} == trace.state()


def test_without_a_folder_nothing_is_written():
    """A run that keeps nothing traces nothing."""
    trace = Trace(None, every=1)
    record(trace, range(1, 4))
    trace.restore(trace.state())

    assert Trace.NOTHING == trace.state()
