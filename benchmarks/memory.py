"""Memory over an endless world stays where the bounds put it.

`python -m benchmarks.memory` streams a world whose users and items never stop coming, with
duplicates and late events, through the whole pipeline (order, join, features, ids, batches, score,
metrics, learn) in two threads, as `keepstream train` runs it; only decoding is left out. Every
bound is so small that what it bounds overflows several times. ``rss_slope_mb_per_million`` is the
least-squares slope of the resident memory over the events read after all of it was full, and
``rss_slope_error`` its standard error: rows come and go by chunks of some 20 MB, so it is looked
at after every batch.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]  # ships no types

from benchmarks.machine import report, rounded
from keepstream.config import Config, from_tables
from keepstream.reading import event_schema, feature_schema
from keepstream.wiring import build_ingest, build_training
from replay.world import DEVICES, Clicks, Impressions, World, WorldConfig
from stream.deadletters import DeadLetterFile
from stream.events import FEEDBACK, EventColumns, EventSchema
from stream.ids import hash_ids, hash_integers, hash_text
from stream.position import Offset, Partition, Position
from stream.source import Block
from stream.state import State
from trainer.ahead import Ahead
from trainer.checkpoint import Checkpoints
from trainer.items import Barrier
from trainer.loop import train
from trainer.saver import Saver

EVERY: Final = 50_000  # events between two looks at the structures, each a copy of their state
FULL: Final = 0.8  # of its bound: tables of two generations never stay at it
WARM_UP: Final = 0.3  # of the events, at least: what the allocator needs until it settles
_MB: Final = 1 << 20
_PLACES: Final = 64  # places of a slate, at most

I64 = npt.NDArray[np.int64]
Sizes = dict[str, int]  # of every bounded structure, in entries of its own


def bounded_config(**tables: Mapping[str, Any]) -> Config:
    """Return a configuration whose every bound is small; ``tables`` go over it."""
    small: dict[str, dict[str, Any]] = {
        "order": {"lateness_s": 60, "max_held": 500},
        "join": {
            "window_s": 4 * 3600,
            "early_s": 3600,
            "remember_s": 8 * 3600,
            "max_pending": 100_000,
            "max_remembered": 150_000,
            "max_early": 16,
        },
        "features": {
            "ids": ["item", "user", "scene", "device"],
            "crosses": [["user", "device"]],
            "history": 10,
            "statistics": [
                {"key": key, "half_lives_h": [1, 12]}
                for key in (["item"], ["user"], ["user", "item"])
            ],
        },
        "state": {"max_keys": 5_000, "max_users": 3_000},
        "ids": {
            "max_rows": 5_000,
            "admit_after": 2,
            "expire_after_s": 2 * 3600,
            "max_candidates": 5_000,
        },
        "model": {"model": "deepfm", "hidden": [32], "embedding_width": 8},
        "train": {"batch_size": 4096, "as_served": True, "pending_rows_in_memory": 65_536},
        "rehearsal": {"batches": 1, "keep": 8},
        "metrics": {
            "window_s": 600,
            "max_open_rows": 10_000,
            "max_user_rows": 20_000,
            "max_windows": 32,
            "max_days": 1,
            "max_scenes": 1,
        },
    }
    for name, table in tables.items():
        small[name] = {**small.get(name, {}), **table}
    return from_tables(small)


def endless_world(impressions: int | None = None) -> WorldConfig:
    """Return a world in which every request brings about one new user, and many new items."""
    return WorldConfig(
        impressions=impressions,
        requests_per_s=1.0,
        users=2000,
        items=600,
        new_users_per_s=1.0,
        new_items_per_s=0.3,
    )


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What goes wrong on the way, as shares of all events."""

    duplicates: float = 0.01  # read twice
    duplicate_after_s: float = 600.0  # at most so much later
    late: float = 0.01  # read late
    late_by_s: float = 7200.0  # at most; half an hour on the way to the log, or a phone under water
    seed: int = 0


