"""An extraction in the space of the last generation: aligned, smoothed, compared with it.

n entities of a kind, W its width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extractor.align import stable
from extractor.changes import changed, cosines, smooth, stored
from extractor.clusters import Clusters
from extractor.config import ExtractorConfig
from extractor.extraction import CLUSTER, ITEM, Extraction
from extractor.last import Last
from extractor.space import Space, next_space
from knowledge_store.errors import KindsDiffer
from knowledge_store.kinds import Kind
from stream.state import State

Bools = npt.NDArray[np.bool_]
I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

LEAST_GAIN: Final = 0.02  # of mean cosine: less is what was learned, not how the space has turned
MOST_FITTED: Final = 65_536  # entities of a kind: a rotation of 64 dimensions has 2,016 unknowns


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedKind:
    """The vectors of one kind, old and new."""

    ids: U64  # (n,)
    seen: npt.NDArray[np.int64]  # (n,)
    new: npt.NDArray[Any]  # (n, W), in the dtype that is stored
    old: npt.NDArray[Any]  # (n, W), what is stored; zeros where there is none
    present: Bools  # (n,), whether there is
    changed: Bools  # (n,), whether the new one is to be written
    settled: Bools  # (n,), known to both generations and seen often enough to tell of drift
    of: int | None  # impressions of all that might have been extracted; None: of these

    def stored(self) -> npt.NDArray[Any]:
        """Return what the next generation holds (n, W): the old vector where it need not change."""
        return np.where(self.changed[:, None], self.new, self.old)

    def cosine(self) -> float | None:
        """Return the mean cosine of the settled entities' old and new vectors; None: no entity."""
        rows = _some(np.flatnonzero(self.settled))
        return float(cosines(self.old[rows], self.new[rows]).mean()) if rows.size else None

    def share(self, which: Bools) -> float:
        """Return the share of all impressions that are those of some of the entities (n,)."""
        total = int(self.seen.sum()) if self.of is None else self.of
        return float(self.seen[which].sum() / total) if total else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Aligned:
    """All kinds of the next generation."""

    at_ms: int
    kinds: Mapping[str, Kind]
    vectors: Mapping[str, AlignedKind]
    space: Space
    clusters: Clusters | None
    about: Mapping[str, Any]  # what the extraction says of itself

    def fitted(self, kind: str) -> int | None:
        """Return on how many entities a kind's map was fitted; None where it was taken over."""
        return None if self.space.how[kind] == "kept" else self.space.fitted[kind]

    def state(self) -> State:
        """Return what the generation after needs of this one."""
        clusters = {} if self.clusters is None else {"clusters": self.clusters.state()}
        return {"space": self.space.state(), **clusters}


def aligned(extraction: Extraction, last: Last | None, config: ExtractorConfig) -> Aligned:
    """Bring an extraction into the space of the last generation, None: of its own.

    Where the log has no categories, items get their clusters here: by their aligned vectors, so
    that a cluster keeps its number. Raises `KindsDiffer`, and `ExtractorError` where vectors cannot
    be stored, or clustered, at all.
    """
    vectors, space = _moved(extraction, [*extraction.kinds], last, config)
    clusters = None
    if extraction.pairs is not None:
        before = [*extraction.kinds]
        clusters, numbers = _clustered(vectors[ITEM], last, config)
        extraction = extraction.with_clusters(numbers)
        names = [name for name in extraction.kinds if name not in before]
        others, space_of_others = _moved(extraction, names, last, config)
        vectors |= others
        space = space.and_of(space_of_others)
    kinds = extraction.stored()
    if last is not None:
        _check(last, kinds, all_of_them=True)
    return Aligned(
        at_ms=extraction.at_ms,
        kinds=kinds,
        vectors=vectors,
        space=space,
        clusters=clusters,
        about=extraction.about,
    )


def _moved(
    extraction: Extraction, names: Sequence[str], last: Last | None, config: ExtractorConfig
) -> tuple[dict[str, AlignedKind], Space]:
    kinds = {name: kind for name, kind in extraction.stored().items() if name in names}
    if last is not None:
        _check(last, kinds)
    raw = {name: extraction.kinds[name] for name in names}
    olds = {name: _old(last, kinds[name], found.ids) for name, found in raw.items()}
    settled = {
        name: stable(found.seen, olds[name][1], least=config.min_seen)
        for name, found in raw.items()
    }
    rows = {name: _some(np.flatnonzero(m)) for name, m in settled.items() if name != CLUSTER}
    space = next_space(
        {name: raw[name].vectors for name in rows},
        None if last is None else last.space,
        {} if last is None else {name: (mine, olds[name][0][mine]) for name, mine in rows.items()},
        least_gain=LEAST_GAIN,
    )
    vectors = {}
    for name, found in raw.items():
        old, present = olds[name]
        new = found.vectors
        if name != CLUSTER:
            new = space.apply(name, new)
            if config.smooth:
                new = smooth(old, new, present, config.smooth)
        tolerance = 0.0 if name == CLUSTER else config.tolerance
        vectors[name] = AlignedKind(
            ids=found.ids,
            seen=found.seen,
            new=stored(new, kinds[name].numpy),
            old=old,
            present=present,
            changed=changed(old, new, tolerance, present),
            settled=settled[name],
            of=found.of,
        )
    return vectors, space


def _some(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return at most `MOST_FITTED` of the rows, evenly spread."""
    return rows[:: -(-rows.size // MOST_FITTED)] if rows.size else rows


def _check(last: Last, kinds: Mapping[str, Kind], *, all_of_them: bool = False) -> None:
    there = last.manifest.kinds
    if any(there.get(name) != kind for name, kind in kinds.items()) or (
        all_of_them and there.keys() != kinds.keys()
    ):
        raise KindsDiffer(last.manifest.name, there.values(), kinds.values())


def _old(last: Last | None, kind: Kind, ids: U64) -> tuple[npt.NDArray[Any], Bools]:
    if last is None:
        return np.zeros((ids.size, kind.width), kind.numpy), np.zeros(ids.size, np.bool_)
    return last.stored(kind.name, ids)


def _clustered(
    items: AlignedKind, last: Last | None, config: ExtractorConfig
) -> tuple[Clusters, I32]:
    """Return the clusters, and the number (n,) of each item's; −1: it has none."""
    vectors = items.stored().astype(np.float32)
    clusters = Clusters(config.clusters, vectors.shape[1])
    if last is None or "clusters" not in last.state:
        clusters.fit(vectors)
        return clusters, clusters.assign(vectors)
    clusters.restore(last.state["clusters"])
    clusters.refresh(vectors)
    before, known = last.stored(CLUSTER, items.ids)
    numbers = np.where(known, before[:, 0].astype(np.int32), np.int32(-1))
    return clusters, clusters.assign(vectors, numbers)
