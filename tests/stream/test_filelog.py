import json
import threading

import numpy as np
import pytest

from stream.encode import encode_event, pack
from stream.filelog import (
    LogError,
    LogLocked,
    NoSuchTopic,
    OffsetOutOfRange,
    RecordTooLarge,
    create_topic,
    partition_for,
    partitions_of,
    segments_of,
)
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.frames import MAX_VALUE_BYTES
from stream.position import Partition
from tests.stream.logs import HERE, SMALL, at, event, files, read, write
from tests.stream.source_contract import CHECKS, SCHEMA, START_MS


@pytest.mark.parametrize("segment_bytes", [500, 1 << 20])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_file_log_keeps_the_contract(check, segment_bytes, tmp_path):
    """It stands in for Kafka: nothing behind it may see a difference."""
    count = 0
    written = {}

    def make(log, position, cut):
        nonlocal count
        key = (id(log), cut)
        if key not in written:
            count += 1
            root = tmp_path / str(count)
            written[key] = root, log  # held, so that no other log gets its id
            config = LogWriterConfig(fsync="never", segment_bytes=segment_bytes)
            with FileLogWriter(root, config) as writer:
                for partition, lines in log.items():
                    create_topic(root, partition.topic, 1)
                    for value in pack(lines, cut.per_message):
                        writer.append(partition, value)
        topics = [partition.topic for partition in log]
        return FileLogSource(
            written[key][0], topics, SCHEMA, position=position, block_events=cut.block_events
        )

    check(make)


def test_a_reopened_writer_goes_on(tmp_path):
    """Offsets count records, whoever appended them."""
    create_topic(tmp_path, HERE.topic, 1)
    with FileLogWriter(tmp_path, SMALL) as writer:
        first = [writer.append(HERE, b"{}"), writer.append_many(HERE, [b"{}", b"{}"])]
    with FileLogWriter(tmp_path, SMALL) as writer:
        then = [writer.next_offset(HERE), writer.append(HERE, b"{}")]

    assert (first, then) == ([0, 1], [3, 3])


def test_a_full_segment_is_followed_by_the_next(tmp_path):
    """Retention deletes whole segments, so none may grow forever."""
    write(tmp_path, 100)
    firsts = segments_of(tmp_path / "impressions" / "0")

    assert len(firsts) > 3
    assert max(f.stat().st_size for f in files(tmp_path)) < 2200
    assert read(tmp_path) == (list(range(100)), [])


def test_one_writer_at_a_time(tmp_path):
    """Two would write over each other."""
    create_topic(tmp_path, HERE.topic, 1)
    with FileLogWriter(tmp_path) as writer:
        writer.append(HERE, b"{}")
        with pytest.raises(LogLocked), FileLogWriter(tmp_path) as second:
            second.append(HERE, b"{}")
    with FileLogWriter(tmp_path) as third:
        assert third.append(HERE, b"{}") == 1


def test_a_topic_keeps_its_number_of_partitions(tmp_path):
    """A user's events stay in one partition only as long as their number does."""
    create_topic(tmp_path, "clicks", 3)
    create_topic(tmp_path, "clicks", 3)

    assert partitions_of(tmp_path, "clicks") == tuple(Partition("clicks", i) for i in range(3))
    with pytest.raises(LogError, match="3 partitions, not 4"):
        create_topic(tmp_path, "clicks", 4)
    with pytest.raises(LogError, match="cannot name"):
        create_topic(tmp_path, "../clicks", 1)


def test_a_missing_topic_is_told_with_those_that_exist(tmp_path):
    """The next move after a typing error is to see the right name."""
    create_topic(tmp_path, "impressions", 1)

    with pytest.raises(NoSuchTopic, match="there are: impressions"):
        FileLogSource(tmp_path, ["impresions"], SCHEMA)
    with pytest.raises(NoSuchTopic, match="there are: none"):
        FileLogSource(tmp_path / "nothing", ["impressions"], SCHEMA)
    with FileLogWriter(tmp_path) as writer, pytest.raises(NoSuchTopic, match="1 partitions"):
        writer.append(Partition("impressions", 1), b"{}")


def test_a_log_of_a_later_format_is_not_guessed_at(tmp_path):
    """Reading what is not understood would be reading nonsense."""
    write(tmp_path, 1)
    path = tmp_path / "impressions" / "topic.json"
    path.write_text(json.dumps({"format": 2, "partitions": 1}))

    with pytest.raises(LogError, match="update"):
        FileLogSource(tmp_path, ["impressions"], SCHEMA)


def test_a_record_has_a_bound(tmp_path):
    """A reader holds a record in memory: it must know how much that can be."""
    create_topic(tmp_path, HERE.topic, 1)
    with FileLogWriter(tmp_path) as writer:
        with pytest.raises(RecordTooLarge):
            writer.append(HERE, bytes(MAX_VALUE_BYTES + 1))
        writer.append(HERE, b"x" * MAX_VALUE_BYTES)
        writer.append(HERE, encode_event(event(0)))
    offsets, letters = read(tmp_path)

    assert offsets == [1]
    assert [(r.reason, r.offset, len(r.raw)) for r in letters] == [("oversize", 0, 4096)]


