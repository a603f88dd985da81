"""What commands do with what is there already: logs, folders, runs."""

import os
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replay.simulate import Chaos
from stream.filelog import folder_of, partitions_of
from stream.filelog_source import PartitionReader
from tests.keepstream.test_same_everywhere import PARQUET, table_of
from tests.keepstream.worlds import (
    CONFIG,
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


def demo_without_its_simulator(folder, begun):
    """Return what a demo says whose simulator is stopped once ``begun`` of its folder is true."""
    call = ("--folder", folder, "--impressions", 100_000, "--seconds", 300, "--json", "--quiet")
    with started("demo", *call) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and not (children.read_text() and begun(folder)):
            passes(process, 0.05)
        os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_simulator_that_fails_midway_fails_the_demo(tmp_path):
    """Half a world looks like a whole one in the report: it must be said."""

    def half(folder):
        topics = [folder / "log" / name / "topic.json" for name in ("impressions", "feedback")]
        written = [*folder.glob("log/impressions/0/*.log")]
        return all(map(Path.exists, topics)) and sum(log.stat().st_size for log in written)

    code, out, err = demo_without_its_simulator(tmp_path, half)

    assert 1 == code, err
    assert "the simulator failed (exit code -15)" in err
    assert "What it had written was learned" in err
    assert 1 == len(out.splitlines())


def test_a_simulator_that_never_begins_fails_the_demo(tmp_path):
    """It is no wrong call: nothing the user gave was at fault."""
    code, out, err = demo_without_its_simulator(tmp_path, lambda folder: True)

    assert 1 == code, err
    assert "the simulator failed (exit code -15)" in err
    assert "SimulatorFailed" in out


@pytest.fixture(scope="module")
def table():
    """Return a world as a table."""
    return table_of(messages(1_000, chaos=Chaos()))


def test_a_run_goes_on_with_its_own_table_wherever_it_lies(tmp_path, table):
    """A row of one table is no place in another, were it of the same name and size."""
    configured(tmp_path, CONFIG + PARQUET)
    (tmp_path / "moved").mkdir()
    a, b, moved = tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "moved" / "a.parquet"
    pq.write_table(table, a)
    pq.write_table(table[:600], b)
    run = ("--run", tmp_path / "run")
    first = replay(tmp_path, a, *run)

    assert "it was a.parquet, and is b.parquet" in replay(tmp_path, b, *run, code=2)["message"]
    pq.write_table(table[:600], moved)
    assert "a.parquet is not what it was" in replay(tmp_path, moved, *run, code=2)["message"]
    damaged = bytearray(a.read_bytes())
    damaged[1_000] ^= 1
    moved.write_bytes(damaged)
    assert "a.parquet is not what it was" in replay(tmp_path, moved, *run, code=2)["message"]
    a.replace(moved)
    assert first["weights_digest"] == replay(tmp_path, moved, *run)["weights_digest"]
    assert 600 == replay(tmp_path, b, *run, "--fresh")["examples"]


def test_a_run_goes_on_with_its_own_log_however_it_grows(place):
    """Another log of the same shape begins with another event; more events are no other log."""
    run = ("--run", place / "run")
    write_log(place / "other", messages(2_000, seed=1))
    replay(place, place / "log", *run)

    said = replay(place, place / "other", *run, code=2)["message"]
    assert "feedback/0 begins with another record" in said
    assert "--fresh" in said
    said = replay(place, place / "log", *run, "--until", "2024-01-01", code=2)["message"]
    assert "--until was not given, and is 1704067200000" in said
    (place / "log").rename(place / "moved")
    write_log(place / "moved", messages(10, seed=2))
    assert replay(place, place / "moved", *run)["resumed"]


def test_a_log_that_was_empty_is_known_from_its_first_event_on(place):
    """A follower is started before there is anything to follow."""
    log, run = place / "empty", ("--run", place / "run", "--until-end", "--quiet")
    train = ("train", "--config", place / "keepstream.toml", *run, "--log")
    write_log(log, {partition: [] for partition in messages(1)})
    told(*train, log)
    write_log(log, messages(400, seed=3))
    told(*train, log)
    assert told(*train, log)["resumed"]

    assert "begins with another record" in told(*train, place / "log", code=2)["message"]


def test_lines_that_became_more_are_the_same_file(place):
    """Who appends to a file of events goes on with its run; another file of its name is another."""
    values = [value for values in messages(400, chaos=Chaos()).values() for value in values]
    (place / "e.ndjson").write_bytes(b"".join(values[:-1]))
    run = ("--run", place / "run")
    replay(place, place / "e.ndjson", *run)

    (place / "e.ndjson").write_bytes(b"".join(values))
    assert replay(place, place / "e.ndjson", *run)["resumed"]
    (place / "e.ndjson").write_bytes(b"".join(values[1:]))
    assert "e/0 begins with another" in replay(place, place / "e.ndjson", *run, code=2)["message"]


def test_a_start_that_failed_claims_no_folder(tmp_path, table):
    """A name spelt wrong in the configuration is put right, and the same command works."""
    pq.write_table(table, tmp_path / "a.parquet")
    run = ("--run", tmp_path / "run")
    wrong = PARQUET.replace('user_id = "', 'user_id = "no_such_')
    assert wrong != PARQUET
    configured(tmp_path, CONFIG + wrong)
    said = replay(tmp_path, tmp_path / "a.parquet", *run, code=2)
    assert "no_such_" in said["message"]
    (tmp_path / "run" / "deadletters.ndjson").write_bytes(b'{"deadletters":1,"turn":0}\n')

    configured(tmp_path, CONFIG + PARQUET)
    first = replay(tmp_path, tmp_path / "a.parquet", *run)

    assert 1_000 == first["examples"]
    assert not first["resumed"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert 1_000 == replay(tmp_path, tmp_path / "a.parquet", *run, "--seed", 5)["examples"]
    assert "train.seed changed" in replay(tmp_path, tmp_path / "a.parquet", *run, code=2)["message"]
