"""What a run does when it is started again: after its end, with more data, with another log."""

import json

import pyarrow.parquet as pq
import pytest

from replay.simulate import Chaos
from stream.filelog import create_topic
from tests.keepstream.test_same_everywhere import PARQUET, table_of
from tests.keepstream.worlds import (
    CONFIG,
    configured,
    keepstream,
    messages,
    packed,
    parts,
    passes,
    run_of,
    started,
    told,
    write_log,
)
from trainer.checkpoint import Checkpoints

OPTIONS = ("--quiet", "--as-served")
DIGESTS = ("examples_digest", "weights_digest", "examples", "batches", "counts")


def digests(result: dict) -> dict:
    """Return what must not depend on how often a run was started."""
    return {name: result[name] for name in DIGESTS}


@pytest.fixture
def place(tmp_path):
    """Return a folder with a configuration and an empty log."""
    configured(tmp_path)
    write_log(tmp_path / "log", {partition: [] for partition in messages(1)})
    return tmp_path


def train(place, run, *more):
    """Train on the log until its end; return the result."""
    return told("train", "--config", place / "keepstream.toml", "--log", place / "log",
                "--until-end", "--run", place / run, *OPTIONS, *more)  # fmt: skip


def replay(place, run, *more, code=0):
    """Replay the log; return the result."""
    return told("replay", "--config", place / "keepstream.toml", "--input", place / "log",
                "--run", place / run, *OPTIONS, *more, code=code)  # fmt: skip


def numbers(place, run):
    """Return the numbers of a run's checkpoints."""
    return [c.number for c in Checkpoints(place / run / "checkpoints")]


def test_a_run_that_is_over_is_over(place):
    """A scheduler that starts it again must not learn the log twice, nor rewrite what it kept."""
    write_log(place / "log", messages(6_000))
    first = replay(place, "run")
    page = (place / "run" / "report.html").read_text()
    kept = numbers(place, "run")

    again = replay(place, "run")

    assert again["resumed"]
    assert digests(first) == digests(again)
    assert kept == numbers(place, "run")
    machine = {"wall_s", "examples_per_s", "peak_rss_mb", "resumed"}
    assert {k: v for k, v in first.items() if k not in machine} == {
        k: v for k, v in again.items() if k not in machine
    }
    assert run_of(place / "run")["counts"] == first["counts"]
    assert page.count("<svg") == (place / "run" / "report.html").read_text().count("<svg") > 0


def test_what_was_drained_is_not_learned_again_when_the_log_grows(place):
    """The end of a replay settles what waits; what comes behind it is new, and nothing else is."""
    early, late = parts(2, 3_000, chaos=Chaos())
    write_log(place / "log", early)
    before = replay(place, "run")
    write_log(place / "log", late)

    result = replay(place, "run")

    whole = replay(place, "whole")
    assert 3_000 == whole["examples"] == result["examples"] == result["counts"]["impressions"]
    assert 0 < before["examples"] < result["examples"]
    assert result["counts"]["orphans"] < 20 < result["counts"]["matched"] - before["clicks"]


def test_training_night_after_night_is_one_run(place):
    """A log that is read in parts, each to its end, gives what one reading gives."""
    nights = parts(3, 6_000)
    for night in nights:
        write_log(place / "log", night)
        result = train(place, "nightly")
        assert result["ended"]

    once = train(place, "once")

    assert digests(once) == digests(result)
    assert result["resumed"]
    assert not once["resumed"]


def test_a_night_without_events_changes_nothing(place):
    """No new checkpoint pushes out an older one, and the result says what it said before."""
    write_log(place / "log", messages(2_000))
    first = train(place, "run")
    kept = numbers(place, "run")

    again = train(place, "run")

    assert digests(first) == digests(again)
    assert kept == numbers(place, "run")


def test_a_run_keeps_its_partitions(place, tmp_path, capsys):
    """A state of two partitions put into three would mix their events up."""
    write_log(place / "log", messages(2_000))
    train(place, "run")
    create_topic(place / "log", "purchases", 1)
    topics = ("--set", 'log.topics=["impressions", "feedback", "purchases"]')

    said = told("train", "--config", place / "keepstream.toml", "--log", place / "log",
                "--until-end", "--run", place / "run", *OPTIONS, *topics, code=1)  # fmt: skip

    assert "OtherPartitions" == said["error"]
    assert "purchases/0" in said["message"]
    assert "--run another folder" in said["message"]


