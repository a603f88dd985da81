"""A state of some partitions, gone on with when their topics have more."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.state import State
from trainer.checkpoint import CheckpointError


class OtherPartitions(CheckpointError):
    """A state was taken while other partitions were read."""

    def __init__(self, before: Sequence[str], now: Sequence[str]) -> None:
        super().__init__(
            f"The checkpoint was taken while {', '.join(before)} were read, and now there are "
            f"{', '.join(now)}: a run keeps its topics, and each of its partitions; only more "
            "partitions of a topic may come. Name the same ones (--input, log.topics), or give "
            "--run another folder and train from the beginning."
        )


def places_of(before: Sequence[str], now: Sequence[str]) -> npt.NDArray[np.int16] | None:
    """Return where each of the partitions ``before`` is among those of ``now``; None: as it was.

    Raises `OtherPartitions` where one is gone, or one of another topic has come.
    """
    if before == now:
        return None
    topics = {p.rpartition("/")[0] for p in before}
    if not set(before) <= set(now) or topics != {p.rpartition("/")[0] for p in now}:
        raise OtherPartitions(before, now)
    return np.array([now.index(p) for p in before], np.int16)


def renumbered(state: Mapping[str, Any], places: npt.NDArray[np.int16]) -> State:
    """Return a state whose events and rows name each partition by its place in ``places``.

    By convention every column that is called ``partition`` holds indices of partitions.
    """
    moved: State = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            moved[name] = renumbered(value, places)
        elif name == "partition" and isinstance(value, np.ndarray):
            moved[name] = places[value]
        else:
            moved[name] = value
    return moved
