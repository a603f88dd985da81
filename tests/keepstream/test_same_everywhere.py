"""The result is a function of the logs: not of transport, messages, blocks, polls or kills."""

import gzip
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstream.config import load
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest, build_training
from replay.simulate import Chaos
from stream.events import EventColumns
from stream.listsource import ListSource
from stream.position import Position
from stream.source import Block
from stream.state import flatten, unflatten
from tests.keepstream.worlds import CONFIG, configured, messages, packed, told, write_log
from trainer.ingest import Ingest
from trainer.loop import Training, train

MACHINE = {"wall_s", "examples_per_s", "peak_rss_mb", "resumed", "config"}
PARQUET = """
[input.columns]
impression_id = "impression_id"
request_id = "request_id"
user_id = "user_id"
item_id = "item_id"
ts = "ts"
scene = "scene"
position = "position"
label = "clicked"

[input.feedback]
time_column = "clicked_at"

[input.features]
device = "device"
category = "category"
price = "price"
true_ctr = "true_ctr"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the configuration of small batches, scored as served too."""
    path = configured(tmp_path_factory.mktemp("config"))
    return load(path, ["train.as_served=true", "train.batch_size=32", "ids.max_rows=2000"])


@pytest.fixture(scope="module")
def world():
    """Return a log of four partitions, with duplicates, late and malformed lines."""
    return messages(1_200, per_message=7, partitions=2)


@pytest.fixture(scope="module")
def expected(config, world, tmp_path_factory):
    """Return what one reading of the whole log at once gives."""
    return learned(config, [*ListSource(event_schema(config), world)], world, tmp_path_factory)


def parts_of(config, world, scratch) -> tuple[Ingest, Training]:
    """Return all that lies between the log and the model, new."""
    folder = scratch.mktemp("scratch")
    partitions = ListSource(event_schema(config), world).partitions
    return build_ingest(config, partitions, folder), build_training(config, None, folder)


def learned(config, blocks, world, scratch, kills=frozenset()) -> dict:
    """Feed blocks, and put everything into new parts after those in ``kills``; return figures."""
    ingest, training = parts_of(config, world, scratch)
    letters = []
    for number, block in enumerate(blocks):
        train(ingest.feed(block), training, lambda *_: None, lambda _: None)
        letters += ingest.take_refused()
        if number in kills:
            saved = {"ingest": ingest.state(), "training": training.state()}
            arrays, rest = flatten(saved)
            saved = unflatten(arrays, json.loads(json.dumps(rest)))
            ingest, training = parts_of(config, world, scratch)
            ingest.restore(saved["ingest"])
            training.restore(saved["training"])
    train(ingest.finish(), training, lambda *_: None, lambda _: None)
    letters += ingest.take_refused()
    return {
        "examples": training.examples_digest,
        "weights": training.learner.weights_digest(),
        "figures": training.metrics.summary(ingest.names),
        "counts": ingest.counts().join,
        "letters": sorted((x.partition, x.reason, x.raw) for x in letters),
    }


def shuffled(blocks: list[Block], partitions: int, seed: int) -> Iterator[Block]:
    """Yield the blocks in another order, which keeps that of each partition alone."""
    rng = np.random.default_rng(seed)
    lanes = [
        [b for b in blocks if len(b.events) and b.events.partition[0] == p]
        for p in range(partitions)
    ]
    left = [*range(partitions)]
    ended = frozenset()
    while left:
        p = left[int(rng.integers(len(left)))]
        block = lanes[p].pop(0) if lanes[p] else None
        if not lanes[p]:
            left.remove(p)
            ended |= {p}
        if block is not None:
            yield Block(block.events, block.position, block.rejected, ended, names=block.names)


