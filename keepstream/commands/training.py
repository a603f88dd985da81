"""What `replay`, `train` and `demo` share: a run folder, progress, a result for people."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from keepstream.around import Around
from keepstream.commands.command import UsageError, print_json, say
from keepstream.config import Config
from keepstream.progress import Progress
from keepstream.reading import OpenSource
from keepstream.report import render_report
from keepstream.running import Outcome, run
from keepstream.runs import RunFolder
from keepstream.svg import time_text


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add --run, --fresh, --report and --quiet."""
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="keep checkpoints, trace, dead letters and result here; the same command goes on "
        "where it was stopped or killed",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what an earlier run left in --run"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write the one-page report here"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--knowledge-journal",
        type=Path,
        metavar="FILE",
        help="make the switches of this knowledge.ndjson, of another run, and no others",
    )


@contextmanager
def run_folder(path: Path | None, *, fresh: bool) -> Iterator[RunFolder]:
    """Hold the run's folder; without a path, one that goes when the run ends."""
    if path is not None:
        with RunFolder(path) as folder:
            if fresh:
                folder.clear()
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="keepstream-") as name, RunFolder(Path(name)) as folder:
        yield folder


def train_and_tell(
    args: argparse.Namespace,
    config: Config,
    open_source: OpenSource,
    out: TextIO,
    *,
    drain: bool,
    reads: Callable[[], Mapping[str, Any]] = dict,
    around: Around | None = None,
    live: bool = False,
) -> Outcome:
    """Run the loop, write the report, print the result.

    ``reads`` tells which input it is; asked only where the run is kept. ``live``: what is new of
    knowledge is taken up.
    """
    journal = getattr(args, "knowledge_journal", None)  # a demonstration has none
    if journal is not None and not config.knowledge.used:
        raise UsageError("--knowledge-journal is for a model with [knowledge]: name its store.")
    if args.report is not None and not args.report.parent.is_dir():
        raise UsageError(f"--report {args.report}: there is no folder {args.report.parent}.")
    progress = Progress(sys.stderr, time.monotonic, quiet=args.quiet)
    with run_folder(args.run, fresh=args.fresh) as folder:
        outcome = run(
            config,
            open_source,
            folder,
            reads=reads() if args.run is not None else {},
            keep=args.run is not None,
            drain=drain,
            progress=progress,
            say=say,
            around=around,
            live=live,
            knowledge_journal=journal,
        )
        page = render_report({**outcome.result, "config": config.as_tables()})
        report = args.report or (folder.report if args.run is not None else None)
        if report is not None:
            report.write_text(page, encoding="utf-8")
    if args.json:
        print_json(outcome.result, out)
    else:
        print(as_text(outcome.result), file=out)
        if report is not None:
            print(f"Report: {report}", file=out)
    return outcome


def as_text(result: dict[str, Any]) -> str:
    """Return a result as the lines that people read."""
    if not result["examples"]:
        return f"No example was settled. {_counts(result)}"
    lines = [
        f"{result['examples']:,} examples, {result['clicks']:,} clicks, "
        f"{result['batches']:,} batches in {result['wall_s']:.1f} s "
        f"({result['examples_per_s']:,.0f} examples/s, {result['peak_rss_mb']:,} MB)",
        "",
        f"{'':16}{'AUC/request':>12}{'AUC/user':>10}{'AUC':>8}{'log loss':>10}{'NE':>8}"
        f"{'calibration':>13}",
    ]
    for arm, suffix in (
        ("scored, learned", ""),
        ("as served", "_as_served"),
        ("oracle", "_oracle"),
    ):
        if f"auc{suffix}" in result:
            lines.append(_row(arm, {k: result.get(k + suffix) for k in _FIGURES}))
    for name, figures in result["by_scene"].items():
        lines.append(_row(name, figures))
    days = list(enumerate(result["by_day"], 1))
    if len(days) > _DAYS_SHOWN:
        lines.append(f"({len(days) - _DAYS_SHOWN} earlier days are in the report and in --json)")
    lines += [_row(f"day {day}", figures) for day, figures in days[-_DAYS_SHOWN:]]
    lines += [
        "",
        _counts(result),
        *_knowledge(result),
        f"examples {result['examples_digest']}",
        f"weights  {result['weights_digest']}",
    ]
    return "\n".join(lines)


_DAYS_SHOWN = 14
_FIGURES = ("auc_request", "auc_user", "auc", "logloss", "normalized_entropy", "calibration")


def _row(name: str, figures: dict[str, Any]) -> str:
    widths = (12, 10, 8, 10, 8, 13)
    cells = (
        f"{'–' if figures.get(k) is None else format(figures[k], '.4f'):>{w}}"
        for k, w in zip(_FIGURES, widths, strict=True)
    )
    return f"{name[:16]:16}" + "".join(cells)


def _knowledge(result: dict[str, Any]) -> list[str]:
    """Return which knowledge is in force, as a line; none where none is used."""
    if "knowledge" not in result:
        return []
    said = result["knowledge"]
    if said["generation"] is None:
        return ["Knowledge: no generation is in force yet."]
    known = ", ".join(f"{k} {100 * share:.0f} %" for k, share in said["known"].items())
    return [
        f"Knowledge: {said['generation']}, from {time_text(said['from_ms'])} UTC on; "
        f"{said['switches']:,} switches so far. Known: {known}."
    ]


def _counts(result: dict[str, Any]) -> str:
    counts = result["counts"]
    return (
        "Events: "
        + ", ".join(
            f"{value:,} {name.replace('_', ' ')}"
            for name, value in counts.items()
            if value and not isinstance(value, dict)
        )
        + "."
    )
