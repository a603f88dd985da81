import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.archive import (
    HOUR_MS,
    ArchiveDamaged,
    ArchiveError,
    ArchiveExpired,
    ArchiveFile,
    ArchiveInUse,
    Commit,
    NotAnArchive,
    Run,
    set_description,
)
from stream.archive_commits import _MERGE_AFTER, Commits
from stream.archive_lines import Lines, RawDecoder, messages_of
from stream.archive_source import ArchiveSource
from stream.archive_writer import ArchiveConfig, ArchiveWriter
from stream.deadletters import DeadLetterFile
from stream.encode import encode_event, pack
from stream.events import EventSchema
from stream.filelog import LogError, NoSuchTopic, create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.position import Offset, Partition, Position
from tests.stream.archives import SMALL, TOPICS, archive, archived, logged, parts_of
from tests.stream.source_contract import CHECKS, SCHEMA, START_MS, assert_same, sample_log

HERE = Partition("impressions", 0)
IN_LETTERS = "check_bad_lines_come_out_with_their_reason"  # an archive's are in a file beside it


def event(i, ts, **more):
    """Return an impression as a line."""
    return encode_event({"impression_id": f"i{i}", "user_id": i, "item_id": 1, "ts": ts, **more})


def write(log, lines, *, per_message=3, partition=HERE, partitions=1):
    """Append lines to a file log."""
    for topic in TOPICS:
        create_topic(log, topic, partitions)
    with FileLogWriter(log, LogWriterConfig(fsync="never")) as writer:
        for value in pack(lines, per_message):
            writer.append(partition, value)


def hours(count, *, each=10, start_ms=START_MS):
    """Return events of so many hours, in order."""
    return [event(i, start_ms + i * HOUR_MS // each) for i in range(count * each)]


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ != IN_LETTERS])
def test_an_archive_keeps_the_contract_of_sources(check, tmp_path):
    """Whatever reads a log must be able to read its archive."""
    written = {}

    def make(log, position, cut):
        key = (id(log), cut)
        if key not in written:
            root = tmp_path / str(len(written))
            written[key] = root, log  # held, so that no other log gets its id
            with FileLogWriter(root / "log", LogWriterConfig(fsync="never")) as writer:
                for partition, lines in log.items():
                    create_topic(root / "log", partition.topic, 1)
                    for value in pack(lines, cut.per_message):
                        writer.append(partition, value)
            archive(root / "log", root / "archive", ArchiveConfig(roll_events=50))
        return ArchiveSource(
            written[key][0] / "archive",
            [partition.topic for partition in log],
            SCHEMA,
            position=position,
            block_events=cut.block_events,
        )

    check(make)


