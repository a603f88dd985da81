"""A trainer on examples that workers have labelled learns what one that joins itself learns."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstream.config import load
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest, build_training
from stream.blocks import BlockRule, Fetched
from stream.events import EventSchema
from stream.example_blocks import ExampleRecord, read_examples
from stream.examples import encode
from stream.examples_source import ExamplesSource
from stream.kafka_writer import KafkaWriter
from stream.listsource import ListSource
from stream.partition_join import PartitionJoin
from stream.policy import Wait
from stream.position import Partition, Position
from stream.state import flatten, unflatten
from tests.keepstream.worlds import configured, messages
from trainer.loop import train

PER_MESSAGE = 7


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the configuration of small batches; 60 s after the window nothing is remembered."""
    path = configured(tmp_path_factory.mktemp("config"))
    return load(path, ["train.batch_size=32", "ids.max_rows=2000"])


class Records:
    """The records of a partition of examples in memory, a few at a time."""

    def __init__(self, records, position) -> None:
        self._records, self._next = records, position.message

    def fetch(self, most):
        """Return the next records."""
        found = self._records[self._next : self._next + min(most, 5)]
        if not found:
            return None
        first, self._next = self._next, self._next + len(found)
        return Fetched(found, np.arange(first, self._next), self._next)


def unit_of(world, number):
    """Return the p-th partition of every topic."""
    return {p: values for p, values in world.items() if p.number == number}


def written(config, world, number, seed):
    """Return the records that workers write of a unit: killed a few times, some written twice."""
    rng = random.Random(seed)
    schema: EventSchema = event_schema(config)
    inputs = ListSource(schema, unit_of(world, number)).partitions
    records, progress = [], None
    for left in (*rng.sample(range(1, 12), 3), None):  # records it writes before it is killed
        join = PartitionJoin(number, inputs, config.order, config.join, Wait(), schema, progress)
        source = ListSource(
            schema, unit_of(world, number), position=join.position,
            block_events=rng.choice([5, 40, 200]),
        )  # fmt: skip
        for block in source:
            join.feed(block)
            blocks = join.take(at_least=rng.choice([0, 0, 30]))[:left]
            if left is not None:
                left -= len(blocks)
            records += [ExampleRecord(*encode(b, schema)) for b in blocks]
            progress = blocks[-1].progress if blocks else progress
            if left == 0:
                break
        else:
            join.finish()
            records += [ExampleRecord(*encode(b, schema)) for b in join.take()]
    return records


def lane(config, logs, partitions, p, position, block_events):
    """Yield the blocks of one partition of several."""
    log, rule = Records(logs[p], position.of(partitions[p])), BlockRule(block_events=block_events)
    schema = event_schema(config)
    for block in read_examples(partitions[p : p + 1], [log], schema, position, rule):
        events = replace(block.events, partition=np.full(len(block.events), p, np.int16))
        ended = frozenset(p for _ in block.ended)
        told = {p: block.progress[0]} if block.progress else {}
        yield replace(block, events=events, ended=ended, progress=told)


def learn(ingest, training, items):
    """Learn items."""
    train(items, training, lambda *_: None, lambda _: None)
    return ingest, training


def figures(ingest, training):
    """Return what must be the same."""
    return {
        "examples": training.examples_digest,
        "weights": training.learner.weights_digest(),
        "figures": training.metrics.summary(ingest.names),
    }


def of_events(config, world, scratch):
    """Return what a trainer learns that joins itself."""
    source = ListSource(event_schema(config), world)
    ingest = build_ingest(config, source.partitions, scratch)
    training = build_training(config, None, scratch)
    for block in source:
        learn(ingest, training, ingest.feed(block))
    learn(ingest, training, ingest.finish())
    return figures(ingest, training)


