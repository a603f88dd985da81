"""The moments of a block: what is read at a moment is read before what happens in it counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """S impressions and C clicks in time order, by the T distinct moments (`at`) they fall in.

    The first ``carried`` impressions were read in an earlier block, at the same moment as the
    first of this one; they and the clicks of that moment have yet to count. What falls in the last
    moment does not count yet: the next block may have more of it.
    """

    at: I64  # (T,) ms, increasing
    show: I64  # (S,) the moment of each impression
    click: I64  # (C,) the moment of each click
    shown_at: I64  # (C,) ms, when the clicked impression was shown
    carried: int

    @property
    def last(self) -> int:
        """The last moment, ms."""
        return int(self.at[-1])

    @classmethod
    def of(cls, show_at: I64, click_at: I64, shown_at: I64, carried: int) -> "Timeline":
        """Return the moments of impressions and clicks, both in time order (ms), at least one."""
        at, show, click, ordered = _moments(show_at, click_at)
        assert ordered, "events must come in canonical order: pass them through EventTimeOrder"
        return cls(at=at, show=show, click=click, shown_at=shown_at, carried=carried)


@njit(cache=True, nogil=True)
def _moments(show_at: Any, click_at: Any) -> Any:
    at = np.empty(show_at.size + click_at.size, np.int64)
    show = np.empty(show_at.size, np.int64)
    click = np.empty(click_at.size, np.int64)
    n, i, j = 0, 0, 0
    while i < show_at.size or j < click_at.size:
        from_shows = j == click_at.size or (i < show_at.size and show_at[i] <= click_at[j])
        now = show_at[i] if from_shows else click_at[j]
        if n == 0 or now > at[n - 1]:
            at[n] = now
            n += 1
        elif now < at[n - 1]:
            return at, show, click, False
        if from_shows:
            show[i] = n - 1
            i += 1
        else:
            click[j] = n - 1
            j += 1
    return at[:n].copy(), show, click, True
