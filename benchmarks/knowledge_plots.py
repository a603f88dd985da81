"""Draws what the knowledge benchmarks have found, as SVG files for `docs/knowledge.md`.

`python -m benchmarks.knowledge_plots --lift FILE… --freshness FILE… --switch FILE --out docs/img`
where the files are what `knowledge_lift` and `knowledge_switch` write with `--out`. Each picture is
drawn if there are figures for it: lift.svg and slices.svg of all `--lift` files together (their
arms may differ; those of slices have none and gated), leak.svg where one has the arm "leak",
freshness.svg of a file for each interval, switch.svg.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np

mpl.use("svg")
from matplotlib import pyplot as plt  # after the choice of what draws
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.knowledge.scores import DAY_MS, interval

INK: Final = "#7d8590"  # on white and on a dark page alike, as all of these
GRID: Final = "#7d859040"
BLUE, ORANGE, GREEN, RED = "#3b82f6", "#d97b29", "#2e9e6b", "#dc5050"
NAMES: Final = {
    "gated": "gated add, aligned",
    "unaligned": "gated add, unaligned",
    "turned": "gated add, unaligned,\nextractor trained anew",
    "static": "gated add, first day's",
    "add": "ungated add",
    "concat": "frozen concat",
    "joint": "joint training",
    "fine": "fine-tuned",
    "site": "site's statistics\nas inputs",
}
DRAWN: Final = tuple(NAMES)[::-1]  # from below
STYLE: Final = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "keepstream",  # the same figures, the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}

File = dict[str, Any]  # {"summary": …, "seeds": […]}


def options() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lift", type=Path, nargs="*", default=[], help="of knowledge_lift")
    parser.add_argument("--freshness", type=Path, nargs="*", default=[], help="one an interval")
    parser.add_argument("--switch", type=Path, help="of knowledge_switch")
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="folder (docs/img)")
    return parser


def lift(files: Sequence[File]) -> Figure:
    """Draw the lift of each arm over none, with its interval."""
    lifts = {arm: each for file in files for arm, each in file["summary"]["lifts"].items()}
    arms = [arm for arm in DRAWN if arm in lifts]
    figure, axes = plt.subplots(figsize=(6.4, 1.1 + 0.36 * len(arms)))
    for row, arm in enumerate(arms):
        _interval(axes, row, lifts[arm], BLUE if arm == "gated" else INK)
    axes.set_yticks(range(len(arms)), [NAMES[arm] for arm in arms])
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_ylim(-0.6, len(arms) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("lift in AUC per request (mean of days, 95 % interval)")
    return figure


def freshness(files: Sequence[File]) -> Figure:
    """Draw the lift, and what a refresh takes, by the interval between refreshes."""
    files = sorted(files, key=refresh_s)
    hours = [refresh_s(file) / 3600 for file in files]
    lifts = [file["summary"]["lifts"]["gated"] for file in files]
    figure, (upper, lower) = plt.subplots(
        2, 1, sharex=True, figsize=(6.4, 4.4), height_ratios=(2, 1)
    )
    mean = np.array([each["mean"] for each in lifts])
    upper.fill_between(
        hours, [each["low"] for each in lifts], [each["high"] for each in lifts],
        color=BLUE, alpha=0.18, linewidth=0,
    )  # fmt: skip
    upper.plot(hours, mean, color=BLUE, marker="o")
    upper.axhline(0, color=INK, linewidth=1)
    upper.set_ylabel("lift in AUC per request")
    lower.plot(
        hours, [file["summary"]["refresh_s"] for file in files], color=ORANGE, marker="o",
        label="mean",
    )  # fmt: skip
    lower.plot(
        hours, [file["summary"]["refresh_longest_s"] for file in files], color=ORANGE, marker="^",
        linestyle=":", label="longest",
    )  # fmt: skip
    lower.legend()
    lower.set_ylim(bottom=0)
    lower.set_ylabel("seconds a refresh")
    lower.set_xscale("log")
    lower.set_xticks(hours, [_interval_name(h) for h in hours])
    lower.set_xticks([], minor=True)
    lower.set_xlabel("a generation each")
    return figure


def refresh_s(file: File) -> float:
    """Return the seconds between the refreshes of a file."""
    if "refresh" in file["summary"]:
        return float(file["summary"]["refresh"])
    days = len(file["seeds"][0]["none"]["daily"]) + 1
    return days * DAY_MS / 1000 / float(file["summary"]["refreshes"])


def slices(files: Sequence[File]) -> Figure:
    """Draw the lift by a user's earlier impressions, and by an item's age."""
    seeds = [s for file in files for s in file["seeds"] if "none" in s and "gated" in s]
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(6.4, 2.8))
    parts: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
        ("by_activity", "user's earlier impressions in the scene", float),
        ("by_age", "hours since an item's first", lambda each: float(each["auc"])),
    )
    for axes, (key, label, value) in zip(panels, parts, strict=True):
        edges = list(seeds[0]["none"][key])
        for column, edge in enumerate(edges):
            found = [value(s["gated"][key][edge]) - value(s["none"][key][edge]) for s in seeds]
            axes.bar(column, np.mean(found), width=0.6, color=BLUE, alpha=0.55, linewidth=0)
            axes.plot([column] * len(found), found, "o", color=BLUE, markersize=4)
        ends = [*edges[1:], ""]
        axes.set_xticks(
            range(len(edges)),
            [f"{a} to {b}" if b else f"{a} on" for a, b in zip(edges, ends, strict=True)],
        )
        axes.axhline(0, color=INK, linewidth=1)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(label)
    panels[0].set_ylabel("lift in AUC per request\n(bar: mean, dots: seeds)")
    return figure


def switch(file: File) -> Figure:
    """Draw what a switch adds to the log loss of the same impressions, by the time since it."""
    found = file["summary"]
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    for arm, color in (("unaligned", RED), ("aligned", BLUE)):
        curve = found["curve"]
        label = f"{arm}: jump {found[f'jump_{arm}']:+.4f}"
        axes.plot(curve["minutes"], curve[arm], color=color, marker="o", markersize=3, label=label)
    axes.axvline(0, color=INK, linewidth=1, linestyle="--")
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xlabel("minutes since a switch of generations")
    axes.set_ylabel("log loss over that of the same\nimpressions without the switch")
    axes.legend()
    return figure


def leak(file: File) -> Figure:
    """Draw what vectors from the future would fake."""
    arms = {
        "none": ("scene alone", INK),
        "gated": ("knowledge", BLUE),
        "leak": ("knowledge of the hour\nto come (refused)", RED),
    }
    figure, axes = plt.subplots(figsize=(6.4, 1.9))
    for row, (arm, (name, color)) in enumerate(reversed(arms.items())):
        value = file["summary"]["arms"][arm]["mean"]
        axes.barh(row, value, height=0.55, color=color, alpha=0.7, linewidth=0)
        axes.annotate(f"{value:.3f}", (value, row), (4, -4), textcoords="offset points")
        axes.annotate(name, (0.5, row), (-6, -4), textcoords="offset points", ha="right")
    per_day = [
        np.mean([seed[arm]["daily"] for seed in file["seeds"]], axis=0) for arm in ("leak", "gated")
    ]
    fake = interval(per_day[0] - per_day[1])
    axes.set_title(
        f"a leak of an hour would fake {fake.mean:+.3f} ({fake.low:+.3f} to {fake.high:+.3f})"
    )
    axes.set_xlim(left=0.5)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("AUC per request (0.5: chance)")
    return figure


def _interval(axes: Axes, row: int, found: dict[str, float], color: str) -> None:
    if np.isfinite([found["low"], found["high"]]).all():
        axes.plot([found["low"], found["high"]], [row, row], color=color, linewidth=2)
    axes.plot(found["mean"], row, "o", color=color)
    axes.annotate(
        f"{found['mean']:+.4f}", (found["mean"], row), (0, 6), textcoords="offset points",
        ha="center", fontsize=8,
    )  # fmt: skip


def _interval_name(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 0.95 else f"{60 * hours:.0f} min"


def save(figure: Figure, path: Path) -> None:
    """Write a picture without a date or a background."""
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    lines = (line.rstrip() for line in path.read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")
    print(path)


def main() -> None:
    """Draw what there are files for."""
    args = options().parse_args()
    lifts, fresh = (
        [json.loads(p.read_text()) for p in paths] for paths in (args.lift, args.freshness)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        if lifts:
            save(lift(lifts), args.out / "lift.svg")
        if any("gated" in s and "none" in s for file in lifts for s in file["seeds"]):
            save(slices(lifts), args.out / "slices.svg")
        for file in lifts:
            if {"none", "gated", "leak"} <= set(file["summary"]["arms"]):
                save(leak(file), args.out / "leak.svg")
        if fresh:
            save(freshness(fresh), args.out / "freshness.svg")
        if args.switch is not None:
            save(switch(json.loads(args.switch.read_text())), args.out / "switch.svg")


if __name__ == "__main__":
    main()
