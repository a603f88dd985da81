import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from stream.filelog import segment_path, segments_of
from stream.frames import frame
from tests.keepstream.worlds import (
    configured,
    keepstream,
    messages,
    packed,
    passes,
    run_of,
    started,
    told,
    write_log,
)
from trainer.checkpoint import Checkpoints

pytestmark = pytest.mark.restart

KILLS = 20
OFTEN = ("--set", "checkpoint.every_s=0.1", "--set", "log.block_events=97")
QUICK = ("--set", "train.batch_size=32", "--as-served", "--quiet")


def letters_of(run: Path) -> list[bytes]:
    """Return a run's dead letters, sorted: their order is that of reading, which is free."""
    return sorted((run / "deadletters.ndjson").read_bytes().splitlines())


def assert_same_run(expected: Path, actual: Path) -> None:
    """Compare digests, every figure, the dead letters, and what `keepstream compare` says."""
    code, said = keepstream("compare", expected, actual)
    assert (0, "equal") == (code, said.partition(":")[0]), said
    a, b = run_of(expected), run_of(actual)
    machine = {"wall_s", "examples_per_s", "peak_rss_mb", "resumed", "config"}
    assert {k: v for k, v in a.items() if k not in machine} == {
        k: v for k, v in b.items() if k not in machine
    }
    assert letters_of(expected) == letters_of(actual)
    trace = (expected / "trace.ndjson").read_bytes()
    assert trace == (actual / "trace.ndjson").read_bytes()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with a log of large messages, a configuration and an undisturbed run."""
    folder = tmp_path_factory.mktemp("world")
    write_log(folder / "log", packed(messages(45_000), 300))
    config = configured(folder)
    command = ("replay", "--config", config, "--input", folder / "log", *QUICK)
    result = told(*command, "--run", folder / "undisturbed")
    assert result["counts"]["too_late"] > 0
    assert min(result["counts"]["dead_letters"].values()) > 0
    return folder, command


def newest(run: Path) -> int:
    """Return the number of the newest checkpoint, 0 where there is none."""
    folders = Checkpoints(run / "checkpoints").folders()
    return int(folders[-1].name.rpartition("-")[2]) if folders else 0


def half_written(run: Path) -> bool:
    """Return whether a checkpoint is not complete: one is being written, or was when it died."""
    with suppress(FileNotFoundError):  # it may be gone between one look and the next
        return any(p.name.startswith(".writing-") for p in (run / "checkpoints").iterdir())
    return False


def killed(process, run: Path, how: str, rng: np.random.Generator) -> bool:
    """Kill a run at an instant of its life; return whether it was inside a checkpoint."""
    if how == "starting":
        passes(process, float(rng.uniform(0.2, 2.5)))
    else:
        before = newest(run)
        while newest(run) == before and process.poll() is None:
            passes(process, 0.005)
        if how == "learning":
            passes(process, float(rng.uniform(0, 0.3)))
        while how == "saving" and process.poll() is None:
            if half_written(run):
                break
    assert process.poll() is None, f"the run ended before it was killed: {process.stderr.read()}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    return half_written(run)


def test_a_run_killed_twenty_times_learns_what_an_undisturbed_one_does(world):
    """Power fails inside a message, a checkpoint, a start: it may cost time and nothing else."""
    folder, command = world
    run = folder / "killed"
    rng = np.random.default_rng(3)
    inside_a_message = inside_a_checkpoint = 0
    for kill in range(KILLS):
        how = ("learning", "saving", "learning", "saving", "starting")[kill % 5]
        with started(*command, *OFTEN, "--run", run) as process:
            inside_a_checkpoint += killed(process, run, how, rng)
        if newest(run):
            latest = Checkpoints(run / "checkpoints").latest()
            assert latest is not None
            inside_a_message += any(row for *_, row in latest[0].manifest["position"])
            assert [] == latest[2]
    result = told(*command, *OFTEN, "--run", run)

    assert result["resumed"]
    assert inside_a_message > 3
    assert inside_a_checkpoint > 3
    assert_same_run(folder / "undisturbed", run)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a command that takes a second, and the folder of an undisturbed run of it."""
    folder = tmp_path_factory.mktemp("small")
    write_log(folder / "log", messages(8_000))
    command = ("replay", "--config", configured(folder), "--input", folder / "log", *QUICK, *OFTEN)
    told(*command, "--run", folder / "undisturbed")
    return folder, command


