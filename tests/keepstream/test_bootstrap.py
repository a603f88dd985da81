"""Learning a history, then what is live: nothing twice, nothing left out, whatever happens."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from replay.simulate import Chaos
from stream.filelog import create_topic, segments_of
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.reach import said
from tests.keepstream.test_same_everywhere import PARQUET, table_of
from tests.keepstream.worlds import (
    CONFIG,
    configured,
    messages,
    packed,
    passes,
    run_of,
    started,
    told,
    write_log,
)
from trainer.checkpoint import Checkpoints

OPTIONS = ("--quiet", "--as-served", "--until-end")
DIGESTS = ("examples_digest", "weights_digest", "examples", "batches", "clicks")
OFTEN = ("--set", "checkpoint.every_s=0.1", "--set", "log.block_events=97")


def digests(result):
    """Return what must be that of one run over the whole log."""
    counts = {k: v for k, v in result["counts"].items() if k not in ("held", "dead_letters")}
    return {**{name: result[name] for name in DIGESTS}, "counts": counts}


def times_of(log):
    """Return the times of the impressions of a log, ascending."""
    lines = [x for p, values in log.items() if p.topic == "impressions" for v in values
             for x in v.splitlines()]  # fmt: skip
    return sorted(json.loads(x)["ts"] for x in lines)


def before(log, until_ms):
    """Return the part of a log that was there at a time."""
    kept = {}
    for p, values in log.items():
        lines = [x for v in values for x in v.splitlines(keepends=True)]
        kept[p] = [b"".join(x for x in lines if json.loads(x)["ts"] < until_ms)]
    return kept


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with a log of all, the half time of it, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("world")
    configured(folder, CONFIG + PARQUET)
    log = messages(3_000, chaos=Chaos())
    write_log(folder / "log", packed(log, 30))
    times = times_of(log)
    whole = told("train", "--config", folder / "keepstream.toml", "--log", folder / "log",
                 *OPTIONS)  # fmt: skip
    return folder, log, times[len(times) // 2], digests(whole)


@pytest.fixture
def train(world, tmp_path):
    """Return how to train on the log of all into a run of the test's own."""
    folder = world[0]

    def trained(*more, log=folder / "log", run=tmp_path / "run", code=0):
        return told("train", "--config", folder / "keepstream.toml", "--log", log,
                    "--run", run, *OPTIONS, *more, code=code)  # fmt: skip

    return trained


def saved(run):
    """Return the numbers of a run's checkpoints."""
    return {c.number for c in Checkpoints(run / "checkpoints")}


def newest_is_live(run):
    """Return whether a run has got behind its history."""
    newest = [*Checkpoints(run / "checkpoints")][-1]
    return any(topic == "impressions" for topic, *_ in newest.manifest["position"])


def history_of(kind, log, folder):
    """Write a history of a kind, and return the paths that name it."""
    if kind == "log":
        return [write_log(folder / "history", packed(log, 11))]
    if kind == "parquet":
        pq.write_table(table_of(log), folder / "history.parquet")
        return [folder / "history.parquet"]
    files = []
    for partition, values in log.items():
        files.append(folder / f"{partition.topic}.ndjson")
        files[-1].write_bytes(b"".join(values))
    return files


@pytest.mark.parametrize("kind", ["log", "parquet", "ndjson"])
def test_a_history_is_gone_on_with_as_if_it_were_one_log(world, train, tmp_path, kind, capsys):
    """Both hold all: what keeps them from overlapping is the time alone."""
    _, log, half, expected = world
    paths = history_of(kind, log, tmp_path)

    result = train("--bootstrap", *paths, "--handover", said(half))

    assert expected == digests(result)
    assert expected["clicks"] > 100
    assert f"{said(half)}: up to here the history" in capsys.readouterr().err


def test_where_they_meet_is_found(world, train, tmp_path, capsys):
    """The end of the history, less what may have been missing when it was taken."""
    _, log, half, expected = world
    paths = history_of("log", before(log, half), tmp_path)

    result = train("--bootstrap", *paths)

    assert expected == digests(result)
    newest = [t for t in times_of(log) if t < half][-1]
    assert f"{said(newest - 30_000)}: up to here the history" in capsys.readouterr().err


def test_a_log_that_began_after_the_history_is_gone_on_with_from_its_beginning(
    world, train, tmp_path
):
    """What the history has of the time before it, nobody else has."""
    _, log, half, expected = world
    after = {p: [x for v in values for x in v.splitlines(keepends=True)
                 if json.loads(x)["ts"] >= half] for p, values in log.items()}  # fmt: skip
    live = write_log(tmp_path / "live", after)
    paths = history_of("log", before(log, half), tmp_path)

    assert expected == digests(train("--bootstrap", *paths, log=live))


