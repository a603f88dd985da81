import os
import random
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.encode import encode_event
from stream.filelog import (
    SEGMENT_HEAD_BYTES,
    LogDamaged,
    create_topic,
)
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig, skip_damage
from stream.frames import HEAD_BYTES
from tests.stream.logs import HERE, damage, event, files, read, write
from tests.stream.source_contract import SCHEMA


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


def test_the_command_that_a_damaged_log_names_lets_it_go_on(tmp_path):
    """Advice that nobody can follow is none: what the message says is run as it stands."""
    root = tmp_path / "it's a log"
    write(root, 5, config=LogWriterConfig(fsync="never"))
    damage(files(root)[0], record=2, place=20)
    with pytest.raises(LogDamaged) as refused:
        write(root, 1)

    said = str(refused.value)
    program, *rest = shlex.split(said[said.index("python -c") :])
    assert "python" == program
    subprocess.run([sys.executable, *rest], check=True, cwd=Path(__file__).parents[2])
    write(root, 2, first=5)
    offsets, letters = read(root)
    assert [0, 1] == offsets[:2]
    assert 4 == len(offsets)
    assert ["corrupt_frame"] == [r.reason for r in letters]


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
