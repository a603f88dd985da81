"""Where runs, groups and workers stand: how far they have read, and how far behind that is."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstream.commands.command import UsageError
from keepstream.config import Config, from_tables
from keepstream.kafka import groups_of, topics_read
from keepstream.lag import TopicEnds, group_rows, rows_of, total
from keepstream.runs import RunFolder, plug_of, tables_of_run
from stream.examples import PROGRESS, NotExamples, Progress
from stream.handover import OVER
from stream.kafka_batches import Record
from stream.kafka_peek import peek
from stream.kafka_topics import Topics
from stream.position import Partition, Position
from trainer.checkpoint import Checkpoint, CheckpointCorrupt, Checkpoints
from trainer.knowledge_journal import read_journal


def config_of_run(folder: Path) -> Config:
    """Return where the log of a run lies: its tables ``log`` and ``kafka``, and nothing else."""
    tables = tables_of_run(folder)
    return from_tables({name: tables.get(name, {}) for name in ("log", "kafka")}, str(folder))


def run_standing(folder: Path) -> dict[str, Any]:
    """Return how far the newest checkpoint of a run is, without asking anybody.

    Raises `UsageError` where there is no run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder. Name the folder given to --run.")
    checkpoint = _newest(Checkpoints(folder / "checkpoints"))
    if checkpoint is None:
        return {"run": str(folder), "checkpoint": None, "partitions": []}
    said = checkpoint.manifest
    written_s = (checkpoint.path / "manifest.json").stat().st_mtime
    return {
        "run": str(folder),
        "checkpoint": checkpoint.path.name,
        "age_s": round(max(0.0, time.time() - written_s), 1),
        "batches": said["batches"],
        "watermark_ms": said["watermark_ms"],
        "partitions": [
            {"partition": f"{topic}/{number}", "position": message}
            for topic, number, message, _ in said["position"]
            if message < OVER.message  # a history that was learned is behind every reader
        ],
        **_knowledge(folder, said["watermark_ms"]),
    }


def _knowledge(folder: Path, watermark_ms: int) -> dict[str, Any]:
    """Return the generation that the newest checkpoint uses; nothing where a run uses none."""
    journal = RunFolder(folder).journal
    if not journal.exists() or plug_of(tables_of_run(folder)) is None:
        return {}
    used = [t for t in read_journal(journal)[0] if t.from_ms < watermark_ms]
    if not used:
        return {}
    return {"knowledge": {"generation": used[-1].generation, "from_ms": used[-1].from_ms}}


def with_lag(standing: dict[str, Any], folder: Path, config: Config) -> dict[str, Any]:
    """Return the standing of a run on Kafka with the lag of each of its partitions.

    Raises what a connection can raise.
    """
    checkpoint = _newest(Checkpoints(folder / "checkpoints"))
    if checkpoint is None:
        return standing
    position = Position.from_json(checkpoint.manifest["position"])
    names = topics_read(config)
    live = {p: o.message for p, o in position.offsets.items() if p.topic in names}
    with Topics(config.kafka) as topics:
        there = topics.find(dict.fromkeys(p.topic for p in live))
        live = {p: o for p, o in live.items() if p.topic in there}
        rows = rows_of(TopicEnds(config, topics, live), live)
    return {**standing, "partitions": rows, **total(rows)}


def kafka_standing(config: Config) -> dict[str, Any]:
    """Return how far trainers and workers of a configuration are, as Kafka knows it."""
    names = dict.fromkeys((*config.log.topics, config.kafka.examples))
    with Topics(config.kafka) as topics:
        found = topics.find(names)
        partitions = [Partition(n, k) for n, i in found.items() for k in range(i.partitions)]
        ends = TopicEnds(config, topics, partitions)
        groups = [group_rows(topics, ends, group, partitions) for group in groups_of(config)]
    return {
        "missing": [name for name in names if name not in found],
        "groups": groups,
        "workers": _workers(config, ends),
    }


def _workers(config: Config, ends: TopicEnds) -> list[dict[str, Any]]:
    """Return a row a partition of the examples: what its last record says of its log."""
    last = {
        p: end - 1
        for p, end in ends.next.items()
        if p.topic == config.kafka.examples and end > ends.oldest[p]
    }
    rows = []
    for partition, record in sorted(peek(config.kafka, last).items()):
        progress = _progress(record)
        if progress is None:  # nobody's but a worker's says how far it is
            continue
        lag = {p: max(0, ends.next[p] - o.message) for p, o in progress.read.items()
               if p in ends.next}  # fmt: skip
        rows.append(
            {
                "partition": str(partition),
                "complete_to_ms": progress.complete_to,
                "behind_s": _behind_s(progress.complete_to, ends, lag),
                "lag": sum(lag.values()),
            }
        )
    return rows


def _progress(record: Record | None) -> Progress | None:
    said = None if record is None else dict(record.headers).get(PROGRESS)
    try:
        return None if said is None else Progress.decode(said)
    except NotExamples:
        return None


def _behind_s(
    complete_to: int | None, ends: TopicEnds, lag: Mapping[Partition, int]
) -> float | None:
    """Return by how much examples are behind the newest message of their log: window and lag."""
    newest = [at for p in lag if (at := ends.newest_ms(p)) is not None]
    if complete_to is None or not newest:
        return None
    return max(0, max(newest) - complete_to) / 1000


def _newest(checkpoints: Checkpoints) -> Checkpoint | None:
    for path in reversed(checkpoints.folders()):
        try:
            return checkpoints.read(path)
        except CheckpointCorrupt:
            continue  # a resuming run passes over it too, and says so
    return None
