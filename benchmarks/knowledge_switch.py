"""What a switch of generations costs a running model, aligned to the last one and not.

`python -m benchmarks.knowledge_switch` trains a scene's model with knowledge, served and scored as
it goes. The extractor's vectors are turned at random before each refresh, as those of an extractor
that is trained anew would be, and the refresh has to align them. At some of the switches the same
run is made twice more, all the same up to then: without that switch (the generation before stays
in force), and with the new generation in a space of its own. ``jump`` is the log loss of the
window after a switch, less that of the same impressions without the switch: a mean over them all,
with a 95 % interval by Student's t over switches and seeds. ``ratio`` is the aligned jump over the
unaligned one: at or below 0 there is none, and the fresher generation is the better one at once.
The curve is the same by the time since the switch. The log is the simulated site of
`knowledge_sim`, or with `--events` (and `--history`) a real one.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.knowledge.runs import Scores, extracted, served
from benchmarks.knowledge.scores import DAY_MS, interval
from benchmarks.knowledge.seeds import run_seeds
from benchmarks.knowledge.stores import Aligned, Stores, content, turned
from benchmarks.knowledge.world import SCENE, SITE, SPARSE, world_of, write_world
from benchmarks.knowledge_lift import EXAMPLES, prepare, seconds, start_of
from benchmarks.machine import report, rounded
from extractor.extraction import CLUSTER
from keepstream.config import Config, load
from knowledge_store.schedule import Switch
from knowledge_store.store import KnowledgeStore

ARMS: Final = ("unaligned", "aligned")
BINS: Final = 24  # of the curve, from a switch to the next
BEFORE: Final = 6  # of it, before the switch
FROM_MS: Final = 2 * DAY_MS  # by then the model has learned to read what may be lost

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
    parser.add_argument("--switches", type=int, default=4, help="looked at, a seed (4)")
    parser.add_argument("--seeds", type=int, default=2, help="how many (2)")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at once (2)")
    parser.add_argument("--scene", default=SPARSE, help=f"the downstream's ({SPARSE})")
    parser.add_argument("--set", action="append", default=[], help="of the downstream: table.key=…")
    parser.add_argument("--set-extractor", action="append", default=[], help="of the extractor")
    parser.add_argument("--out", type=Path, help="write all figures there, for the plots")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)  # one of them, to its parent
    return parser


def one_seed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the extractor, the model, and the model without and with another switch at some."""
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
    every, rng = 1000 * args.refresh, np.random.default_rng(args.seed)
    made = Aligned(folder / "store", site)
    extracted(
        site, folder / "site.parquet", folder / "site", every_s=args.refresh,
        view=Stores(site, {every: [made]}, turn=rng).view,
    )  # fmt: skip
    aligned = run(down, folder / "scene.parquet", made.store.root, folder / "run")
    end = int(aligned.columns["at"].max())
    late = [s for s in made.store.switches() if start + FROM_MS <= s.from_ms <= end - every]
    chosen = [late[k] for k in np.linspace(0, len(late) - 1, args.switches).round().astype(int)]
    found: dict[str, Any] = {"verdicts": made.cost.verdicts, "loss": [], "impressions": []}
    found |= {"jumps": {}, "curves": {}}
    for number, switch in enumerate(dict.fromkeys(chosen)):
        scene, copy = folder / f"scene-{number}.parquet", folder / f"store-{number}"
        until(folder / "scene.parquet", scene, switch.from_ms + every)
        shutil.copytree(made.store.root, copy)
        store = KnowledgeStore(copy)
        while store.rollback().from_ms >= switch.from_ms:
            pass
        without = run(down, scene, copy, folder / f"without-{number}")
        in_its_own_space(store, switch, rng)
        arms = {"unaligned": run(down, scene, copy, folder / f"own-{number}"), "aligned": aligned}
        at, loss = by_time(without, 0, switch.from_ms + every)
        since = at - switch.from_ms
        window = (since >= 0) & (since < 1000 * args.window)
        found["loss"].append(float(loss[window].mean()))
        found["impressions"].append(int(window.sum()))
        for arm, scores in arms.items():
            same, other = by_time(scores, 0, switch.from_ms + every)
            assert np.array_equal(at, same)  # the same impressions
            more = other - loss
            assert not more[since < 0].any()  # and bit for bit the same run, up to the switch
            found["jumps"].setdefault(arm, []).append(float(more[window].mean()))
            found["curves"].setdefault(arm, []).append(curve(since, more, every))
    return found


