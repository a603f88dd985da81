"""A run of the extractor, and what it makes of each view: a generation of knowledge."""

import fcntl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from extractor.extract import extract
from extractor.guard import Decision
from extractor.refresh import Refresher
from extractor.refreshed import Refreshed
from keepstream.around import Around
from keepstream.commands.knowledge_look import utc
from keepstream.commands.training import run_folder
from keepstream.config import Config
from keepstream.inputs import Bounded, opener, reads_of
from keepstream.kafka import around, reads_examples, reads_of_topics, topics_opener
from keepstream.progress import Progress
from keepstream.reading import OpenSource, Say, feature_schema
from keepstream.running import run
from knowledge_store.errors import KnowledgeError
from knowledge_store.manifest import Manifest
from knowledge_store.store import KnowledgeStore
from stream.events import EventSchema
from stream.position import Partition, Position
from stream.source import Block, Source
from trainer.loop import Training
from trainer.view import View

_LOCK: Final = "refresh.lock"  # of a store: two extractors would align to each other
_FIGURES: Final = ("examples", "logloss", "normalized_entropy", "auc", "auc_request")


class RefreshRunning(KnowledgeError):
    """Another process refreshes the same store."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"{root}: another refresh of this store is running. Wait for it, or give it less to do "
            "([extractor] time_limit_s); what has died holds nothing."
        )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What the extractor learns from."""

    open: OpenSource
    reads: Callable[[], Mapping[str, Any]]  # what a run may go on with only if it is the same
    around: Around | None
    follow: bool  # it ends only by a signal


def old_log(
    config: Config, inputs: Sequence[Path], from_ms: int | None, until_ms: int | None
) -> Opened:
    """Return the files, or the archive, that an extractor reads to their end."""
    return Opened(
        open=opener(config, inputs, from_ms=from_ms, until_ms=until_ms),
        reads=lambda: reads_of(config, inputs, from_ms=from_ms, until_ms=until_ms),
        around=None,
        follow=False,
    )


def live_log(config: Config, log: Path | None, *, follow: bool, say: Say) -> Opened:
    """Return the file log or the topics that an extractor follows, or reads to their end."""
    on_kafka = bool(config.kafka.bootstrap) and log is None
    paths = [log or Path(config.log.root)]
    opened = (
        topics_opener(config, say, until_end=not follow)
        if on_kafka
        else opener(config, paths, follow=True)
    )

    def open_source(schema: EventSchema, position: Position) -> Source:
        source = opened(schema, position)
        if follow:
            return source
        return Bounded(source, lambda: True, examples=on_kafka and reads_examples(config))

    return Opened(
        open=open_source,
        reads=lambda: reads_of_topics(config) if on_kafka else reads_of(config, paths),
        around=around(config, say) if on_kafka else None,
        follow=follow,
    )


