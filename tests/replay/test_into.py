import gzip

import pytest

from replay.errors import InputError
from replay.into import replay_into
from replay.mapping import ParquetMapping
from replay.ndjson import NdjsonSource
from replay.pace import Pacer
from replay.parquet import ParquetSource
from replay.relog import log_lines, ndjson_lines, parquet_lines
from stream.filelog import create_topic, partition_for
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter
from stream.position import Partition
from tests.replay.tables import SCHEMA, START, TABLE, assert_same, ordered, read, shown, write
from tests.replay.test_pace import Wall

MAPPING = ParquetMapping.from_table(TABLE)
TOPICS = ("feedback", "impressions")
PLACE = ("partition", "offset", "row")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return the path of a table."""
    return write(tmp_path_factory.mktemp("table") / "shown.parquet", shown(300))


@pytest.fixture
def log(tmp_path):
    """Return a file log of three partitions a topic, and its writer."""
    for topic in TOPICS:
        create_topic(tmp_path / "log", topic, 3)
    with FileLogWriter(tmp_path / "log") as writer:
        yield tmp_path / "log", writer


def _canonical(events):
    """Return the values of events, sorted: partitions differ, and with them ties in time."""
    columns = {**events.columns(), "lists": events.lists[:, 0], "ids": events.ids[:, 0]}
    names = [n for n in columns if n not in (*PLACE, "numbers")]
    return sorted(map(str, zip(*(columns[n].tolist() for n in names), strict=True)))


@pytest.mark.parametrize("per_message", [1, 7])
def test_a_table_replayed_into_a_log_says_what_the_table_says(table, log, per_message):
    """From then on every tool that reads a live log can be tried on old data."""
    root, writer = log
    done = replay_into(parquet_lines(table, MAPPING), writer, partitions=3, per_message=per_message)

    found, rejected = read(FileLogSource(root, TOPICS, SCHEMA))
    expected, _ = read(ParquetSource(table, MAPPING, SCHEMA))
    assert rejected == []
    assert (done.impressions, done.impressions + done.feedback) == (300, len(found))
    assert _canonical(expected) == _canonical(found)


def test_a_log_replayed_into_one_partition_keeps_the_order(table, log, tmp_path):
    """Through a log, an archive and a log again: the same canonical sequence."""
    root, writer = log
    replay_into(parquet_lines(table, MAPPING), writer)
    lines = [line.line for line in log_lines(root, TOPICS)]
    (tmp_path / "events.ndjson.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    for topic in TOPICS:
        create_topic(tmp_path / "again", topic, 1)
    with FileLogWriter(tmp_path / "again") as again:
        replay_into(ndjson_lines(tmp_path / "events.ndjson.gz"), again, per_message=11)

    expected = ordered(ParquetSource(table, MAPPING, SCHEMA))
    assert_same(expected, ordered(FileLogSource(tmp_path / "again", TOPICS, SCHEMA)), but=PLACE)
    assert len(expected) == len(read(NdjsonSource(tmp_path / "events.ndjson.gz", SCHEMA))[0])


def test_a_user_has_one_partition_number_in_both_topics(table, log):
    """A worker that owns a partition must see a user's impressions and their feedback."""
    root, writer = log
    replay_into(parquet_lines(table, MAPPING), writer, partitions=3)
    source = FileLogSource(root, TOPICS, SCHEMA)
    events, _ = read(source)

    for user, partition in set(zip(events.user.tolist(), events.partition.tolist(), strict=True)):
        assert user % 3 == source.partitions[partition].number
    found = {source.partitions[p].number for p in set(events.partition.tolist())}
    assert {partition_for(k, 3) for k in range(7)} == found


def test_what_is_no_event_is_handed_over_and_counted(log, tmp_path):
    """Bad lines must not vanish on the way from one log to another."""
    good = b'{"impression_id":1,"user_id":1,"item_id":1,"ts":%d}' % START
    (tmp_path / "log.ndjson").write_bytes(b"\n".join([good, b"{", good, b'{"ts":1}']))
    letters = []

    done = replay_into(ndjson_lines(tmp_path / "log.ndjson"), log[1], on_rejected=letters.append)

    assert (done.impressions, done.rejected) == (2, 2)
    assert [letter.offset for letter in letters] == [1, 3]


def test_from_and_until_choose_by_each_events_own_time(table):
    """Two replays that meet at a time must write every event once."""
    cut = START + 60_000
    whole = [line.line for line in parquet_lines(table, MAPPING)]
    before = [line.line for line in parquet_lines(table, MAPPING, until_ms=cut)]
    after = [line.line for line in parquet_lines(table, MAPPING, from_ms=cut)]

    assert len(before) > 0 < len(after)
    assert sorted(whole) == sorted(before + after)


def test_at_a_pace_nothing_is_written_early_and_nothing_is_held_back(table, log):
    """A live reader of the log must see events as they would have come."""
    wall = Wall()
    written = []

    class Clocked:
        def append(self, partition: Partition, value: bytes) -> int:
            written.append((wall.now_s, value))
            return len(written)

    pacer = Pacer(10.0, wall.sleep, wall.now)
    done = replay_into(parquet_lines(table, MAPPING), Clocked(), per_message=50, pacer=pacer)

    assert done.first_ms is not None
    for at, value in written:
        last = max(int(line.split(b'"ts":')[1].split(b",")[0]) for line in value.split(b"\n"))
        assert -0.01 <= at - 100.0 - (last - done.first_ms) / 10_000 < 0.2


def test_a_wait_that_is_broken_off_leaves_a_whole_log(table, log):
    """Ctrl-C: what was due is there, and the result says that more was to come."""
    wall = Wall(stop_after=3)
    pacer = Pacer(10.0, wall.sleep, wall.now)
    done = replay_into(parquet_lines(table, MAPPING), log[1], per_message=5, pacer=pacer)

    found, _ = read(FileLogSource(log[0], ["impressions"], SCHEMA))
    assert done.stopped
    assert len(found) == done.impressions < 300


def test_a_replay_that_waits_for_nothing_can_be_broken_off_too(table, log):
    """Ctrl-C must end it at the next line, not after the last file."""
    asked = iter([False] * 10 + [True])

    done = replay_into(parquet_lines(table, MAPPING), log[1], stopped=lambda: next(asked))

    assert done.stopped
    assert 10 == done.impressions + done.feedback == done.messages


def test_messages_of_no_events_are_refused(log):
    """Nothing would ever be written."""
    with pytest.raises(InputError, match="at least 1"):
        replay_into([], log[1], per_message=0)