times = st.integers(-3 * HOUR_MS, 3 * HOUR_MS).map(lambda ms: START_MS + ms)
lines = st.lists(
    st.one_of(
        st.builds(event, st.integers(0, 99), times, scene=st.sampled_from(["home", "é", "", None])),
        st.sampled_from([b"", b"   ", b"no event", b'{"impression_id": 1}\r']),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(lines, st.integers(1, 9), st.integers(1, 12), st.integers(1, 9))
def test_what_is_read_back_is_the_log_to_the_bit(tmp_path_factory, lines, packed, roll, block):
    """Late events, lines that are none and messages of many hours lose neither place nor order."""
    root = tmp_path_factory.mktemp("archive")
    write(root / "log", lines, per_message=packed)

    archive(root / "log", root / "a", ArchiveConfig(roll_events=roll), block_events=block)

    assert_same(logged(root / "log"), archived(root / "a", block_events=block))


def test_a_line_is_kept_byte_for_byte_in_the_hour_of_its_own_time(tmp_path):
    """Fields that nobody asks for today, and spaces, are what came; a late event moves nowhere."""
    line = (
        b'{ "ts": %d, "impression_id":"a", "user_id":1.0e0, "x" : [null], "item_id":7}' % START_MS
    )
    odd = line.replace(b"1.0e0", b"1")
    write(tmp_path / "log", [event(0, START_MS + 5 * HOUR_MS), line, odd])

    archive(tmp_path / "log", tmp_path / "a")

    files = sorted((tmp_path / "a").glob("topic=impressions/date=2023-11-14/hour=22/*.parquet"))
    assert 1 == len(files)
    table = pq.read_table(files[0], partitioning=None)
    assert [odd.decode()] == table.column("line").to_pylist()
    assert [(0, 0, 2)] == list(
        zip(*(table.column(c).to_pylist() for c in ("partition", "offset", "row")), strict=True)
    )


def test_letters_are_in_the_archive_once(tmp_path):
    """Two starts, the second with nothing to do: what was refused before is not refused again."""
    write(tmp_path / "log", [b"no event", *hours(1), b"{}"])

    for _ in range(2):
        writer = archive(tmp_path / "log", tmp_path / "a")

    letters = list(DeadLetterFile.read(tmp_path / "a" / "deadletters.ndjson"))
    assert [b"no event", b"{}"] == [letter.raw for letter in letters]
    assert {"bad_json": 1, "missing_field": 1} == writer.letters


def test_files_outside_of_the_time_asked_for_are_not_opened(tmp_path):
    """A week of an archive of years must not cost years: the other files need not even be there."""
    write(tmp_path / "log", hours(6))
    archive(tmp_path / "log", tmp_path / "a", ArchiveConfig(roll_events=1000))
    window = {"from_ms": START_MS + 2 * HOUR_MS, "until_ms": START_MS + 3 * HOUR_MS}
    expected = logged(tmp_path / "log", **window)
    kept = {f.path for f in Commits(tmp_path / "a").files() if f.overlaps(*window.values())}
    for path in parts_of(tmp_path / "a") - kept:
        (tmp_path / "a" / path).unlink()

    found = archived(tmp_path / "a", **window)

    assert 2 == len(kept)  # the hours of the clock are not those that were asked for
    assert 10 == len(found)
    assert_same(expected, found)


def test_a_commit_is_due_by_events_by_bytes_or_by_age(tmp_path):
    """Files must not stay small for ever, nor events long unwritten."""
    write(tmp_path / "log", hours(1, each=60), per_message=1)
    clock = iter(range(1000))

    by_events = archive(tmp_path / "log", tmp_path / "a", ArchiveConfig(roll_events=20))
    by_bytes = archive(tmp_path / "log", tmp_path / "b", ArchiveConfig(roll_bytes=2000))
    by_age = archive(
        tmp_path / "log", tmp_path / "c", ArchiveConfig(roll_s=2.0), clock=lambda: next(clock)
    )

    assert [1 + 3, 60] == [Commits(tmp_path / "a").last.number, by_events.events]
    assert [60, 60] == [by_bytes.events, by_age.events]
    assert 1 + 2 <= Commits(tmp_path / "b").last.number <= 1 + 4
    assert 1 + 4 <= Commits(tmp_path / "c").last.number <= 1 + 6


def test_a_message_is_committed_whole(tmp_path):
    """A position inside a message would need what lies in two commits to be one message again."""
    write(tmp_path / "log", hours(2), per_message=20)
    decoder = RawDecoder()
    source = FileLogSource(
        tmp_path / "log", TOPICS, decoder.schema, decoder=decoder, block_events=6
    )
    set_description(tmp_path / "a", {})
    with ArchiveWriter(tmp_path / "a", ArchiveConfig(roll_events=1)) as writer:
        writer.begin(source.partitions)
        blocks = list(source)
        for block in blocks[:3]:
            writer.add(block)
        writer.commit()
        assert [0, 18] == [writer.events, writer.waiting]
        for block in blocks[3:]:
            writer.add(block)
        assert [20, 0] == [writer.events, writer.waiting]

    assert_same(logged(tmp_path / "log"), archived(tmp_path / "a"))


def test_what_is_old_is_deleted_and_what_comes_too_late_for_it_is_counted(tmp_path):
    """The newest event says how late it is, but none says that it is later than now."""
    now_ms = START_MS + 100 * HOUR_MS
    ageing = {"config": ArchiveConfig(roll_events=4, keep_days=1), "now_ms": lambda: now_ms}
    write(tmp_path / "log", hours(60, each=1), per_message=1)
    archive(tmp_path / "log", tmp_path / "a", **ageing)
    kept = archived(tmp_path / "a")
    write(tmp_path / "log", [event(90, START_MS), event(91, START_MS + 10**11)], per_message=1)

    writer = archive(tmp_path / "log", tmp_path / "a", **ageing)

    oldest = START_MS + 54 * HOUR_MS - 24 * HOUR_MS  # the commits before the last had seen hour 54
    assert (oldest // HOUR_MS * HOUR_MS, START_MS + 59 * HOUR_MS) == (
        kept.ts.min() // HOUR_MS * HOUR_MS,
        kept.ts.max(),
    )
    assert [61, 1] == [writer.events, writer.expired]
    found = archived(tmp_path / "a")
    assert found.ts.min() >= START_MS + 35 * HOUR_MS - HOUR_MS
    assert START_MS + 10**11 == found.ts.max()
    assert parts_of(tmp_path / "a") == {f.path for f in Commits(tmp_path / "a").files()}


def test_a_run_that_lost_events_by_their_age_is_told(tmp_path):
    """To go on behind a gap as if there were none is to learn something else than the log."""
    write(tmp_path / "log", hours(60, each=1), per_message=1)
    archive(tmp_path / "log", tmp_path / "a", ArchiveConfig(roll_events=4, keep_days=1))

    with pytest.raises(ArchiveExpired, match="offset 3 of impressions/0"):
        ArchiveSource(tmp_path / "a", TOPICS, SCHEMA, position=Position({HERE: Offset(3)}))
    window = {"from_ms": START_MS + 50 * HOUR_MS, "position": Position({HERE: Offset(3)})}
    assert 10 == len(archived(tmp_path / "a", **window))


def numbered(n):
    """Return the ``n``-th commit of an archive that forgets all but ten hours, one a commit."""
    return Commit(
        number=n,
        position=Position({HERE: Offset(n)}),
        partitions=(HERE,),
        letters=DeadLetterFile.NOTHING,
        before_ms=START_MS + (n - 10) * HOUR_MS,
        files=(
            ArchiveFile(
                topic=HERE.topic, hour_ms=START_MS + n * HOUR_MS, number=n, rows=1, bytes=9,
                first_ms=n, last_ms=n, runs=(Run(0, 1, n, n),), scenes={"": 1},
            ),
        ),
    )  # fmt: skip


def test_commits_are_merged_and_nothing_of_them_is_lost(tmp_path):
    """Years of commits must not be years of files to open; a reader may look at any moment."""
    count = _MERGE_AFTER + 3
    writer, reader = Commits(tmp_path), Commits(tmp_path)
    early = tmp_path / "commits" / "000000000007.json"
    for n in range(1, count + 1):
        writer.append(numbered(n))
        writer.merge()
        if n == 7:
            saved = early.read_bytes()
            assert reader.refresh() and not reader.refresh()
    early.write_bytes(saved)  # as if a crash had come before it was deleted

    assert reader.refresh()
    names = sorted(p.name for p in early.parent.iterdir())
    assert [f"{_MERGE_AFTER + k:012d}.json" for k in (1, 2, 3)] == names[1:-1]
    assert f"merged-{_MERGE_AFTER:012d}.ndjson" == names[-1]
    for commits in (writer, reader, Commits(tmp_path)):
        assert numbered(count) == commits.last
        assert list(range(count - 10, count + 1)) == [f.number for f in commits.files()]
        assert [count - 1, count] == [c.number for c in commits.after(count - 2)]


def test_what_was_committed_stays_though_merging_fails(tmp_path):
    """A disk that is full right behind a commit must not cost the files that it names."""
    write(tmp_path / "log", hours(3))
    archive(tmp_path / "log", tmp_path / "whole")
    seen = Commits(tmp_path / "whole").last.partitions
    commits = Commits(tmp_path / "a")
    for n in range(1, _MERGE_AFTER):
        commits.append(replace(numbered(n), files=(), before_ms=None, position=Position(),
                               partitions=seen))  # fmt: skip
    in_the_way = tmp_path / "a" / "commits" / f"merged-{_MERGE_AFTER:012d}.ndjson.writing"
    in_the_way.mkdir()

    with pytest.raises(ArchiveError, match="Make room"):
        archive(tmp_path / "log", tmp_path / "a")

    assert parts_of(tmp_path / "a")
    in_the_way.rmdir()
    archive(tmp_path / "log", tmp_path / "a")
    assert_same(logged(tmp_path / "log"), archived(tmp_path / "a"))


def test_only_the_commonest_scenes_are_counted_by_name(tmp_path):
    """Whoever sends a name of its own with each event must not fill the commits."""
    odd = [event(i, START_MS + i, scene=f"s{i}") for i in range(150)]
    write(tmp_path / "log", [*odd, *(event(i, START_MS + i, scene="home") for i in range(9))])
    archive(tmp_path / "log", tmp_path / "a", ArchiveConfig(roll_events=1000))

    (file,) = Commits(tmp_path / "a").files()

    assert ("home", 9) == next(iter(file.scenes.items()))
    assert [101, 51] == [len(file.scenes), file.scenes["(others)"]]
    read = pq.read_table(tmp_path / "a" / file.path, partitioning=None).column("scene")
    assert {*(f"s{i}" for i in range(150)), "home"} == set(read.to_pylist())


def test_a_growing_archive_is_followed(tmp_path):
    """A job that learns from all scenes need not wait for the archive to be complete."""
    write(tmp_path / "log", hours(2), per_message=1)
    archive(tmp_path / "log", tmp_path / "a")
    source = ArchiveSource(tmp_path / "a", TOPICS, SCHEMA, follow=True)
    offsets, grown = [], False
    for block in source:
        offsets += block.events.offset.tolist()
        if len(block.idle) == 2 and not grown:
            write(tmp_path / "log", hours(1, start_ms=START_MS + 2 * HOUR_MS), per_message=1)
            archive(tmp_path / "log", tmp_path / "a")
            grown = True
        if len(offsets) == 30:
            source.close()

    assert list(range(30)) == offsets
    with pytest.raises(LogError, match="follow"):
        ArchiveSource(tmp_path / "a", TOPICS, SCHEMA, follow=True, until_ms=1)


def test_more_partitions_are_gone_on_with(tmp_path):
    """A topic may grow; a follower ends, to be opened again with all of them."""
    write(tmp_path / "log", hours(1))
    archive(tmp_path / "log", tmp_path / "a")
    source = ArchiveSource(tmp_path / "a", TOPICS, SCHEMA, follow=True)
    wide = tmp_path / "wide"
    write(wide, hours(1), partitions=2)
    write(wide, hours(1), partition=Partition("impressions", 1), partitions=2)
    for block in source:
        if len(block.idle) == 2:
            archive(wide, tmp_path / "a")

    assert source.grown
    assert_same(logged(wide), archived(tmp_path / "a"))
    with pytest.raises(ArchiveError, match="another log"):
        archive(tmp_path / "log", tmp_path / "a")


def test_one_writer_at_a_time(tmp_path):
    """Two would both go on from the same place."""
    with (
        ArchiveWriter(tmp_path / "a"),
        pytest.raises(ArchiveInUse, match="another process"),
    ):
        ArchiveWriter(tmp_path / "a")


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "commit", "chain"])
def test_damage_is_told_by_the_file(tmp_path, harm):
    """A hole in the past must not be learned around silently."""
    write(tmp_path / "log", hours(3))
    archive(tmp_path / "log", tmp_path / "a")
    part = tmp_path / "a" / min(f.path for f in Commits(tmp_path / "a").files())
    raw = bytearray(part.read_bytes())
    wanted = part.name
    match harm:
        case "cut":
            part.write_bytes(raw[:-1])
        case "flip":
            raw[len(raw) // 4] ^= 64
            part.write_bytes(raw)
        case "gone":
            part.unlink()
        case _:
            commit = tmp_path / "a" / "commits" / "000000000001.json"
            wanted = "commits"
            commit.unlink() if harm == "chain" else commit.write_bytes(b"{")

    with pytest.raises(ArchiveDamaged, match=wanted):
        archived(tmp_path / "a")


def test_what_is_no_archive_or_has_not_the_topic_is_told(tmp_path):
    """A name spelt wrong must not be an empty log."""
    write(tmp_path / "log", hours(1))
    archive(tmp_path / "log", tmp_path / "a")

    with pytest.raises(NotAnArchive, match="log holds no archive"):
        ArchiveSource(tmp_path / "log", TOPICS, SCHEMA)
    with pytest.raises(NoSuchTopic, match="'impresions'; there are: feedback, impressions"):
        ArchiveSource(tmp_path / "a", ["impresions"], SCHEMA)
    about = tmp_path / "a" / "archive.json"
    about.write_text(json.dumps({"format": 2, "reads": {}}))
    with pytest.raises(ArchiveError, match="of format 2"):
        ArchiveSource(tmp_path / "a", TOPICS, SCHEMA)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=5)), max_size=20))
