"""Line charts over time as inline SVG: no script, colours from the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from typing import Final

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 76, 14, 26  # room for ticks, and for names at the lines' ends
_HOUR: Final = 3_600_000
_STEPS: Final = (
    60_000, 300_000, 900_000, 1_800_000, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, 24 * _HOUR,
    48 * _HOUR, 168 * _HOUR, 672 * _HOUR, 2688 * _HOUR,
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """A line: its name, the CSS class that colours it, and (epoch ms, value) points in order."""

    name: str
    css: str
    points: Sequence[tuple[int, float | None]]  # None: the line is broken here


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    width: int,
    height: int,
    reference: float | None = None,
) -> str:
    """Return the chart, or "" where there is nothing to draw; ``reference`` adds a level line.

    ``width`` and ``height`` are the CSS pixels it is meant to be seen at; it scales with its frame.
    """
    values = [v for s in series for _, v in s.points if v is not None]
    times = [t for s in series for t, v in s.points if v is not None]
    if not values:
        return ""
    ticks = _ticks(*_range(values, reference))
    x = _Scale(min(times), max(max(times), min(times) + 1), _LEFT, width - _RIGHT)
    y = _Scale(ticks[0], ticks[-1], height - _BOTTOM, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        *_y_axis(ticks, x, y),
        *_time_axis(x, y),
    ]
    if reference is not None:
        at = y(reference)
        parts.append(f'<line class="reference" x1="{_LEFT}" x2="{x.end}" '
                     f'y1="{at:.1f}" y2="{at:.1f}"/>')  # fmt: skip
    for s in reversed(series):  # the first lies on top
        parts += _line(s, x, y)
    parts += _names(series, x, y)
    return "\n".join([*parts, "</svg>"])


def time_text(at_ms: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return a time of an event for people, UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def _range(values: list[float], reference: float | None) -> tuple[float, float]:
    """Return what the axis must span: all but the wildest value in forty."""
    ordered = sorted(values)
    cut = len(ordered) // 80  # on either side; what lies beyond is drawn at the edge
    ends = [ordered[cut], ordered[-1 - cut], *([reference] if reference is not None else [])]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values that enclose the range."""
    rough = (high - low) / 4
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    return [k * step for k in range(floor(low / step), ceil(high / step) + 1)]


def _y_axis(ticks: list[float], x: _Scale, y: _Scale) -> list[str]:
    step = ticks[1] - ticks[0]
    digits = max(0, -floor(log10(step) + 1e-9) + (0 if _round(step) else 1))
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{x.end}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">'
        f"{t:.{digits}f}</text>"
        for t in ticks
    ]


def _round(step: float) -> bool:
    return abs(step / 10.0 ** floor(log10(step) + 1e-9) - 2.5) > 1e-6


def _time_axis(x: _Scale, y: _Scale) -> list[str]:
    span = x.high - x.low
    step = next((s for s in _STEPS if span / s <= (x.end - x.start) / 80), _STEPS[-1])
    form = "%b %d" if step >= 24 * _HOUR else "%H:%M"
    parts, at = [], ceil(x.low / step) * step
    while at <= x.high:
        midnight = step < 24 * _HOUR and at % (24 * _HOUR) == 0
        text = time_text(at, "%b %d" if midnight else form)
        weight = " strong" if midnight else ""
        parts.append(f'<line class="tickmark" x1="{x(at):.1f}" x2="{x(at):.1f}" '
                     f'y1="{y.start}" y2="{y.start + 4}"/>'
                     f'<text class="tick{weight}" x="{x(at):.1f}" y="{y.start + 20}" '
                     f'text-anchor="middle">{text}</text>')  # fmt: skip
        at += step
    return parts


def _line(series: Series, x: _Scale, y: _Scale) -> list[str]:
    path, marks, pen_up = [], [], True
    for t, v in series.points:
        if v is None:
            pen_up = True
            continue
        at = f"{x(t):.1f},{min(max(y(v), y.end), y.start):.1f}"
        path.append(f"{'M' if pen_up else 'L'}{at}")
        pen_up = False
        cx, cy = at.split(",")
        tip = f"{series.name} {v:.4f}, {time_text(t)}"
        marks.append(f'<circle cx="{cx}" cy="{cy}" r="7"><title>{escape(tip)}</title></circle>')
    return [
        f'<path class="line {series.css}" d="{" ".join(path)}"/>',
        f'<g class="marks">{"".join(marks if len(marks) <= 400 else [])}</g>',
    ]


def _names(series: Sequence[Series], x: _Scale, y: _Scale) -> list[str]:
    """Write each line's name at its end, moved apart where they would meet."""
    ends = [
        (y(next(v for _, v in reversed(s.points) if v is not None)), s)
        for s in series
        if any(v is not None for _, v in s.points)
    ]
    ends.sort(key=lambda e: e[0])
    places = [min(max(at, y.end), y.start) for at, _ in ends]
    for _ in range(3):
        for k, (a, b) in enumerate(pairwise(places)):
            if b - a < 14:
                middle = (a + b) / 2
                places[k], places[k + 1] = middle - 7, middle + 7
    return [
        f'<text class="name {s.css}" x="{x.end + 8}" y="{at + 4:.1f}">{escape(s.name)}</text>'
        for at, (_, s) in zip(places, ends, strict=True)
    ]
