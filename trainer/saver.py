"""Writes checkpoints while learning goes on: the state is a copy, so only the copy stalls it."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from stream.state import State
from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.items import Barrier


class Saver:
    """Saves the state at a barrier in a thread of its own, one at a time."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        about: Mapping[str, Any],
        *,
        saved: Callable[[Checkpoint], None],
        failed: Callable[[BaseException], None],
        written: Callable[[State], None],
    ) -> None:
        """Save into ``checkpoints``; ``about`` goes into every manifest.

        From the writing thread ``saved`` or ``failed`` is told how it went, and then ``written``
        gets the learner's state back, which nobody reads any more. What ``failed`` is told, the
        next `save` or `wait` raises, unless it is an `OSError` of the disk.
        """
        self._checkpoints = checkpoints
        self._about = dict(about)
        self._saved = saved
        self._failed = failed
        self._written = written
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, barrier: Barrier, training: State, batches: int) -> None:
        """Write the checkpoint of ``barrier`` and the learner's state; returns at once.

        A disk that is full ends no training: `failed` is told, and the last checkpoint stays.
        """
        self.wait()
        state: State = {"ingest": barrier.state, "training": training}
        about = {
            **self._about,
            "batches": batches,
            "position": barrier.position.to_json(),
            "watermark_ms": barrier.watermark,
            "ended": barrier.ended,
        }
        self._writing = threading.Thread(target=self._write, args=(state, about), name="saver")
        self._writing.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk; raise what ended its writing, a disk apart."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, state: State, about: Mapping[str, Any]) -> None:
        try:
            try:
                checkpoint = self._checkpoints.write(state, about)
            except OSError as error:
                self._failed(error)
            else:
                self._saved(checkpoint)
            finally:
                self._written(state["training"])
        except BaseException as error:  # noqa: BLE001  # it is raised again in the learner's thread
            self._error = error  # before `failed` is told: it lets the next save come
            with suppress(Exception):  # the first error is the one to know
                self._failed(error)
