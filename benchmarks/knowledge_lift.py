"""What knowledge gives a sparse scene of a site, on a log of all its scenes.

`python -m benchmarks.knowledge_lift --events FILE --history FILE` trains an extractor on the whole
site, makes a generation of knowledge each hour of the log, and trains the model of one scene with
and without it: scored as served, days 2 to the last. A generation counts from `lag_s` after what it
knows. ``lift`` is the mean of the paired daily differences in AUC per request between gated add
(refreshed, aligned) and none, with its 95 % interval by Student's t over the days; ``arms`` are the
mean daily AUCs likewise. Each seed is an extractor and a model of its own.

Arms: none, gated, add, concat; static (one generation, of the first day), unaligned (as extracted),
turned (unaligned, as of an extractor trained anew each time), joint (one model of all scenes),
fine (of all scenes for a day, then of its own), site (the whole site's statistics as inputs of
their own, which no store could give so fresh), leak (generations that know the hour to come).
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.knowledge.history import with_history
from benchmarks.knowledge.runs import Scores, extracted, served
from benchmarks.knowledge.scores import DAY_MS, daily_auc, interval, log_loss, request_auc
from benchmarks.knowledge.seeds import run_seeds
from benchmarks.knowledge.stores import Aligned, Raw, Stores, content
from benchmarks.machine import report
from keepstream.config import Config, load
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_text

EXAMPLES: Final = Path(__file__).parents[1] / "examples"
PLUGGED: Final = ("gated", "add", "concat", "static", "unaligned", "turned", "leak")
ARMS: Final = ("none", *PLUGGED, "joint", "fine", "site")
ACTIVITY: Final = (0, 20, 100, 1 << 30)  # a user's earlier impressions in the scene
AGES_H: Final = (0.0, 3.0, 12.0, 1e9)  # since an item was first shown in the scene


def seconds(text: str) -> int:
    """Read an interval as 24h, 1h, 10m."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or int(text[:-1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval: 24h, 1h and 10m are")
    return unit * int(text[:-1])


