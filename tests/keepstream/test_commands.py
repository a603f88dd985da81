"""What commands do with what is there already: logs, folders, runs."""

import os
import signal
from pathlib import Path

import pytest

from stream.filelog import folder_of, partitions_of
from stream.filelog_source import PartitionReader
from tests.keepstream.worlds import (
    configured,
    keepstream,
    messages,
    passes,
    started,
    told,
    write_log,
)


def records(root: Path) -> int:
    """Return how many records a log holds."""
    found = 0
    for topic in ("impressions", "feedback"):
        for partition in partitions_of(root, topic):
            reader = PartitionReader(folder_of(root, partition), partition, None)
            while (fetched := reader.fetch(1_000)) is not None:
                found += len(fetched.messages)
    return found


@pytest.fixture
def place(tmp_path):
    """Return a folder with a configuration and a log."""
    configured(tmp_path)
    write_log(tmp_path / "log", messages(400))
    return tmp_path


def replay(place, source, *more, code=0):
    """Replay something with the configuration of ``place``; return what is told."""
    return told("replay", "--config", place / "keepstream.toml", "--input", source, "--quiet",
                *more, code=code)  # fmt: skip


def test_a_log_is_not_replayed_into_itself(place):
    """Whatever is read would be written behind it: it would never end."""
    before = records(place / "log")

    for name in (place / "log", place / "new" / ".." / "log"):
        said = replay(place, place / "log", "--into", name, "--append", code=2)
        assert "never end" in said["message"]

    assert before == records(place / "log")


def test_a_log_that_holds_events_is_gone_on_with_only_when_told(place, tmp_path):
    """The same command twice must not double every event in silence."""
    into = tmp_path / "into"
    simulate = ("simulate", "--into", tmp_path / "world", "--impressions", 300)
    for root, command in (
        (into, ("replay", "--config", place / "keepstream.toml", "--input", place / "log",
                "--into", into)),
        (tmp_path / "world", simulate),
    ):  # fmt: skip
        told(*command)
        once = records(root)

        said = told(*command, code=2)
        assert "--append" in said["message"]
        assert once == records(root) > 0

        told(*command, "--append")
        assert 2 * once == records(root)


def test_what_is_no_event_is_kept_beside_the_log(tmp_path, capsys):
    """A million bad lines are a number and a file, not a million lines on the terminal."""
    event = b'{"impression_id":%d,"user_id":1,"item_id":1,"ts":1700006400000}'
    lines = [b"{", *(event % n for n in range(5)), b'["no event"]', b'{"ts":1}']
    (tmp_path / "events.ndjson").write_bytes(b"\n".join(lines))

    said = replay(configured(tmp_path).parent, tmp_path / "events.ndjson",
                  "--into", tmp_path / "log")  # fmt: skip

    assert (5, 3) == (said["impressions"], said["rejected"])
    assert "" == capsys.readouterr().err
    assert 3 == sum(told("deadletters", tmp_path / "log")["counts"].values())
    call = ("--input", tmp_path / "events.ndjson", "--into", tmp_path / "log", "--append")
    _, text = keepstream("replay", "--config", tmp_path / "keepstream.toml", *call)
    assert "3 rejected (`keepstream deadletters" in text
    assert 6 == sum(told("deadletters", tmp_path / "log")["counts"].values())


@pytest.mark.parametrize(
    "setting", ["seed=3", "impressions=3", "slate=5", "scenes=2", "base=nan", "users=1e3", "base"]
)
def test_only_a_number_of_the_world_can_be_set(tmp_path, setting):
    """What has an option of its own, is no single number, or is no number at all is refused."""
    said = told("simulate", "--out", tmp_path / "w.ndjson", "--world", setting, code=2)

    assert setting in said["message"]
    assert not {"seed", "slate", "scenes", "impressions"} & set(
        said["message"].partition("expected")[2].replace(",", "").split()
    )
    assert not (tmp_path / "w.ndjson").exists()


def test_what_the_demo_showed_can_be_replayed(tmp_path):
    """The tour ends with a report, and with a log and a configuration to try things out with."""
    folder = tmp_path / "demo"

    live = told("demo", "--folder", folder, "--impressions", 5_000, "--seconds", 2, "--quiet")

    assert "<svg" in (folder / "report.html").read_text("utf-8")
    again = replay(folder, folder / "log")
    assert 5_000 == live["examples"]
    for name in ("examples_digest", "weights_digest", "examples", "counts"):
        assert live[name] == again[name]


def test_the_demo_deletes_what_a_demo_wrote_and_nothing_else(tmp_path):
    """A folder with a configuration is somebody's work."""
    folder = configured(tmp_path / "mine").parent
    (folder / "log").mkdir()
    (folder / "log" / "notes").touch()
    demo = ("demo", "--folder", folder, "--impressions", 500, "--seconds", 0.1, "--quiet")

    assert "no earlier demo" in told(*demo, code=2)["message"]
    assert (folder / "log" / "notes").exists()

    demo = ("demo", "--folder", tmp_path / "demo", *demo[3:])
    told(*demo)
    (tmp_path / "demo" / "mine.txt").touch()
    (tmp_path / "demo" / "log" / "stray").touch()
    assert 500 == told(*demo)["examples"]
    assert (tmp_path / "demo" / "mine.txt").exists()
    assert not (tmp_path / "demo" / "log" / "stray").exists()


def test_a_simulator_that_fails_midway_fails_the_demo(tmp_path):
    """Half a world looks like a whole one in the report: it must be said."""
    call = ("--folder", tmp_path, "--impressions", 100_000, "--seconds", 300, "--json")
    with started("demo", *call, "--quiet") as process:
        while not list(tmp_path.glob("log/impressions/0/*.log")) and process.poll() is None:
            passes(process, 0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGTERM)
        out, err = process.communicate(timeout=60)

    assert 1 == process.returncode, err
    assert "the simulator failed (exit code -15)" in err
    assert 1 == len(out.splitlines())