@dataclass
class WorldSource:
    """A world as a source: ``events`` of its events as columns, and it ends."""

    world: World
    schema: EventSchema
    events: int
    trouble: Trouble = field(default_factory=Trouble)
    read: int = 0
    partitions: tuple[Partition, ...] = (Partition("feedback", 0), Partition("impressions", 0))

    def __iter__(self) -> Iterator[Block]:
        """Yield what is read in the time of each of the world's blocks."""
        rng = np.random.default_rng(self.trouble.seed)
        waiting, read_at = EventColumns.empty(self.schema), np.empty(0, np.int64)
        offsets = np.zeros(2, np.int64)
        for block in self.world.blocks():
            new = EventColumns.concat(
                [self._clicks(block.clicks), self._impressions(block.impressions)]
            )
            new, new_read_at = self._troubled(rng, new)
            everything = EventColumns.concat([waiting, new])
            read_at = np.concatenate([read_at, new_read_at])
            due = np.flatnonzero(read_at <= block.until_ms)
            due = due[np.argsort(read_at[due], kind="stable")]
            events = everything.take(due)
            for p in range(2):  # the place in the log is that of reading
                here = events.partition == p
                n = int(here.sum())
                events.offset[here] = offsets[p] + np.arange(n)
                offsets[p] += n
            later = read_at > block.until_ms
            waiting, read_at = everything.take(later), read_at[later]
            self.read += len(events)
            yield Block(events, self._position(offsets))
            if self.read >= self.events:
                break
        nothing = EventColumns.empty(self.schema)
        yield Block(nothing, self._position(offsets), ended=frozenset((0, 1)))

    def close(self) -> None:
        """Hold nothing that would have to be released."""

    def _position(self, offsets: I64) -> Position:
        pairs = zip(self.partitions, offsets.tolist(), strict=True)
        return Position({p: Offset(offset) for p, offset in pairs})

    def _impressions(self, shown: Impressions) -> EventColumns:
        blank = EventColumns.empty(self.schema, len(shown))
        scenes = np.array([hash_text(name) for name in self.world.config.scenes], np.uint64)
        blank.ids[:, self.schema.ids.index("device")] = hash_ids(DEVICES)[shown.device]
        return replace(
            blank,
            ts=shown.at_ms,
            impression=_impression(shown.request, shown.position),
            user=hash_integers(shown.user),
            item=hash_integers(shown.item),
            request=hash_integers(shown.request),
            scene=scenes[shown.scene],
            position=shown.position.astype(np.int32),
            partition=np.ones(len(shown), np.int16),
        )

    def _clicks(self, clicks: Clicks) -> EventColumns:
        n = clicks.at_ms.size
        impression = _impression(clicks.request, clicks.position)
        return replace(
            EventColumns.empty(self.schema, n),
            kind=np.full(n, FEEDBACK, np.uint8),
            ts=clicks.at_ms,
            impression=impression,
            user=hash_integers(clicks.user),
            request=impression,
            action=np.zeros(n, np.uint8),
        )

    def _troubled(self, rng: np.random.Generator, events: EventColumns) -> tuple[EventColumns, I64]:
        """Return the events, some of them twice, and when each is read."""
        trouble, n = self.trouble, len(events)
        late_ms = 1000 * trouble.late_by_s * rng.random(n) * (rng.random(n) < trouble.late)
        read_at = events.ts + late_ms.astype(np.int64)
        again = np.flatnonzero(rng.random(n) < trouble.duplicates)
        after_ms = 1000 * trouble.duplicate_after_s * rng.random(again.size)
        return (
            EventColumns.concat([events, events.take(again)]),
            np.concatenate([read_at, read_at[again] + after_ms.astype(np.int64)]),
        )


def _impression(request: I64, position: I64) -> npt.NDArray[np.uint64]:
    return hash_integers(request * _PLACES + position)


def bounds(config: Config) -> Sizes:
    """Return the bound of every structure that `sizes` measures."""
    keys = 2 * config.state.max_keys  # two generations
    statistics = feature_schema(config).statistics
    return {
        "order.held": config.order.max_held,
        "join.pending": config.join.max_pending,
        "join.remembered": config.join.max_remembered,
        "join.early": config.join.max_early,
        "rows.pending": config.join.max_pending,
        "rows.served": config.join.max_pending + 2 * config.train.batch_size,
        "batcher.held": config.train.batch_size,
        "rehearsal.batches": config.rehearsal.keep,
        "features.users": 2 * config.state.max_users,
        "features.items": keys,
        **{f"features.{statistic.name}": keys for statistic in statistics},
        "ids.rows": config.ids.max_rows,
        "ids.candidates": 2 * config.ids.max_candidates,
        "embedding.rows": config.ids.max_rows,
        "metrics.open_rows": config.metrics.max_open_rows,
        "metrics.user_rows": config.metrics.max_user_rows,
        "metrics.windows": config.metrics.max_windows,
        "metrics.days": config.metrics.max_days,
        "metrics.scenes": config.metrics.max_scenes,
    }


def sizes(config: Config, ingest: State, training: State) -> Sizes:
    """Return how large every bounded structure is, by the state that a checkpoint saves."""
    join, features, metrics = ingest["join"], ingest["features"], training["metrics"]
    cursor, served = join["cursor"], training.get("served", {"first": 0, "next": 0})
    return {
        "order.held": len(ingest["order"]["held"]["ts"]) + len(ingest["order"]["doubted"]["ts"]),
        "join.pending": cursor["next"] - cursor["settle"],
        "join.remembered": cursor["settle"] - cursor["forget"],
        "join.early": len(join["early"]["id"]),
        "rows.pending": ingest["pending"]["next"] - ingest["pending"]["first"],
        "rows.served": served["next"] - served["first"],
        "batcher.held": len(ingest["batcher"]["held"].get("seq", ())),
        "rehearsal.batches": len(ingest["rehearsal"]["lengths"]),
        "features.users": _generations(features["history"]),
        "features.items": _generations(features["items"]["table"]),
        **{
            f"features.{statistic.name}": _generations(features["statistics"][str(k)]["table"])
            for k, statistic in enumerate(feature_schema(config).statistics)
        },
        "ids.rows": len(ingest["ids"]["ids"]),
        "ids.candidates": _generations(ingest["ids"]["candidates"]),
        "embedding.rows": len(training["learner"]["table"]["weights"]),
        "metrics.open_rows": int(metrics["requests"]["rows"].sum()),
        "metrics.user_rows": len(metrics["users"]["user"]),
        "metrics.windows": len(metrics["windows"]["places"]),
        "metrics.days": len(metrics["days"]["places"]),
        "metrics.scenes": len(metrics["scenes"]),
    }


