"""Gives each impression its knowledge when it is shown, and takes up new generations.

m accepted impressions, K knowledge width, J kinds (docs/architecture.md §12).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from knowledge_store.errors import (
    GenerationCorrupt,
    KnowledgeError,
    NoSuchGeneration,
    UnknownKind,
)
from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.knowledge import Knowledge
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Switch
from knowledge_store.store import KnowledgeStore
from stream.digest import ExamplesDigest
from stream.events import EventColumns
from stream.pending import ColumnSpec
from stream.state import State
from trainer.knowledge_config import KnowledgeConfig
from trainer.knowledge_in_force import InForce
from trainer.knowledge_journal import (
    JournalError,
    KnowledgeJournal,
    Taken,
    read_journal,
    schedule_of,
)
from trainer.knowledge_rows import KNOWN, VECTORS, Columns, KnowledgeRows

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

INTERACTION: Final = "interaction"
CLUSTER: Final = "cluster"
_OF_EVENTS: Final = {"user": "user", "item": "item", CLUSTER: "item", "scene": "scene"}
_LONG_AGO: Final = -(1 << 62)  # before any look-up, ms


class OtherGeneration(JournalError):
    """A generation is not the one that the journal names."""

    def __init__(self, taken: Taken, root: Path, digest: str) -> None:
        super().__init__(
            f"{root}: {taken.generation} has the digest {digest}, and the journal names that with "
            f"{taken.digest}: it was built anew, or is another store's. Name the store of the run "
            "([knowledge] store), or start over with --fresh."
        )


class NoIds(KnowledgeError):
    """Events do not say whose vectors of a kind they ask for."""

    def __init__(self, kind: str, name: str, features: Sequence[str]) -> None:
        why = f"there is no kind {CLUSTER!r} either" if not name else f"{name!r} is none of them"
        super().__init__(
            f"The kind {kind!r} needs an id that events carry, and {why}: they carry "
            f"{', '.join(sorted(features)) or 'none'}. Add it to features.ids, name another as "
            "[knowledge] category, or leave the kind out of [knowledge] kinds."
        )


class KnowledgeFeed:
    """The knowledge of every accepted impression, as of its `at`.

    What it gives is a function of the events and the journal: how events are cut into blocks, and
    when a switch was noticed, changes nothing else. Memory: two readers' caches, at most
    ``cache_mb`` together, and the journal's.
    """

    def __init__(
        self,
        config: KnowledgeConfig,
        *,
        features: Sequence[str] = (),
        journal: KnowledgeJournal | None = None,
        given: Path | None = None,
        live: bool = False,
        clock: Callable[[], float] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Look up in ``config.store``.

        ``features`` are the names of `EventColumns.ids`, for the category of interactions and for
        kinds that are named so. ``given``: a journal whose switches are made, and no others.
        ``live``: what is activated is followed, looked for every ``config.watch_s`` by ``clock``
        (monotonic, seconds), unless ``config.follow`` says otherwise. ``tell`` is given lines for
        people.

        Raises:
            KnowledgeError: there is no store, no generation, no such kind, no id for one.
            JournalError: a journal is damaged, or of another run or store.

        """
        self._config = config
        self._features = {name: i for i, name in enumerate(features)}
        self._journal = journal or KnowledgeJournal()
        self._store = KnowledgeStore(Path(config.store))
        self._follows = given is None and (config.follow or _by_default(live)) == "current"
        self._clock = clock
        self._tell = tell
        self._begun = given is not None
        self._watched: float | None = None
        self._told: set[str] = set()
        self._later: list[Taken] = []  # activated for times that have not come yet
        if given is not None:
            self._journal.begin_with(read_journal(given)[0], given)
        self._check_generations()
        self._knowledge = Knowledge(
            self._store,
            schedule_of(self._journal.switches),
            cache_bytes=max(1, (config.cache_mb << 20) // 2),  # two are open at a switch
        )
        self.rows = KnowledgeRows(self._kinds())
        self._looked = _LONG_AGO  # the last time that was looked up, ms
        self._counts = np.zeros(1 + len(self.rows.kinds), np.int64)  # impressions, then by kind
        self._digest = ExamplesDigest()

    def _kinds(self) -> Sequence[Kind]:
        there = self._knowledge.kinds
        names = self._config.looked_up or [name for name in there if name != CLUSTER]
        for name in names:
            if name not in there:
                raise UnknownKind(name, str(self._store.root), sorted(there))
        for name in names:
            source = self._config.category if name == INTERACTION else name
            if name == INTERACTION and not source and CLUSTER in there:
                continue
            if _event_id(source) is None and source not in self._features:
                raise NoIds(name, source, [*self._features])
        return [there[name] for name in names]

    def columns(self) -> ColumnSpec:
        """Return what a waiting row has besides its features."""
        return self.rows.columns()

    def in_force(self) -> InForce:
        """Return what is used at this moment."""
        used = [t for t in self._journal.switches if t.from_ms <= self._looked]
        kinds = [kind.name for kind in self.rows.kinds]
        return InForce(
            taken=used[-1] if used else None,
            switches=len(used),
            looked_up=int(self._counts[0]),
            known=dict(zip(kinds, self._counts[1:].tolist(), strict=True)),
            digest=self._digest.hexdigest(),
        )

    def observe(self, events: EventColumns, accepted: I64) -> Columns:
        """Return `columns` of the impressions ``accepted`` (m,) of the next events, in order.

        Raises `KnowledgeError` where a generation of the schedule cannot be read; `FutureKnowledge`
        where it has learned from what it is asked about.
        """
        found = self.rows.none(accepted.size)
        if not accepted.size:
            return found
        at = events.at[accepted]
        self._take_up(int(at[-1]))
        told = self._tells_of(events.ts[accepted], at)
        for kind in self.rows.kinds:
            ids = self._ids(kind.name, events, accepted, at)
            if told is not None:
                ids = np.where(told, np.uint64(0), ids)
            vectors = self._knowledge.look_up(kind.name, ids, at)
            self.rows.put(found, kind.name, vectors.values, vectors.present)
        self._looked = int(at[-1])  # canonical order: the last is the latest
        self._counts[0] += accepted.size
        self._counts[1:] += found[KNOWN].sum(axis=0)
        self._digest.update(_words(found))
        return found

    def _tells_of(self, ts: I64, at: I64) -> npt.NDArray[np.bool_] | None:
        """Return which impressions (m,) have come so late that knowledge has learned from them.

        The stream places what is late, or was idle, behind its own time; the extractor may have had
        it in time, with its click. None: none of them.
        """
        late = np.flatnonzero(ts < at)
        if not late.size:
            return None
        told = np.zeros(ts.size, np.bool_)
        which = self._knowledge.schedule.at(at[late])
        until = {t.generation: t.trained_until_ms for t in self._journal.switches}
        for index in np.unique(which[which >= 0]).tolist():
            mine = late[which == index]
            told[mine] = ts[mine] < until[self._knowledge.schedule.switches[index].generation]
        return told

    def _ids(self, kind: str, events: EventColumns, accepted: I64, at: I64) -> U64:
        if kind != INTERACTION:
            return self._column(kind, events)[accepted]
        if self._config.category:
            categories = self._column(self._config.category, events)[accepted]
        else:
            clusters = self._knowledge.look_up(CLUSTER, events.item[accepted], at)
            numbers = clusters.values[:, 0].astype(np.uint64) + np.uint64(1)
            categories = np.where(clusters.present, numbers, np.uint64(0))
        return pair_ids(events.user[accepted], categories)

    def _column(self, name: str, events: EventColumns) -> U64:
        if name in self._features:
            return events.ids[:, self._features[name]]
        column: U64 = getattr(events, _event_id(name) or name)
        return column

    def _take_up(self, until_ms: int) -> None:
        """Begin with the store's switches; then look for new ones, every ``watch_s``.

        Of those that are followed only what is in force by ``until_ms`` is taken up: until its time
        comes an activation may be taken back.
        """
        if not self._begun or (self._follows and self._due()):
            try:
                if self._begun or self._follows or not self._journal.switches:
                    self._later = self._news(self._store.switches())
                    if not self._follows:
                        self._switch(self._later)
                self._begun = True
            except (KnowledgeError, OSError) as error:
                if not self._follows:
                    raise
                self._tell_once(f"No new knowledge is taken up meanwhile: {error}")
        if self._follows and self._later and self._later[0].from_ms <= until_ms:
            now = [taken for taken in self._later if taken.from_ms <= until_ms]
            self._later = self._later[len(now) :]
            try:
                last = now[-1].generation
                self._switch(
                    [t for t in now if self._opens(t.generation, stays=t.generation == last)]
                )
            except OSError as error:
                self._knowledge.forget_prepared()
                self._later = []  # the next look finds them, and a time behind this look-up
                self._tell_once(f"No new knowledge is taken up meanwhile: {error}")

    def _due(self) -> bool:
        now = self._clock() if self._clock is not None else 0.0
        if self._watched is not None and now - self._watched < self._config.watch_s:
            return False
        self._watched = now
        return True

    def _news(self, switches: Sequence[Switch]) -> list[Taken]:
        """Return what the store's ``switches`` change from the first time on that is still free.

        That is behind the last look-up, and not before the last switch taken: one that a kill has
        thrown the run back behind stays where it is.
        """
        taken = self._journal.switches
        free = max(self._looked + 1, taken[-1].from_ms if taken else _LONG_AGO)
        wanted: dict[int, str] = {}
        for switch in switches:
            wanted[max(switch.from_ms, free)] = switch.generation  # of one time the last counts
        news: list[Taken] = []
        waiting = {t.generation: t for t in self._later}
        last = taken[-1].generation if taken else None
        for from_ms, generation in wanted.items():
            if generation == last:
                continue
            try:
                there = waiting.get(generation) or Taken.of(self._fitting(generation), from_ms)
                news.append(replace(there, from_ms=from_ms))
            except KnowledgeError as error:
                if not self._follows:
                    raise
                self._tell_once(f"{generation} is not taken up: {error}")
                continue
            last = generation
        return news

    def _fitting(self, generation: str) -> Manifest:
        """Return the manifest of a generation that has our kinds."""
        manifest = self._store.manifest(generation)
        if dict(manifest.kinds) != dict(self._knowledge.kinds):
            raise OtherKinds(generation, self._store.root)
        return manifest

    def _opens(self, generation: str, *, stays: bool) -> bool:
        """Return whether a generation can be read: what cannot is not journalled, only told of."""
        try:
            if stays:
                self._knowledge.prepare(generation)
            else:
                self._store.reader(generation, cache_bytes=1).close()
        except (KnowledgeError, OSError) as error:
            self._tell_once(f"{generation} is not taken up: {error}")
            return False
        return True

    def _switch(self, news: Sequence[Taken]) -> None:
        """Make switches: 1 journal them, 2 look up by them."""
        schedule = schedule_of((*self._journal.switches, *news))
        self._journal.append(news)  # 1
        self._knowledge.follow(schedule)  # 2
        if len(news) > 1:
            self._tell(f"Knowledge: {len(news):,} switches, from {news[0].from_ms} ms on.")
        if news:
            last = news[-1]
            self._tell(f"Knowledge: {last.generation} is in force from {last.from_ms} ms on.")

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    def _check_generations(self) -> None:
        """Raise `OtherGeneration` where the store has another by the name of one taken."""
        for taken in {t.generation: t for t in self._journal.switches}.values():
            try:
                manifest = self._store.manifest(taken.generation)
            except (NoSuchGeneration, GenerationCorrupt):
                continue  # it may lie behind us: who looks it up is told
            if manifest.digest != taken.digest:
                raise OtherGeneration(taken, self._store.root, manifest.digest)

    def close(self) -> None:
        """Close what is open."""
        self._knowledge.close()

    def state(self) -> State:
        """Return the switches taken, how far was looked up, and what was found."""
        return {
            "kinds": self.rows.to_json(),
            "switches": [taken.to_json() for taken in self._journal.switches],
            "looked": self._looked,
            "counts": self._counts.copy(),
            "digest": self._digest.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; switches of the journal behind it stay as they were made.

        Raises `OtherJournal` where the journal is not the one of the state, `OtherGeneration`.
        """
        self._journal.begin_with([Taken.from_json(said) for said in state["switches"]])
        self._check_generations()
        self._knowledge.follow(schedule_of(self._journal.switches))
        self._looked = int(state["looked"])
        if state["kinds"] == self.rows.to_json():  # else what was counted was something else
            self._counts = np.array(state["counts"], np.int64)
            self._digest.restore(state["digest"])


class OtherKinds(KnowledgeError):
    """A generation has other vectors than those the model was built for."""

    def __init__(self, generation: str, root: Path) -> None:
        super().__init__(
            f"{root}: {generation} has other kinds or widths than the one before it. Build one "
            "with the same, or start the trainer again with a plug for these."
        )


def _event_id(kind: str) -> str | None:
    """Return the field of events that has the ids of a kind: of "item_state" too it is the item."""
    owner = kind.partition("_")[0]
    return _OF_EVENTS.get(kind) or (owner if owner in ("user", "item") else None)


def _by_default(live: bool) -> str:
    return "current" if live else "history"


def _words(found: Columns) -> Columns:
    """Return the columns with vectors as 64-bit words, which are digested four times as fast."""
    vectors = found[VECTORS]
    if vectors.shape[1] * vectors.itemsize % 8:
        return found
    return {**found, VECTORS: vectors.view(np.uint64)}
