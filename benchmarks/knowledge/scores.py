"""AUC per request by day, and 95 % intervals from paired daily differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.knowledge.runs import Scores

DAY_MS: Final = 86_400_000
_T975: Final = (  # Student's t, 97.5 %, by degrees of freedom from 1
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return it rounded to five digits."""
        return {k: round(getattr(self, k), 5) for k in ("mean", "low", "high")}


def request_auc(p: Any, label: Any, request: Any) -> tuple[F64, npt.NDArray[np.int64]]:
    """Return the AUC of each request that has both labels, and the row of its first example.

    The share of its pairs of a click and a non-click that are in the right order; ties count half.
    """
    order = np.lexsort((p, request))
    p, label, request = p[order], label[order] > 0, request[order]
    starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
    group = np.cumsum(np.r_[True, request[1:] != request[:-1]]) - 1
    tie = np.r_[True, (request[1:] != request[:-1]) | (p[1:] != p[:-1])]
    tie_start = np.maximum.accumulate(np.where(tie, np.arange(p.size), 0))
    block = np.cumsum(tie) - 1
    tie_size = np.bincount(block)[block]
    rank = tie_start - starts[group] + (tie_size + 1) / 2  # average rank in the request, from 1
    clicks = np.bincount(group, label)
    sizes = np.bincount(group)
    both = (clicks > 0) & (clicks < sizes)
    ranks = np.bincount(group, np.where(label, rank, 0.0))
    c = clicks[both]
    auc = (ranks[both] - c * (c + 1) / 2) / (c * (sizes[both] - c))
    return auc, order[starts[both]]


def daily_auc(scores: Scores, start_ms: int, days: Sequence[int]) -> F64:
    """Return the mean AUC per request of each day (len(days),); day 0 begins at ``start_ms``."""
    auc, rows = request_auc(scores.p, scores.label, scores.columns["request"])
    day = (scores.columns["at"][rows] - start_ms) // DAY_MS
    return np.array([auc[day == d].mean() for d in days])


def log_loss(scores: Scores, rows: Any) -> float:
    """Return the mean log loss of the examples ``rows``."""
    p = np.clip(scores.p[rows].astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(scores.label[rows] > 0, np.log(p), np.log1p(-p)).mean())


def interval(
    values: Sequence[float] | F64, weights: Sequence[float] | F64 | None = None
) -> Interval:
    """Return the mean of independent ``values`` and its interval by Student's t.

    With ``weights`` (as of means of so many examples each) that of the weighted mean.
    """
    values = np.asarray(values, np.float64)
    if weights is not None and values.size > 1:
        share = np.asarray(weights, np.float64) / np.sum(weights)
        mean = float(share @ values)
        spread = np.sqrt(values.size / (values.size - 1) * (share**2 @ (values - mean) ** 2))
        half = float(_T975[min(values.size - 1, len(_T975)) - 1] * spread)
        return Interval(mean=mean, low=mean - half, high=mean + half)
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean=mean, low=float("-inf"), high=float("inf"))
    t = _T975[min(values.size - 1, len(_T975)) - 1]
    half = float(t * values.std(ddof=1) / np.sqrt(values.size))
    return Interval(mean=mean, low=mean - half, high=mean + half)
