"""Writers of an archive are killed, and their disks are full: not an event is lost or doubled."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from stream.archive import ArchiveError
from stream.archive_commits import Commits
from stream.archive_writer import ArchiveConfig
from stream.deadletters import DeadLetterFile
from tests.keepstream.worlds import messages, write_log
from tests.stream.archive_process import KILLS
from tests.stream.archives import archive, archived, logged, parts_of
from tests.stream.source_contract import assert_same


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return a log of two partitions a topic, with late, doubled and malformed lines."""
    return write_log(tmp_path_factory.mktemp("log") / "log", messages(1600, partitions=2))


def assert_complete(log, root, whole):
    """Compare an archive with its log, and its letters with those of one that was left alone."""
    assert_same(logged(log), archived(root))
    assert parts_of(root) == {file.path for file in Commits(root).files()}
    letters = [list(DeadLetterFile.read(r / "deadletters.ndjson")) for r in (whole, root)]
    place = [sorted((x.partition, x.offset, x.row, x.raw) for x in found) for found in letters]
    assert place[0] == place[1]
    assert len(place[0]) > 10


@pytest.mark.parametrize("how", ["time", "call"])
def test_a_writer_that_is_killed_again_and_again_keeps_each_event_once(log, tmp_path, how):
    """Kill -9 at random instants, and before random calls to the file system."""
    command = [sys.executable, "-m", "tests.stream.archive_process", log, tmp_path / "a", "7", how]

    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr[-3000:]
    ends = json.loads(done.stdout)
    assert KILLS == sum(codes.count(-9) for codes in ends)
    for k in range(len(ends)):
        assert_complete(log, tmp_path / "a" / str(k), tmp_path / "a" / "whole")


@contextmanager
def tiny_disk(path, size):
    """Mount a disk of ``size`` on a folder; skip where that is not permitted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "keepstream-test", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small one, and mounting one needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_ends_the_writer_and_costs_no_event(log, tmp_path):
    """Make room, start it again: what the message says must be so."""
    config = ArchiveConfig(roll_events=150)
    archive(log, tmp_path / "whole", config)
    root = tmp_path / "small" / "a"
    numbers = []
    with tiny_disk(tmp_path / "small", "400k"):
        ballast = tmp_path / "small" / "ballast"
        for held in (350, 320, 290):  # KiB; each time some more of the log finds room
            ballast.write_bytes(bytes(held << 10))
            with pytest.raises(ArchiveError, match="No space left on device"):
                archive(log, root, config)
            numbers.append(Commits(root).last.number)
            assert parts_of(root) == {file.path for file in Commits(root).files()}
        ballast.unlink()
        archive(log, root, config)
        assert sorted({*numbers, Commits(root).last.number}) == [
            *numbers,
            Commits(root).last.number,
        ]
        assert_complete(log, root, tmp_path / "whole")
