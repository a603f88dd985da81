"""Decayed counts of impressions and clicks by key, as of impression time.

A count with half-life h is Σ 2^−((now − t) / h) over the impressions of its key. A click counts
from the time of *its impression*: so clicks never outweigh impressions, and clicked / shown is the
CTR of recent impressions, which is smoothed towards the CTR at large.

Counts are kept as Σ 2^((t − start) / h), which does not change as time goes by: what is read is
scaled by one power a moment and half-life, not one a key (forward decay; Cormode et al., ICDE
2009). A period ends after 512 half-lives, before 64-bit floats overflow; then all counts are scaled
at once.

A statistic may be held: then what is read is what it was at the last multiple of an interval. That
is what a vector knows which is made so often, at any moment until the next one is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from stream.state import State
from trainer.generations import AHEAD, Generations, claim, fetch_index, fetch_row, find
from trainer.timeline import Timeline

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_HOUR_MS: Final = 3_600_000.0
_PERIOD: Final = 512.0  # half-lives: 2^512 × any count stays below the largest float, 2^1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Decay:
    """The weights of the moments of a timeline under H half-lives."""

    weight: F64  # (T, H) of what is shown at a moment
    period: I64  # (T, H)
    click: F64  # (C, H) of each click

    @classmethod
    def of(cls, timeline: Timeline, half_lives_h: Sequence[float]) -> "Decay":
        """Return the weights under ``half_lives_h`` (hours)."""
        lives = np.array(half_lives_h, np.float64) * _HOUR_MS
        return cls(
            **dict(
                zip(
                    ("weight", "period", "click"),
                    _decay(timeline.at, timeline.click, timeline.shown_at, lives),
                    strict=True,
                )
            )
        )


@njit(cache=True, nogil=True)
def _decay(at: Any, click: Any, shown_at: Any, lives: Any) -> Any:
    weight = np.empty((at.size, lives.size))
    period = np.empty((at.size, lives.size), np.int64)
    clicked = np.empty((click.size, lives.size))
    for h in range(lives.size):
        life = lives[h]
        length = np.int64(_PERIOD * life)
        for t in range(at.size):
            period[t, h] = at[t] // length
            weight[t, h] = np.exp2((at[t] - period[t, h] * length) / life)
        for c in range(click.size):
            clicked[c, h] = np.exp2((shown_at[c] - period[click[c], h] * length) / life)
    return weight, period, clicked


@njit(cache=True, nogil=True)
def _hold(rows: Any, g: int, row: int, held: int, interval: int) -> None:
    """Keep the counts of a row as they are, before the first update of an interval."""
    number = np.uint64(interval + 1)
    if rows[g, row, held] != number:
        rows[g, row, held] = number
        for c in range(2, held):
            rows[g, row, held - 1 + c] = rows[g, row, c]


@njit(cache=True, nogil=True)
def _observe(
    index: Any, rows: Any, cells: Any, sizes: Any, scaled: Any,  # the table, changed
    at: Any, show: Any, click: Any, carried: int,  # the timeline
    weight: Any, period: Any, click_weight: Any,  # its decay
    read_key: Any, show_key: Any, click_key: Any,
    prior_shown: float, prior_ctr: Any,
    out: Any, column: int, with_age: bool,
    lives: Any, hold: int,  # ms; hold 0: what is read is of the moment
    lifted: bool,  # what is held is read as of the moment, too
) -> None:  # fmt: skip  # by topic
    # cells is rows as floats: key, first seen (ms), then shown and clicked of every half-life;
    # if held, 1 + the number of the interval of the last update, and the counts as it began
    H = weight.shape[1]
    held = 2 + 2 * H
    T = at.size
    read, shown, clicked = carried, 0, 0
    unit = np.empty(H)  # what is left of a count of one
    for t in range(T):
        for h in range(H):
            unit[h] = 1.0 / weight[t, h]
            behind = period[t, h] - scaled[h]
            if behind > 0:
                scaled[h] = period[t, h]
                scale = np.exp2(-_PERIOD * min(behind, 4))
                for g in range(2):
                    for r in range(sizes[1 + g]):
                        for c in range(2 + 2 * h, 4 + 2 * h):
                            x = cells[g, r, c] * scale
                            cells[g, r, c] = x if x > 1e-200 else 0.0  # no subnormals: slow
                            if hold > 0:
                                x = cells[g, r, held - 1 + c] * scale
                                cells[g, r, held - 1 + c] = x if x > 1e-200 else 0.0
        interval = at[t] // hold if hold > 0 else np.int64(-1)
        as_of = interval * hold if hold > 0 and not lifted else at[t]
        if hold > 0:
            for h in range(H):
                length = np.int64(_PERIOD * lives[h])
                unit[h] = np.exp2((scaled[h] * length - as_of) / lives[h])
        while read < show.size and show[read] == t:
            i = read - carried
            key = read_key[i]
            if i + 2 * AHEAD < read_key.size:
                fetch_index(index, read_key[i + 2 * AHEAD])
                fetch_row(index, rows, sizes[0], read_key[i + AHEAD])
            read += 1
            g = sizes[0]
            row = np.int64(-1)
            if key != 0:
                row = find(index, rows, g, key)
                if row < 0:
                    g = 1 - g
                    row = find(index, rows, g, key)
            if row < 0 or (hold > 0 and cells[g, row, 1] >= as_of):
                for c in range(3 * H + with_age):
                    out[i, column + c] = 1.0
                continue
            first = 2
            if hold > 0 and not lifted and rows[g, row, held] == np.uint64(interval + 1):
                first = held + 1  # it has been updated since
            a = prior_shown * prior_ctr[i]
            b = prior_shown - a
            odds = b / a
            for h in range(H):
                s = cells[g, row, first + 2 * h] * unit[h]
                c = cells[g, row, first + 1 + 2 * h] * unit[h]
                out[i, column + 3 * h] = 1.0 + s
                out[i, column + 3 * h + 1] = 1.0 + c
                out[i, column + 3 * h + 2] = (c + a) / (max(s - c, 0.0) + b) * odds
            if with_age:
                out[i, column + 3 * H] = 1.0 + (as_of - cells[g, row, 1]) / _HOUR_MS
        if t == T - 1:
            break
        while shown < show.size and show[shown] == t:
            key = show_key[shown]
            shown += 1
            if key != 0:
                row = claim(index, rows, sizes, key)
                g = sizes[0]
                if hold > 0:
                    _hold(rows, g, row, held, interval)
                if cells[g, row, 1] == 0.0:
                    cells[g, row, 1] = at[t]
                for h in range(H):
                    cells[g, row, 2 + 2 * h] += weight[t, h]
        while clicked < click.size and click[clicked] == t:
            key = click_key[clicked]
            known = key != 0 and (
                find(index, rows, sizes[0], key) >= 0 or find(index, rows, 1 - sizes[0], key) >= 0
            )
            if known:  # else dropped since it was shown: a click alone would be a CTR above 1
                row = claim(index, rows, sizes, key)
                if hold > 0:
                    _hold(rows, sizes[0], row, held, interval)
                for h in range(H):
                    cells[sizes[0], row, 3 + 2 * h] += click_weight[clicked, h]
            clicked += 1


class KeyStatistics:
    """The statistics of one kind of key.

    Memory: that of `Generations`, 2 × ``max_keys`` rows of 2 + 2H words; 3 + 4H if it is held.
    """

    def __init__(
        self,
        half_lives_h: Sequence[float],
        *,
        age: bool,
        max_keys: int,
        held_s: float | None = None,
    ) -> None:
        self.columns = 3 * len(half_lives_h) + age  # the number columns it fills
        self._lives = np.array(half_lives_h, np.float64) * _HOUR_MS
        self._hold_ms = 0 if held_s is None else round(1000 * held_s)
        self.lifted = False  # read as of the moment what is held
        self._half_lives = tuple(half_lives_h)
        self._age = age
        counts = 2 * len(half_lives_h)
        width = 2 + counts + (1 + counts if self._hold_ms else 0)
        self._table = Generations(limit=max_keys, width=width)
        self._scaled = np.zeros(len(half_lives_h), np.int64)  # the period its counts are in

    def observe(
        self,
        timeline: Timeline,
        decay: Decay,
        show_key: U64,
        click_key: U64,
        *,
        read_key: U64 | None = None,
        prior_shown: float,
        prior_ctr: F64,
        out: F32,
        column: int,
    ) -> None:
        """Fill the columns of ``out`` (m, D) from ``column`` on, then count shows and clicks.

        ``show_key`` (S,) and ``click_key`` (C,) are 0 where the key is absent, or is not to be
        counted. ``read_key`` (m,), if others than those counted, and ``prior_ctr`` (m,) are of the
        impressions to read. What is written is to be put through `log_in_place`: for
        every half-life 1 + shown, 1 + clicked and the odds of the smoothed CTR over those of the
        prior; then 1 + age in hours. All are 1, and 0 after the logarithm, where the key is absent
        or new.
        """
        table = self._table
        table.reserve(show_key.size + click_key.size)
        if read_key is None:
            read_key = show_key[timeline.carried :]
        _observe(
            table.index, table.rows, table.rows.view(np.float64), table.sizes, self._scaled,
            timeline.at, timeline.show, timeline.click, timeline.carried,
            decay.weight, decay.period, decay.click,
            read_key, show_key, click_key,
            prior_shown, prior_ctr,
            out, column, self._age,
            self._lives, self._hold_ms, self.lifted,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._table)

    def state(self) -> State:
        """Return a copy of its counts."""
        return {"table": self._table.state(), "scaled": self._scaled.copy()}

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``."""
        self._table.restore(state["table"])
        self._scaled = np.array(state["scaled"], np.int64)


