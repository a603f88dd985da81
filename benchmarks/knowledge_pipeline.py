"""The whole pipeline with knowledge against the same without: `ratio` is of examples a second.

`python -m benchmarks.knowledge_pipeline` writes a simulated log and two stores for it: vectors of
32 float16 of most users, items and pairs of a user and a category, in one generation, and in
several that are put in force one after another while the log is read; each but the first amends
the one before it. Then it trains over the log in turn without a store, with the first, and with the
second (`ratio_switching`: a switch every hundred thousand examples, which is every second or two
here and ten minutes of a scene of 170 impressions a second), round after round, at the defaults of
the product: DIN, the gated plug at the narrowest layer, batches of 512, one torch thread beside the
one that reads. ``core_us_per_example`` is processor time of the whole process; ``learn`` and
``ingest`` are of each thread alone, on batches in memory and without a learner.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.machine import report, rounded
from benchmarks.pipeline import open_log, run_pipeline, write_log
from keepstream.config import Config, from_tables
from keepstream.wiring import build_ingest, build_training
from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.store import KnowledgeStore
from trainer.items import LearnItem

U64 = npt.NDArray[np.uint64]

WIDTH: Final = 32
KINDS: Final = {name: Kind(name, WIDTH, "float16") for name in ("user", "item", "interaction")}
KNOWN: Final = 0.9  # of the ids of each kind
CHANGED: Final = 0.1  # of the vectors, from one generation to the next
ARMS: Final = ("without", "with", "switching")


def config(store: Path | None, batch_size: int | None) -> Config:
    """Return the defaults, with ids of categories, whose interactions are looked up."""
    tables: dict[str, Any] = {
        "order": {"lateness_s": 0},
        "features": {"ids": ["item", "user", "scene", "category"]},
        "ids": {"max_rows": 1_000_000},
        "train": {} if batch_size is None else {"batch_size": batch_size},
    }
    if store is not None:
        tables["knowledge"] = {"store": str(store), "category": "category", "follow": "history"}
    return from_tables(tables)


def write_store(root: Path, log: Path, generations: int) -> dict[str, int]:
    """Write ``generations`` over the time of the log; return how many vectors each kind has."""
    events = [b.events for b in open_log(log, config(None, None)) if len(b.events)]
    start, end = min(int(e.ts.min()) for e in events), max(int(e.ts.max()) for e in events)
    users, items, categories = (
        _known(np.concatenate(columns))
        for columns in (
            [e.user for e in events],
            [e.item for e in events],
            [e.ids[:, 0] for e in events],
        )
    )
    pairs = pair_ids(np.repeat(users, categories.size), np.tile(categories, users.size))
    rng = np.random.default_rng(0)
    ids = {
        kind: rng.permutation(of)[: round(KNOWN * of.size)]
        for kind, of in (("user", users), ("item", items), ("interaction", pairs))
    }
    store, base = KnowledgeStore(root, create=True), None
    for from_ms in np.linspace(start, end, generations, endpoint=False).astype(int).tolist():
        with store.build(KINDS, base=base) as build:
            for kind, of in ids.items():
                some = of if base is None else of[rng.random(of.size) < CHANGED]
                build.put(kind, some, rng.normal(size=(some.size, WIDTH)).astype(np.float16))
            base = build.commit(trained_until_ms=from_ms, about={}).name
        store.activate(base, from_ms)
    return {kind: of.size for kind, of in ids.items()}


def _known(ids: U64) -> U64:
    distinct = np.unique(ids)
    return distinct[distinct != 0]


def ingest_seconds(log: Path, settings: Config, scratch: Path) -> tuple[float, list[LearnItem]]:
    """Return the seconds of the ingest alone, and the work that it gives."""
    source = open_log(log, settings)
    ingest = build_ingest(settings, source.partitions, scratch)

    def items() -> Iterator[Any]:
        for block in source:
            yield from ingest.feed(block)
        yield from ingest.finish()

    began = time.thread_time()
    work = [item for item in items() if isinstance(item, LearnItem)]
    return time.thread_time() - began, work


def learn_seconds(work: list[LearnItem], settings: Config, scratch: Path) -> float:
    """Return the seconds that learning, and measuring, takes alone."""
    training = build_training(settings, None, scratch)
    began = time.thread_time()
    for item in work:
        training.learn(item)
    return time.thread_time() - began


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=400_000)
    parser.add_argument("--batch-size", type=int, help="default: the product's")
    parser.add_argument("--per-message", type=int, default=100)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log"
        write_log(log, args.impressions, args.per_message)
        vectors = write_store(folder / "with", log, 1)
        write_store(folder / "switching", log, args.generations)
        settings = {
            arm: config(None if arm == "without" else folder / arm, args.batch_size) for arm in ARMS
        }
        rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
        costs: dict[str, dict[str, list[float]]] = {
            arm: {part: [] for part in ("all", "learn", "ingest")} for arm in ARMS
        }
        for turn in range(args.rounds + 1):
            for arm in ARMS if turn % 2 else ARMS[::-1]:
                began = time.process_time()
                source = open_log(log, settings[arm])
                seconds, training = run_pipeline(source, settings[arm], folder)
                spent = time.process_time() - began
                ingest_s, work = ingest_seconds(log, settings[arm], folder)
                parts = {
                    "all": spent,
                    "ingest": ingest_s,
                    "learn": learn_seconds(work, settings[arm], folder),
                }
                if turn:  # the first round warms up
                    examples = training.metrics.examples
                    rates[arm].append(examples / seconds)
                    for part, s in parts.items():
                        costs[arm][part].append(1e6 * s / examples)
        median = {arm: statistics.median(of) for arm, of in rates.items()}
        report(
            "knowledge_pipeline",
            ratio=round(median["with"] / median["without"], 3),
            ratio_switching=round(median["switching"] / median["without"], 3),
            examples_per_s={arm: round(rate) for arm, rate in median.items()},
            core_us_per_example={
                arm: {part: rounded(statistics.median(of), 3) for part, of in parts.items()}
                for arm, parts in costs.items()
            },
            examples=sum(item.batch.fresh for item in work),
            batch_size=settings["with"].train.batch_size,
            vectors=vectors,
            width=WIDTH,
            generations=args.generations,
            rounds=args.rounds,
        )


if __name__ == "__main__":
    main()