@settings(max_examples=25)
@given(
    per_message=st.sampled_from([1, 2, 7, 100, 5000]),
    block_events=st.sampled_from([20, 333, 16_384]) | st.integers(20, 2000),
    order=st.none() | st.integers(0, 99),
    kills=st.frozensets(st.integers(0, 40), max_size=3),
)
def test_cuts_interleaving_and_kills_change_nothing(
    config, world, expected, tmp_path_factory, per_message, block_events, order, kills
):
    """Neither how events are packed, nor who is polled first, nor a crash may teach the model."""
    schema = event_schema(config)
    source = ListSource(schema, packed(world, per_message), block_events=block_events)
    blocks = list(source)
    if order is not None:
        rejected = [r for b in blocks for r in b.rejected]
        blocks = [*shuffled(blocks, len(source.partitions), order)]
        told_of = {(r.partition, r.offset, r.row) for b in blocks for r in b.rejected}
        lost = [r for r in rejected if (r.partition, r.offset, r.row) not in told_of]
        nothing = EventColumns.empty(schema)
        blocks.append(Block(nothing, Position(), tuple(lost), blocks[-1].ended))

    actual = learned(config, blocks, world, tmp_path_factory, kills)

    assert expected == actual


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder, a configuration, and a log in the order of time."""
    folder = tmp_path_factory.mktemp("place")
    configured(folder, CONFIG + PARQUET)
    return folder, messages(5_000, per_message=1)


def replay(folder, *inputs, more=()):
    """Replay inputs as served; return every figure that must be the same."""
    result = told("replay", "--config", folder / "keepstream.toml", "--quiet", "--as-served",
                  *more, "--input", *inputs)  # fmt: skip
    return {k: v for k, v in result.items() if k not in MACHINE}


@pytest.fixture(scope="module")
def from_log(place):
    """Return what a file log of one event a message gives."""
    folder, log = place
    return replay(folder, write_log(folder / "log-1", log))


@pytest.mark.parametrize(("per_message", "block_events"), [(7, 16_384), (100, 61), (4_000, 999)])
def test_a_log_may_be_packed_and_read_in_any_portions(place, from_log, per_message, block_events):
    """Every figure, as served too, is the same: a replay is evidence of what was served."""
    folder, log = place
    root = write_log(folder / f"log-{per_message}", packed(log, per_message))

    assert from_log == replay(folder, root, more=("--set", f"log.block_events={block_events}"))


@pytest.mark.parametrize("ending", ["ndjson", "jsonl.gz", "ndjson.zst"])
def test_files_of_lines_give_what_the_log_gives(place, from_log, tmp_path, ending):
    """Archives are how logs are kept: a file a topic is a partition a topic."""
    folder, log = place
    files = []
    for partition, values in log.items():
        data = b"".join(values)
        if ending.endswith("gz"):
            data = gzip.compress(data)
        if ending.endswith("zst"):
            data = zstandard.ZstdCompressor().compress(data)
        files.append(tmp_path / f"{partition.topic}.{ending}")
        files[-1].write_bytes(data)

    assert from_log == replay(folder, *files)
    assert from_log == replay(folder, *reversed(files), more=("--set", "log.block_events=100"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return a folder and the log of a world without troubles, which a table can hold."""
    folder = tmp_path_factory.mktemp("clean")
    configured(folder, CONFIG + PARQUET)
    return folder, messages(5_000, per_message=10, chaos=Chaos())


def table_of(log) -> pa.Table:
    """Return a log as a table of impressions, each with the time of its click."""
    topics = {
        p.topic: [json.loads(x) for v in values for x in v.splitlines()]
        for p, values in log.items()
    }
    clicked = {e["impression_id"]: e["ts"] for e in topics["feedback"]}
    rows = [{**e, **e.pop("features")} for e in topics["impressions"]]
    for row in rows:
        row["clicked_at"] = clicked.get(row["impression_id"])
        row["clicked"] = row["clicked_at"] is not None
    return pa.Table.from_pylist(rows)


def test_a_table_gives_what_the_log_gives(clean):
    """What was learned from history must be what would have been learned live."""
    folder, log = clean
    table = table_of(log)
    pq.write_table(table, folder / "world.parquet", row_group_size=700)
    halves = [folder / "a.parquet", folder / "b.parquet"]
    for path, rows in zip(halves, (table[:2_345], table[2_345:]), strict=True):
        pq.write_table(rows, path)

    result = replay(folder, write_log(folder / "log", log))

    assert result["clicks"] > 100
    assert result == replay(folder, folder / "world.parquet")
    assert result == replay(folder, *halves, more=("--set", "log.block_events=111"))


@pytest.mark.parametrize("per_message", [1, 100])
def test_a_table_written_into_a_log_gives_the_same(clean, per_message):
    """From history to a live topic without gap or overlap, and back."""
    folder, log = clean
    pq.write_table(table_of(log), folder / "world.parquet")
    into = folder / f"into-{per_message}"
    told("replay", "--config", folder / "keepstream.toml", "--input", folder / "world.parquet",
         "--into", into, "--per-message", per_message)  # fmt: skip

    again = folder / f"again-{per_message}"
    told("replay", "--config", folder / "keepstream.toml", "--input", into, "--into", again)

    expected = replay(folder, folder / "world.parquet")
    assert expected == replay(folder, into)
    assert expected == replay(folder, again)


@pytest.mark.data
def test_real_traffic_gives_the_same_from_a_table_and_from_logs(real_data, tmp_path):
    """Real ids, gaps and ties: an hour of news, as a table and as messages of 1 and of 100."""
    events = real_data / "ebnerd_week1_events.parquet"
    common = ("replay", "--config", "examples/ebnerd.toml", "--until", "2023-05-18T08:00")
    digests = []
    for per_message in (None, 1, 100):
        source = events
        if per_message is not None:
            source = tmp_path / f"log-{per_message}"
            told(*common, "--input", events, "--into", source, "--per-message", per_message)
        result = told(*common, "--input", source, "--as-served", "--quiet")
        digests.append({k: v for k, v in result.items() if k not in MACHINE})

    assert digests[0]["examples"] > 1_000
    assert digests[0] == digests[1] == digests[2]