class ClickRate:
    """The stream's own CTR, with a half-life of a day: what a new key is taken to have."""

    _START_SHOWN: Final = 100.0  # impressions that the first guess is worth
    _START_CTR: Final = 0.05  # the first guess
    _HALF_LIFE_H: Final = (24.0,)  # a day's rhythm must not move it much

    def __init__(self) -> None:
        self._counts = KeyStatistics(self._HALF_LIFE_H, age=False, max_keys=1)

    def observe(self, timeline: Timeline) -> F64:
        """Return the CTR as of each impression to read (m,); count what was shown and clicked."""
        m = timeline.show.size - timeline.carried
        odds = np.empty((m, 3), np.float32)
        self._counts.observe(
            timeline,
            Decay.of(timeline, self._HALF_LIFE_H),
            np.ones(timeline.show.size, np.uint64),
            np.ones(timeline.click.size, np.uint64),
            prior_shown=self._START_SHOWN,
            prior_ctr=np.full(m, self._START_CTR),
            out=odds,
            column=0,
        )
        clicked = odds[:, 2].astype(np.float64) * (self._START_CTR / (1 - self._START_CTR))
        return np.asarray(clicked / (1 + clicked))

    def state(self) -> State:
        """Return a copy of its counts."""
        return self._counts.state()

    def restore(self, state: State) -> None:
        """Continue as the one that gave ``state``."""
        self._counts.restore(state)