@contextmanager
def store_of(config: Config) -> Iterator[KnowledgeStore]:
    """Hold the store of the configuration, made where there is none. Raises `RefreshRunning`."""
    store = KnowledgeStore(Path(config.knowledge.store), create=True)
    with (store.root / _LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefreshRunning(store.root) from error
        yield store


class Refreshing:
    """Learns all scenes, and makes generations on the way."""

    def __init__(
        self,
        config: Config,
        store: KnowledgeStore,
        *,
        by_clock: bool,
        every_s: float | None,
        keep: int | None,
        say: Say,
    ) -> None:
        """Write into ``store``, which is held.

        ``by_clock``: a generation is in force from when it is there, else from
        ``extractor.lag_s`` after its time. ``every_s`` of event time one is made; None: where the
        log ends. Of old ones the newest ``keep`` stay, None: all.
        """
        self._config = config
        self._store = store
        self._by_clock = by_clock
        self.every_ms = None if every_s is None else max(1, round(1000 * every_s))
        self._keep = keep
        self._say = say
        self._schema = feature_schema(config)
        self._refresher = Refresher(
            store,
            config.extractor,
            clock=time.monotonic,
            wall_ms=(lambda: round(1000 * time.time())) if by_clock else None,
            say=say,
        )
        self._goes_on = False
        self.counts: dict[str, int] = {}
        self.last: Refreshed | None = None
        self._first: Manifest | None = None  # the store's first generation, once it was asked for
        self.failed: Exception | None = None  # what became of the last one, where it failed

    def run(self, opened: Opened, folder: Path, *, fresh: bool, quiet: bool) -> dict[str, Any]:
        """Learn until the source ends; return what training says of itself."""
        config = self._config
        self._goes_on = opened.follow
        limit_s = None if opened.follow else config.extractor.time_limit_s

        def open_source(schema: EventSchema, position: Position) -> Source:
            source = opened.open(schema, position)
            return source if limit_s is None else Limited(source, limit_s, time.monotonic)

        progress = Progress(sys.stderr, time.monotonic, quiet=quiet)
        with run_folder(folder, fresh=fresh) as held:
            outcome = run(
                config,
                open_source,
                held,
                reads=opened.reads(),
                keep=True,
                drain=False,
                progress=progress,
                say=self._say,
                around=opened.around,
                view=self.view,
                view_every_s=None if self.every_ms is None else self.every_ms / 1000,
            )
        return {key: outcome.result.get(key) for key in (*_FIGURES, "wall_s", "resumed", "ended")}

    def view(self, view: View, training: Training) -> None:
        """Make a generation of a view."""
        if self.every_ms is not None and view.at_ms % self.every_ms:
            return  # where a run ends is no boundary: one that goes on would not have it
        if not training.batches:
            self._say(f"No generation as of {utc(view.at_ms)}: nothing has been learned yet.")
            return
        try:
            self._take(view, training)
            self.failed = None
        except KnowledgeError as error:
            if not self._goes_on:
                raise
            self.failed = error  # the next one may do: a store is busy, or full, for a while
            self._count("failed")
            self._say(f"No new generation as of {utc(view.at_ms)}: {error}")

    def _take(self, view: View, training: Training) -> None:
        began, config = time.monotonic(), self._config
        from_ms = None
        if not self._by_clock:
            from_ms = view.at_ms + round(1000 * config.extractor.lag_s)
        refreshed = self._refresher.again(view.at_ms, from_ms=from_ms, began=began)
        if refreshed is None:
            whole = self._refresher.rebuild_due()
            extraction = extract(
                self._schema,
                config.state,
                training.learner,
                view,
                config.extractor,
                everybody=whole,
            )
            extract_s = time.monotonic() - began
            figures = training.metrics.glance()
            window = figures["window"] or {}
            refreshed = self._refresher.refresh(
                extraction,
                whole=whole,
                from_ms=from_ms,
                began=began,
                loss=window.get("normalized_entropy"),
                clicks=window.get("clicks"),
                learned=training.metrics.examples,
                about={
                    "metrics": {key: figures.get(key) for key in _FIGURES},
                    "extract_s": round(extract_s, 3),
                },
            )
        self.last = refreshed
        took_s = time.monotonic() - began
        passed = self._passed(refreshed, view.at_ms)
        self._count(
            "passed" if passed else
            "repeated" if refreshed.repeated else refreshed.verdict.decision.value
        )  # fmt: skip
        self._say(passed or told(refreshed, took_s))
        if self._keep is not None and not refreshed.repeated:
            self._prune(self._keep)

    def _passed(self, refreshed: Refreshed, at_ms: int) -> str | None:
        """Return a line where the store began behind ``at_ms``: no generation is made before."""
        manifest = refreshed.manifest
        if not refreshed.repeated or manifest is None or manifest.trained_until_ms == at_ms:
            return None
        if self._first is None:
            self._first = next(iter(self._store.generations()), None)
        first = self._first
        if first is None or first.number > 1 or first.trained_until_ms <= at_ms:
            return None  # what was made as of then may have been pruned, or refused
        return (
            f"nothing as of {utc(at_ms)}: this store begins with {first.name}, trained until "
            f"{utc(first.trained_until_ms)}. Generations of times before need a store of their "
            "own: set another as [knowledge] store."
        )

    def _prune(self, keep: int) -> None:
        try:
            self._store.prune(keep)
        except (KnowledgeError, OSError) as error:  # the generation is in force all the same
            self._say(f"Old generations stay until the next refresh: {error}")

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def done(self) -> bool:
        """Whether what was due has been done: a last generation that is held has not."""
        if self.last is None:
            return self.every_ms is not None and self.failed is None  # no boundary was passed
        if self.counts.keys() == {"passed"}:
            return False
        accepted = self.last.verdict.decision is Decision.ACCEPT
        return accepted and self.last.switch is not None and self.failed is None

    def to_json(self) -> dict[str, Any]:
        """Return what was made, for a monitor."""
        last = self.last.to_json() if self.last else {"generation": None, "decision": None}
        error = None if self.failed is None else str(self.failed)
        return {**last, "made": dict(self.counts), "error": error}

    def as_text(self) -> str:
        """Return what was made, as lines for people."""
        if self.last is None:
            return "none: " + (
                "nothing has been learned yet."
                if self.every_ms is None
                else "no boundary has been passed since the last one."
            )
        made = ", ".join(f"{n:,} {what}" for what, n in self.counts.items())
        return f"{told(self.last)}\n({made})" if sum(self.counts.values()) > 1 else told(self.last)


def told(refreshed: Refreshed, took_s: float | None = None) -> str:
    """Return a line on a refresh; it begins with "in force", "held" or "refused"."""
    manifest, switch = refreshed.manifest, refreshed.switch
    reasons = " ".join(refreshed.verdict.reasons)
    if manifest is None:
        return f"refused: {reasons}"
    took = "" if took_s is None else f" ({took_s:.1f} s)"
    if refreshed.verdict.decision is Decision.HOLD:
        return f"held: {manifest.name}, trained until {utc(manifest.trained_until_ms)}. {reasons}"
    vectors, written = sum(manifest.counts.values()), sum(manifest.changed.values())
    since = f"in force: {manifest.name} from {utc(switch.from_ms)} on" if switch else (
        f"not in force: {manifest.name}, as another was put in force meanwhile (if it is right "
        f"all the same: keepstream knowledge activate {manifest.name})"
    )  # fmt: skip
    again = ", made before" if refreshed.repeated else ""
    return (
        f"{since}, trained until {utc(manifest.trained_until_ms)}{again}; "
        f"{written:,} of {vectors:,} vectors written{took}"
    )


class Limited:
    """A source that ends after so many seconds; what it has not given yet comes the next time."""

    def __init__(self, source: Source, limit_s: float, clock: Callable[[], float]) -> None:
        self._source = source
        self._until = clock() + limit_s
        self._clock = clock

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The partitions of the source."""
        return self._source.partitions

    @property
    def schema(self) -> EventSchema:
        """What its events carry."""
        return self._source.schema

    @property
    def grown(self) -> bool:
        """Whether the source has ended because its topics have got new partitions."""
        return bool(getattr(self._source, "grown", False))

    def __iter__(self) -> Iterator[Block]:
        for block in self._source:
            yield block
            if self._clock() >= self._until:
                return

    def close(self) -> None:
        """Close the source."""
        self._source.close()
