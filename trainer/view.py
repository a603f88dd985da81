"""What an extractor is given of a run, and when: at points of the order that no block moves."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.state import State

_NONE: Final = -1


@dataclass(frozen=True)
class View:
    """What is known of items and users at this point of the order: copies, to extract from."""

    features: State  # of `Features`
    ids: State  # of `IdMap`
    entities: State  # of `Entities`; empty where none are kept
    at_ms: int  # nothing at or after it has been seen, and everything before it has
    newest_ms: int  # the newest event read: ahead of ``at_ms`` by the lateness


class ViewTimes:
    """When a view is due: at the first multiple of an interval after events have come.

    Time is the place of events in the order (`EventColumns.at`), so neither blocks nor the
    interleaving of partitions decide. In a pause of the stream nothing becomes due.
    """

    def __init__(self, every_s: float | None) -> None:
        """Let views be due every ``every_s`` seconds of event time; None: never."""
        if every_s is not None and not every_s > 0:
            raise ValueError(f"A view every {every_s} s: give more than 0 seconds, or none at all.")
        self._every_ms = None if every_s is None else max(1, round(1000 * every_s))
        self._due = _NONE

    def stretch(self, at: npt.NDArray[np.int64], start: int) -> tuple[int, int | None]:
        """Take events from ``start`` on, whose times ``at`` (n,) ascend, up to the next view.

        Return where they end, and the time (ms) of the view that is due there, if one is.
        """
        if self._every_ms is None or start == at.size:
            return at.size, None
        if self._due == _NONE:
            self._due = (int(at[start]) // self._every_ms + 1) * self._every_ms
        end = start + int(np.searchsorted(at[start:], self._due))
        return end, self._take() if end < at.size else None

    def passed(self, watermark: int) -> int | None:
        """Return the time (ms) of the view that is due, now that all before ``watermark`` came."""
        return self._take() if _NONE != self._due <= watermark else None

    def _take(self) -> int:
        due, self._due = self._due, _NONE
        return due

    def state(self) -> State:
        """Return what is due: empty where nothing ever is."""
        return {} if self._every_ms is None else {"due": self._due}

    def restore(self, state: State) -> None:
        """Go on from a saved state, at this one's interval."""
        due: Any = state.get("due", _NONE)
        if self._every_ms is not None and due != _NONE:
            due = -(-int(due) // self._every_ms) * self._every_ms
        self._due = int(due) if self._every_ms is not None else _NONE