@njit(cache=True, nogil=True)
def _log(x: Any) -> None:
    # a function of one row, because a loop over its columns alone is compiled to vector code
    f32 = np.float32
    for j in range(x.size):
        bits = f32(x[j]).view(np.int32)
        exponent = np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23)  # of x / √½
        m = np.int32(bits - (exponent << np.int32(23))).view(f32) - f32(1)
        y = f32(7.0376836292e-2)
        y = y * m + f32(-1.1514610310e-1)
        y = y * m + f32(1.1676998740e-1)
        y = y * m + f32(-1.2420140846e-1)
        y = y * m + f32(1.4249322787e-1)
        y = y * m + f32(-1.6668057665e-1)
        y = y * m + f32(2.0000714765e-1)
        y = y * m + f32(-2.4999993993e-1)
        y = y * m + f32(3.3333331174e-1)
        e = f32(exponent)
        y = y * m * (m * m) + e * f32(-2.12194440e-4) - f32(0.5) * (m * m)
        x[j] = m + y + e * f32(0.693359375)


@njit(cache=True, nogil=True)
def log_in_place(numbers: Any, first: int, end: int) -> None:
    """Replace the columns from ``first`` to before ``end`` of ``numbers`` (m, D) by logarithms.

    They are float32, positive and normal; the results are within 1e-6, and the same bits on every
    machine. The polynomial is that of Cephes' logf (Moshier, 1989).
    """
    for i in range(numbers.shape[0]):
        _log(numbers[i, first:end])
