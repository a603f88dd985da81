"""From sums to figures that people know, and from numbers to named buckets."""

from itertools import pairwise
from math import log, log1p
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.auc import F64
from trainer.tally import CLICKS, EXAMPLES, LOGLOSS, PROBABILITY

Figures = dict[str, Any]


class Buckets:
    """Cells of a number: below, between and above edges, and one for unknown."""

    def __init__(self, edges: tuple[float, ...], first: int) -> None:
        self.edges, self.first = np.array(edges, np.float64), first
        self.end = first + len(edges) + 2
        texts = [f"{e:g}" for e in edges]
        between = [f"{a} to {b}" for a, b in pairwise(texts)]
        names = [f"below {texts[0]}", *between, f"{texts[-1]} and more"] if edges else ["any"]
        self.names = {name: first + k for k, name in enumerate([*names, "unknown"])}

    def cells(self, values: npt.NDArray[Any] | None, n: int) -> npt.NDArray[np.intp]:
        """Return the cell of each value (n,)."""
        if values is None:
            return np.full(n, self.end - 1)
        known = np.asarray(values, np.float64)
        cells = self.first + np.searchsorted(self.edges, known, side="right")
        return np.where(np.isnan(known), self.end - 1, cells)


def figures_of(sums: F64, won: float, pairs: float, requests: F64, users: F64 | None) -> Figures:
    """Return the figures of one arm in one part of the stream; None where there is no value yet.

    Args:
        sums: (4,) examples, clicks, log loss, probability.
        won: twice the (clicked, not clicked) pairs won, ties half.
        pairs: how many there are.
        requests: (2,) sum and number of per-request AUCs.
        users: (2,) weighted sum of users' AUCs and the weight; None leaves `auc_user` out.

    """
    n, clicks = float(sums[EXAMPLES]), float(sums[CLICKS])
    loss = float(sums[LOGLOSS]) / n if n else None
    base = clicks / n if n else 0.0
    entropy = -(base * log(base) + (1 - base) * log1p(-base)) if 0 < base < 1 else None
    figures: Figures = {
        "examples": int(n),
        "clicks": int(clicks),
        "logloss": loss,
        "normalized_entropy": loss / entropy if loss is not None and entropy else None,
        "calibration": float(sums[PROBABILITY]) / clicks if clicks else None,
        "auc": won / (2 * pairs) if pairs else None,
        "auc_request": float(requests[0] / requests[1]) if requests[1] else None,
        "requests": int(requests[1]),
    }
    if users is not None:
        figures["auc_user"] = float(users[0] / users[1]) if users[1] else None
    return figures
