"""Builds the parts from the configuration and runs the loop over a source."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keepstream.config import Config, ConfigError
from keepstream.progress import Progress
from keepstream.runs import RunFolder
from keepstream.signals import Interruption
from keepstream.status import snapshot
from stream.deadletters import DeadLetterFile
from stream.events import EventSchema
from stream.join import LabelJoin
from stream.order import EventTimeOrder
from stream.pending import PendingRows
from stream.policy import Wait
from stream.position import Partition, Position
from stream.source import Source
from stream.state import State
from trainer.ahead import Ahead
from trainer.batcher import Batcher
from trainer.checkpoint import Checkpoint, CheckpointForeign, Checkpoints
from trainer.features import Features
from trainer.idmap import IdMap
from trainer.ingest import Counts, Ingest
from trainer.learner import Learner
from trainer.loop import Training, train
from trainer.metrics import Prequential
from trainer.rehearsal import Rehearsal
from trainer.saver import Saver
from trainer.schema import FeatureSchema
from trainer.trace import Trace

OpenSource = Callable[[EventSchema, Position], Source]
Say = Callable[[str], None]  # one line for a person, to standard error


_OF_NUMBERS = (AssertionError, MemoryError, OverflowError, ValueError)


class Unbuildable(ConfigError):
    """Each setting is of its kind, but no part can be built with it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "The configuration asks for what cannot be built: "
            f"{str(error) or type(error).__name__}. Look for a number out of its usual range."
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    result: dict[str, Any]
    ended: bool  # the source has no more; False: it was interrupted


def feature_schema(config: Config) -> FeatureSchema:
    """Return the feature schema of a configuration."""
    return FeatureSchema.from_table(config.features)


def event_schema(config: Config) -> EventSchema:
    """Return what the events of a configuration carry."""
    return feature_schema(config).event_schema(config.join.label_actions)


def run(
    config: Config,
    open_source: OpenSource,
    folder: RunFolder,
    *,
    reads: Mapping[str, Any],
    keep: bool,
    drain: bool,
    progress: Progress,
    say: Say,
) -> Outcome:
    """Train on a source until it ends or is interrupted; go on from a checkpoint if there is one.

    ``reads`` says what the source is, as far as a run may go on only with the same. ``keep`` saves
    checkpoints into the folder. ``drain`` settles what waits when the source ends.
    """
    with Interruption() as interruption:
        folder.claim(config, reads)
        return _run(config, open_source, folder, keep, drain, progress, say, interruption)


