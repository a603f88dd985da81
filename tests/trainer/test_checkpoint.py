import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainer.checkpoint import CheckpointCorrupt, Checkpoints, NoUsableCheckpoint

STATE = {
    "ingest": {"ids": np.arange(7, dtype=np.uint64), "position": [["impressions", 0, 5, 2]]},
    "training": {
        "weights": np.linspace(0, 1, 5, dtype=np.float32),
        "step": np.array(162.0, np.float32),
        "batches": 3,
        "empty": {},
    },
}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Return a run with three checkpoints."""
    made = Checkpoints(tmp_path / "checkpoints", keep=3)
    for batches in (1, 2, 3):
        made.write({**STATE, "batches": batches}, {"batches": batches})
    return made


def test_a_state_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    """Arrays keep their type and bits, the rest keeps its structure."""
    latest = checkpoints.latest()

    assert latest is not None
    checkpoint, state, refused = latest
    assert (3, 3, []) == (checkpoint.number, state["batches"], refused)
    assert np.uint64 == state["ingest"]["ids"].dtype
    assert STATE["training"]["weights"].tobytes() == state["training"]["weights"].tobytes()
    assert () == state["training"]["step"].shape
    assert [["impressions", 0, 5, 2]] == state["ingest"]["position"]
    assert {} == state["training"]["empty"]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    """A first start has nothing to resume from."""
    assert None is Checkpoints(tmp_path / "none").latest()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", [_truncate, _flip, Path.unlink])
def test_a_corrupt_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    checkpoints: Checkpoints, name: str, harm: object
) -> None:
    """A torn disk must cost one checkpoint's time, not the run, and never train on bad bytes."""
    newest = checkpoints.folders()[-1]
    harm(newest / name)  # type: ignore[operator]  # one of the three harms above

    latest = checkpoints.latest()

    assert latest is not None
    checkpoint, state, refused = latest
    assert (2, 2) == (checkpoint.number, state["batches"])
    assert [newest] == [r.path for r in refused]
    assert name in str(refused[0])
    assert "Delete the folder" in str(refused[0])


def test_all_corrupt_is_an_error_that_says_what_to_do(checkpoints: Checkpoints) -> None:
    """Starting over in silence would throw a trained model away."""
    for folder in checkpoints.folders():
        (folder / "manifest.json").unlink()

    with pytest.raises(NoUsableCheckpoint, match="--fresh"):
        checkpoints.latest()


def test_only_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    """Disks are finite."""
    checkpoints.write(STATE, {"batches": 4})

    assert [2, 3, 4] == [c.number for c in checkpoints]


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", [_truncate, Path.unlink])
def test_what_is_corrupt_does_not_count_as_kept(
    checkpoints: Checkpoints, name: str, harm: Callable[[Path], None]
) -> None:
    """Else the next write would delete the good ones, and leave those that nobody can use."""
    for folder in checkpoints.folders()[1:]:
        harm(folder / name)
    Checkpoints(checkpoints.root, keep=2).write(STATE, {"batches": 4})

    assert [1, 2, 3, 4] == [int(f.name[-8:]) for f in checkpoints.folders()]
    harm(checkpoints.folders()[-1] / name)
    latest = checkpoints.latest()
    assert latest is not None
    assert 1 == latest[0].number
    for batches in (5, 6):
        Checkpoints(checkpoints.root, keep=2).write(STATE, {"batches": batches})
    assert [5, 6] == [int(f.name[-8:]) for f in checkpoints.folders()]


def test_a_number_is_never_used_twice(checkpoints: Checkpoints) -> None:
    """After a corrupt newest one the next write must not meet its folder."""
    (checkpoints.folders()[-1] / "manifest.json").unlink()

    assert 4 == checkpoints.write(STATE, {"batches": 3}).number


def test_what_was_left_half_written_is_not_seen(checkpoints: Checkpoints) -> None:
    """A crash in the middle of a write leaves a folder that no reader takes for a checkpoint."""
    (checkpoints.root / ".writing-00000004").mkdir()
    (checkpoints.root / ".writing-00000004" / "state.json").write_text("{")

    latest = checkpoints.latest()

    assert latest is not None
    assert 3 == latest[0].number
    assert 4 == checkpoints.write(STATE, {"batches": 4}).number


def test_reading_names_what_a_manifest_says(checkpoints: Checkpoints) -> None:
    """Another format is refused before its content is read."""
    folder = checkpoints.folders()[-1]
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 9'))

    with pytest.raises(CheckpointCorrupt, match="format 9"):
        checkpoints.read(folder)


_WRITE_FOR_EVER = """
import sys, numpy as np
from pathlib import Path
from trainer.checkpoint import Checkpoints
made = Checkpoints(Path(sys.argv[1]), keep=2)
print("ready", flush=True)
for i in range(1, 10**9):
    made.write({"at": np.full(200_000, i), "i": i}, {"batches": i})
"""


@pytest.mark.restart
def test_a_kill_at_any_instant_leaves_a_usable_checkpoint(tmp_path: Path) -> None:
    """Whatever was being written or pruned, the newest complete one verifies."""
    root = tmp_path / "checkpoints"
    rng = np.random.default_rng(7)
    for _ in range(8):
        command = [sys.executable, "-c", _WRITE_FOR_EVER, str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(float(rng.uniform(0.05, 0.4)))
            process.kill()

        latest = Checkpoints(root).latest()
        assert latest is not None
        checkpoint, state, refused = latest
        assert [] == refused
        assert (state["i"] == state["at"]).all()
        assert state["i"] == checkpoint.manifest["batches"]
