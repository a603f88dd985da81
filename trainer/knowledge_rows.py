"""The columns that carry an impression's knowledge, and rows from before they were there.

n rows, J kinds, K the sum of their widths.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from knowledge_store.kinds import Kind
from stream.pending import ColumnSpec
from stream.state import State

Columns = dict[str, npt.NDArray[Any]]

VECTORS: Final = "knowledge"
KNOWN: Final = "known"


class KnowledgeRows:
    """Which kinds a row carries, and where: one after another, in the order of their names."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self.kinds = tuple(sorted(kinds, key=lambda kind: kind.name))
        self.dtype = np.dtype(np.result_type(np.float16, *(kind.dtype for kind in self.kinds)))
        ends = [*accumulate(kind.width for kind in self.kinds)]
        self.width = ends[-1] if ends else 0
        self._places = {
            kind.name: slice(end - kind.width, end)
            for kind, end in zip(self.kinds, ends, strict=True)
        }

    @property
    def shape(self) -> tuple[tuple[str, int], ...]:
        """Names and widths, as `ModelShape.knowledge` has them."""
        return tuple((kind.name, kind.width) for kind in self.kinds)

    def columns(self) -> ColumnSpec:
        """Return what is added to a waiting row: (n, K) and (n, J)."""
        return {VECTORS: (self.dtype, self.width), KNOWN: (np.bool_, len(self.kinds))}

    def none(self, n: int) -> Columns:
        """Return the columns of ``n`` impressions of which nothing is known."""
        return {
            VECTORS: np.zeros((n, self.width), self.dtype),
            KNOWN: np.zeros((n, len(self.kinds)), np.bool_),
        }

    def put(self, columns: Columns, kind: str, values: npt.NDArray[Any], known: Any) -> None:
        """Write the vectors of a kind (n, W) into ``columns``, and of whom they are known (n,)."""
        columns[VECTORS][:, self._places[kind]] = values
        columns[KNOWN][:, [k.name for k in self.kinds].index(kind)] = known

    def to_json(self) -> list[list[Any]]:
        """Return the kinds as a state holds them."""
        return [[kind.name, kind.width, kind.dtype] for kind in self.kinds]

    @classmethod
    def from_json(cls, kinds: Sequence[Sequence[Any]]) -> "KnowledgeRows":
        """Return what `to_json` gave."""
        return cls([Kind(name=name, width=width, dtype=dtype) for name, width, dtype in kinds])

    def of(self, rows: Columns, before: "KnowledgeRows | None") -> Columns:
        """Return the knowledge of ``rows``, which carry that of ``before``: what both have."""
        columns = self.none(len(next(iter(rows.values()))))
        for j, kind in enumerate(before.kinds if before else ()):
            if kind in self.kinds and before is not None:
                values = rows[VECTORS][:, before._places[kind.name]]
                self.put(columns, kind.name, values, rows[KNOWN][:, j])
        return columns


def refitted(
    state: Mapping[str, Any], before: KnowledgeRows | None, after: KnowledgeRows | None
) -> State:
    """Return the state of an ingest with the knowledge of ``after`` in all rows that it holds.

    Rows that wait keep the vectors of the kinds that both have, and have none of the others.
    """

    def fit(rows: Columns) -> Columns:
        if not rows:
            return rows
        rest = {name: column for name, column in rows.items() if name not in (VECTORS, KNOWN)}
        return rest | (after.of(rows, before) if after else {})

    pending, batcher, rehearsal = state["pending"], state["batcher"], state["rehearsal"]
    chunks = {number: fit(rows) for number, rows in pending["chunks"].items()}
    held = fit(dict(batcher["held"])) if "held" in batcher else {}
    if "columns" in rehearsal:
        rehearsal = {**rehearsal, "columns": fit(rehearsal["columns"])}
    return {
        **state,
        "pending": {**pending, "chunks": chunks},
        "batcher": {**batcher, "held": held},
        "rehearsal": rehearsal,
    }
