import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.encode import encode_event, pack
from stream.filelog import (
    SEGMENT_HEAD_BYTES,
    LogDamaged,
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
from stream.filelog_writer import FileLogWriter, LogWriterConfig, skip_damage
from stream.frames import BROKEN, CUT_OFF, HEAD_BYTES, MAX_VALUE_BYTES, WHOLE, find, frame, scan
from stream.position import Offset, Partition, Position
from tests.stream.source_contract import CHECKS, SCHEMA, START_MS

HERE = Partition("impressions", 0)
SMALL = LogWriterConfig(fsync="never", segment_bytes=2000)  # some ten events a segment


def event(i):
    """Return an impression; its user is its number."""
    return {"impression_id": f"i{i}", "user_id": i, "item_id": 1, "ts": START_MS + 1000 * i}


def write(root, count, first=0, config=SMALL):
    """Append ``count`` events, a record each."""
    create_topic(root, HERE.topic, 1)
    with FileLogWriter(root, config) as writer:
        for i in range(first, first + count):
            writer.append(HERE, encode_event(event(i)))


def read(root, position=None, **options):
    """Return the offsets read, and the letters, of a finite source."""
    source = FileLogSource(root, [HERE.topic], SCHEMA, position=position, **options)
    blocks = list(source)
    letters = [r for b in blocks for r in b.rejected]
    return [int(o) for b in blocks for o in b.events.offset], letters


def at(message, row=0):
    """Return the position of a message of the one partition."""
    return Position({HERE: Offset(message, row)})


def files(root):
    """Return the segments, in order."""
    return sorted((root / "impressions" / "0").glob("*.log"))


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


def test_a_failed_append_leaves_nothing(tmp_path):
    """A full disk must not leave half a record in front of the next one."""
    resource = pytest.importorskip("resource")
    write(tmp_path, 3, config=LogWriterConfig(fsync="never"))
    size = files(tmp_path)[-1].stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with FileLogWriter(tmp_path, LogWriterConfig(fsync="never")) as writer:
        writer.next_offset(HERE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                writer.append(HERE, encode_event(event(3)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert files(tmp_path)[-1].stat().st_size == size
        assert writer.append(HERE, encode_event(event(3))) == 3
    assert read(tmp_path) == ([0, 1, 2, 3], [])


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 250), zeros=st.integers(0, 40))
def test_a_torn_tail_is_not_there_yet(tmp_path_factory, cut, zeros):
    """A crash leaves part of an append, or zeros: readers end before it, the writer cuts it off."""
    root = tmp_path_factory.mktemp("torn")
    write(root, 4, config=LogWriterConfig(fsync="never"))
    path = files(root)[-1]
    path.write_bytes(path.read_bytes()[: SEGMENT_HEAD_BYTES + cut] + bytes(zeros))
    whole, letters = read(root)

    assert letters == []
    assert whole == list(range(len(whole)))
    write(root, 2, first=len(whole))
    assert read(root) == (list(range(len(whole) + 2)), [])


def test_a_segment_torn_at_birth_is_begun_again(tmp_path):
    """A crash may come between the file and its first bytes."""
    write(tmp_path, 40)
    newest = files(tmp_path)[-1]
    first = int(newest.stem)
    newest.write_bytes(b"KSL")

    assert read(tmp_path) == (list(range(first)), [])
    write(tmp_path, 2, first=first)
    assert read(tmp_path) == (list(range(first + 2)), [])


@pytest.mark.parametrize("place", [HEAD_BYTES + 3, 0, 5, 9], ids=["value", "length", "head", "sum"])
def test_damage_in_an_old_segment_costs_the_rest_of_it(place, tmp_path):
    """It comes out as one dead letter that says which offsets; the next segment is read."""
    write(tmp_path, 100)
    firsts = [int(f.stem) for f in files(tmp_path)]
    damage(files(tmp_path)[1], record=2, place=place)
    offsets, letters = read(tmp_path)

    assert offsets == [*range(firsts[1] + 2), *range(firsts[2], 100)]
    assert [(r.reason, r.offset) for r in letters] == [("corrupt_frame", firsts[1] + 2)]
    assert f"up to {firsts[2] - 1}" in letters[0].detail


@pytest.mark.parametrize("place", [HEAD_BYTES + 3, 0, 5, 9], ids=["value", "length", "head", "sum"])
def test_damage_in_the_newest_segment_is_not_taken_for_a_torn_tail(place, tmp_path):
    """Cutting it off would throw whole records away: the writer refuses until told to go on."""
    write(tmp_path, 5, config=LogWriterConfig(fsync="never"))
    damage(files(tmp_path)[0], record=2, place=place)

    assert read(tmp_path)[0] == [0, 1]
    assert [(r.reason, r.offset) for r in read(tmp_path)[1]] == [("corrupt_frame", 2)]
    with pytest.raises(LogDamaged, match="offset 2"):
        write(tmp_path, 1)
    following = skip_damage(tmp_path, HERE)
    assert following > 4
    write(tmp_path, 2, first=5)
    offsets, letters = read(tmp_path)
    assert offsets == [0, 1, following, following + 1]
    assert [(r.reason, r.offset) for r in letters] == [("corrupt_frame", 2)]


def test_a_resumed_run_tells_of_damage_once(tmp_path):
    """The letter is part of the log's order: a position lies before it or behind it."""
    write(tmp_path, 5, config=LogWriterConfig(fsync="never"))
    damage(files(tmp_path)[0], record=2, place=20)
    blocks = list(FileLogSource(tmp_path, [HERE.topic], SCHEMA))
    told = next(b.position for b in blocks if b.rejected)

    assert read(tmp_path, told) == ([], [])
    following = skip_damage(tmp_path, HERE)
    write(tmp_path, 1)
    assert read(tmp_path, told) == ([following], [])


def test_a_damaged_head_costs_its_segment(tmp_path):
    """A file that is no segment any more must not end the stream."""
    write(tmp_path, 100)
    firsts = [int(f.stem) for f in files(tmp_path)]
    path = files(tmp_path)[1]
    path.write_bytes(b"XXXX" + path.read_bytes()[4:])
    offsets, letters = read(tmp_path)

    assert offsets == [*range(firsts[1]), *range(firsts[2], 100)]
    assert [(r.reason, r.offset) for r in letters] == [("corrupt_frame", firsts[1])]


def test_a_segment_that_is_missing_in_the_middle_is_told(tmp_path):
    """Retention takes from the front: a hole is damage."""
    write(tmp_path, 100)
    firsts = [int(f.stem) for f in files(tmp_path)]
    files(tmp_path)[1].unlink()
    offsets, letters = read(tmp_path)

    assert offsets == [*range(firsts[1]), *range(firsts[2], 100)]
    assert [(r.reason, r.offset) for r in letters] == [("corrupt_frame", firsts[1])]


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


WRITER = """
    import sys
    from pathlib import Path
    from stream.filelog_writer import FileLogWriter, LogWriterConfig
    from stream.position import Partition
    here, first = Partition("impressions", 0), int(sys.argv[2])
    config = LogWriterConfig(fsync="never", segment_bytes=100_000)
    with FileLogWriter(Path(sys.argv[1]), config) as writer:
        assert writer.next_offset(here) >= first
        print("ready", flush=True)
        while True:
            i = writer.next_offset(here)
            values = [b"#%d " % (i + k) + b"x" * ((i + k) * 7919 % 3000) for k in range(1 + i % 5)]
            writer.append_many(here, values)
            print(i + len(values), flush=True)
"""


@pytest.mark.restart
def test_a_killed_writer_leaves_a_clean_prefix(tmp_path):
    """Whatever was acknowledged is there after kill -9, and nothing but whole records."""
    create_topic(tmp_path, HERE.topic, 1)
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), str(acknowledged)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        out = process.stdout
        assert out is not None
        assert out.readline() == b"ready\n"
        lines = [out.readline() for _ in range(chance.randrange(1, 400))]
        os.kill(process.pid, signal.SIGKILL)
        lines += [line for line in out.read().splitlines(keepends=True) if line.endswith(b"\n")]
        process.wait()
        out.close()
        source = FileLogSource(tmp_path, [HERE.topic], SCHEMA)
        letters = [r for block in source for r in block.rejected]
        acknowledged = int(lines[-1])
        assert len(letters) >= acknowledged
        for i, letter in enumerate(letters):
            assert (letter.offset, letter.reason) == (i, "bad_json")
            assert letter.raw == b"#%d " % i + b"x" * (i * 7919 % 3000)
        acknowledged = len(letters)


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 2**39))
def test_frames_come_back_as_they_were(values, place):
    """What is written is what is read, at any place."""
    data = np.frombuffer(frame(values, place), np.uint8)
    found = scan(data, 0, place, 100)

    bounds = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    assert values == [data[a:b].tobytes() for a, b in bounds]
    assert (found.end, found.status) == (data.size, WHOLE)
    if values:
        cut = scan(data[:-1], 0, place, 100)
        assert (cut.status, cut.starts.size) == (CUT_OFF, len(values) - 1)
        moved = scan(data, 0, place + 1, 100)
        assert (moved.status, moved.starts.size) == (BROKEN, 0)
        assert find(data, 0, place) == 0


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.data())
def test_a_flipped_bit_is_noticed(values, data):
    """A frame that is not as it was written is none, wherever it was changed."""
    raw = bytearray(frame(values, 16))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    found = scan(np.frombuffer(bytes(raw), np.uint8), 0, 16, 100)

    assert found.status == BROKEN
    assert found.end <= bit // 8


def damage(path, *, record, place):
    """Flip a bit of the given byte of the given record."""
    raw = bytearray(path.read_bytes())
    found = scan(np.frombuffer(bytes(raw), np.uint8), SEGMENT_HEAD_BYTES, SEGMENT_HEAD_BYTES, 1000)
    raw[int(found.starts[record]) - HEAD_BYTES + place] ^= 4
    path.write_bytes(bytes(raw))
