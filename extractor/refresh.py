"""A refresh: extracted vectors become the next generation, in the space of the last.

Why each step: docs/decisions/0014-refresh-without-shock.md. n entities, W width of a kind.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import orjson
from xxhash import xxh3_128

from extractor.aligning import Aligned, aligned
from extractor.config import ExtractorConfig
from extractor.errors import NotFinite
from extractor.extraction import CLUSTER, INTERACTION, Extraction
from extractor.guard import Decision, Guard, GuardConfig, KindReport, Report, Verdict
from extractor.last import (
    ABOUT,
    FILE,
    Last,
    decision_of,
    last_of,
    newest_first,
    note_switched,
    note_tried,
    packed,
    tried,
    was_switched,
)
from extractor.refreshed import Refreshed, Steps
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Switch
from knowledge_store.store import KnowledgeStore

_FADES: Final = 0.9  # what is left of a generation's share in the mean loss at the next one
_DOUBLED: Final = 2  # times as many examples as the last generation's model had learned
_OF_REFRESH: Final = ("clusters", "min_seen", "smooth", "tolerance")  # what decides a verdict


class Refresher:
    """Makes generations of one store, each in the space of the one in force.

    All that goes from one refresh to the next lies in the store: a process that is killed at any
    point leaves the generation in force as it was, and the next one goes on. Memory: the extracted
    vectors once more, what is stored for them, and what a build takes.
    """

    def __init__(
        self,
        store: KnowledgeStore,
        config: ExtractorConfig,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int] | None = None,
        guard: GuardConfig | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Refresh ``store``; ``clock`` gives seconds that only go forward.

        ``wall_ms`` (epoch ms) where the events come from now: no generation is in force before it
        was there. ``say`` is given lines for people.
        """
        self._store = store
        self._config = config
        self._clock = clock
        self._wall_ms = wall_ms
        self._say = say
        guard = guard or GuardConfig(
            min_cosine=config.min_cosine, max_loss_rise=config.max_loss_rise
        )
        self._guard = Guard(guard)
        tables = asdict(config)
        said = [{key: tables[key] for key in _OF_REFRESH}, asdict(guard)]
        self._digest = xxh3_128(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def rebuild_due(self) -> bool:
        """Return whether the next generation is to be written as a whole, from everybody."""
        manifest = last_of(self._store)
        said = manifest.about.get(ABOUT) if manifest is not None else None
        return said is None or said["since_rebuild"] + 1 >= self._config.rebuild_every

    def again(
        self, at_ms: int, *, from_ms: int | None = None, began: float | None = None
    ) -> Refreshed | None:
        """Return the generation that was made as of ``at_ms`` or later; None: it is to be made.

        A process that was stopped may not have put it in force: that is done now. One that was held
        is made, too, unless another guard is to judge it now.
        """
        manifest = self._made(at_ms)
        if manifest is None:
            return None
        said = manifest.about[ABOUT]
        verdict = Verdict(decision=Decision(said["decision"]), reasons=tuple(said["reasons"]))
        switches = [s for s in self._store.switches() if s.generation == manifest.name]
        switch = switches[-1] if switches else None
        lacks = switch is None and not was_switched(self._store, manifest)
        if switch is not None and not was_switched(self._store, manifest):
            note_switched(self._store, manifest)  # a kill has come between the two
        if lacks and verdict.decision is Decision.ACCEPT and self._is_next(manifest):
            if from_ms is not None:  # as of its own time, which may be a later one
                from_ms += manifest.trained_until_ms - at_ms
            began = self._clock() if began is None else began
            switch = self._activate(manifest, from_ms, began)
        return Refreshed(
            verdict=verdict,
            manifest=manifest,
            switch=switch,
            changed=said["changed"],
            repeated=True,
        )

    def _made(self, at_ms: int) -> Manifest | None:
        for manifest in newest_first(self._store):
            if (decision := decision_of(manifest)) is None:
                continue
            if manifest.trained_until_ms < at_ms:  # so were those before it
                return None
            same = manifest.about[ABOUT]["config"] == self._digest
            if decision == Decision.ACCEPT or (same and manifest.trained_until_ms == at_ms):
                return manifest
        return None

    def _is_next(self, manifest: Manifest) -> bool:
        """Return whether what it was to follow is in force still: nobody has switched since."""
        before: str | None = manifest.about[ABOUT]["after"]
        current = self._store.current()
        return before == (current.generation if current else None)

    def refresh(
        self,
        extraction: Extraction,
        *,
        whole: bool = False,
        from_ms: int | None = None,
        began: float | None = None,
        loss: float | None = None,
        clicks: int | None = None,
        learned: int | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Refreshed:
        """Make the next generation and, where the guard accepts it, put it in force.

        1 align and smooth, 2 judge, 3 write what has changed, 4 activate.

        ``whole``: the extraction is of everybody, and what is not in it is forgotten; otherwise
        such entities keep the vectors that they have. It is in force from ``from_ms`` (event time);
        without one, from as long after its time as it has taken since ``began`` (by the clock), and
        not before the wall's time. ``loss`` is the model's normalised log loss on what it had not
        learned, ``clicks`` of them; ``learned`` the examples it has learned: while they double from
        one refresh to the next it is young, and may drift. ``about`` is kept in the manifest.
        Raises `KindsDiffer`, and what the store raises.
        """
        began = self._clock() if began is None else began
        if (made := self.again(extraction.at_ms, from_ms=from_ms, began=began)) is not None:
            return made
        steps = Steps(self._clock)
        last = Last.of(self._store)
        with last if last is not None else nullcontext():
            if (broken := _broken(extraction)) is not None:
                return self._refused(broken, steps)
            try:
                with steps("align"):
                    found = aligned(extraction, last, self._config)
            except NotFinite as error:  # too large a number for what is stored
                broken = Verdict(decision=Decision.REFUSE, reasons=(str(error),))
                return self._refused(broken, steps)
            with steps("judge"):
                report = replace(
                    self._report(found, last, whole or last is None), loss=loss, clicks=clicks
                )
                young = last is not None and _is_young(learned, self._learned_before(last))
                verdict = self._guard.judge(_without_drift(report) if young else report)
                if learned is not None:
                    note_tried(self._store, learned)
            if verdict.decision is Decision.REFUSE:
                return self._refused(verdict, steps)
            said: dict[str, Any] = {
                "decision": verdict.decision.value,
                "reasons": list(verdict.reasons),
                "after": None if last is None else last.manifest.name,
                "space": dict(found.space.how),
                "fitted": dict(found.space.fitted),
                "changed": {name: int(k.changed.sum()) for name, k in found.vectors.items()},
                **_level(loss, clicks, {} if last is None else last.about),
                "learned": learned,
                "config": self._digest,
                "seconds": {step: round(s, 3) for step, s in steps.seconds.items()},
            }
            with steps("write"):
                base = None if whole or last is None else last
                manifest = self._build(found, base, said, {**(about or {}), **_figures(report)})
        switch = None
        if verdict.decision is Decision.ACCEPT:
            with steps("activate"):
                switch = self._activate(manifest, from_ms, began)
        else:
            self._tell(f"{manifest.name} is held", verdict)
        return Refreshed(
            verdict=verdict,
            manifest=manifest,
            switch=switch,
            changed=said["changed"],
            seconds=steps.seconds,
        )

    def _learned_before(self, last: Last) -> int | None:
        """Return what the model had learned at the refresh before, whatever became of that."""
        before: int | None = last.about.get("learned")
        return None if before is None else max(before, tried(self._store))

    def _report(self, found: Aligned, last: Last | None, whole: bool) -> Report:
        """Return what the guard judges by."""
        kinds = []
        for name, kind in found.vectors.items():
            before = 0 if last is None else last.manifest.counts[name]
            vectors = len(kind.ids) if whole else before + int((~kind.present).sum())
            drifts = last is not None and name != CLUSTER
            kinds.append(
                KindReport(
                    kind=name,
                    width=kind.new.shape[1],
                    vectors=vectors,
                    vectors_before=before if drifts else 0,
                    fitted=found.fitted(name) if drifts else None,
                    cosine=kind.cosine() if drifts else None,
                    coverage=None if name == CLUSTER else kind.share(np.any(kind.new, axis=1)),
                    least_coverage=name != INTERACTION,  # few have clicked, to begin with
                    coverage_before=kind.share(kind.present) if drifts else None,
                )
            )
        about: Mapping[str, Any] = {} if last is None else last.about
        return Report(
            kinds=tuple(kinds),
            loss_before=about.get("loss"),
            clicks_before=about.get("clicks"),
        )

    def _build(
        self, found: Aligned, base: Last | None, said: dict[str, Any], about: Mapping[str, Any]
    ) -> Manifest:
        said["since_rebuild"] = 0 if base is None else base.about.get("since_rebuild", 0) + 1
        with self._store.build(found.kinds, base.manifest.name if base else None) as build:
            for name, kind in found.vectors.items():
                rows = slice(None) if base is None else kind.changed
                build.put(name, kind.ids[rows], kind.stored()[rows])
            build.attach(FILE, packed(found.state()))
            return build.commit(
                trained_until_ms=found.at_ms, about={**found.about, **about, ABOUT: said}
            )

    def _activate(self, manifest: Manifest, from_ms: int | None, began: float) -> Switch:
        """Put it in force; never before a switch that has been made."""
        if from_ms is None:
            took_ms = math.ceil(1000 * (self._clock() - began))
            from_ms = manifest.trained_until_ms + took_ms
            if self._wall_ms is not None:
                from_ms = max(from_ms, self._wall_ms())
        current = self._store.current()
        if current is not None:
            from_ms = max(from_ms, current.from_ms)
        switch = self._store.activate(manifest.name, max(from_ms, manifest.trained_until_ms))
        note_switched(self._store, manifest)
        return switch

    def _refused(self, verdict: Verdict, steps: Steps) -> Refreshed:
        self._tell("The new generation is refused", verdict)
        return Refreshed(verdict=verdict, manifest=None, switch=None, seconds=steps.seconds)

    def _tell(self, what: str, verdict: Verdict) -> None:
        current = self._store.current()
        stays = f"{current.generation} stays in force" if current else "none is in force"
        self._say(f"{what}, and {stays}. {' '.join(verdict.reasons)}")


def _level(
    loss: float | None, clicks: int | None, before: Mapping[str, Any]
) -> dict[str, float | int | None]:
    """Return what the next generation's loss is compared with: the mean of the last, by clicks.

    So one window that is bad by chance is not what the next has to reach, and one without clicks
    does not end the comparison.
    """
    level, weight = before.get("loss"), before.get("clicks")
    if loss is None:
        return {"loss": level, "clicks": weight}
    if level is None or weight is None or clicks is None:
        return {"loss": loss, "clicks": clicks}
    kept = _FADES * weight
    total = kept + clicks
    mean = (kept * level + clicks * loss) / total if total else loss
    return {"loss": mean, "clicks": round(total)}


def _is_young(learned: int | None, before: int | None) -> bool:
    """Return whether a model has learned so little that its space is still to be found.

    Without this, vectors that are hardly more than random at first would bind all that follow.
    """
    return learned is not None and before is not None and learned >= _DOUBLED * before


def _without_drift(report: Report) -> Report:
    kinds = [replace(kind, cosine=None, fitted=None) for kind in report.kinds]
    return replace(report, kinds=tuple(kinds))


def _figures(report: Report) -> dict[str, Any]:
    """Return what lists of generations show of each: 1 − the mean cosine, and what is known."""
    drift = {k.kind: 1.0 - k.cosine for k in report.kinds if k.cosine is not None}
    coverage = {k.kind: k.coverage for k in report.kinds if k.coverage is not None}
    return {"drift": drift, "coverage": coverage}


def _broken(extraction: Extraction) -> Verdict | None:
    """Return the verdict on an extraction with which nothing can be computed; None: it is sound."""
    kinds = [
        KindReport(
            kind=name,
            width=found.vectors.shape[1],
            vectors=max(1, len(found)),  # that there are none may be: the base has them
            not_finite=int((~np.isfinite(found.vectors).all(axis=1)).sum()),
        )
        for name, found in extraction.kinds.items()
    ]
    verdict = Guard().judge(Report(kinds=tuple(kinds)))
    return verdict if verdict.decision is Decision.REFUSE else None
