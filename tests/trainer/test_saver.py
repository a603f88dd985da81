from pathlib import Path

import numpy as np
import pytest

from stream.position import Offset, Partition, Position
from trainer.checkpoint import Checkpoints
from trainer.items import Barrier
from trainer.saver import Saver

POSITION = Position({Partition("impressions", 0): Offset(7, 3)})


class Told:
    """What a saver told."""

    def __init__(self):
        self.saved, self.failed, self.written = [], [], []

    def saver(self, root):
        """Return a saver that tells this."""
        return Saver(
            Checkpoints(root),
            {"config_digest": "abc"},
            saved=self.saved.append,
            failed=self.failed.append,
            written=self.written.append,
        )


def barrier(state=None):
    """Return a barrier."""
    return Barrier(state or {"at": np.arange(3)}, POSITION, 12, ended=True)


def test_a_checkpoint_holds_both_states_and_says_where_it_is(tmp_path):
    """What a person or a tool asks first stands in the manifest."""
    told = Told()
    saver = told.saver(tmp_path)
    training = {"weights": np.zeros(2)}

    saver.save(barrier(), training, batches=5)
    saver.wait()

    (checkpoint,) = told.saved
    said = {
        k: checkpoint.manifest[k] for k in ("config_digest", "batches", "watermark_ms", "ended")
    }
    assert {"config_digest": "abc", "batches": 5, "watermark_ms": 12, "ended": True} == said
    assert POSITION == Position.from_json(checkpoint.manifest["position"])
    state = checkpoint.load()
    assert [0, 1, 2] == state["ingest"]["at"].tolist()
    assert [0.0, 0.0] == state["training"]["weights"].tolist()
    assert [training] == told.written


def test_saves_come_one_after_another(tmp_path):
    """Two writers of one folder would number alike; two copies of the state are enough memory."""
    told = Told()
    saver = told.saver(tmp_path)
    for batches in range(5):
        saver.save(barrier(), {}, batches)
    saver.wait()

    assert [1, 2, 3, 4, 5] == [c.number for c in told.saved]
    assert [0, 1, 2, 3, 4] == [c.manifest["batches"] for c in told.saved]


def test_a_disk_that_refuses_is_told_and_the_next_save_may_succeed(tmp_path):
    """Training goes on: the folder may come back, room may be made."""
    told = Told()
    root = tmp_path / "checkpoints"
    root.write_text("in the way")
    saver = told.saver(root)
    saver.save(barrier(), {"a": 1}, batches=1)
    saver.wait()
    root.unlink()
    saver.save(barrier(), {"a": 2}, batches=2)
    saver.wait()

    assert [FileExistsError] == [type(error) for error in told.failed]
    assert [2] == [c.manifest["batches"] for c in told.saved]
    assert [{"a": 1}, {"a": 2}] == told.written


def test_a_state_that_cannot_be_written_ends_the_run(tmp_path):
    """That is a fault of the program: a run without checkpoints must not go on in silence."""
    saver = Told().saver(tmp_path)
    saver.save(barrier({"what": Path}), {}, batches=1)

    with pytest.raises(TypeError):
        saver.wait()
    saver.wait()


def test_a_fault_is_told_so_that_the_next_save_comes_and_raises_it(tmp_path):
    """Barriers wait for the checkpoint before them: untold, a fault would end them in silence."""
    told = Told()
    saver = told.saver(tmp_path)
    training = {"weights": Path}
    saver.save(barrier(), training, batches=1)
    saver._writing.join()

    assert [TypeError] == [type(error) for error in told.failed]
    assert [training] == told.written
    with pytest.raises(TypeError):
        saver.save(barrier(), {}, batches=2)
    assert [] == told.saved


@pytest.mark.parametrize("which", ["saved", "written"])
def test_a_fault_of_who_is_told_ends_the_run_too(which, tmp_path):
    """It happens in the writing thread, where nobody would hear of it."""

    def fault(given):
        raise KeyError(which)

    told = Told()
    calls = {"saved": told.saved.append, "failed": told.failed.append, "written": lambda state: 0}
    saver = Saver(Checkpoints(tmp_path), {}, **{**calls, which: fault})
    saver.save(barrier(), {}, batches=1)

    with pytest.raises(KeyError, match=which):
        saver.wait()
    assert [KeyError] == [type(error) for error in told.failed]
