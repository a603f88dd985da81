"""Learning a history, then what is live: nothing twice, nothing left out, whatever happens."""

import json
import shutil
import signal
from zlib import crc32

import numpy as np
import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient, TopicPartition

from keepstream.config import load
from replay.simulate import Chaos
from stream.filelog import create_topic, segments_of
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.handover import history_over
from stream.kafka_writer import KafkaWriter
from stream.position import Partition, Position
from stream.reach import said
from tests.keepstream.test_same_everywhere import PARQUET, table_of
from tests.keepstream.topics import World
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
def files(world):
    """Return the arguments of a run that goes on with the log of all, in files."""
    folder, *_ = world
    return "--config", folder / "keepstream.toml", "--log", folder / "log"


@pytest.fixture(scope="module")
def topics(world, kafka, tmp_path_factory):
    """Return the arguments of a run that goes on with the log of all, in topics."""
    place = World(tmp_path_factory.mktemp("topics"), kafka, more=PARQUET)
    produce(place, world[1])
    return "--config", place.config


@pytest.fixture(params=["files", pytest.param("topics", marks=pytest.mark.kafka)])
def live(request):
    """Return the arguments of a run that goes on with the log of all, wherever that is."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def train(tmp_path):
    """Return how to train into a run of the test's own."""

    def trained(live, *more, run=tmp_path / "run", code=0):
        return told("train", *live, "--run", run, *OPTIONS, *more, code=code)

    return trained


def produce(place, log):
    """Append a log to topics, each message with the time of its newest event."""
    with KafkaWriter(place.kafka) as writer:
        for partition, values in packed(log, 30).items():
            for value in values:
                at_ms = max(json.loads(x)["ts"] for x in value.splitlines())
                here = Partition(place.names[partition.topic], partition.number)
                writer.append(here, value, at_ms=at_ms)


def saved(run):
    """Return the numbers of a run's checkpoints."""
    return {c.number for c in Checkpoints(run / "checkpoints")}


def is_over(run):
    """Return whether a run has got behind its history."""
    newest = [*Checkpoints(run / "checkpoints")][-1]
    return history_over(Position.from_json(newest.manifest["position"]))


def history_of(kind, log, folder, live=()):
    """Write a history of a kind, and return the paths that name it.

    A log of files has the topics of what is live.
    """
    if kind == "log":
        shown, heard = load(live[1]).log.topics if live else ("impressions", "feedback")
        for topic in (shown, heard):
            create_topic(folder / "history", topic, 1)
        with FileLogWriter(folder / "history", LogWriterConfig(fsync="never")) as writer:
            for partition, values in packed(log, 11).items():
                topic = shown if partition.topic == "impressions" else heard
                if values:
                    writer.append_many(Partition(topic, partition.number), values)
        return [folder / "history"]
    if kind == "parquet":
        pq.write_table(table_of(log), folder / "history.parquet")
        return [folder / "history.parquet"]
    files = []
    for partition, values in log.items():
        files.append(folder / f"{partition.topic}.ndjson")
        files[-1].write_bytes(b"".join(values))
    return files


@pytest.mark.parametrize("kind", ["log", "parquet", "ndjson"])
def test_a_history_is_gone_on_with_as_if_it_were_one_log(
    world, live, train, tmp_path, kind, capsys
):
    """Both hold all: what keeps them from overlapping is the time alone."""
    _, log, half, expected = world
    paths = history_of(kind, log, tmp_path, live)

    result = train(live, "--bootstrap", *paths, "--handover", said(half))

    assert expected == digests(result)
    assert expected["clicks"] > 100
    assert f"{said(half)}: up to here the history" in capsys.readouterr().err


def test_where_they_meet_is_found(world, live, train, tmp_path, capsys):
    """The end of the history, less what may have been missing when it was taken."""
    _, log, half, expected = world
    paths = history_of("log", before(log, half), tmp_path, live)

    result = train(live, "--bootstrap", *paths)

    assert expected == digests(result)
    newest = [t for t in times_of(log) if t < half][-1]
    assert f"{said(newest - 30_000)}: up to here the history" in capsys.readouterr().err


def test_a_log_that_began_after_the_history_is_gone_on_with_from_its_beginning(
    world, files, train, tmp_path
):
    """What the history has of the time before it, nobody else has."""
    _, log, half, expected = world
    after = {p: [x for v in values for x in v.splitlines(keepends=True)
                 if json.loads(x)["ts"] >= half] for p, values in log.items()}  # fmt: skip
    live = (*files[:3], write_log(tmp_path / "live", after))
    paths = history_of("log", before(log, half), tmp_path)

    assert expected == digests(train(live, "--bootstrap", *paths))


@pytest.mark.restart
def test_killed_in_either_phase_it_learns_what_an_undisturbed_run_does(
    world, live, train, tmp_path
):
    """Where they meet is found once; to go on without the rest of a history is refused."""
    _, log, half, expected = world
    paths = history_of("log", before(log, half), tmp_path, live)
    run = tmp_path / "run"
    rng = np.random.default_rng(1)
    command = ("train", *live, *OPTIONS, "--run", run, *OFTEN, "--bootstrap", *paths)
    for over in (False, True):
        known = saved(run)
        with started(*command) as process:
            while saved(run) <= known or (over and not is_over(run)):
                assert process.poll() is None, process.stderr.read()
                passes(process, 0.005)
            passes(process, float(rng.uniform(0, 0.05)))
        assert over == is_over(run)
        if not over:
            assert "name it again with --bootstrap" in train(live, *OFTEN, code=2)["message"]

    result = train(live, *OFTEN, "--bootstrap", *paths)

    assert expected == digests(result)


