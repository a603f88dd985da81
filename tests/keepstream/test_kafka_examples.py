"""Workers join once; trainers that read what they wrote learn what one that joins itself does."""

import time

import pytest

from stream.kafka_topics import Topics
from stream.position import Partition
from tests.keepstream.topics import Said, World
from tests.keepstream.worlds import keepstream, messages, passes, started, told

pytestmark = pytest.mark.kafka

EVENTS = ("examples_digest", "weights_digest", "examples", "clicks", "batches", "auc")


@pytest.fixture(scope="module")
def joined(kafka, tmp_path_factory):
    """Return a world that a worker has joined to its end, and is joining no more."""
    world = World(tmp_path_factory.mktemp("joined"), kafka, 2)
    told("topics", "create", "--config", world.config)
    world.write(messages(3_000, partitions=2))
    with started("worker", "--config", world.config, "--web-port", 0) as worker:
        said = Said(worker)
        said.wait_for("caught up")
        partitions = [Partition(world.examples, n) for n in range(2)]
        with Topics(kafka) as topics:
            before, deadline = None, time.monotonic() + 60
            while (now := topics.ends(partitions)) != before or not all(now.values()):
                before = now
                passes(worker, 1.0)
                assert time.monotonic() < deadline and worker.poll() is None, said.lines
        worker.terminate()
        assert 0 == worker.wait(60), said.lines
    return world


def learn(world, *more, code=0):
    """Train on what the worker wrote, to its end; return what is told."""
    return told("train", "--config", world.config, "--examples", "--until-end", "--quiet", *more,
                code=code)  # fmt: skip


def test_what_workers_joined_teaches_what_joining_teaches(joined, tmp_path):
    """One join for many trainers is worth having only if none of them can tell."""
    alone = told("train", "--config", joined.config, "--until-end", "--quiet",
                 "--run", tmp_path / "alone")  # fmt: skip

    learned = learn(joined, "--run", tmp_path / "learned")
    again = learn(joined, "--run", tmp_path / "learned")

    assert alone["examples"] > 2_000
    assert {k: alone[k] for k in EVENTS} == {k: learned[k] for k in EVENTS}
    assert again["resumed"]
    assert learned["weights_digest"] == again["weights_digest"]


def test_trainers_of_other_models_read_the_same_examples(joined):
    """What the workers carry serves whoever asks for less than all of it."""
    learned = learn(joined)

    other = learn(joined, "--set", "model.model=mlp", "--set", "features.crosses=[]")

    assert learned["examples"] == other["examples"]
    assert learned["weights_digest"] != other["weights_digest"]


def test_a_feature_that_examples_do_not_carry_is_named(joined):
    """It must be added to the workers' configuration first; guessing would be zeros."""
    said = learn(joined, "--set", 'features.numbers=["prise"]', code=2)

    assert "MissingFeature" == said["error"]
    assert "'prise'" in said["message"]


def test_the_status_says_up_to_where_workers_have_joined(joined):
    """Stale examples make a stale model, however fast the trainer is."""
    said = told("status", "--config", joined.config)

    assert [f"{joined.examples}/{n}" for n in (0, 1)] == [w["partition"] for w in said["workers"]]
    for row in said["workers"]:
        assert 0 == row["lag"]
        assert 0 < row["behind_s"] < 3_600
        assert row["complete_to_ms"] > 1_700_000_000_000
    _, workers = said["groups"]
    assert 0 == workers["lag"]
    assert 4 == len(workers["partitions"])
    _, text = keepstream("status", "--config", joined.config)
    assert f"{joined.examples}/1: joined up to 2023-11-1" in text
