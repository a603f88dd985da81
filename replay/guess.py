"""Look at a table and guess what it says: a configuration to begin with, each guess with a reason.

Names decide first, then what the values can be. Nothing is trained; only the first rows are read.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from replay import patterns
from replay.columns import guess_unit
from replay.errors import MappingError
from replay.mapping import TimeUnit
from replay.profile import Profile, Sample, take_sample
from stream.decode import EARLIEST_MS

_FEW: Final = 1_000  # distinct integers up to which each may mean something of its own
_OFTEN: Final = 5  # an id must come back about so often for its vector to learn anything
_WEEKS_S: Final = 7 * 86_400


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Columns for one part of an event, and why."""

    columns: tuple[str, ...]
    reason: str

    @property
    def column(self) -> str:
        """The one column."""
        return self.columns[0]


@dataclass(frozen=True, kw_only=True)
class FeatureGuess:
    """A column as a feature."""

    name: str  # in the event
    column: str
    kind: Literal["id", "number", "list"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a table seems to say; None where nothing in it says so."""

    path: Path
    rows: int
    looked_at: int
    user_id: Choice | None
    item_id: Choice | None
    ts: Choice | None
    ts_unit: TimeUnit | None
    ts_shift_s: int
    sort: bool  # rows are not in the order of time
    label: Choice | None
    label_at_least: float | None
    impression_id: Choice | None  # None: the row number
    request_id: Choice | None
    scene: Choice | None
    position: Choice | None
    time_column: Choice | None  # the feedback's time; None: a constant delay
    delay_s: tuple[float, float] | None  # median and 90th percentile, where a column has the times
    span_h: float  # hours between the first and the last time
    features: tuple[FeatureGuess, ...]
    left_out: tuple[Choice, ...]  # no features, and why
    problems: tuple[str, ...]  # what a person must settle before this can be replayed


def guess(path: str | Path) -> Guess:
    """Look at the first rows of a Parquet file. Raises `InputError` where it cannot be read."""
    sample = take_sample(path)
    finder = _Finder(sample)
    ts = finder.time()
    label = finder.label()
    feedback_time = finder.feedback_time(label)
    user = finder.key("user", patterns.USER, patterns.USER_LIKE)
    item = finder.key("item", patterns.ITEM, patterns.ITEM_LIKE)
    request = finder.request(user, item, ts)
    impression = finder.impression(item, request)
    scene, position = finder.scene(), finder.position(request)
    unit, low, high = _clock(sample, ts)
    shift = _shift_s(low)
    features, left_out = finder.features(request, label)
    return Guess(
        path=sample.path,
        rows=sample.rows,
        looked_at=sample.size,
        user_id=user,
        item_id=item,
        ts=ts,
        ts_unit=unit,
        ts_shift_s=shift,
        sort=ts is not None and bool((np.diff(_times(sample, ts.column)) < 0).any()),
        label=label,
        label_at_least=_at_least(sample, label),
        impression_id=impression,
        request_id=request,
        scene=scene,
        position=position,
        time_column=feedback_time,
        delay_s=_delays(sample, ts, feedback_time),
        span_h=(high - low) / 3_600_000,
        features=tuple(features),
        left_out=tuple(left_out),
        problems=tuple(_problems(sample, user, item, ts, label)),
    )


class _Finder:
    """Gives each column away once."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._free = dict(sample.profiles)

    def key(self, noun: str, *names: str) -> Choice | None:
        def fits(p: Profile) -> bool:
            return p.kind in ("integer", "text") and p.nulls < 0.05 and p.distinct > 1

        for pattern in names:
            for p in self._named(pattern, fits):
                return self._take(p, f"its name; {p.distinct:,} {noun}s in the sample")
        return None

    def time(self) -> Choice | None:
        def fits(p: Profile) -> bool:
            return (
                p.nulls < 0.05 and not _is(patterns.AFTERWARDS, p) and p.kind in ("time", "integer")
            )

        for p in [*self._named(patterns.TIME, fits), *self._named(patterns.TIME_LIKE, fits)]:
            if p.kind == "time" or _unit(self._sample, p.name) is not None:
                return self._take(p, f"its name, and it holds times ({p.type})")
        for p in self._named("", lambda p: p.kind == "time" and p.nulls < 0.05):
            return self._take(p, f"the first column of times ({p.type})")
        return None

    def label(self) -> Choice | None:
        def binary(p: Profile) -> bool:
            return p.kind == "truth" or (
                p.kind in ("integer", "real") and p.distinct == 2 and (p.low, p.high) == (0, 1)
            )

        def rating(p: Profile) -> bool:
            return p.kind in ("integer", "real") and 2 < p.distinct <= 100 and p.nulls < 0.05

        for p in self._named(patterns.LABEL, binary):
            share = float(np.nanmean(self._sample.numbers(p.name)))
            return self._take(p, f"its name, and it is 0 or 1: {share:.2%} of the rows are 1")
        for p in self._named(patterns.RATING, rating):
            return self._take(p, f"a rating from {p.low:g} to {p.high:g}: the upper ones count")
        return None

    def feedback_time(self, label: Choice | None) -> Choice | None:
        """Return a time that is there exactly where the label is 1."""
        if label is None:
            return None
        clicked = self._sample.numbers(label.column) > 0
        for p in self._named("", lambda p: p.kind == "time" and p.nulls > 0):
            if np.mean(self._sample.valid(p.name) == clicked) > 0.999:
                return self._take(p, f"a time that is there where {label.column} is 1")
        return None

    def request(self, user: Choice | None, item: Choice | None, ts: Choice | None) -> Choice | None:
        """Return an id whose rows have one user, one time and several items."""
        if user is None or item is None or ts is None:
            return None

        def fits(p: Profile) -> bool:
            per_value = self._sample.size / max(1, p.distinct)
            return p.kind in ("integer", "text") and p.nulls == 0 and 1.2 < per_value < 1_000

        for p in self._named(patterns.REQUEST, fits):
            if all(self._constant_within(p.name, c.column) > 0.99 for c in (user, ts)):
                rows = self._sample.size / p.distinct
                return self._take(p, f"one user and one time each, {rows:.1f} rows on average")
        return None

    def impression(self, item: Choice | None, request: Choice | None) -> Choice | None:
        for p in self._named(r"impression|event|row|(^|_)id$", lambda p: p.nulls == 0):
            if p.distinct == self._sample.size and p.kind in ("integer", "text"):
                return self._take(p, "a different one in every row")
        if request is not None and item is not None:
            pair = self._sample.codes(request.column) * self._sample.size
            if len(np.unique(pair + self._sample.codes(item.column))) == self._sample.size:
                columns = (request.column, item.column)
                return Choice(columns=columns, reason="together different in every row")
        return None

    def scene(self) -> Choice | None:
        for p in self._named(patterns.SCENE, lambda p: 2 <= p.distinct <= 50 and p.kind != "list"):
            return self._take(p, f"its name; {p.distinct} scenes")
        return None

    def position(self, request: Choice | None) -> Choice | None:
        if request is None:
            return None  # a count within nothing is no place in a list
        for p in self._named(
            patterns.POSITION, lambda p: p.kind == "integer" and 0 <= p.low <= p.high < 1e4
        ):
            return self._take(p, f"its name; from {p.low:g} to {p.high:g}")
        return None

    def features(
        self, request: Choice | None, label: Choice | None
    ) -> tuple[list[FeatureGuess], list[Choice]]:
        found: list[FeatureGuess] = []
        left_out: list[Choice] = []
        for p in self._free.values():
            against = self._against(p, request, label)
            if against is not None:
                left_out.append(Choice(columns=(p.name,), reason=against))
                continue
            where = ""
            if request is not None and p.kind != "list":
                same = self._constant_within(request.column, p.name) > 0.99
                where = "; the same for a whole request" if same else "; differs within a request"
            kind, reason = _feature_kind(p)
            found.append(
                FeatureGuess(name=_free_name(p), column=p.name, kind=kind, reason=reason + where)
            )
        return found, left_out

    def _against(self, p: Profile, request: Choice | None, label: Choice | None) -> str | None:
        """Return why a column is no feature; None where it may be one."""
        if p.is_constant:
            return "it says the same in every row of the sample"
        if _is(patterns.AFTERWARDS, p):
            return "by its name it is known only after the impression: it would leak the label"
        if label is not None and self._tells(p, label):
            return f"it says what {label.column} says: it would leak the label"
        if p.kind == "time":
            return "another time"
        if _is(patterns.POSITION, p) and request is None:
            return "a place, but in what? No column names the request"
        if p.kind == "other":
            return f"{p.type} is neither id, number nor list"
        if p.kind == "list":
            return None
        if p.prose:
            return "text too long to be a name"
        if request is not None and self._counts(p, request):
            return "it is the number of rows in the request, which gives the label away"
        units = self._sample.size
        if request is not None and self._constant_within(request.column, p.name) > 0.99:
            units = self._sample.profiles[request.column].distinct
        known = _feature_kind(p)[0] == "id" and p.kind != "truth"
        if known and p.distinct * _OFTEN > units * (1 - p.nulls):
            return f"{p.distinct:,} values among {units:,}: each comes too rarely to be learned"
        return None

    def _tells(self, p: Profile, label: Choice) -> bool:
        clicked = self._sample.numbers(label.column) > 0
        if not 0 < clicked.mean() < 1:
            return False
        there = self._sample.valid(p.name)
        if there.any() and not there.all() and np.mean(there == clicked) > 0.999:
            return True
        if p.kind not in ("integer", "real", "truth"):
            return False
        values = np.nan_to_num(self._sample.numbers(p.name))
        return values.std() > 0 and abs(float(np.corrcoef(values, clicked)[0, 1])) > 0.98

    def _counts(self, p: Profile, request: Choice) -> bool:
        if p.kind not in ("integer", "real"):
            return False
        codes = self._sample.codes(request.column)
        sizes = np.bincount(codes)[codes]
        return bool(np.mean(self._sample.numbers(p.name) == sizes) > 0.9 and sizes.std() > 0)

    def _constant_within(self, group: str, column: str) -> float:
        """Return the share of groups in which a column has one value."""
        groups, values = self._sample.codes(group), self._sample.codes(column)
        pairs = np.unique(groups * (values.max() + 1) + values) // (values.max() + 1)
        return float(np.mean(np.bincount(pairs)[np.unique(groups)] == 1))

    def _named(self, pattern: str, fits: Callable[[Profile], bool]) -> Iterable[Profile]:
        return [p for p in self._free.values() if _is(pattern, p) and fits(p)]

    def _take(self, p: Profile, reason: str) -> Choice:
        del self._free[p.name]
        return Choice(columns=(p.name,), reason=reason)


def _feature_kind(p: Profile) -> tuple[Literal["id", "number", "list"], str]:
    if p.kind == "list":
        return "list", f"lists of ids ({p.type})"
    if p.kind in ("text", "truth"):
        return "id", f"{p.distinct:,} names" if p.kind == "text" else "true or false"
    if p.kind == "integer" and (p.distinct <= _FEW or _is(patterns.ID_NAME, p)):
        return "id", f"{p.distinct:,} whole numbers, each of which may mean something else"
    return "number", f"numbers from {p.low:g} to {p.high:g}"


def _free_name(p: Profile) -> str:
    """Return the column's name, unless features of the stream have it already."""
    taken = {"item", "user", "scene", "request", "position", "last_click"}
    return f"{p.name}_column" if p.name in taken else p.name


def _problems(
    sample: Sample,
    user: Choice | None,
    item: Choice | None,
    ts: Choice | None,
    label: Choice | None,
) -> Iterator[str]:
    lists = [p.name for p in sample.profiles.values() if p.kind == "list"]
    if user is None:
        yield "No column looks like the user: name it in user_id."
    if item is None and lists:
        yield (
            f"No column looks like one item, but there are lists ({', '.join(lists)}): one row "
            "must be one item shown, so write a table with a row for each element first."
        )
    elif item is None:
        yield "No column looks like the item shown: name it in item_id."
    if ts is None:
        yield "No column looks like a time, and a stream needs one: name it in ts."
    if label is None:
        yield "No column looks like the label; without one nothing is clicked: name it in label."


def _is(pattern: str, p: Profile) -> bool:
    return re.search(pattern, p.name, re.IGNORECASE) is not None


def _unit(sample: Sample, column: str) -> TimeUnit | None:
    values = sample.numbers(column)
    try:
        return guess_unit(values[np.isfinite(values)], column)
    except MappingError:
        return None


def _times(sample: Sample, column: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if sample.profiles[column].kind == "time":
        return sample.milliseconds(column)
    return sample.numbers(column)


def _clock(sample: Sample, ts: Choice | None) -> tuple[TimeUnit | None, float, float]:
    """Return the unit of plain numbers, and the first and the last time in epoch ms."""
    if ts is None:
        return None, 0.0, 0.0
    p = sample.profiles[ts.column]
    low, high = sample.bounds.get(ts.column, (p.low, p.high))
    if p.kind == "time":
        return None, low, high
    unit = _unit(sample, ts.column)
    assert unit is not None  # else it would not have been taken for the time
    per_ms = {"s": 0.001, "ms": 1.0, "us": 1e3, "ns": 1e6}[unit]
    return unit, low / per_ms, high / per_ms


def _delays(
    sample: Sample, ts: Choice | None, feedback: Choice | None
) -> tuple[float, float] | None:
    if ts is None or feedback is None or sample.profiles[ts.column].kind != "time":
        return None
    delays = (sample.milliseconds(feedback.column) - sample.milliseconds(ts.column)) / 1000
    median, ninth = np.quantile(delays[np.isfinite(delays)], [0.5, 0.9])
    return float(median), float(ninth)


def _shift_s(low_ms: float) -> int:
    """Return whole weeks that bring times from ``low_ms`` on into what the stream takes."""
    if low_ms == 0 or low_ms >= EARLIEST_MS:
        return 0
    years = int(np.ceil((EARLIEST_MS - low_ms) / 1000 / (10 * 365.25 * 86_400))) * 10
    return int(np.ceil(years * 365.25 * 86_400 / _WEEKS_S)) * _WEEKS_S


def _at_least(sample: Sample, label: Choice | None) -> float | None:
    if label is None:
        return None
    p = sample.profiles[label.column]
    return None if p.distinct <= 2 else float(np.ceil(p.low + 0.75 * (p.high - p.low)))
