"""Examples as records: what is written is read, and nothing else is."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import (
    NAMES_BYTES,
    ExampleBlock,
    MissingFeature,
    NewerExamples,
    NotExamples,
    Progress,
    decode,
    encode,
    select,
)
from stream.position import Offset, Partition

SCHEMA = EventSchema(
    ids=("category", "brand"), numbers=("age",), lists=(("topics", 3), ("tags", 1)),
    actions=("click", "buy"),
)  # fmt: skip
SHOWN, CLICKED = Partition("impressions", 2), Partition("feed.back-1", 2)
PROGRESS = Progress(
    resume={CLICKED: (Offset(3, 1), None), SHOWN: (Offset(7, 0), 1_700_000_000_123)},
    settled={CLICKED: Offset(9, 0), SHOWN: Offset(12, 4)},
    complete_to=1_700_000_100_000,
    read={CLICKED: Offset(20, 0), SHOWN: Offset(30, 2)},
)


def block_of(n, seed=0):
    """Return a block of random examples."""
    rng = np.random.default_rng(seed)
    columns = dict(ExampleColumns.empty(SCHEMA, n).columns())
    for name, column in columns.items():
        random = rng.integers(0, 100, column.shape)
        columns[name] = random.astype(column.dtype)
    for name in ("kind", "partition", "offset", "row", "example"):
        columns[name] = np.zeros(n, columns[name].dtype)
    columns["value"] = np.full(n, np.nan, np.float32)
    columns["action"] = np.full(n, 255, np.uint8)
    return ExampleBlock(
        examples=ExampleColumns(**columns), schema=SCHEMA, progress=PROGRESS, names={5: "home"}
    )


def assert_same(expected, actual):
    """Compare every column, types too."""
    for name, column in expected.columns().items():
        found = actual.columns()[name]
        assert column.dtype == found.dtype, name
        np.testing.assert_array_equal(column, found, err_msg=name)


@pytest.mark.parametrize("n", [0, 1, 100])
def test_what_is_written_is_read(n):
    """A trainer has every column as the worker had it."""
    block = block_of(n)
    found = decode(*encode(block, SCHEMA))

    assert_same(block.examples, found.examples)
    assert (SCHEMA, PROGRESS, {5: "home"}) == (found.schema, found.progress, dict(found.names))


@settings(max_examples=200)
@given(st.integers(0, 10**6))
def test_damage_is_named_and_nothing_else_happens(seed):
    """A record that a worker did not write becomes a dead letter, whatever is in it."""
    rng = np.random.default_rng(seed)
    value, headers = encode(block_of(5), SCHEMA)
    damaged = bytearray(value)
    for _ in range(int(rng.integers(1, 8))):
        damaged[int(rng.integers(len(damaged)))] = int(rng.integers(256))
    if rng.random() < 0.3:
        del damaged[int(rng.integers(len(damaged))) :]
    with suppress(NotExamples):
        assert 5 == len(decode(bytes(damaged), headers))  # it hit a number: Kafka has a checksum


@pytest.mark.parametrize(
    ("value", "headers", "why"),
    [
        (None, [], "no worker wrote it"),
        (None, [("keepstream-progress", b"{")], "cannot be read"),
        (None, [("keepstream-progress", b'{"format": 0}')], "never was"),
        (b"", None, "columns cannot be read"),
        (b"not arrow", None, "columns cannot be read"),
    ],
)
def test_a_foreign_record_is_named(value, headers, why):
    """Whoever looks at the dead letter sees what is wrong with it."""
    right, told = encode(block_of(1), SCHEMA)

    with pytest.raises(NotExamples, match=why):
        decode(right if value is None else value, told if headers is None else headers)


@pytest.mark.parametrize("where", ["progress", "columns"])
def test_a_newer_format_is_told_from_damage(monkeypatch, where):
    """What an update can read must not become a dead letter that is passed over."""
    with monkeypatch.context() as newer:
        newer.setattr("stream.examples.FORMAT", 2)
        value, headers = encode(block_of(3), SCHEMA)
    if where == "columns":
        headers = encode(block_of(3), SCHEMA)[1]

    with pytest.raises(NewerExamples, match=r"format 2, and this program reads 1.*Update"):
        decode(value, headers)


def test_names_take_no_more_than_their_share_of_a_record():
    """A broker refuses a record that is too large, and names are for display only."""
    names = {(1 << 63) + k: "\x01日" + "x" * 190 for k in range(5000)}
    _, headers = encode(replace(block_of(1), names=names), SCHEMA)
    found = decode(*encode(replace(block_of(1), names=names), SCHEMA)).names

    assert len(dict(headers)["keepstream-scenes"]) <= NAMES_BYTES
    assert len(found) * 250 > NAMES_BYTES
    assert found.items() <= names.items()


@pytest.mark.parametrize("change", ["type", "null", "lacking"])
def test_columns_that_are_others_are_named(change):
    """Arrow data of another program may be in order, and be no examples."""
    value, headers = encode(block_of(3), SCHEMA)
    with pa.ipc.open_stream(value) as reader:
        batch = reader.read_next_batch()
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if change == "type":
        columns["label"] = pa.array([0, 1, 2], pa.int64())
    elif change == "null":
        columns["item"] = pa.array([1, None, 3], pa.uint64())
    else:
        del columns["ts"]
    schema = pa.schema([(k, v.type) for k, v in columns.items()], metadata=batch.schema.metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([*columns.values()], schema=schema))

    with pytest.raises(NotExamples):
        decode(sink.getvalue().to_pybytes(), headers)


def test_a_trainer_takes_the_features_it_wants():
    """Several models read one topic, each what it needs, in its own order."""
    block = block_of(4)
    wanted = EventSchema(ids=("brand",), lists=(("tags", 1), ("topics", 2)))
    found = select(block, wanted)

    assert block.examples.ids[:, [1]].tolist() == found.ids.tolist()
    assert block.examples.lists[:, [3, 0, 1]].tolist() == found.lists.tolist()
    assert (4, 0) == found.numbers.shape
    assert block.examples is select(block, SCHEMA)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (EventSchema(ids=("colour",)), "no id 'colour'; they have category, brand"),
        (EventSchema(numbers=("price",)), "no number 'price'; they have age"),
        (EventSchema(lists=(("topics", 4),)), "'topics' of 4 values; they have topics of 3"),
    ],
)
def test_a_feature_that_is_not_there_is_named(wanted, said):
    """A model must not learn from zeros that stand for nothing."""
    with pytest.raises(MissingFeature, match=said):
        select(block_of(1), wanted)


def test_actions_are_found_by_their_names():
    """Workers may read more actions than one trainer learns, and in another order."""
    block = block_of(50)
    bits = block.examples.actions

    swapped = select(block, replace(SCHEMA, actions=("buy", "click"))).actions
    alone = select(block, replace(SCHEMA, actions=("buy",))).actions

    assert np.array_equal((bits >> 1 & 1) | (bits & 1) << 1, swapped)
    assert np.array_equal(bits, alone)  # the label says it
    with pytest.raises(MissingFeature, match="action 'like'"):
        select(block, replace(SCHEMA, actions=("click", "like")))


def test_the_progress_of_any_topic_is_told():
    """Names of topics may have dots and dashes."""
    assert PROGRESS == Progress.decode(PROGRESS.encode())
    other = replace(PROGRESS, complete_to=None, forgotten=1_699_999_999_999)
    assert other == Progress.decode(other.encode())
    earlier = Progress.decode(PROGRESS.encode().replace(b',"forgotten":null', b""))
    assert PROGRESS == earlier