@pytest.mark.restart
def test_killed_in_either_phase_it_learns_what_an_undisturbed_run_does(world, train, tmp_path):
    """Where they meet is found once: a run that was killed goes on with the same."""
    folder, log, half, expected = world
    paths = history_of("log", before(log, half), tmp_path)
    run = tmp_path / "run"
    rng = np.random.default_rng(1)
    command = ("train", "--config", folder / "keepstream.toml", "--log", folder / "log", *OPTIONS,
               "--run", run, *OFTEN, "--bootstrap", *paths)  # fmt: skip
    for live in (False, False, True):
        known = saved(run)
        with started(*command) as process:
            while saved(run) <= known or (live and not newest_is_live(run)):
                assert process.poll() is None, process.stderr.read()
                passes(process, 0.005)
            passes(process, float(rng.uniform(0, 0.05)))
        assert live == newest_is_live(run)

    result = train(*OFTEN, "--bootstrap", *paths)

    assert expected == digests(result)


def test_a_history_that_is_over_is_no_longer_needed(world, train, tmp_path):
    """Archives are deleted; the command of a deployment stays, or is written anew without it."""
    _, log, half, expected = world
    paths = history_of("log", log, tmp_path)
    begun = train("--bootstrap", *paths, "--handover", half)
    shutil.rmtree(paths[0])

    assert digests(begun) == digests(train("--bootstrap", *paths)) == expected
    assert digests(begun) == digests(train()) == expected


def test_a_run_keeps_its_history(world, train, tmp_path):
    """Another one, none, or another end of it: what was learned would be learned twice."""
    _, log, half, _ = world
    paths = history_of("log", log, tmp_path)
    train(run=tmp_path / "plain")
    assert "begins with a history" in train(
        "--bootstrap", *paths, run=tmp_path / "plain", code=2
    )["message"]  # fmt: skip
    train("--bootstrap", *paths, "--handover", half)

    other = train("--bootstrap", *paths, "--handover", half + 1, code=2)
    assert f"--handover was {half}, and is {half + 1}" in other["message"]
    (tmp_path / "other").mkdir()
    others = history_of("ndjson", log, tmp_path / "other")
    assert "over another input" in train("--bootstrap", *others, code=2)["message"]
    assert run_of(tmp_path / "run")["examples"] > 0


def test_a_history_that_is_not_over_must_be_named_again(world, tmp_path):
    """To go on without it would leave its rest out, in silence."""
    folder, log, half, expected = world
    paths = history_of("log", log, tmp_path)
    run = tmp_path / "run"
    command = ("train", "--config", folder / "keepstream.toml", "--log", folder / "log", *OPTIONS,
               "--run", run, *OFTEN)  # fmt: skip
    with started(*command, "--bootstrap", *paths, "--handover", half) as process:
        while not saved(run):
            assert process.poll() is None, process.stderr.read()
            passes(process, 0.005)

    assert "name it again with --bootstrap" in told(*command, code=2)["message"]
    assert expected == digests(told(*command, "--bootstrap", *paths))


def test_what_retention_took_between_them_is_a_gap(world, train, tmp_path):
    """A trainer that goes on without a word over a hole is wrong for as long as it runs."""
    _, log, half, _ = world
    live = tmp_path / "live"
    for topic in ("impressions", "feedback"):
        create_topic(live, topic, 1)
    with FileLogWriter(live, LogWriterConfig(fsync="never", segment_bytes=65_536)) as writer:
        for partition, values in packed(log, 30).items():
            for value in values:
                writer.append(partition, value)
    folder = live / "impressions" / "0"
    first, second, *_ = segments_of(folder)
    (folder / f"{first:020d}.log").unlink()
    paths = history_of("log", before(log, half), tmp_path)

    early = times_of(log)[0] + 60_000
    gap = train("--bootstrap", *paths, "--handover", early, log=live, code=1)

    assert "HandOverGap" == gap["error"]
    assert "impressions/0 begins at" in gap["message"]
    assert f"offset {second:,}" in gap["message"]
    assert train("--bootstrap", *paths, log=live)["examples"] > 0


def test_it_says_what_cannot_be_bootstrapped(world, train, tmp_path):
    """One line each, before anything is learned."""
    folder, log, half, _ = world
    assert "give both" in train("--handover", half, code=2)["message"]
    empty = history_of("log", {p: [] for p in log}, tmp_path)
    assert "no impression" in train("--bootstrap", *empty, code=2)["message"]
    assert "no such file" in train("--bootstrap", folder / "none.parquet", code=2)["message"]
