"""The trace of a run: a line of digests every so many batches, so that two runs can be compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from stream.state import State
from trainer.items import LearnItem
from trainer.learner import Learner
from trainer.metrics import Prequential


class Trace:
    """Appends to ``trace.ndjson``: batch, examples, time, digests, log loss so far.

    A weights digest reads the whole model, so it comes every ``weights_every`` lines only. Where a
    line cannot be written (a full disk) ``failed`` is told, and no more are until the next restart.
    """

    NOTHING: Final[State] = {"bytes": 0}

    def __init__(
        self,
        path: Path | None,
        *,
        every: int = 20,
        weights_every: int = 10,
        failed: Callable[[OSError], None] = lambda error: None,
    ) -> None:
        self._path = path
        self._every = every
        self._weights_every = every * weights_every
        self._failed = failed
        self._bytes = 0
        if path is not None and not path.exists():
            path.touch()

    def record(self, batches: int, metrics: Prequential, item: LearnItem, learner: Learner) -> None:
        """Write the line of this batch, if it is due."""
        if self._path is None or batches % self._every:
            return
        weights = learner.weights_digest() if batches % self._weights_every == 0 else None
        line = orjson.dumps(
            {
                "batch": batches,
                "examples": metrics.examples,
                "at_ms": int(item.examples["at"].max()),
                "examples_digest": item.examples_digest,
                "weights_digest": weights,
                "logloss": metrics.logloss,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            self._path = None
            self._failed(error)
            return
        self._bytes += len(line)

    def state(self) -> State:
        """Return how long the trace is."""
        return {"bytes": self._bytes}

    def restore(self, state: State) -> None:
        """Cut off what was written after the checkpoint: it will be written again."""
        self._bytes = int(state["bytes"])
        if self._path is not None:
            with self._path.open("ab") as file:
                file.truncate(min(self._bytes, file.tell()))
