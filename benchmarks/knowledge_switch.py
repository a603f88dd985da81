"""What a switch of generations costs a running model, aligned to the last one and not.

`python -m benchmarks.knowledge_switch` trains a scene's model three times on one log: without
knowledge, with generations that are aligned to each other, and with the same ones as they would be
without (each in a space of its own, as that of an extractor trained anew). ``jump`` is how the log
loss, as served and less that of the model without knowledge on the same impressions, differs
between the window after a switch and the one before it; means over switches and seeds, with 95 %
intervals by Student's t. ``ratio`` is the aligned jump over the unaligned one: at or below 0 there
is none. The curve is that difference by the time since a switch. The log is the simulated site of
`knowledge_sim`, or with `--events` (and `--history`) a real one.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.knowledge.runs import Scores, extracted, served
from benchmarks.knowledge.scores import DAY_MS, interval
from benchmarks.knowledge.seeds import run_seeds
from benchmarks.knowledge.stores import Aligned, Raw, Stores
from benchmarks.knowledge.world import SCENE, SITE, SPARSE, world_of, write_world
from benchmarks.knowledge_lift import EXAMPLES, prepare, seconds, start_of
from benchmarks.machine import report, rounded
from keepstream.config import Config, load

ARMS: Final = ("unaligned", "aligned")
BINS: Final = 24  # of the curve, over an interval's length around the switches

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def options() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=Path, help="all scenes, a Parquet file (simulated)")
    parser.add_argument("--history", type=Path, help="earlier clicks of the same users")
    parser.add_argument("--history-days", type=float, default=3.0, help="of it, the latest (3)")
    parser.add_argument("--impressions", type=int, default=400_000, help="simulated (400000)")
    parser.add_argument("--days", type=float, default=4.0, help="simulated, about (4)")
    parser.add_argument("--refresh", type=seconds, default="6h", help="between switches (6h)")
    parser.add_argument("--window", type=seconds, default="1h", help="before and after (1h)")
    parser.add_argument("--seeds", type=int, default=2, help="how many (2)")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once (2)")
    parser.add_argument("--scene", default=SPARSE, help=f"the downstream's ({SPARSE})")
    parser.add_argument("--set", action="append", default=[], help="of the downstream: table.key=…")
    parser.add_argument("--set-extractor", action="append", default=[], help="of the extractor")
    parser.add_argument("--out", type=Path, help="write all figures there, for the plots")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one of them, to its parent
    return parser


def one_seed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the extractor and the three models; return jumps and curves by arm."""
    seed = f"train.seed={args.seed}"
    if args.events is None:
        write_world(world_of(args.seed, args.impressions, args.days), folder)
        configs, start = (SITE, SCENE), start_of(folder, "at_ms")
    else:
        prepare(args, folder)
        configs = EXAMPLES / "ebnerd-superdomain.toml", EXAMPLES / "ebnerd-article.toml"
        start = start_of(folder)
    site = load(configs[0], [*args.set_extractor, seed])
    down = load(configs[1], [*args.set, seed])
    stores: dict[str, Aligned | Raw] = {
        "unaligned": Raw(folder / "unaligned", site, turned=True),
        "aligned": Aligned(folder / "aligned", site),
    }
    view = Stores(site, {1000 * args.refresh: [*stores.values()]}).view
    extracted(site, folder / "site.parquet", folder / "site", every_s=args.refresh, view=view)
    none = run(down, folder, "none", "")
    switches = [s.from_ms for s in stores["aligned"].store.switches()]
    at = np.array([s for s in switches if s >= start + DAY_MS])  # by then there is what to lose
    found: dict[str, Any] = {"switches": int(at.size)}
    for arm, store in stores.items():
        scores = run(down, folder, arm, str(store.store.root))
        assert np.array_equal(scores.columns["at"], none.columns["at"])
        excess = losses(scores) - losses(none)
        found[arm] = {
            "jumps": jumps(none.columns["at"], excess, at, 1000 * args.window).tolist(),
            "curve": curve(none.columns["at"], excess, at, 1000 * args.refresh),
            "log_loss": float(losses(scores)[scores.columns["at"] >= at[0]].mean()),
        }
    found["none"] = {"log_loss": float(losses(none)[none.columns["at"] >= at[0]].mean())}
    return found