def run(config: Config, events: Path, store: Path, scratch: Path) -> Scores:
    """Train the scene's model with the knowledge of a store."""
    known = replace(config.knowledge, store=str(store), follow="history")
    return served(replace(config, knowledge=known), events, scratch)


def until(events: Path, some: Path, end_ms: int) -> None:
    """Write the events before ``end_ms``."""
    table = pq.read_table(events)
    at = table["at_ms" if "at_ms" in table.column_names else "impression_time"]
    if pa.types.is_timestamp(at.type):
        at = at.cast(pa.timestamp("ms"), safe=False)
    pq.write_table(table.filter(pc.less(at.cast(pa.int64()), end_ms)), some)


def in_its_own_space(store: KnowledgeStore, switch: Switch, rng: np.random.Generator) -> None:
    """Put a generation's vectors in force as they would be had they not been aligned."""
    known, rows = store.manifest(switch.generation), content(store, switch.generation)
    vectors = {kind: each.astype(np.float32) for kind, (_, each) in rows.items()}
    own = turned({kind: each for kind, each in vectors.items() if kind != CLUSTER}, rng)
    with store.build(known.kinds) as build:
        for kind, (ids, _) in rows.items():
            build.put(kind, ids, own.get(kind, vectors[kind]))
        made = build.commit(trained_until_ms=known.trained_until_ms, about={})
    store.activate(made.name, switch.from_ms)


def by_time(scores: Scores, begin: int, end: int) -> tuple[I64, F64]:
    """Return times and log losses of the impressions of [begin, end), in an order of their own."""
    c = scores.columns
    order = np.lexsort((c["item"], c["request"], c["at"]))
    order = order[(c["at"][order] >= begin) & (c["at"][order] < end)]
    return c["at"][order], losses(scores)[order]


def losses(scores: Scores) -> F64:
    """Return the log loss of each example (n,)."""
    p = np.clip(scores.p.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(-np.where(scores.label > 0, np.log(p), np.log1p(-p)))


def curve(since: I64, more: F64, every_ms: int) -> dict[str, list[float]]:
    """Return sums and counts of ``more`` (n,) by the time since a switch."""
    edges = np.arange(-BEFORE, BINS + 1) * every_ms / BINS
    return {
        "sum": np.histogram(since, edges, weights=more)[0].tolist(),
        "count": np.histogram(since, edges)[0].tolist(),
    }


def summary(seeds: Sequence[dict[str, Any]], refresh_s: int) -> dict[str, Any]:
    """Return jumps with their intervals over switches and seeds, and the curves."""
    found: dict[str, Any] = {}
    width = refresh_s / BINS / 60
    curves: dict[str, Any] = {"minutes": [width * (k + 0.5) for k in range(-BEFORE, BINS)]}
    for arm in ARMS:
        jumps = [jump for seed in seeds for jump in seed["jumps"][arm]]
        weights = [n for seed in seeds for n in seed["impressions"]]
        each = interval(jumps, weights).to_json()
        found |= {f"jump_{arm}": each["mean"], f"jump_{arm}_interval": [each["low"], each["high"]]}
        parts = [one for seed in seeds for one in seed["curves"][arm]]
        sums, counts = (np.sum([one[key] for one in parts], axis=0) for key in ("sum", "count"))
        curves[arm] = [round(float(v), 6) for v in sums / np.maximum(counts, 1)]
    return {
        **found,
        "ratio": rounded(found["jump_aligned"] / found["jump_unaligned"], 3),
        "log_loss": round(float(np.mean([loss for seed in seeds for loss in seed["loss"]])), 5),
        "switches": sum(len(seed["loss"]) for seed in seeds),
        "verdicts": [seed["verdicts"] for seed in seeds],
        "curve": curves,
    }


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
        print(f"{arm:>10}: log loss {found['log_loss']:.4f}, jump {found[f'jump_{arm}']:+.5f}")
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
