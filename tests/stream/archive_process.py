"""A process that archives a log and is killed again and again: `test_archive_crash` starts it.

    python -m tests.stream.archive_process LOG FOLDER SEED (time | call)

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

KILLS = 20
CONFIG = ArchiveConfig(roll_events=150)
_CALLS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.rmdir"})


def lives(log: Path, root: Path, seed: int, how: str) -> list[list[int]]:
    """Live until it was killed often enough; an archive that is complete is followed by another.

    Return by archive (``root/0``, ``root/1``, …) the exit codes of its lives, -9 of the killed.
    """
    draw = random.Random(seed)
    whole_s, whole_calls = _measure(log, root / "whole")
    ends: list[list[int]] = [[]]
    while sum(codes.count(-9) for codes in ends) < KILLS or ends[-1][-1] != 0:
        if sum(codes.count(-9) for codes in ends) == KILLS:
            death: dict[str, float] = {}
        elif how == "time":
            death = {"after_s": draw.uniform(0, whole_s)}
        else:
            death = {"after_calls": draw.randrange(whole_calls)}
        if ends[-1][-1:] == [0]:
            ends.append([])
        ends[-1].append(_live(log, root / str(len(ends) - 1), **death))
        assert ends[-1][-1] in (0, -9), f"a life ended with {ends[-1][-1]}"
    return ends


def _live(
    log: Path, root: Path, *, after_s: float | None = None, after_calls: float | None = None
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


def _die_before_call(number: float) -> None:
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
    _, of_log, of_root, of_seed, of_how = sys.argv
    sys.stdout.write(json.dumps(lives(Path(of_log), Path(of_root), int(of_seed), of_how)))