def test_lines_are_put_together_to_messages_with_each_in_its_row(given_lines):
    """Rows are part of an event's place: what was refused between them leaves a blank line."""
    texts = [text.replace(b"\n", b"x") for _, text in given_lines]
    offsets, rows, place = [], [], (0, -1)
    for step, _ in given_lines:
        place = (place[0], place[1] + step) if step else (place[0] + 1, 0)
        place = (place[0], max(place[1], 0))
        offsets.append(place[0])
        rows.append(place[1])
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    data = Lines(np.frombuffer(b"".join(texts), np.uint8), np.append(0, ends)[:-1], ends)

    messages = messages_of(data, np.array(offsets, np.int64), np.array(rows, np.int32))

    by_offset = dict(zip(dict.fromkeys(offsets), messages, strict=True))
    for text, offset, row in zip(texts, offsets, rows, strict=True):
        assert text == by_offset[offset].split(b"\n")[row]


def test_the_log_of_one_sample_is_read_by_any_schema(tmp_path):
    """What is archived today is learned tomorrow with features that nobody thought of."""
    sample = sample_log(30)
    for partition, lines in sample.items():
        write(tmp_path / "log", lines, partition=partition)
    archive(tmp_path / "log", tmp_path / "a", SMALL)

    for schema in (EventSchema(), SCHEMA, EventSchema(ids=("topics_unknown",), numbers=("age",))):
        assert_same(
            logged(tmp_path / "log", schema=schema), archived(tmp_path / "a", schema=schema)
        )
