"""A process that archives a log and is killed again and again: `test_archive_crash` starts it.

    python -m tests.stream.archive_process LOG ARCHIVE SEED (time | call)

Each life is a fork of this process, which has nothing open. It is killed at a moment that the seed
decides: after some time, or before some call to the file system. Prints how the lives ended.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

from stream.archive_writer import ArchiveConfig
from tests.stream.archives import archive

LIVES = 20
CONFIG = ArchiveConfig(roll_events=150)
_CALLS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.rmdir"})


def lives(log: Path, root: Path, seed: int, how: str) -> list[int]:
    """Live and die; the last life is not disturbed. Return the exit codes, -9 of the killed."""
    draw = random.Random(seed)
    whole_s, whole_calls = _measure(log, root.with_name("whole"))
    ends = []
    for _ in range(LIVES):
        if how == "time":
            ends.append(_live(log, root, after_s=draw.uniform(0, whole_s / 4)))
        else:
            ends.append(_live(log, root, after_calls=draw.randrange(whole_calls // 5)))
    return [*ends, _live(log, root)]


def _live(
    log: Path, root: Path, *, after_s: float | None = None, after_calls: int | None = None
) -> int:
    with warnings.catch_warnings(action="ignore"):  # no thread of ours is running
        child = os.fork()
    if child == 0:
        if after_calls is not None:
            _die_before_call(after_calls)
        archive(log, root, CONFIG, block_events=50)
        os._exit(0)
    if after_s is not None:
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_before_call(number: int) -> None:
    left = number

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in _CALLS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _measure(log: Path, root: Path) -> tuple[float, int]:
    """Archive it whole, in a life of its own; return how long that took, and in how many calls."""
    told, tell = os.pipe()
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        calls = 0

        def count(event: str, _: object) -> None:
            nonlocal calls
            calls += event in _CALLS

        sys.addaudithook(count)
        started = time.monotonic()
        archive(log, root, CONFIG, block_events=50)
        os.write(tell, json.dumps([time.monotonic() - started, calls]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    whole_s, calls = json.loads(os.read(told, 100))
    return whole_s, calls


if __name__ == "__main__":
    LOG, ROOT, SEED, HOW = sys.argv[1:]
    sys.stdout.write(json.dumps(lives(Path(LOG), Path(ROOT), int(SEED), HOW)))