def test_a_history_that_is_over_is_no_longer_needed(world, live, train, tmp_path):
    """Archives are deleted; the command of a deployment stays, or is written anew without it."""
    _, log, half, expected = world
    paths = history_of("log", log, tmp_path, live)
    begun = train(live, "--bootstrap", *paths, "--handover", half)
    shutil.rmtree(paths[0])

    assert digests(begun) == digests(train(live, "--bootstrap", *paths)) == expected
    assert digests(begun) == digests(train(live)) == expected


def test_a_run_keeps_its_history(world, files, train, tmp_path):
    """Another one, none, or another end of it: what was learned would be learned twice."""
    _, log, half, _ = world
    paths = history_of("log", log, tmp_path)
    train(files, run=tmp_path / "plain")
    assert "begins with a history" in train(
        files, "--bootstrap", *paths, run=tmp_path / "plain", code=2
    )["message"]  # fmt: skip
    train(files, "--bootstrap", *paths, "--handover", half)

    other = train(files, "--bootstrap", *paths, "--handover", half + 1, code=2)
    assert f"--handover was {half}, and is {half + 1}" in other["message"]
    (tmp_path / "other").mkdir()
    others = history_of("ndjson", log, tmp_path / "other")
    assert "over another input" in train(files, "--bootstrap", *others, code=2)["message"]
    assert run_of(tmp_path / "run")["examples"] > 0


def test_what_retention_took_between_them_is_a_gap(world, files, train, tmp_path):
    """A trainer that goes on without a word over a hole is wrong for as long as it runs."""
    _, log, half, _ = world
    root = tmp_path / "live"
    for topic in ("impressions", "feedback"):
        create_topic(root, topic, 1)
    with FileLogWriter(root, LogWriterConfig(fsync="never", segment_bytes=65_536)) as writer:
        for partition, values in packed(log, 30).items():
            for value in values:
                writer.append(partition, value)
    folder = root / "impressions" / "0"
    first, second, *_ = segments_of(folder)
    (folder / f"{first:020d}.log").unlink()
    paths = history_of("log", before(log, half), tmp_path)
    live = (*files[:3], root)

    early = times_of(log)[0] + 60_000
    gap = train(live, "--bootstrap", *paths, "--handover", early, code=1)

    assert "HandOverGap" == gap["error"]
    assert "impressions/0 begins at" in gap["message"]
    assert f"offset {second:,}" in gap["message"]
    assert train(live, "--bootstrap", *paths)["examples"] > 0


def test_it_says_what_cannot_be_bootstrapped(world, files, train, tmp_path):
    """One line each, before anything is learned."""
    folder, log, half, _ = world
    assert "give both" in train(files, "--handover", half, code=2)["message"]
    empty = history_of("log", {p: [] for p in log}, tmp_path)
    assert "no impression" in train(files, "--bootstrap", *empty, code=2)["message"]
    assert "no such file" in train(files, "--bootstrap", folder / "none.parquet", code=2)["message"]


@pytest.fixture
def place(kafka, tmp_path):
    """Return topics of the test's own."""
    return World(tmp_path, kafka, more=PARQUET)


@pytest.mark.kafka
def test_what_retention_took_from_a_topic_is_a_gap(world, place, train, tmp_path, capsys):
    """It is named before the history is learned, which may take a night."""
    _, log, half, _ = world
    produce(place, log)
    topic = place.names["impressions"]
    admin = KafkaAdminClient(bootstrap_servers=place.kafka.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): 60})  # of 100: behind the half
    admin.close()
    live = ("--config", place.config)
    paths = history_of("parquet", before(log, half), tmp_path)

    gap = train(live, "--bootstrap", *paths, code=1)
    assert "HandOverGap" == gap["error"]
    assert f"{topic}/0 begins at" in gap["message"]
    assert "(offset 60)" in gap["message"]
    assert 'kafka.lost = "skip"' in gap["message"]
    assert [] == [*Checkpoints(tmp_path / "run" / "checkpoints")]

    skipped = train(live, "--bootstrap", *paths, "--set", "kafka.lost=skip")
    assert 0 < skipped["examples"]
    assert "(offset 60)" in capsys.readouterr().err
    whole = history_of("ndjson", log, tmp_path)
    reaches = train(live, "--bootstrap", *whole, run=tmp_path / "other")
    assert world[3] == digests(reaches)


@pytest.mark.kafka
@pytest.mark.slow
def test_topics_that_grow_while_the_history_is_learned_are_read_whole(world, place, tmp_path):
    """Their new partitions come behind the history, as the old ones do."""
    _, log, half, expected = world
    live = ("--config", place.config)
    paths = history_of("log", before(log, half), tmp_path, live)
    run = tmp_path / "run"
    command = ("train", *live, *OPTIONS, "--run", run, *OFTEN, "--bootstrap", *paths,
               "--handover", half)  # fmt: skip
    moved = {Partition(p.topic, n): [] for p in log for n in (0, 1)}
    for p, values in log.items():
        for line in [x for v in values for x in v.splitlines(keepends=True)]:
            event = json.loads(line)
            number = 0 if event["ts"] < half else crc32(str(event["user_id"]).encode()) % 2
            moved[Partition(p.topic, number)].append(line)
    with started(*command, "--json") as process:
        while not saved(run):
            assert process.poll() is None, process.stderr.read()
            passes(process, 0.005)
        process.send_signal(signal.SIGSTOP)
        assert not is_over(run)
        place.grow(2)
        produce(place, moved)
        process.send_signal(signal.SIGCONT)
        out, said = process.communicate(timeout=120)

    result = json.loads(out)
    assert {n: expected[n] for n in DIGESTS} == {n: result[n] for n in DIGESTS}, said
    for name in ("events", "after_idle", "late_events", "duplicates"):  # more wait at the end
        assert expected["counts"][name] == result["counts"][name], name
    assert "new partitions" in said