def of_examples(config, logs, scratch, *, turns=0, block_events=16_384, kills=frozenset()):
    """Return what a trainer learns from records, put into new parts after the blocks in ``kills``.

    The partitions are read in the order in which ``turns``, a seed, draws them.
    """
    partitions = tuple(Partition("examples", p) for p in range(len(logs)))

    def parts():
        ingest = build_ingest(config, partitions, scratch, examples=True)
        return ingest, build_training(config, None, scratch)

    def lanes(of, position):
        return {p: lane(config, logs, partitions, p, position, block_events) for p in of}

    ingest, training = parts()
    rng, number, ahead = random.Random(turns), 0, lanes(range(len(logs)), Position())
    while ahead:
        p = rng.choice([*ahead])
        if (block := next(ahead[p], None)) is None:
            del ahead[p]
            continue
        position = ingest.position.moved(partitions[p], block.position.of(partitions[p]))
        learn(ingest, training, ingest.feed(replace(block, position=position)))
        if number in kills:
            arrays, rest = flatten({"ingest": ingest.state(), "training": training.state()})
            saved = unflatten(arrays, json.loads(json.dumps(rest)))
            ingest, training = parts()
            ingest.restore(saved["ingest"])
            training.restore(saved["training"])
            ahead = lanes(ahead, ingest.position)
        number += 1
    learn(ingest, training, ingest.finish())
    counts = ingest.counts()
    assert (0, 0) == (counts.after_idle, counts.hurried)
    return figures(ingest, training), counts


@pytest.fixture(scope="module")
def one(config, tmp_path_factory):
    """Return what is learned of a world of one partition, and its records."""
    scratch = tmp_path_factory.mktemp("one")
    world = messages(1_200, per_message=PER_MESSAGE)
    return of_events(config, world, scratch), [written(config, world, 0, seed=0)]


@pytest.fixture(scope="module")
def four(config, tmp_path_factory):
    """Return the same of a world of four partitions."""
    scratch = tmp_path_factory.mktemp("four")
    world = messages(1_600, per_message=PER_MESSAGE, partitions=4, seed=1)
    expected = of_events(config, world, scratch)
    return expected, [written(config, world, p, seed=p) for p in range(4)]


@settings(max_examples=6)
@given(st.integers(1, 300), st.sets(st.integers(0, 30), max_size=3))
def test_the_examples_of_a_worker_teach_what_their_log_teaches(
    one, config, tmp_path_factory, block_events, kills
):
    """Bit for bit: who labels is a question of deployment, not of results."""
    expected, logs = one
    scratch = tmp_path_factory.mktemp("scratch")
    actual, counts = of_examples(config, logs, scratch, block_events=block_events, kills=kills)

    assert expected == actual
    assert counts.join["duplicates"] > 0  # the workers were killed


@settings(max_examples=6)
@given(st.integers(0, 99), st.integers(1, 300), st.sets(st.integers(0, 30), max_size=3))
def test_the_examples_of_four_workers_teach_what_their_log_teaches(
    four, config, tmp_path_factory, turns, block_events, kills
):
    """Read in any order, cut anyhow, written twice, resumed anywhere: the same weights."""
    expected, logs = four
    scratch = tmp_path_factory.mktemp("scratch")
    actual, counts = of_examples(
        config, logs, scratch, turns=turns, block_events=block_events, kills=kills
    )

    assert expected == actual
    assert counts.join["duplicates"] > 0


@pytest.mark.kafka
def test_trainers_on_kafka_learn_what_the_log_teaches_whenever_they_are_restarted(
    four, config, kafka, topic, tmp_path
):
    """Each of them reads all of the topic, by the positions of its own checkpoints."""
    expected, logs = four
    name = topic("examples", len(logs))
    with KafkaWriter(kafka) as writer:
        for p, records in enumerate(logs):
            for record in records:
                writer.append(Partition(name, p), record.value, headers=record.headers)
    schema = event_schema(config)

    for every in (1_000, 3):  # blocks, after which a trainer is put into new parts
        saved, over = None, False
        while not over:
            position = (
                Position() if saved is None else Position.from_json(saved["ingest"]["position"])
            )
            source = ExamplesSource(kafka, name, schema, position=position, block_events=150)
            ingest = build_ingest(config, source.partitions, tmp_path, examples=True)
            training = build_training(config, None, tmp_path)
            if saved is not None:
                ingest.restore(saved["ingest"])
                training.restore(saved["training"])
            for number, block in enumerate(source, 1):
                learn(ingest, training, ingest.feed(block))
                over = len(block.ended) == len(logs)
                if number == every:
                    break
            source.close()
            saved = {"ingest": ingest.state(), "training": training.state()}
        learn(ingest, training, ingest.finish())

        assert expected == figures(ingest, training)