@pytest.mark.parametrize("fsync", ["never", "interval", "always"])
def test_what_is_appended_can_be_read_at_once(fsync, tmp_path):
    """A follower must not wait for the disk."""
    create_topic(tmp_path, HERE.topic, 1)
    with FileLogWriter(tmp_path, LogWriterConfig(fsync=fsync)) as writer:
        writer.append_many(HERE, [encode_event(event(i)) for i in range(3)])
        assert read(tmp_path) == ([0, 1, 2], [])


def test_retention_is_told_to_whom_it_concerns(tmp_path):
    """Going on silently behind a gap would lose examples; a new reader starts with what is kept."""
    write(tmp_path, 100)
    files(tmp_path)[0].unlink()
    oldest = int(files(tmp_path)[0].stem)

    assert read(tmp_path)[0] == list(range(oldest, 100))
    assert read(tmp_path, at(oldest))[0] == list(range(oldest, 100))
    with pytest.raises(OffsetOutOfRange, match=f"begins at offset {oldest}"):
        read(tmp_path, at(oldest - 1))


def test_a_position_behind_the_log_is_an_error(tmp_path):
    """It belongs to another log: reading would wait forever and then skip events."""
    write(tmp_path, 100)

    assert read(tmp_path, at(100)) == ([], [])
    assert read(tmp_path, at(99)) == ([99], [])
    with pytest.raises(OffsetOutOfRange, match="ends before offset 100"):
        read(tmp_path, at(101))


def test_only_the_time_asked_for_is_read(tmp_path):
    """A replay of a day is a part of a log; the bounds are [from, until)."""
    write(tmp_path, 50)

    def between(**bounds):
        return read(tmp_path, block_events=8, **bounds)[0]

    assert between(from_ms=START_MS + 10_000) == list(range(10, 50))
    assert between(until_ms=START_MS + 10_000) == list(range(10))
    assert between(from_ms=START_MS + 4_500, until_ms=START_MS + 10_001) == list(range(5, 11))


def test_following_has_no_end_in_time(tmp_path):
    """A late event of that time may always come."""
    write(tmp_path, 1)

    with pytest.raises(LogError, match="no end in time"):
        FileLogSource(tmp_path, ["impressions"], SCHEMA, follow=True, until_ms=START_MS)


def test_a_follower_sees_what_is_appended_across_segments(tmp_path):
    """It reads on where the log grows, segment after segment, each event once."""
    create_topic(tmp_path, HERE.topic, 1)
    source = FileLogSource(tmp_path, [HERE.topic], SCHEMA, follow=True)
    seen, written, idle = [], 0, 0
    with FileLogWriter(tmp_path, SMALL) as writer:
        for block in source:
            seen += block.events.offset.tolist()
            if block.idle:
                assert block.idle == frozenset({0})
                idle += 1
                assert seen == list(range(written))
                if written == 100:
                    source.close()
                else:
                    for i in range(written, written + 25):
                        writer.append(HERE, encode_event(event(i)))
                    written += 25

    assert seen == list(range(100))
    assert not block.ended
    assert idle >= 5


def test_a_follower_waits_for_the_rest_of_a_record(tmp_path):
    """A torn last record may be one that is being written."""
    write(tmp_path, 3, config=LogWriterConfig(fsync="never"))
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    source = FileLogSource(tmp_path, [HERE.topic], SCHEMA, follow=True)
    seen = []
    for block in source:
        seen.append(block.events.offset.tolist())
        assert block.rejected == ()
        if seen[-1] == [2]:
            source.close()
        elif block.idle:
            path.write_bytes(whole)

    assert [x for x in seen if x] == [[0, 1], [2]]


def test_a_partition_is_idle_only_while_it_has_no_more(tmp_path):
    """An idle partition lets the watermark pass: it may not be called so with events in the log."""
    ahead, behind = Partition("impressions", 0), Partition("impressions", 1)
    create_topic(tmp_path, "impressions", 2)
    seen, written = 0, 1
    with FileLogWriter(tmp_path, SMALL) as writer:
        writer.append(ahead, encode_event(event(1000)))
        source = FileLogSource(tmp_path, ["impressions"], SCHEMA, follow=True, block_events=20)
        for block in source:
            seen += np.count_nonzero(block.events.partition == 0)
            if 0 in block.idle:
                assert seen == written
            if len(block.idle) == 2 and written == 1:
                for i in range(200):
                    writer.append(behind, encode_event(event(i)))
                writer.append(ahead, encode_event(event(1001)))
                written = 2
            elif len(block.idle) == 2:
                source.close()

    assert seen == 2


def test_close_from_another_thread_ends_a_follower(tmp_path):
    """Ctrl-C must not wait for the next event."""
    write(tmp_path, 3)
    source = FileLogSource(tmp_path, [HERE.topic], SCHEMA, follow=True)
    idle = threading.Event()

    def follow():
        for block in source:
            if block.idle:
                idle.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert idle.wait(10)
    source.close()
    thread.join(10)

    assert not thread.is_alive()


def test_a_users_events_share_a_partition():
    """Per-partition order is order per user only if the partition follows from the user."""
    numbers = [partition_for(user, 4) for user in range(1000)]

    assert numbers == [partition_for(str(user), 4) for user in range(1000)]
    assert min(np.bincount(numbers, minlength=4)) > 200