def options() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=Path, required=True, help="all scenes, a Parquet file")
    parser.add_argument("--history", type=Path, help="earlier clicks of the same users")
    parser.add_argument("--history-days", type=float, default=3.0, help="of it, the latest (3)")
    parser.add_argument("--refresh", type=seconds, default="1h", help="24h, 6h, 1h, 10m (1h)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--arms", default="none,gated", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--scene", default="article_page", help="the downstream's (article_page)")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once (2)")
    parser.add_argument("--downstream", type=Path, default=EXAMPLES / "ebnerd-article.toml")
    parser.add_argument("--extractor", type=Path, default=EXAMPLES / "ebnerd-superdomain.toml")
    parser.add_argument("--set", action="append", default=[], help="of the downstream: table.key=…")
    parser.add_argument("--set-extractor", action="append", default=[], help="of the extractor")
    parser.add_argument("--out", type=Path, help="write all figures there, for the plots")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one of them, to its parent
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Write the whole site's log and that of the scene."""
    events = pq.read_table(args.events)
    scene = events.filter(pc.equal(events["scenario"], args.scene))
    if not scene.num_rows:
        names = ", ".join(sorted(set(events["scenario"].to_pylist())))
        raise SystemExit(f"{args.events} has no scene {args.scene!r}, but {names}: name one of it.")
    pq.write_table(scene, folder / "scene.parquet")
    if args.history is not None:
        history = pq.read_table(args.history)
        events = with_history(events, history, days=args.history_days)
    pq.write_table(events, folder / "site.parquet")


def start_of(folder: Path, column: str = "impression_time") -> int:
    """Return the time of the scene's first event (ms)."""
    first = pc.min(pq.read_table(folder / "scene.parquet", columns=[column])[0])
    return int(first.cast(pa.timestamp("ms")).value)


def one_seed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the extractor and every arm with one seed; return figures by arm."""
    arms = args.arms.split(",")
    mine = folder / f"seed-{args.seed}"
    seed = f"train.seed={args.seed}"
    site = held(load(args.extractor, [*args.set_extractor, seed]), args.refresh)
    down = load(args.downstream, [*args.set, seed])
    start = start_of(folder)
    every = 1000 * args.refresh
    figures: dict[str, Any] = {"start_ms": start}
    stores: dict[str, Aligned | Raw] = {}
    if set(arms) & set(PLUGGED):
        stores["aligned"] = Aligned(mine / "aligned", site)
        for name, made in (
            ("unaligned", lambda: Raw(mine / "unaligned", site)),
            ("turned", lambda: Raw(mine / "turned", site, turned=True)),
            ("leak", lambda: Raw(mine / "leak", site, early_ms=3_600_000)),
        ):
            if name in arms:
                stores[name] = made()
        view = Stores(site, {every: list(stores.values())}, not_before_ms=start - every).view
        began = time.perf_counter()
        found = extracted(
            site, folder / "site.parquet", mine / "site",
            every_s=args.refresh, view=view, scene=args.scene,
        )  # fmt: skip
        cost = asdict(stores["aligned"].cost)
        figures["extractor"] = {
            "wall_s": time.perf_counter() - began,
            "as_learned": measured(found, start),
            "refresh": cost,
        }
    for arm in arms:
        began = time.perf_counter()
        figures[arm] = measured(run_arm(arm, down, folder, mine, args, start, stores), start)
        figures[arm]["wall_s"] = time.perf_counter() - began
    return figures


def run_arm(
    arm: str,
    down: Config,
    folder: Path,
    mine: Path,
    args: argparse.Namespace,
    start: int,
    stores: dict[str, Aligned | Raw],
) -> Scores:
    """Train the scene's model in one of the ways."""
    scene, site = folder / "scene.parquet", folder / "site.parquet"
    if arm in PLUGGED:
        store = stores[arm if arm in stores else "aligned"].store
        mode = arm if arm in ("add", "concat") else "gated"
        if arm == "static":
            store = only_first_day(store, mine / "static", start)
        known = replace(down.knowledge, store=str(store.root), plug=mode, follow="history")
        return served(replace(down, knowledge=known), scene, mine / arm)
    down = replace(down, knowledge=replace(down.knowledge, store=""))
    if arm == "none":
        return served(down, scene, mine / arm)
    down = replace(down, features=by_scene(down, also_site=arm == "site"))
    wanted = np.uint64(hash_text(args.scene))
    if arm == "joint":
        return served(down, site, mine / arm, scene=args.scene)
    if arm == "fine":
        return served(
            down, site, mine / arm, scene=args.scene,
            learns=lambda e: (e["scene"] == wanted) | (e["at"] < start + DAY_MS),
        )  # fmt: skip
    return served(down, site, mine / arm, scene=args.scene, learns=lambda e: e["scene"] == wanted)


def held(config: Config, refresh_s: float) -> Config:
    """Return an extractor's configuration with what it holds held as long as vectors last."""
    said = config.features["statistics"]
    statistics = [{**s, "held_s": refresh_s} if "held_s" in s else s for s in said]
    return replace(config, features={**config.features, "statistics": statistics})


def by_scene(config: Config, *, also_site: bool) -> dict[str, Any]:
    """Return features for a log of all scenes: each scene's own statistics, and the site's too."""
    features = dict(config.features)
    own = [{**s, "key": [*s["key"], "scene"]} for s in features["statistics"]]
    features["statistics"] = [*own, *(features["statistics"] if also_site else [])]
    features["ids"] = [*features["ids"], "scene"]
    return features


def only_first_day(store: KnowledgeStore, root: Path, start: int) -> KnowledgeStore:
    """Return a store with the last generation of the first day alone."""
    first = [s for s in store.switches() if s.from_ms <= start + DAY_MS]
    chosen = first[-1]
    known = store.manifest(chosen.generation)
    static = KnowledgeStore(root, create=True)
    with static.build(known.kinds) as build:
        for kind, (ids, vectors) in content(store, chosen.generation).items():
            build.put(kind, ids, vectors)
        made = build.commit(trained_until_ms=known.trained_until_ms, about={})
    static.activate(made.name, chosen.from_ms)
    return static


def measured(scores: Scores, start: int) -> dict[str, Any]:
    """Return daily AUC per request, log loss, and both by activity and age, from day 2 on."""
    at = scores.columns["at"]
    days = range(1, max(2, int((at.max() - start) // DAY_MS) + (1 if _whole(at, start) else 0)))
    rows = (at >= start + DAY_MS) & (at < start + (days[-1] + 1) * DAY_MS)
    auc, first = request_auc(scores.p[rows], scores.label[rows], scores.columns["request"][rows])
    activity = scores.columns["user_activity"][rows][first]
    age = scores.columns["item_age_h"]
    by_age = {}
    for low, high in pairwise(AGES_H):
        some = rows & (age >= low) & (age < high)
        found, _ = request_auc(scores.p[some], scores.label[some], scores.columns["request"][some])
        by_age[f"{low:g}"] = {"auc": float(found.mean()), "log_loss": log_loss(scores, some)}
    return {
        "daily": daily_auc(scores, start, days).tolist(),
        "auc": float(auc.mean()),
        "log_loss": log_loss(scores, rows),
        "daily_log_loss": [
            log_loss(scores, (at >= start + d * DAY_MS) & (at < start + (d + 1) * DAY_MS))
            for d in days
        ],
        "by_activity": {
            str(low): float(auc[(activity >= low) & (activity < high)].mean())
            for low, high in pairwise(ACTIVITY)
        },
        "by_age": by_age,
    }


def _whole(at: Any, start: int) -> bool:
    """Return whether the last day that has begun is nearly whole."""
    return bool((at.max() - start) % DAY_MS > 0.9 * DAY_MS)


def summary(seeds: list[dict[str, Any]], arms: list[str]) -> dict[str, Any]:
    """Return lift, intervals, and figures by arm: means over seeds first, then over days."""
    daily = {arm: np.mean([s[arm]["daily"] for s in seeds], axis=0) for arm in arms}
    found: dict[str, Any] = {
        "arms": {
            arm: {
                **interval(daily[arm]).to_json(),
                "auc": round(float(np.mean([s[arm]["auc"] for s in seeds])), 5),
                "log_loss": round(float(np.mean([s[arm]["log_loss"] for s in seeds])), 5),
            }
            for arm in arms
        }
    }
    if "none" in arms:
        found["lifts"] = {
            arm: interval(daily[arm] - daily["none"]).to_json() for arm in arms if arm != "none"
        }
    if "none" in arms and "gated" in arms:
        lift = found["lifts"]["gated"]
        found |= {"lift": lift["mean"], "lift_low": lift["low"], "lift_high": lift["high"]}
    if "extractor" in seeds[0]:
        costs = [s["extractor"]["refresh"] for s in seeds]
        found["refresh_s"] = round(
            sum(c["seconds"] for c in costs) / max(1, sum(c["refreshes"] for c in costs)), 4
        )
        found["refresh_longest_s"] = round(max(c["longest_s"] for c in costs), 3)
        found["refreshes"] = costs[0]["refreshes"]
        found["verdicts"] = costs[0]["verdicts"]
        found["extractor_auc"] = round(
            float(np.mean([s["extractor"]["as_learned"]["auc"] for s in seeds])), 5
        )
    return found


def main() -> None:
    """Run the seeds, some at once, and print the figures."""
    args = options().parse_args()
    unknown = sorted(set(args.arms.split(",")) - set(ARMS))
    if unknown:
        raise SystemExit(f"There is no arm {unknown[0]!r}: there are {', '.join(ARMS)}.")
    if args.seed is not None:
        print(json.dumps(one_seed(args, args.folder)))
        return
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="knowledge-lift-") as name:
        folder = Path(name)
        prepare(args, folder)
        seeds = run_seeds(
            "benchmarks.knowledge_lift", args.seeds, args.jobs, "--folder", str(folder)
        )
    found = {**summary(seeds, args.arms.split(",")), "refresh": args.refresh}
    if args.out is not None:
        args.out.write_text(json.dumps({"summary": found, "seeds": seeds}))
    for arm, figures in found["arms"].items():
        print(f"{arm:>10}: {figures['mean']:.4f}  log loss {figures['log_loss']:.4f}")
    report(
        "knowledge_lift",
        **found,
        seeds=args.seeds,
        wall_s=round(time.perf_counter() - began, 1),
    )


if __name__ == "__main__":
    main()