def _generations(state: State) -> int:
    return len(state["rows_0"]) + len(state["rows_1"])


@dataclass
class Looks:
    """What was seen of the memory after every batch, and of the structures every `EVERY` events."""

    rss_mb: list[tuple[int, float]] = field(default_factory=list)  # (events, MB)
    sizes: list[tuple[int, Sizes]] = field(default_factory=list)
    refused_ids: int = 0

    def largest(self) -> Sizes:
        """Return the largest size of each structure."""
        return {name: max(s[name] for _, s in self.sizes) for name in self.sizes[0][1]}

    def full_from(self, limits: Sizes) -> int:
        """Return the number of events by which every structure had been (nearly) full."""
        return max(
            next((events for events, seen in self.sizes if seen[name] >= FULL * limit), 0)
            for name, limit in limits.items()
        )

    def slope(self, first: int) -> tuple[float, float]:
        """Return MB a million events, and its standard error, from the event ``first`` on."""
        seen = np.array([(events, mb) for events, mb in self.rss_mb if events >= first])
        if len(seen) < 4:
            return float("nan"), float("nan")
        line, covariance = np.polyfit(seen[:, 0] / 1e6, seen[:, 1], 1, cov=True)
        return float(line[0]), float(np.sqrt(covariance[0, 0]))


def run(events: int, folder: Path, *, write: bool = False) -> tuple[Looks, dict[str, Any]]:
    """Stream ``events`` events; return what was seen, and the last counts and figures.

    A checkpoint's state is copied at every look, and with ``write`` it is written too.
    """
    config = bounded_config()
    training = build_training(config, folder / "trace.ndjson", folder)
    source = WorldSource(World(endless_world()), event_schema(config), events)
    ingest = build_ingest(config, source.partitions, folder)
    process, looks = psutil.Process(), Looks()
    ahead = Ahead(
        source,
        ingest,
        letters=DeadLetterFile(folder / "letters.ndjson"),
        clock=lambda: source.read / EVERY,
        barrier_every_s=1.0,
        drain=False,
    )

    saver = Saver(
        Checkpoints(folder / "checkpoints", 1),
        {},
        saved=lambda _: ahead.saved(True),
        failed=lambda _: ahead.saved(False),
        written=training.recycle,
    )

    def look(barrier: Barrier, state: State, batches: int) -> None:
        looks.sizes.append((barrier.state["events"], sizes(config, barrier.state, state)))
        looks.refused_ids = barrier.state["ids"]["refused"]
        if write:
            saver.save(barrier, state, batches)
        else:
            training.recycle(state)
            ahead.saved(True)

    with ahead:
        train(
            ahead,
            training,
            look,
            lambda _: looks.rss_mb.append((source.read, process.memory_info().rss / _MB)),
        )
    saver.wait()
    summary = training.metrics.summary(ingest.names)
    counts = {
        **ahead.counts.join,
        "late": ahead.counts.late,
        "after_idle": ahead.counts.after_idle,
        "hurried": ahead.counts.hurried,
        "refused_ids": looks.refused_ids,
        **{k: summary[k] for k in ("examples", "requests_cut_short", "user_share", "logloss")},
    }
    return looks, counts


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--write", action="store_true", help="write every checkpoint too")
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        looks, counts = run(args.events, Path(name), write=args.write)
    wall_s = time.perf_counter() - began
    limits, largest = bounds(bounded_config()), looks.largest()
    first = max(looks.full_from(limits), int(WARM_UP * args.events))
    print(f"{'structure':24}{'largest':>10}{'bound':>10}")
    for structure, bound in limits.items():
        print(f"{structure:24}{largest[structure]:10,}{bound:10,}")
    print(f"{'events':>12}{'RSS, MB':>10}")
    for events, mb in looks.rss_mb[:: max(1, len(looks.rss_mb) // 20)]:
        print(f"{events:12,}{mb:10,.1f}{'' if events >= first else '  warm-up'}")
    print("counts:", ", ".join(f"{name} {value}" for name, value in counts.items()))
    slope, error = looks.slope(first)
    report(
        "memory",
        rss_slope_mb_per_million=rounded(slope),
        rss_slope_error=rounded(error, 2),
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        events=looks.rss_mb[-1][0],
        examples_per_s=round(counts["examples"] / wall_s),
        warm_up_events=first,
        checkpoints_written=args.write,
        structures={name: [largest[name], bound] for name, bound in limits.items()},
        within_bounds=all(largest[name] <= bound for name, bound in limits.items()),
        counts=counts,
    )


if __name__ == "__main__":
    main()