def _run(
    config: Config,
    open_source: OpenSource,
    folder: RunFolder,
    keep: bool,
    drain: bool,
    progress: Progress,
    say: Say,
    interruption: Interruption,
) -> Outcome:
    started = time.monotonic()
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep)
    resumed, state = _latest(checkpoints, say) or (None, None)
    position = Position.from_json(state["ingest"]["position"]) if state else Position()
    source = open_source(event_schema(config), position)
    try:
        letters = DeadLetterFile(folder.letters)
        try:
            ingest = build_ingest(config, source.partitions, folder.scratch)
            training = build_training(config, folder.trace, folder.scratch, say)
        except (AssertionError, MemoryError, OverflowError, ValueError) as error:
            if type(error) in _OF_NUMBERS:
                raise Unbuildable(error) from error
            raise
        if resumed is not None and state is not None:
            _restore(resumed, state, ingest, training, letters)
            del state  # as large as everything that was just restored from it
        else:  # what a run left that was killed before its first checkpoint
            training.trace.restore(Trace.NOTHING)
            letters.restore(DeadLetterFile.NOTHING)
        learned_before = training.metrics.examples
        ahead = Ahead(
            source,
            ingest,
            letters=letters,
            clock=time.monotonic,
            barrier_every_s=config.checkpoint.every_s if keep else None,
            drain=drain,
            resumed=resumed is not None,
            waiting=lambda: show(training),
        )
        saved: list[Checkpoint] = [resumed] if resumed else []

        def on_saved(checkpoint: Checkpoint) -> None:
            saved[:] = [checkpoint]
            ahead.saved(True)

        def on_failed(error: BaseException) -> None:
            ahead.saved(False)
            if isinstance(error, OSError):  # any other comes out of the saver and ends the run
                say(
                    f"{folder.checkpoints}: a checkpoint could not be written ({error}). Training "
                    "goes on, and the last one stays in force: make room."
                )

        saver = Saver(
            checkpoints,
            {"config_digest": config.digest()},
            saved=on_saved,
            failed=on_failed,
            written=training.recycle,
        )

        def show(training: Training) -> None:
            progress.update(lambda: snapshot(training, ahead.counts, saved))

        interruption.then(ahead.stop)
        try:
            with ahead:
                ended = train(ahead, training, saver.save if keep else _save_nothing, show)
        finally:
            saver.wait()
        show(training)
    finally:
        source.close()
        progress.close()
    wall_s = time.monotonic() - started
    learned = training.metrics.examples - learned_before
    result = {
        **training.metrics.summary({0: "(no scene)", **ingest.names}),
        "batches": training.batches,
        "counts": _counts(ahead.counts, letters),
        "resumed": resumed is not None,
        "ended": ended,
        "config_digest": config.digest(),
        "examples_digest": training.examples_digest,
        "weights_digest": training.learner.weights_digest(),
        "wall_s": round(wall_s, 3),
        "examples_per_s": round(learned / wall_s, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    folder.write_result({**result, "config": config.as_tables()})
    return Outcome(result, ended)


def build_ingest(config: Config, partitions: tuple[Partition, ...], scratch: Path) -> Ingest:
    """Build all that lies between the log and the learner."""
    schema = feature_schema(config)
    events = event_schema(config)
    features = Features(schema, config.state)
    return Ingest(
        partitions=partitions,
        order=EventTimeOrder(config.order, events, partitions),
        join=LabelJoin(config.join, Wait(config.train.positive_at), events),
        features=features,
        pending=PendingRows(
            features.columns(), memory_rows=config.train.pending_rows_in_memory, scratch=scratch
        ),
        batcher=Batcher(config.train.batch_size),
        ids=IdMap(config.ids),
        rehearsal=Rehearsal(config.rehearsal, config.train.seed),
        as_served=config.train.as_served,
        request_relative=schema.statistic_columns if schema.request_relative else None,
        own_sequences=schema.own_sequence_columns,
    )


def build_training(
    config: Config, trace: Path | None, scratch: Path, say: Say = lambda line: None
) -> Training:
    """Build the model, its metrics and the trace."""

    def on_failed(error: OSError) -> None:
        say(f"{trace}: the trace ends here, training goes on ({error}): make room.")

    schema = feature_schema(config)
    served = PendingRows({"p": (np.float32, None)}, scratch=scratch)
    return Training(
        learner=Learner(
            config.model,
            schema.model_shape(config.model.embedding_width),
            max_rows=config.ids.max_rows,
            seed=config.train.seed,
        ),
        metrics=Prequential(config.metrics),
        trace=Trace(trace, failed=on_failed),
        served=served if config.train.as_served else None,
        oracle=schema.oracle is not None,
    )


def _latest(checkpoints: Checkpoints, say: Say) -> tuple[Checkpoint, State] | None:
    latest = checkpoints.latest()
    if latest is None:
        return None
    checkpoint, state, refused = latest
    for corrupt in refused:
        say(str(corrupt))
    say(f"Resuming from {checkpoint.path} ({checkpoint.manifest['batches']:,} batches learned).")
    return checkpoint, state


def _restore(
    checkpoint: Checkpoint,
    state: State,
    ingest: Ingest,
    training: Training,
    letters: DeadLetterFile,
) -> None:
    """Put every part where the checkpoint left it. Raises `CheckpointError`."""
    try:
        ingest.restore(state["ingest"])
        training.restore(state["training"])
        letters.restore(state["ingest"]["letters"])
    except (LookupError, RuntimeError, TypeError, ValueError) as error:  # sound bytes, other parts
        raise CheckpointForeign(checkpoint.path, error) from error


def _save_nothing(*_: object) -> None:
    """Pass a barrier by: a run without a folder of its own keeps nothing."""


def _counts(counts: Counts, letters: DeadLetterFile) -> dict[str, Any]:
    join = dict(counts.join)
    return {
        "events": counts.events,
        "rejected": counts.rejected,
        "late_events": counts.late,  # later than order.lateness_s: placed at the earliest open time
        "late_clicks": join.pop("late"),  # after their impression had settled
        "after_idle": counts.after_idle,
        "hurried": counts.hurried,
        **join,
        "held": counts.held,
        "dead_letters": letters.counts,
    }
