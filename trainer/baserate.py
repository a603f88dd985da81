"""The click rate of everything learned so far: what a model starts from, and need not learn."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from stream.state import State

_PRIOR_CLICKS: Final = 1.0
_PRIOR_SHOWN: Final = 20.0  # one click in twenty, worth a slate or two: gone within a minute


class BaseRate:
    """Offsets every score by the logit of the click rate so far.

    A new network says 1 in 2 to everything and needs thousands of steps to come down to the few in
    a hundred that people click; boosted trees start from the mean for the same reason (Friedman,
    "Greedy Function Approximation", 2001, algorithm 5). What the rate drifts by later, the network
    learns. State: two numbers.
    """

    def __init__(self) -> None:
        self.clicks = _PRIOR_CLICKS
        self.shown = _PRIOR_SHOWN

    @property
    def logit(self) -> float:
        """The logit of the rate.

        >>> round(BaseRate().logit, 3)
        -2.944
        """
        return math.log(self.clicks / (self.shown - self.clicks))

    def update(self, label: npt.NDArray[np.float32]) -> None:
        """Take the labels (n,) that have just been learned."""
        self.clicks += float(label.sum(dtype=np.float64))
        self.shown += len(label)
        if self.clicks >= self.shown:  # nothing but clicks: the logit stays finite
            self.shown = self.clicks + _PRIOR_SHOWN

    def state(self) -> State:
        """Return the two numbers."""
        return {"clicks": self.clicks, "shown": self.shown}

    def restore(self, state: State) -> None:
        """Go on from a saved state."""
        self.clicks, self.shown = float(state["clicks"]), float(state["shown"])
