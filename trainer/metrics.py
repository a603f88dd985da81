"""Prequential metrics: every example is scored by a model that has not seen it, then learned.

Dawid (JRSS A, 1984) for the idea; He et al. (ADKDD 2014) for normalised entropy and calibration.
Arms are several predictions of the same rows: the model before learning them, the model as served
at impression time, an oracle that knows the true probability.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.state import State
from trainer.auc import F32, F64, I64
from trainer.figures import Buckets, Figures, figures_of
from trainer.request_auc import RequestAuc
from trainer.tally import EXAMPLES, LOGLOSS, U64, Cells, Spans, score
from trainer.user_auc import UserAuc

DAY_MS: Final = 86_400_000
_OPEN_WINDOWS: Final = 64  # at most so many windows have their histograms open


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What is measured, and how much of it is remembered."""

    arms: tuple[str, ...] = ("model", "as_served", "oracle")  # the first names the plain figures
    window_s: float = 3600.0  # an hour shows a day's course and still holds thousands of examples
    request_hold_s: float = 1800.0  # at least the join's window where positives settle at the click
    max_open_rows: int = 1 << 18  # rows of open requests: 20 MB
    max_user_rows: int = 1 << 18  # rows of a day; past it users are sampled: 8 MB
    max_windows: int = 2048  # the newest; 12 weeks of hours
    max_days: int = 366  # the newest; a year
    max_scenes: int = 32  # further ones are counted together
    activity_edges: tuple[float, ...] = (1, 10, 100, 1000)  # what a user was shown before: decades
    item_age_edges_h: tuple[float, ...] = (1, 6, 24, 72, 168)  # an hour … a week: how news fades

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms = {list(self.arms)} must name one arm or more, each once")
        if self.window_s < 1 or self.request_hold_s < 0:
            raise ValueError("window_s must be at least 1 and request_hold_s at least 0")
        for name in ("max_open_rows", "max_user_rows", "max_windows", "max_days", "max_scenes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("activity_edges", "item_age_edges_h"):
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise ValueError(f"{name} must increase")


class MetricsError(Exception):
    """The metrics were given something that is not a prediction of labelled rows."""


class Prequential:
    """Running metrics of a stream of scored examples; the order of rows counts, its cuts do not.

    Every figure is a function of the sequence of rows, to the last bit: sums are taken row by row
    in float64, and requests, windows and days end by the clock of the stream (the greatest `at_ms`
    so far), not by the end of an update. Windows and days count from the first row's time.

    Log loss is in nats, of probabilities clipped to 1e-7. AUC comes from a histogram of
    16,384 bins over logits of ± 16 (0.002 apart; `auc_error_bound` bounds its error in this very
    stream), per-request and per-user AUC are exact: see `trainer.request_auc`, `trainer.user_auc`.
    Memory is bounded by `MetricsConfig`; with its defaults and three arms 40 to 90 MB.
    """

    def __init__(self, config: MetricsConfig | None = None) -> None:
        self.config = config = config or MetricsConfig()
        arms = len(config.arms)
        hold = int(config.request_hold_s * 1000)
        span = int(config.window_s * 1000)
        self._activity = Buckets(config.activity_edges, first=1)
        self._age = Buckets(config.item_age_edges_h, first=self._activity.end)
        self._scene = self._age.end  # the first scene's cell; the last one is of all further ones
        self._scenes: list[int] = []
        self._first_at: int | None = None
        self._rows = self._clicks = 0
        self._cells = Cells(self._scene + config.max_scenes + 1, arms)
        slots = min(ceil(hold / span) + 2, _OPEN_WINDOWS)
        self._windows = Spans(span, config.max_windows, slots, arms)
        self._days = Spans(DAY_MS, config.max_days, ceil(hold / DAY_MS) + 1, arms)
        self._requests = RequestAuc(hold, config.max_open_rows, arms, places=5)
        self._users = UserAuc(hold, config.max_user_rows, arms)

    def update(
        self,
        arms: Mapping[str, F32],
        label: F32,
        *,
        at_ms: I64,
        request: U64,
        user: U64,
        scene: U64,
        user_activity: npt.NDArray[Any] | None = None,
        item_age_h: npt.NDArray[Any] | None = None,
    ) -> None:
        """Take the next rows (B,) in the order in which they are learned.

        Args:
            arms: for each arm its probabilities; an arm may be missing, or NaN in rows it lacks.
            label: 0 or 1.
            at_ms: event time of the impression.
            request: rows of one request are ranked against each other.
            user: whose rows.
            scene: hash of the scene's name.
            user_activity: impressions the user had seen before, NaN or None where unknown.
            item_age_h: hours since the item was first seen, NaN or None where unknown.

        Raises:
            MetricsError: an unknown arm, unequal lengths, a label that is not 0 or 1, or a
                prediction outside [0, 1]; nothing has been counted then.

        """
        n = len(label)
        columns: dict[str, npt.NDArray[Any]] = {
            **arms,
            "at_ms": at_ms,
            "request": request,
            "user": user,
            "scene": scene,
        }
        for name, column in columns.items():
            if len(column) != n:
                raise MetricsError(f"{name!r} has {len(column)} rows, the labels have {n}.")
        p, clicked = self._checked(arms, label, n)
        if n == 0:
            return
        rows, wrong = score(p, clicked)
        if wrong >= 0:
            row, arm = divmod(wrong, p.shape[1])
            raise MetricsError(
                f"arm {self.config.arms[arm]!r} predicts {p[row, arm]} in row {row}, which is no "
                "probability. Pass probabilities, not logits."
            )
        at = np.ascontiguousarray(at_ms, np.int64)
        if self._first_at is None:
            self._first_at = int(at[0])
        self._rows += n
        self._clicks += int(clicked.sum())
        window, day = (s.number(at, self._first_at) for s in (self._windows, self._days))
        cells = np.zeros((n, 4), np.int32)  # over all, activity, scene, age
        cells[:, 1] = self._activity.cells(user_activity, n)
        cells[:, 2] = self._scene_cells(np.asarray(scene, np.uint64))
        cells[:, 3] = self._age.cells(item_age_h, n)
        self._cells.add(rows, cells)
        self._windows.add(rows, window)
        self._days.add(rows, day)
        place = np.column_stack((cells[:, :3].astype(np.int64), window, day))
        self._requests.add(
            np.ascontiguousarray(request, np.uint64), at, p, clicked, place, self._cells,
            self._windows, self._days,
        )  # fmt: skip
        self._users.add(
            np.ascontiguousarray(user, np.uint64), at, p, clicked, day, self._first_at,
            self._cells, self._days,
        )  # fmt: skip

    def _checked(
        self, arms: Mapping[str, F32], label: F32, n: int
    ) -> tuple[F32, npt.NDArray[np.uint8]]:
        p = np.full((n, len(self.config.arms)), np.nan, np.float32)
        for name, values in arms.items():
            if name not in self.config.arms:
                raise MetricsError(
                    f"no arm is called {name!r}; MetricsConfig.arms names "
                    f"{', '.join(self.config.arms)}. Add it there."
                )
            p[:, self.config.arms.index(name)] = values
        labels = np.asarray(label)
        clicked = labels == 1
        if not (clicked | (labels == 0)).all():
            bad = labels[~(clicked | (labels == 0))][0]
            raise MetricsError(f"label {bad} is neither 0 nor 1. Settle rows before scoring them.")
        return p, clicked.astype(np.uint8)

    def _scene_cells(self, scene: U64) -> npt.NDArray[np.int32]:
        out = np.full(scene.size, self._scene + self.config.max_scenes, np.int32)
        rest = np.ones(scene.size, bool)
        for k, known in enumerate(self._scenes):
            hit = scene == np.uint64(known)
            out[hit] = self._scene + k
            rest &= ~hit
        while rest.any() and len(self._scenes) < self.config.max_scenes:  # in order of appearance
            new = int(scene[int(np.argmax(rest))])
            hit = scene == np.uint64(new)
            out[hit] = self._scene + len(self._scenes)
            self._scenes.append(new)
            rest &= ~hit
        return out

    def summary(self, scene_names: Mapping[int, str] | None = None) -> Figures:
        """Return all figures so far, as JSON; open requests and days count as if they ended now.

        Args:
            scene_names: hash of a scene to its name; others appear as their hash.

        Returns:
            ``examples, clicks, logloss, normalized_entropy, calibration, auc, auc_error_bound,
            auc_request, auc_user`` and more of the first arm, then the same with the name of each
            other arm that was given (``auc_request_as_served``, …); the same again in ``by_scene``,
            ``by_activity``, ``by_item_age`` (by name), ``by_day`` and ``windows`` (lists). A figure
            that has no value yet, such as an AUC of one class, is None.

        """
        closed = self._closed()
        names = scene_names or {}
        scenes = {names.get(h, f"{h:016x}"): self._scene + k for k, h in enumerate(self._scenes)}
        scenes["(others)"] = self._scene + self.config.max_scenes
        return {
            **self._cell(0, closed),
            **self._counts(),
            "first_at_ms": self._first_at,
            "user_share": self._users.share,
            "requests_cut_short": self._requests.forced,
            "late_window_rows": int(self._windows.late[0]),
            "late_user_rows": self._users.late,
            "by_scene": self._cells_of(scenes, closed),
            "by_activity": self._cells_of(self._activity.names, closed),
            "by_item_age": self._cells_of(self._age.names, closed),
            "by_day": self._spans_of(self._days, closed.day_requests, closed.day_users),
            "windows": self._spans_of(self._windows, closed.window_requests, None),
        }

    def glance(self) -> Figures:
        """Return the figures over all and of a recent window ("window"), for a live display.

        Cheap: leaves out per-user AUC.
        """
        cells, windows, _ = self._requests.counted(self._cells, self._windows, self._days)
        closed = _Closed(cells, windows, windows, None, None)
        newest = self._windows.places()[-2:]  # the last may just have begun: take the fuller one
        newest.sort(key=lambda w: float(self._windows.sums[w, 0, EXAMPLES]), reverse=True)
        return {
            **self._cell(0, closed),
            **self._counts(),
            "window": self._span(self._windows, newest[0], windows, None) if newest else {},
        }

    def state(self) -> State:
        """Return everything counted so far, and what is open."""
        return {
            "scenes": np.array(self._scenes, np.uint64),
            "first_at": self._first_at,
            "rows": self._rows,
            "clicks": self._clicks,
            "cells": self._cells.state(),
            "windows": self._windows.state(),
            "days": self._days.state(),
            "requests": self._requests.state(),
            "users": self._users.state(),
        }

    def restore(self, state: State) -> None:
        """Take up the metrics where `state` left them; the configuration must be the same."""
        self._scenes = [int(s) for s in state["scenes"]]
        self._first_at = state["first_at"]
        self._rows, self._clicks = state["rows"], state["clicks"]
        self._cells.restore(state["cells"])
        self._windows.restore(state["windows"])
        self._days.restore(state["days"])
        self._requests.restore(state["requests"])
        self._users.restore(state["users"])

    @property
    def examples(self) -> int:
        """Rows so far."""
        return self._rows

    @property
    def logloss(self) -> float | None:
        """Log loss of the first arm over all, in nats."""
        scored = float(self._cells.sums[0, 0, EXAMPLES])
        return float(self._cells.sums[0, 0, LOGLOSS]) / scored if scored else None

    def _counts(self) -> Figures:
        scored = int(self._cells.sums[0, 0, EXAMPLES])
        return {"examples": self._rows, "clicks": self._clicks, "unscored": self._rows - scored}

    def _closed(self) -> "_Closed":
        requests = self._requests.counted(self._cells, self._windows, self._days)
        return _Closed(*requests, *self._users.counted(self._cells, self._days))

    def _cells_of(self, cells: Mapping[str, int], closed: "_Closed") -> Figures:
        seen = {name: c for name, c in cells.items() if self._cells.sums[c, :, EXAMPLES].any()}
        return {name: self._cell(c, closed) for name, c in seen.items()}

    def _cell(self, cell: int, closed: "_Closed") -> Figures:
        out: Figures = {}
        for a, suffix in self._suffixes(self._cells.sums[cell]):
            won, pairs, shared = self._cells.auc_pairs(cell, a)
            users = closed.users[cell, a] if cell == 0 and closed.users is not None else None
            figures = figures_of(
                self._cells.sums[cell, a], won, pairs, closed.requests[cell, a], users
            )
            if cell == 0:
                figures["auc_error_bound"] = shared / pairs / 2 if pairs else None
            out |= {name + suffix: value for name, value in figures.items()}
        return out

    def _spans_of(self, spans: Spans, requests: F64, users: F64 | None) -> list[Figures]:
        return [self._span(spans, w, requests, users) for w in spans.places()]

    def _span(self, spans: Spans, place: int, requests: F64, users: F64 | None) -> Figures:
        number = int(spans.ids[place])
        start = (self._first_at or 0) + number * spans.span_ms
        out: Figures = {"number": number, "from_ms": start, "until_ms": start + spans.span_ms}
        for a, suffix in self._suffixes(spans.sums[place]):
            weighted = users[place, a] if users is not None else None
            figures = figures_of(
                spans.sums[place, a], *spans.auc_pairs(place, a), requests[place, a], weighted
            )
            out |= {name + suffix: value for name, value in figures.items()}
        return out

    def _suffixes(self, sums: F64) -> list[tuple[int, str]]:
        given = [(a, f"_{arm}") for a, arm in enumerate(self.config.arms) if a]
        return [(0, ""), *((a, s) for a, s in given if sums[a, EXAMPLES])]


@dataclass(frozen=True)
class _Closed:
    """Sums of per-request and per-user AUC with everything open ended."""

    requests: F64  # (C, A, 2)
    window_requests: F64  # (W, A, 2)
    day_requests: F64
    users: F64 | None
    day_users: F64 | None
