"""Experience replay: each batch is learned again with a few drawn from the recent past.

A continual learner that sees each example once learns little from rare ones and forgets; mixing
earlier batches into every step is the plain remedy (Rolnick et al., "Experience Replay for
Continual Learning", NeurIPS 2019). Rehearsed rows are never scored and enter no metric.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.state import State

Columns = dict[str, npt.NDArray[Any]]

COLUMNS = ("ids", "sequences", "numbers", "label", "request")
CARRIED = ("knowledge", "known", "actions")  # by some examples only: by all of a run, or by none


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """How much of the past each step learns again."""

    batches: int = 0  # earlier batches learned beside each new one; 0 learns each example once
    keep: int = 400  # from so many most recent ones: bounds the memory, keeps to recent traffic

    def __post_init__(self) -> None:
        if self.batches < 0 or self.keep < 1:
            raise ValueError("[rehearsal] batches must be 0 or more and keep at least 1")


class Rehearsal:
    """The most recent batches, and a draw from them that depends on the seed and the step alone.

    Memory: ``keep`` batches of what the model reads, some 500 bytes an example, and its knowledge.
    """

    def __init__(self, config: RehearsalConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._step = 0
        self._kept: deque[Columns] = deque(maxlen=config.keep)

    def draw(self) -> Columns | None:
        """Return the columns of the batches to learn beside the next one, or None."""
        self._step += 1
        count = min(self._config.batches, len(self._kept))
        if not count:
            return None
        rng = np.random.default_rng([self._seed, self._step])
        chosen = [self._kept[i] for i in rng.choice(len(self._kept), count, replace=False)]
        return {name: np.concatenate([c[name] for c in chosen]) for name in chosen[0]}

    def keep(self, batch: Columns) -> None:
        """Remember a batch that has been learned."""
        if self._config.batches:  # copies: a batch is a view, and would keep its whole block
            names = [*COLUMNS, *(name for name in CARRIED if name in batch)]
            self._kept.append({name: batch[name].copy() for name in names})

    def state(self) -> State:
        """Return the kept batches, end to end, and the step."""
        state: State = {"step": self._step, "lengths": [len(c["label"]) for c in self._kept]}
        if self._kept:
            names = self._kept[0]
            state["columns"] = {n: np.concatenate([c[n] for c in self._kept]) for n in names}
        return state

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self._step = int(state["step"])
        self._kept.clear()
        lengths = np.array(state["lengths"], np.int64)
        ends = np.cumsum(lengths)
        for start, end in zip(ends - lengths, ends, strict=True):
            self._kept.append({n: c[start:end].copy() for n, c in state["columns"].items()})