def test_a_log_that_has_lost_its_end_is_noticed(place):
    """It begins as before, but what was learned is not in it: nobody knows what comes next."""
    log = messages(2_000)
    write_log(place / "log", log)
    train(place, "run")
    (place / "log").rename(place / "old")
    write_log(place / "log", {partition: values[:2] for partition, values in log.items()})

    said = told("train", "--config", place / "keepstream.toml", "--log", place / "log",
                "--until-end", "--run", place / "run", *OPTIONS, code=1)  # fmt: skip

    assert "OffsetOutOfRange" == said["error"]


def test_another_configuration_does_not_go_on_with_a_run(place):
    """Half a run with one learning rate and half with another is no experiment; paths may move."""
    write_log(place / "log", messages(1_000))
    replay(place, "run")

    said = replay(place, "run", "--set", "model.learning_rate=0.5", code=2)

    assert "model.learning_rate changed" in said["message"]
    assert replay(place, "run", "--set", "checkpoint.keep=5", "--set", "log.block_events=7")
    assert replay(place, "run", "--set", "model.learning_rate=0.5", "--fresh")["examples"] > 0


def test_another_span_of_time_does_not_go_on_with_a_run(place):
    """Events past --until were read and left out: a resumed run would never see them again."""
    write_log(place / "log", messages(1_000))
    until = ("--until", "2023-11-15T00:05")
    first = replay(place, "run", *until)

    said = replay(place, "run", code=2)

    assert "over another input" in said["message"]
    assert digests(first) == digests(replay(place, "run", *until))


def test_another_table_does_not_go_on_with_a_run(place):
    """A place in a table is a row: in another table that row is something else."""
    table = table_of(messages(1_000, chaos=Chaos()))
    config = configured(place, CONFIG + PARQUET)
    for name, rows in (("a", table[:600]), ("b", table)):
        pq.write_table(rows, place / f"{name}.parquet")
    call = ("replay", "--config", config, "--run", place / "run", *OPTIONS, "--input")
    told(*call, place / "a.parquet")

    assert "over another input" in told(*call, place / "b.parquet", code=2)["message"]
    assert 600 == told(*call, place / "a.parquet")["examples"]


def test_a_run_killed_before_its_first_checkpoint_leaves_no_trace(place):
    """What it had written of its trace and letters is written again, not twice."""
    write_log(place / "log", messages(4_000))
    whole = replay(place, "whole")
    run = place / "run"
    run.mkdir()
    for name in ("trace.ndjson", "deadletters.ndjson"):
        (run / name).write_bytes((place / "whole" / name).read_bytes()[:-9])
    (run / "config.json").write_bytes((place / "whole" / "config.json").read_bytes())

    result = replay(place, "run")

    assert digests(whole) == digests(result)
    for name in ("trace.ndjson", "deadletters.ndjson"):
        assert (place / "whole" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("torn", [b"", b'{"digest": "', b"[]", b'{"digest": 1}'])
def test_a_damaged_run_folder_says_so(place, torn):
    """Without its configuration nobody knows what a checkpoint belongs to."""
    write_log(place / "log", messages(500))
    replay(place, "run")
    (place / "run" / "config.json").write_bytes(torn)

    said = replay(place, "run", code=2)

    assert "config.json is damaged" in said["message"]


def test_a_follower_of_a_silent_log_shows_itself_and_stops_when_told(place):
    """Nothing happens: it must say so now and then, keep no checkpoint, and end within a moment."""
    write_log(place / "log", messages(2_000))
    run = place / "run"
    command = ("train", "--config", place / "keepstream.toml", "--log", place / "log",
               "--run", run, "--set", "checkpoint.every_s=0.1", "--json")  # fmt: skip
    with started(*command) as process:
        while not numbers(place, "run") and process.poll() is None:
            passes(process, 0.02)
        passes(process, 0.3)
        silent = numbers(place, "run")
        passes(process, 1.0)
        assert silent == numbers(place, "run")
        process.terminate()
        out, err = process.communicate(timeout=10)

    assert (0, 1) == (process.returncode, len(out.splitlines())), err
    assert silent == numbers(place, "run")
    assert "SIGTERM: finishing" in err
    assert f"{json.loads(out)['counts']['events']:,} events" in err


def test_a_log_without_examples_is_a_failed_replay_and_a_patient_training(place):
    """A replay that learned nothing has gone wrong; a log to be followed may be empty yet."""
    assert 0 == replay(place, "run", code=1)["examples"]
    assert 0 == train(place, "other")["examples"]
    code, said = keepstream("replay", "--config", place / "keepstream.toml",
                            "--input", place / "log", *OPTIONS)  # fmt: skip
    assert (1, "No example was settled") == (code, said[:22])
    write_log(place / "log", packed(messages(500, chaos=Chaos()), 7))
    assert 500 == replay(place, "run")["examples"]