def truncated(path: Path) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "harm"),
    [("arrays.safetensors", truncated), ("arrays.safetensors", flipped),
     ("state.json", flipped), ("manifest.json", Path.unlink)],
)  # fmt: skip
def test_a_corrupt_checkpoint_is_named_and_the_one_before_it_carries_on(
    small, tmp_path, capsys, name, harm
):
    """Disks lie: a checkpoint that is not what was written must never be learned from."""
    folder, command = small
    run = tmp_path / "run"
    shutil.copytree(folder / "undisturbed", run)
    corrupt, before = reversed(Checkpoints(run / "checkpoints").folders()[-2:])
    harm(corrupt / name)
    assert 1 == keepstream("checkpoints", "verify", run)[0]

    told(*command, "--run", run)

    said = capsys.readouterr().err
    assert f"{corrupt}: {name}" in said
    assert f"Resuming from {before}" in said
    assert_same_run(folder / "undisturbed", run)


def test_no_usable_checkpoint_is_an_error_that_names_each(small, tmp_path, capsys):
    """To start over in silence would throw a model away."""
    folder, command = small
    run = tmp_path / "run"
    shutil.copytree(folder / "undisturbed", run)
    for path in Checkpoints(run / "checkpoints").folders():
        truncated(path / "state.json")

    said = told(*command, "--run", run, code=1)

    assert "NoUsableCheckpoint" == said["error"]
    assert 3 == said["message"].count("state.json has")
    assert "--fresh" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_cleanly_and_the_next_one_goes_on(world, tmp_path, number):
    """A deployment stops a trainer with SIGTERM, a person with Ctrl-C: nothing is learned twice."""
    folder, command = world
    run = tmp_path / "run"
    with started(*command, *OFTEN, "--run", run, "--json") as process:
        while newest(run) < 2 and process.poll() is None:
            passes(process, 0.005)
        assert (2, "another process") == (
            keepstream(*command, *OFTEN, "--run", run)[0],
            told(*command, *OFTEN, "--run", run, code=2)["message"][len(f"{run}: ") :][:15],
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=30)

    assert (0, 1) == (process.returncode, out.count("\n")), err
    assert f"{number.name}: finishing" in err
    stopped = run_of(run)
    assert not stopped["ended"]
    assert stopped["batches"] == Checkpoints(run / "checkpoints").latest()[0].manifest["batches"]
    assert 0 < stopped["batches"] < run_of(folder / "undisturbed")["batches"]
    told(*command, *OFTEN, "--run", run)
    assert_same_run(folder / "undisturbed", run)


@contextmanager
def tiny_disk(path: Path, size: str):
    """Mount a disk of ``size`` on a folder; skip where that is not permitted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "keepstream-test", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small one, and mounting one needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_costs_checkpoints_not_training(small, tmp_path, capsys):
    """A model that is days old must not die because logs filled the disk: it says so, goes on."""
    folder, command = small
    run = tmp_path / "run"
    with tiny_disk(run / "checkpoints", "300k"):
        told(*command, "--run", run)
        assert [] == [p.name for p in (run / "checkpoints").glob(".writing-*")]

    said = capsys.readouterr().err
    assert "could not be written" in said
    assert "No space left on device" in said
    assert_same_run(folder / "undisturbed", run)


def test_a_log_whose_writer_was_killed_inside_an_append_is_followed_as_it_is_replayed(tmp_path):
    """What a crash tore is no event, for the trainer that follows and for one that comes later."""
    config, log = configured(tmp_path), tmp_path / "log"
    write_log(log, messages(2_000))
    run = ("train", "--config", config, "--log", log, "--run", tmp_path / "live", *QUICK, *OFTEN)
    writing = ("simulate", "--into", log, "--append", "--impressions", 6_000, "--seconds", 6,
               "--json", "--duplicates", 0.02, "--malformed", 0.01)  # fmt: skip
    with started(*run) as follower:
        for seed in (1, 2):
            with started(*writing, "--seed", seed) as writer:
                size = log_bytes(log)
                while log_bytes(log) < size + 100_000 and writer.poll() is None:
                    passes(writer, 0.005)
                writer.send_signal(signal.SIGKILL)
                writer.wait()
            tear(log / "impressions" / "0")
        size = newest(tmp_path / "live")
        write_log(log, messages(500, seed=3))
        while newest(tmp_path / "live") == size and follower.poll() is None:
            passes(follower, 0.01)
        follower.send_signal(signal.SIGTERM)
        assert 0 == follower.wait(30), follower.stderr.read()

    replay = ("replay", "--config", config, "--input", log, *QUICK)
    told(*replay, "--run", tmp_path / "live")
    told(*replay, "--run", tmp_path / "replayed")
    assert_same_run(tmp_path / "replayed", tmp_path / "live")


def log_bytes(log: Path) -> int:
    """Return the size of a log."""
    return sum(path.stat().st_size for path in log.glob("*/*/*.log"))


def tear(folder: Path) -> None:
    """Put the beginning of an append behind the last record, as a crash inside it leaves one."""
    path = segment_path(folder, segments_of(folder)[-1])
    with path.open("ab") as file:
        file.write(frame([b'{"impression_id": "torn"}'], path.stat().st_size)[:-4])
