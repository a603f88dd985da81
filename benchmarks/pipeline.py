"""From the NDJSON file log to the learned model, against the learning alone.

`python -m benchmarks.pipeline` writes a simulated log, then times in turn, round after round: the
floor (the same model on the same, already built batches in memory) and the whole pipeline
(decode, order, join, features, ids, score, metrics, learn), each at one torch thread, which is the
default because the ingest thread needs a core too, and at two. ``ratio`` is the pipeline over the
floor at the default; ``ratio_best_floor`` is its best over the floor's best, which has both cores
to itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import report
from keepstream.config import Config, from_tables
from keepstream.reading import event_schema, feature_schema
from keepstream.wiring import build_ingest, build_training
from replay.simulate import TOPICS, write
from replay.world import World, WorldConfig
from stream.deadletters import DeadLetterFile
from stream.filelog import create_topic
from stream.filelog_source import FileLogSource
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.source import Source
from trainer.ahead import Ahead
from trainer.ingest import Ingest
from trainer.items import LearnItem
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig
from trainer.loop import Training, train

THREADS = (1, 2)
DEFAULT = LearnerConfig().threads


def config(threads: int, batch_size: int) -> Config:
    """DIN with the default features: three ids, a history of 20, five kinds of statistics."""
    return from_tables(
        {
            "order": {"lateness_s": 0},
            "model": {"model": "din", "threads": threads},
            "train": {"batch_size": batch_size},
            "ids": {"max_rows": 1_000_000},
        }
    )


def write_log(root: Path, impressions: int, per_message: int) -> None:
    """Write a simulated world into a file log."""
    for topic in TOPICS:
        create_topic(root, topic, 1)
    world = World(WorldConfig(impressions=impressions, requests_per_s=1.0, users=50_000))
    with FileLogWriter(root, LogWriterConfig(fsync="never")) as writer:
        write(world, writer.append, per_message=per_message)


def open_log(root: Path, settings: Config) -> FileLogSource:
    """Open the log from its beginning."""
    return FileLogSource(root, TOPICS, event_schema(settings))


def run_pipeline(source: Source, settings: Config, folder: Path) -> tuple[float, Training]:
    """Train from an opened log; return the seconds, and what has learned."""
    training = build_training(settings, None, folder)
    ingest = build_ingest(settings, source.partitions, folder)
    letters = DeadLetterFile(folder / "letters.ndjson")
    started = time.perf_counter()
    with Ahead(
        source, ingest, letters=letters, clock=time.monotonic, barrier_every_s=None, drain=True
    ) as items:
        train(items, training, lambda *_: None, lambda _: None)
    return time.perf_counter() - started, training


def run_floor(batches: list[LearnItem], settings: Config) -> tuple[float, int]:
    """Learn from batches in memory; return the seconds and the examples learned."""
    shape = feature_schema(settings).model_shape(settings.model.embedding_width)
    learner = Learner(settings.model, shape, max_rows=settings.ids.max_rows, seed=0)
    started = time.perf_counter()
    for item in batches:
        learner.reset_rows(item.fresh_rows.astype("int64"), item.fresh_ids)
        learner.learn(item.batch)
    return time.perf_counter() - started, sum(item.batch.fresh for item in batches)


def build_batches(root: Path, settings: Config, folder: Path) -> list[LearnItem]:
    """Return all batches of the log."""
    source = open_log(root, settings)
    ingest = build_ingest(settings, source.partitions, folder)
    return [item for item in _all(source, ingest) if isinstance(item, LearnItem)]


def stage_costs(root: Path, settings: Config, folder: Path) -> dict[str, float]:
    """Return the core-microseconds an example of each stage before learning, on one thread."""
    source = open_log(root, settings)
    ingest = build_ingest(settings, source.partitions, folder)
    spent = dict.fromkeys(("join", "features", "ids", "batches"), 0.0)
    parts: Any = ingest  # its parts are private: a benchmark may look
    for stage, part, names in (
        ("join", parts._order, ("feed", "finish")),
        ("join", parts._join, ("feed", "advance", "drain")),
        ("features", parts._features, ("observe",)),
        ("ids", parts._ids, ("admit", "rows")),
        ("batches", parts._pending, ("append", "take", "release")),
        ("batches", parts._digest, ("update",)),
    ):
        for name in names:
            setattr(part, name, _timed(getattr(part, name), stage, spent))
    began = time.thread_time()
    examples = sum(i.batch.fresh for i in _all(source, ingest) if isinstance(i, LearnItem))
    total = time.thread_time() - began
    costs = {"decode": total - sum(spent.values()), **spent, "total": total}
    return {stage: round(1e6 * seconds / examples, 3) for stage, seconds in costs.items()}


def _timed(function: Callable[..., Any], stage: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        began, inside = time.thread_time(), sum(spent.values())
        result = function(*args, **kwargs)
        spent[stage] += time.thread_time() - began - (sum(spent.values()) - inside)
        return result

    return timed


def _all(source: FileLogSource, ingest: Ingest) -> Iterator[Any]:
    for block in source:
        yield from ingest.feed(block)
    yield from ingest.finish()


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--per-message", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "log"
        write_log(root, args.impressions, args.per_message)
        batches = build_batches(root, config(1, args.batch_size), folder)
        stages = stage_costs(root, config(1, args.batch_size), folder)
        rates: dict[str, dict[int, list[float]]] = {
            which: {threads: [] for threads in THREADS} for which in ("floor", "pipeline")
        }
        for turn in range(args.rounds + 1):
            for threads in THREADS:
                settings = config(threads, args.batch_size)
                floor = run_floor(batches, settings)
                seconds, training = run_pipeline(open_log(root, settings), settings, folder)
                if turn:  # the first round warms up
                    rates["floor"][threads].append(floor[1] / floor[0])
                    rates["pipeline"][threads].append(training.metrics.examples / seconds)
    median = {w: {t: statistics.median(r) for t, r in of.items()} for w, of in rates.items()}
    best = {which: max(of.values()) for which, of in median.items()}
    report(
        "pipeline",
        **{
            "ratio": round(median["pipeline"][DEFAULT] / median["floor"][DEFAULT], 3),
            "ratio_best_floor": round(best["pipeline"] / best["floor"], 3),
            "pipeline_examples_per_s": round(best["pipeline"]),
            "floor_examples_per_s": round(best["floor"]),
            "ratio_by_threads": {
                str(t): round(median["pipeline"][t] / median["floor"][t], 3) for t in THREADS
            },
            "examples_per_s_by_threads": {
                which: {str(t): round(v) for t, v in of.items()} for which, of in median.items()
            },
            "core_us_per_example": {
                **stages,
                "learn": round(1e6 / median["floor"][1], 3),
            },
            "examples": sum(i.batch.fresh for i in batches),
            "batch_size": args.batch_size,
            "events_per_message": args.per_message,
            "rounds": args.rounds,
        },
    )


if __name__ == "__main__":
    main()
