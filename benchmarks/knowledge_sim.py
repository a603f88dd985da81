"""What share of the gap to the truth knowledge closes, where the truth is known.

`python -m benchmarks.knowledge_sim` simulates a site of several scenes, trains an extractor on all
of them, and the model of the sparse scene with and without its knowledge: as `knowledge_lift` does
on a real log, scored as served, days 2 to the last. Here each click's true probability is known,
so that of the gap between the model without knowledge and the best possible scores, ``share`` is
what knowledge closes: (gated - none) / (oracle - none), in AUC per request and in log loss. Each
seed is a world, an extractor and a model of its own. Means are over days, 95 % intervals from the
paired differences of days × seeds by Student's t; those of a share are of the ratio of two means.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.knowledge.runs import Scores, extracted, served
from benchmarks.knowledge.scores import F64, Interval, interval
from benchmarks.knowledge.seeds import run_seeds
from benchmarks.knowledge.stores import Aligned, Stores
from benchmarks.knowledge.world import SCENE, SITE, SPARSE, world_of, write_world
from benchmarks.knowledge_lift import measured, seconds, start_of
from benchmarks.machine import report
from keepstream.config import load

ARMS: Final = ("none", "gated", "oracle")
MEASURES: Final = {"auc": "daily", "log_loss": "daily_log_loss"}


def options() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--impressions", type=int, default=1_000_000, help="of all scenes (1000000)"
    )
    parser.add_argument("--days", type=float, default=5.0, help="of event time, about (5)")
    parser.add_argument("--drift-days", type=float, default=4.0, help="tastes turn round in (4)")
    parser.add_argument("--seeds", type=int, default=3, help="how many worlds (3)")
    parser.add_argument("--refresh", type=seconds, default="2h", help="24h, 6h, 1h, 10m (2h)")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once (2)")
    parser.add_argument("--set", action="append", default=[], help="of the downstream: table.key=…")
    parser.add_argument("--set-extractor", action="append", default=[], help="of the extractor")
    parser.add_argument("--out", type=Path, help="write all figures there, for the plots")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one of them, to its parent
    return parser


def one_seed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a world's extractor and both arms; return figures by arm."""
    write_world(world_of(args.seed, args.impressions, args.days, args.drift_days), folder)
    seed = f"train.seed={args.seed}"
    site, down = load(SITE, [*args.set_extractor, seed]), load(SCENE, [*args.set, seed])
    start = start_of(folder, "at_ms")
    store = Aligned(folder / "store", site)
    began = time.perf_counter()
    learned = extracted(
        site, folder / "site.parquet", folder / "site",
        every_s=args.refresh,
        view=Stores(site, {1000 * args.refresh: [store]}).view,
        scene=SPARSE,
    )  # fmt: skip
    took = time.perf_counter() - began
    scene = folder / "scene.parquet"
    without = replace(down, knowledge=replace(down.knowledge, store=""))
    known = replace(down.knowledge, store=str(store.store.root), follow="history")
    none = served(without, scene, folder / "none")
    gated = served(replace(down, knowledge=known), scene, folder / "gated")
    truth = Scores(none.columns["oracle"], none.label, none.columns)
    return {
        "extractor": {
            "wall_s": took,
            "as_learned": measured(learned, start),
            "refresh": asdict(store.cost),
        },
        **{
            arm: measured(scores, start)
            for arm, scores in zip(ARMS, (none, gated, truth), strict=True)
        },
    }


def share(closed: F64, gap: F64) -> Interval:
    """Return mean(closed) / mean(gap) with its interval, by the residuals of the ratio."""
    ratio = float(closed.mean() / gap.mean())
    spread = interval((closed - ratio * gap) / gap.mean())  # of mean 0
    return Interval(mean=ratio, low=ratio + spread.low, high=ratio + spread.high)


def summary(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and shares with their intervals over days × seeds."""
    found: dict[str, Any] = {}
    for measure, key in MEASURES.items():
        of = {arm: np.concatenate([each[arm][key] for each in seeds]) for arm in ARMS}
        closed, gap = of["gated"] - of["none"], of["oracle"] - of["none"]
        found[measure] = {
            **{arm: round(float(of[arm].mean()), 5) for arm in ARMS},
            "lift": interval(closed).to_json(),
            "gap": interval(gap).to_json(),
            "share": share(closed, gap).to_json(),
        }
    found["share"] = {measure: found[measure]["share"]["mean"] for measure in MEASURES}
    found["extractor_auc"] = round(
        float(np.mean([np.mean(each["extractor"]["as_learned"]["daily"]) for each in seeds])), 5
    )
    found["verdicts"] = [each["extractor"]["refresh"]["verdicts"] for each in seeds]
    return found


def main() -> None:
    """Run the seeds, some at once, and print the figures."""
    args = options().parse_args()
    if args.seed is not None:
        with tempfile.TemporaryDirectory(prefix="knowledge-sim-") as name:
            print(json.dumps(one_seed(args, Path(name))))
        return
    began = time.perf_counter()
    seeds = run_seeds("benchmarks.knowledge_sim", args.seeds, args.jobs)
    found = summary(seeds)
    if args.out is not None:
        args.out.write_text(json.dumps({"summary": found, "seeds": seeds}))
    for measure in MEASURES:
        line = "  ".join(f"{arm} {found[measure][arm]:.4f}" for arm in ARMS)
        print(f"{measure:>8}: {line}  share {found['share'][measure]:.2f}")
    report(
        "knowledge_sim",
        **found,
        impressions=args.impressions,
        days=args.days,
        drift_days=args.drift_days,
        refresh=args.refresh,
        seeds=args.seeds,
        wall_s=round(time.perf_counter() - began, 1),
    )


if __name__ == "__main__":
    main()