def run(config: Config, folder: Path, arm: str, store: str) -> Scores:
    """Train the scene's model, with the knowledge of a store unless it is ""."""
    known = replace(config.knowledge, store=store, follow="history" if store else None)
    return served(replace(config, knowledge=known), folder / "scene.parquet", folder / f"run-{arm}")


def losses(scores: Scores) -> F64:
    """Return the log loss of each example (n,)."""
    p = np.clip(scores.p.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(-np.where(scores.label > 0, np.log(p), np.log1p(-p)))


def jumps(at: I64, excess: F64, switches: I64, window_ms: int) -> F64:
    """Return, of each switch, the mean of ``excess`` (n,) in the window after less that before."""
    found = []
    for switch in switches:
        after = (at >= switch) & (at < switch + window_ms)
        before = (at >= switch - window_ms) & (at < switch)
        if after.any() and before.any():
            found.append(excess[after].mean() - excess[before].mean())
    return np.array(found)


def curve(at: I64, excess: F64, switches: I64, every_ms: int) -> dict[str, list[float]]:
    """Return sums and counts of ``excess`` by the time since a switch, half an interval around."""
    since = at - switches[np.argmin(np.abs(at[:, None] - switches), axis=1)]
    edges = np.linspace(-every_ms / 2, every_ms / 2, BINS + 1)
    return {
        "sum": np.histogram(since, edges, weights=excess)[0].tolist(),
        "count": np.histogram(since, edges)[0].tolist(),
    }


def summary(seeds: Sequence[dict[str, Any]], refresh_s: int) -> dict[str, Any]:
    """Return jumps with their intervals over switches and seeds, and the curves."""
    found: dict[str, Any] = {"switches": sum(each["switches"] for each in seeds)}
    width = refresh_s / BINS / 60
    curves: dict[str, Any] = {"minutes": [width * (k + 0.5 - BINS / 2) for k in range(BINS)]}
    for arm in ARMS:
        each = interval(np.concatenate([seed[arm]["jumps"] for seed in seeds])).to_json()
        found |= {f"jump_{arm}": each["mean"], f"jump_{arm}_interval": [each["low"], each["high"]]}
        sums, counts = (
            np.sum([seed[arm]["curve"][part] for seed in seeds], axis=0)
            for part in ("sum", "count")
        )
        curves[arm] = [round(float(v), 6) for v in sums / np.maximum(counts, 1)]
    found["ratio"] = rounded(found["jump_aligned"] / found["jump_unaligned"], 3)
    found["log_loss"] = {
        arm: round(float(np.mean([seed[arm]["log_loss"] for seed in seeds])), 5)
        for arm in ("none", *ARMS)
    }
    return {**found, "curve": curves}


def main() -> None:
    """Run the seeds, some at once, and print the figures."""
    args = options().parse_args()
    if args.seed is not None:
        with tempfile.TemporaryDirectory(prefix="knowledge-switch-") as name:
            print(json.dumps(one_seed(args, Path(name))))
        return
    began = time.perf_counter()
    seeds = run_seeds("benchmarks.knowledge_switch", args.seeds, args.jobs)
    found = summary(seeds, args.refresh)
    if args.out is not None:
        args.out.write_text(json.dumps({"summary": found, "seeds": seeds}))
    for arm in ARMS:
        print(f"{arm:>10}: log loss {found['log_loss'][arm]:.4f}  jump {found[f'jump_{arm}']:+.4f}")
    report(
        "knowledge_switch",
        **found,
        log="simulated" if args.events is None else args.events.name,
        refresh=args.refresh,
        window=args.window,
        seeds=args.seeds,
        wall_s=round(time.perf_counter() - began, 1),
    )


if __name__ == "__main__":
    main()
