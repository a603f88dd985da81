"""A run on Kafka: the same as on files, whatever happens to it."""

import json
import re
import signal

import pytest

from replay.simulate import Chaos
from stream.kafka_topics import Topics
from tests.keepstream.topics import Said, World
from tests.keepstream.worlds import (
    configured,
    keepstream,
    messages,
    packed,
    parts,
    passes,
    started,
    told,
    write_log,
)
from trainer.checkpoint import Checkpoints

pytestmark = pytest.mark.kafka

SAME = ("examples_digest", "weights_digest", "examples", "clicks", "batches", "auc")
IMPRESSIONS = 2_000


def same(result: dict) -> dict:
    """Return what must not depend on where a log is, nor on how often a run was started."""
    counts = {k: v for k, v in result["counts"].items() if k not in ("held",)}
    return {**{name: result[name] for name in SAME}, "counts": counts}


def train(world: World, *more, code: int = 0) -> dict:
    """Train on the topics until their end; return what is told."""
    return told("train", "--config", world.config, "--until-end", "--quiet", *more, code=code)


@pytest.fixture(scope="module", params=[1, 4])
def log(request, tmp_path_factory):
    """Return a world's log in one partition a topic or four, and what files of it teach."""
    folder = tmp_path_factory.mktemp("files")
    log = messages(IMPRESSIONS, partitions=request.param)
    root = write_log(folder / "log", log)
    config = configured(folder)
    return log, request.param, told("train", "--config", config, "--log", root, "--until-end")


@pytest.mark.parametrize("per_message", [1, 7, 100])
def test_topics_teach_what_files_teach(kafka, log, tmp_path, per_message):
    """Replay is evidence of what is live only if both are the same, however it is packed."""
    messages, partitions, expected = log
    world = World(tmp_path, kafka, partitions)
    world.write(packed(messages, per_message))

    actual = train(world)

    assert expected["examples"] > IMPRESSIONS / 2
    assert same(expected) == same(actual)


def newest(run) -> int:
    """Return the number of a run's newest checkpoint, 0 where there is none."""
    return max((c.number for c in Checkpoints(run / "checkpoints")), default=0)


OFTEN = ("--set", "checkpoint.every_s=0.1", "--set", "log.block_events=97", "--quiet")


def test_a_run_that_is_killed_goes_on_in_the_topics(kafka, tmp_path):
    """Positions are in the checkpoint, so nothing is learned twice and nothing is passed over."""
    world = World(tmp_path, kafka, 2)
    log = messages(9_000, partitions=2)
    halves = [
        {p: v[: len(v) // 2] for p, v in log.items()},
        {p: v[len(v) // 2 :] for p, v in log.items()},
    ]
    world.write(halves[0])
    command = ("train", "--config", world.config, "--run", tmp_path / "killed", *OFTEN)
    for kill in range(3):
        if kill == 1:
            world.write(halves[1])
        with started(*command) as process:
            before = newest(tmp_path / "killed")
            while newest(tmp_path / "killed") < before + 2 and process.poll() is None:
                passes(process, 0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()

    actual = train(world, "--run", tmp_path / "killed")
    expected = train(world, "--run", tmp_path / "undisturbed")

    assert actual["resumed"]
    assert same(expected) == same(actual)
    assert 0 == keepstream("compare", tmp_path / "killed", tmp_path / "undisturbed")[0]


def test_a_checkpoints_position_is_committed_for_all_to_see(kafka, tmp_path):
    """Lag displays know groups, and nothing of checkpoints."""
    world = World(tmp_path, kafka, 2)
    world.write(messages(500, partitions=2))

    train(world, "--run", tmp_path / "run")

    checkpoint = Checkpoints(tmp_path / "run" / "checkpoints").latest()[0]
    with Topics(kafka) as topics:
        partitions = world.partitions(2)
        committed = topics.committed(f"group-{world.mark}", partitions)
        assert topics.ends(partitions) == committed
    expected = sorted([p.topic, p.number, o, 0] for p, o in committed.items())
    assert expected == checkpoint.manifest["position"]


def test_a_topic_that_was_made_anew_is_not_gone_on_with(kafka, tmp_path):
    """Offsets of the old one mean nothing in the new."""
    world = World(tmp_path, kafka)
    world.write(messages(500))
    run = ("--run", tmp_path / "run")
    first = train(world, *run)
    assert same(first) == same(train(world, *run))
    with Topics(kafka) as topics:
        topics.delete([world.names["feedback"]])
        topics.create(world.names["feedback"], 1)

    said = train(world, *run, code=2)["message"]

    assert f"{world.names['feedback']} was deleted and created again" in said
    assert "--fresh" in said


def test_a_run_over_files_does_not_go_on_over_topics(kafka, tmp_path):
    """A place in the one is none in the other."""
    world = World(tmp_path, kafka)
    log = messages(500)
    world.write(log)
    run = ("--run", tmp_path / "run", "--until-end", "--quiet")
    root = write_log(tmp_path / "log", log)
    told("train", "--config", configured(tmp_path / "files"), "--log", root, *run)

    said = told("train", "--config", world.config, *run, code=2)["message"]

    assert "it was a log in files, and is Kafka" in said


def first_ts(value: bytes) -> int:
    """Return the time of a message's first event."""
    return int(re.search(rb'"ts":(\d+)', value)[1])


@pytest.mark.parametrize("keep", [True, False])
def test_topics_that_grow_while_they_are_read_are_read_whole(kafka, tmp_path, keep):
    """Somebody adds partitions to a busy topic: no event may be missed, and none be read twice."""
    world = World(tmp_path, kafka, 1, "watch_s = 0.2\n")
    early, late = parts(2, 3_000, partitions=2, chaos=Chaos())
    together = {}
    for partition, values in early.items():
        together.setdefault(partition._replace(number=0), []).extend(values)
    world.write({p: sorted(values, key=first_ts) for p, values in together.items()})
    wanted = [sum(v.count(b"\n") for vs in log.values() for v in vs) for log in (early, late)]
    run = ("--run", tmp_path / "run", "--set", "checkpoint.every_s=0.1") if keep else ()
    with started("train", "--config", world.config, "--json", *run) as process:
        said = Said(process)
        said.wait_for(f"{wanted[0]:,} events")
        world.grow(2)
        said.wait_for("new partitions")
        world.write(late)
        said.wait_for(f"{sum(wanted):,} events")
        process.terminate()
        out, code = process.stdout.read(), process.wait(30)

    assert 0 == code, said.lines
    counts = json.loads(out)["counts"]
    assert sum(wanted) == counts["events"]
    assert 2_800 < counts["impressions"] <= 3_000 <= counts["impressions"] + counts["held"]
    assert 0 == counts["duplicates"]
    if keep:
        again = train(world, "--run", tmp_path / "run")
        assert again["resumed"]
        assert sum(wanted) == again["counts"]["events"]
