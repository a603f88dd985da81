"""What the ingest hands to the learner, in order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.position import Position
from stream.state import State
from trainer.batch import Batch
from trainer.view import View

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class ScoreItem:
    """Impressions to score now, by the model of this moment ("as served")."""

    batch: Batch
    first_seq: int  # their sequence numbers follow one another


@dataclass(frozen=True)
class LearnItem:
    """A batch to score, then learn."""

    batch: Batch
    fresh_rows: npt.NDArray[np.int32]  # embedding rows given to new ids: to reset before learning
    fresh_ids: npt.NDArray[np.uint64]
    examples: Columns  # what metrics need of its examples; the rehearsed ones are not among them
    served_below: int  # served scores of sequence numbers below this are no longer needed
    examples_digest: str  # of all examples up to this batch


@dataclass(frozen=True)
class Barrier:
    """The state of all that lies before the learner, at this point of the order."""

    state: State
    position: Position
    watermark: int  # ms
    ended: bool  # the log has no more
    changed: bool = True  # something has happened since the last one: worth a checkpoint


Item = ScoreItem | LearnItem | View | Barrier


@dataclass(frozen=True)
class Counts:
    """What has happened to events so far, for people."""

    events: int
    impressions: int
    rejected: int
    late: int
    after_idle: int  # placed at the watermark: where there are any, replay may differ
    hurried: int  # let go by the order before their turn, for want of room
    join: dict[str, int]
    pending: int
    held: int
    newest_ms: int  # the newest event read
