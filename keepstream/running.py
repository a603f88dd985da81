"""One run: from the newest checkpoint, over a source, until it ends or is interrupted."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keepstream.around import Around
from keepstream.config import Config
from keepstream.progress import Progress
from keepstream.reading import OpenSource, Say, event_schema
from keepstream.runs import RunFolder
from keepstream.signals import Interruption
from keepstream.status import snapshot
from keepstream.wiring import Unbuildable, build_ingest, build_knowledge, build_training
from stream.deadletter_topic import FileAndTopic
from stream.deadletters import DeadLetterFile, DeadLetters
from stream.position import Position
from stream.source import Source
from stream.state import State
from trainer.ahead import Ahead
from trainer.checkpoint import Checkpoint, CheckpointForeign, Checkpoints
from trainer.ingest import Ingest
from trainer.items import Barrier, Counts
from trainer.loop import Training, train
from trainer.saver import Saver
from trainer.trace import Trace
from trainer.view import View

if TYPE_CHECKING:
    from trainer.knowledge_feed import KnowledgeFeed

_OF_NUMBERS = (AssertionError, MemoryError, OverflowError, ValueError)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    result: dict[str, Any]
    ended: bool  # the source has no more; False: it was interrupted


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
    around: Around | None = None,
    live: bool = False,
    knowledge_journal: Path | None = None,
    view: Callable[[View, Training], None] | None = None,
    view_every_s: float | None = None,
) -> Outcome:
    """Train on a source until it ends or is interrupted; go on from a checkpoint if there is one.

    ``reads`` says what the source is, as far as a run may go on only with the same. ``keep`` saves
    checkpoints into the folder. ``drain`` settles what waits when the source ends. A source that
    ends because its topics have got new partitions is opened again, and the run goes on.
    ``live``: generations of knowledge that are activated meanwhile are taken up. With a
    ``knowledge_journal``, of another run, exactly its switches are made. ``view`` is called every
    ``view_every_s`` of event time (None: not at all) and when the source or the run ends.
    """
    with Interruption() as interruption:
        if (changed := folder.claim(config, reads)) is not None:
            say(changed)
        one = _Run(
            config=config,
            open_source=open_source,
            folder=folder,
            keep=keep,
            drain=drain,
            progress=progress,
            say=say,
            around=around or Around(),
            live=live,
            knowledge_journal=knowledge_journal,
            view=view,
            view_every_s=view_every_s,
            interruption=interruption,
        )
        try:
            while (outcome := one.until_end()) is None:
                say("The topics have got new partitions: the run goes on with them.")
        finally:
            progress.close()
    return outcome


@dataclass(kw_only=True)
class _Run:
    """A run, over all partitions that its topics get meanwhile."""

    config: Config
    open_source: OpenSource
    folder: RunFolder
    keep: bool
    drain: bool
    progress: Progress
    say: Say
    around: Around
    live: bool
    knowledge_journal: Path | None
    view: Callable[[View, Training], None] | None
    view_every_s: float | None
    interruption: Interruption
    started: float = field(default_factory=time.monotonic)
    resumed: bool | None = None  # None: not begun yet
    learned_before: int = 0  # examples, by the runs that this one resumes

    def until_end(self) -> Outcome | None:
        """Run until the source ends; return None where it is to be opened again."""
        config, folder, say = self.config, self.folder, self.say
        checkpoints = Checkpoints(folder.checkpoints, config.checkpoint.keep)
        resumed, state = _latest(checkpoints, say) or (None, None)
        position = Position.from_json(state["ingest"]["position"]) if state else Position()
        source = self.open_source(event_schema(config), position)
        topic: FileAndTopic | None = None
        knowledge: KnowledgeFeed | None = None
        try:
            letters: DeadLetters = (file := DeadLetterFile(folder.letters))
            if self.around.letters is not None:
                letters = topic = FileAndTopic(file, self.around.letters(), say)
            knowledge = build_knowledge(
                config,
                journal=folder.journal,
                given=self.knowledge_journal,
                live=self.live,
                say=say,
            )
            ingest, training = self._build(source, knowledge)
            if resumed is not None and state is not None:
                _restore(resumed, state, ingest, training, letters)
                del state  # as large as everything that was just restored from it
            else:  # what a run left that was killed before its first checkpoint
                training.trace.restore(Trace.NOTHING)
                letters.restore(DeadLetterFile.NOTHING)
            if self.resumed is None:
                self.resumed = resumed is not None
                self.learned_before = training.metrics.examples
            ended, counts = self._learn(source, ingest, training, letters, checkpoints, resumed)
        finally:
            source.close()
            if topic is not None:
                topic.close()
            if knowledge is not None:
                knowledge.close()
        if ended and grown(source) and self.interruption.received is None:
            return None
        return Outcome(self._write_result(ingest, training, counts, letters, ended), ended)

    def _build(self, source: Source, knowledge: "KnowledgeFeed | None") -> tuple[Ingest, Training]:
        try:
            ingest = build_ingest(
                self.config,
                source.partitions,
                self.folder.scratch,
                examples=self.around.examples,
                knowledge=knowledge,
                view_every_s=self.view_every_s,
            )
            return ingest, build_training(
                self.config, self.folder.trace, self.folder.scratch, self.say, knowledge
            )
        except (AssertionError, MemoryError, OverflowError, ValueError) as error:
            if type(error) in _OF_NUMBERS:
                raise Unbuildable(error) from error
            raise

    def _learn(
        self,
        source: Source,
        ingest: Ingest,
        training: Training,
        letters: DeadLetters,
        checkpoints: Checkpoints,
        resumed: Checkpoint | None,
    ) -> tuple[bool, Counts]:
        """Learn until the source ends; return whether it did, and what became of the events."""
        ahead = Ahead(
            source,
            ingest,
            letters=letters,
            clock=time.monotonic,
            barrier_every_s=self.config.checkpoint.every_s if self.keep else None,
            drain=self.drain,
            resumed=resumed is not None,
            waiting=lambda: show(training),
            view_last=self.view is not None,
        )
        saved: list[Checkpoint] = [resumed] if resumed else []

        def on_saved(checkpoint: Checkpoint) -> None:
            saved[:] = [checkpoint]
            ahead.saved(True)
            self.around.saved(Position.from_json(checkpoint.manifest["position"]))

        def on_failed(error: BaseException) -> None:
            ahead.saved(False)
            if isinstance(error, OSError):  # any other comes out of the saver and ends the run
                self.say(
                    f"{checkpoints.root}: a checkpoint could not be written ({error}). Training "
                    "goes on, and the last one stays in force: make room."
                )

        saver = Saver(
            checkpoints,
            {"config_digest": self.config.digest()},
            saved=on_saved,
            failed=on_failed,
            written=training.recycle,
        )

        def save(barrier: Barrier, state: State, batches: int) -> None:
            if self.keep or (barrier.ended and grown(source)):  # to go on from, with more
                saver.save(barrier, state, batches)

        def show(training: Training) -> None:
            self.progress.update(lambda: snapshot(training, ahead.counts, saved))

        self.interruption.then(ahead.stop)
        try:
            with ahead:
                ended = train(ahead, training, save, show, self.view or _nobody)
        finally:
            saver.wait()
        show(training)
        return ended, ahead.counts

    def _write_result(
        self,
        ingest: Ingest,
        training: Training,
        counts: Counts,
        letters: DeadLetters,
        ended: bool,
    ) -> dict[str, Any]:
        wall_s = time.monotonic() - self.started
        learned = training.metrics.examples - self.learned_before
        result = {
            **training.metrics.summary({0: "(no scene)", **ingest.names}),
            "batches": training.batches,
            "counts": _counts(counts, letters),
            "resumed": bool(self.resumed),
            "ended": ended,
            **({"knowledge": said.to_json()} if (said := ingest.knowledge_in_force()) else {}),
            "config_digest": self.config.digest(),
            "examples_digest": training.examples_digest,
            "examples_set_digest": ingest.examples_set_digest,
            "weights_digest": training.learner.weights_digest(),
            "wall_s": round(wall_s, 3),
            "examples_per_s": round(learned / wall_s, 1),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        self.folder.write_result({**result, "config": self.config.as_tables()})
        return result


def _nobody(view: View, training: Training) -> None:
    """Do nothing: there is no extractor."""


def grown(source: Source) -> bool:
    """Return whether a source has ended because its topics have got new partitions."""
    return bool(getattr(source, "grown", False))


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
    letters: DeadLetters,
) -> None:
    """Put every part where the checkpoint left it. Raises `CheckpointError`."""
    try:
        ingest.restore(state["ingest"])
        training.restore(state["training"])
        letters.restore(state["ingest"]["letters"])
    except (LookupError, RuntimeError, TypeError, ValueError) as error:  # sound bytes, other parts
        raise CheckpointForeign(checkpoint.path, error) from error


def _counts(counts: Counts, letters: DeadLetters) -> dict[str, Any]:
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
