"""Where things lie in a store's folder, and its two locks.

`lock` is held by who changes the generations (a build, a prune), for as long as that takes; it
holds the last number given, so that a name is never given twice. `switch.lock` is held by who
replaces `CURRENT`, for milliseconds. The kernel lets both go when their holder dies.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from knowledge_store.errors import StoreBusy

CURRENT: Final = "CURRENT"
_PREFIX: Final = "g-"
_BUILDING, _DELETING = ".building-", ".deleting-"
_PATIENCE_S: Final = 10.0  # for a switch
_PAUSE_S: Final = 0.01


def generations_folder(root: Path) -> Path:
    """Return the folder of the generations of a store."""
    return root / "generations"


def number_of(name: str) -> int | None:
    """Return the number of a generation by its name, None where it is no such name.

    >>> number_of("g-00000012"), number_of("g-new"), number_of(".building-g-00000012")
    (12, None, None)
    """
    digits = name.removeprefix(_PREFIX)
    sound = name.startswith(_PREFIX) and digits.isascii() and digits.isdecimal()
    return int(digits) if sound and name == name_of(int(digits)) else None


def name_of(number: int) -> str:
    """Return the name of the generation of a number, from 1."""
    return f"{_PREFIX}{number:08d}"


def folders_of(root: Path) -> list[Path]:
    """Return the folder of every generation, oldest first, sound or not."""
    found = {path: number_of(path.name) for path in generations_folder(root).glob(f"{_PREFIX}*")}
    return sorted((path for path, n in found.items() if n is not None), key=lambda p: found[p] or 0)


def others_in(root: Path) -> str | None:
    """Return the name of something in a folder, None where it is empty or not there yet.

    Hidden names, and what a fresh file system has, are nothing.
    """
    names = (path.name for path in root.iterdir()) if root.is_dir() else ()
    return min((n for n in names if not n.startswith(".") and n != "lost+found"), default=None)


def staging_of(root: Path, name: str) -> Path:
    """Return the folder in which a generation is built: no reader looks there."""
    return generations_folder(root) / f"{_BUILDING}{name}"


def delete(path: Path) -> None:
    """Delete a generation: 1 rename, so that it is never there by half, 2 remove."""
    doomed = path.with_name(f"{_DELETING}{path.name}")
    path.rename(doomed)  # 1
    shutil.rmtree(doomed)  # 2


def sweep(root: Path) -> None:
    """Delete what a crash has left of builds and deletions; the caller holds `building`."""
    folder = generations_folder(root)
    for left in (*folder.glob(f"{_BUILDING}*"), *folder.glob(f"{_DELETING}*")):
        shutil.rmtree(left)


def next_number(root: Path, descriptor: int) -> int:
    """Give the next number and note it in the open lock file of `building`.

    Those of generations that were deleted are never given again: a run may still name one.
    """
    noted = os.pread(descriptor, 20, 0).strip()
    numbers = [number_of(path.name) or 0 for path in folders_of(root)]
    number = 1 + max([int(noted) if noted.isdigit() else 0, *numbers])
    os.pwrite(descriptor, b"%020d" % number, 0)
    os.fsync(descriptor)
    return number


@contextmanager
def building(root: Path) -> Iterator[int]:
    """Hold the lock of builds; yield its file.

    Raises `StoreBusy` where others hold it for ten seconds: a build may take longer, an activation
    or a prune does not.
    """
    with _locked(root / "lock", _PATIENCE_S) as descriptor:
        yield descriptor


@contextmanager
def switching(root: Path) -> Iterator[None]:
    """Hold the lock of `CURRENT`; raises `StoreBusy` where others hold it for ten seconds."""
    with _locked(root / "switch.lock", _PATIENCE_S):
        yield


@contextmanager
def _locked(path: Path, patience_s: float) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise StoreBusy(path) from error
                time.sleep(_PAUSE_S)
        yield descriptor
    finally:
        os.close(descriptor)  # which lets go of the lock
