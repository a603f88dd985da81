"""Which embedding row an id has: collisionless, bounded, with admission and expiry.

Row 0 stands for "no id": an id that is absent (0), not yet admitted, or refused for want of room.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from stream.state import State
from stream.table import grown, new_table
from trainer import idkernel as kernel
from trainer.generations import Generations

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Scalar = TypeVar("Scalar", bound=np.generic)

_FIRST_ROWS: Final = 1024
_LEAST_SWEEP: Final = 1024  # expired ids that any call may free


@dataclass(frozen=True, kw_only=True)
class IdMapConfig:
    """How many ids have a row, and which get and keep one."""

    max_rows: int = 10_000_000  # row 0 included; at most 76 bytes here, and an embedding, for each
    admit_after: int = 1  # occurrences until an id gets a row; more where ids seen once abound
    expire_after_s: float | None = None  # event time since last use; None: no id expires
    max_candidates: int = 1_000_000  # ids counted towards admission, twice; 48 bytes each

    def __post_init__(self) -> None:
        if not 2 <= self.max_rows < 1 << 31:
            raise ValueError(f"max_rows is {self.max_rows}. Set it to 2 … 2,147,483,647.")
        for name in ("admit_after", "max_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to 1 or more.")
        if self.expire_after_s is not None and not self.expire_after_s > 0:
            raise ValueError(
                f"expire_after_s is {self.expire_after_s}. Set it above 0, or leave it out."
            )


@dataclass(frozen=True, eq=False)
class Admitted:
    """The rows of a batch of ids, and how the map changed: evictions first, then what is fresh."""

    rows: I64  # in the shape of the ids; 0 where there is none
    fresh_rows: I32  # given to new ids: reset them before use
    fresh_ids: U64
    evicted_rows: I32  # their ids are gone; the same row may be among the fresh ones
    evicted_ids: U64


class IdMap:
    """Maps ids (64-bit hashes) to rows 1 … max_rows − 1.

    Memory at the bound: 32 to 64 bytes a row, 12 more; another 16 with expiry; and the candidates.

    An id that `admit` has not been given for ``expire_after_s`` expires, within 1/64 of that time
    more; each call frees rows of expired ids, the longest unused first, as many as it is
    given ids (and 1,024 in any case). Where all rows are in use, new ids are refused, not old ones
    evicted: they have been trained. Rows given back are given out again, the last one first.
    """

    def __init__(self, config: IdMapConfig | None = None) -> None:
        self._config = config or IdMapConfig()
        expiry = self._config.expire_after_s
        self._tick_ms = 0 if expiry is None else ceil(expiry * 1000 / kernel.TICKS)
        self._clear(_FIRST_ROWS)

    def _clear(self, capacity: int) -> None:
        self._slots = new_table(capacity)
        self._counts = np.zeros(kernel.COUNTS, np.int64)
        self._counts[kernel.NEXT] = 1
        self._ids = np.zeros(capacity, np.int64)  # by row, 0 where it has none
        self._spare = np.zeros(capacity, np.int32)  # rows given back, the next to give again last
        linked = capacity if self._tick_ms else 1
        self._links = np.zeros((linked, 2), np.int32)  # by row: the row used before it, and after
        self._ticks = np.zeros(linked, np.int64)  # by row: its last use
        self._candidates = Generations(limit=self._config.max_candidates, width=2)

    def __len__(self) -> int:
        """Ids that have a row."""
        return int(self._counts[kernel.NEXT] - 1 - self._counts[kernel.SPARE])

    @property
    def next_row(self) -> int:
        """One more than the highest row ever given: what an embedding table must hold."""
        return int(self._counts[kernel.NEXT])

    @property
    def refused(self) -> int:
        """Occurrences of ids that were due a row when there was none."""
        return int(self._counts[kernel.REFUSED])

    def rows(self, ids: U64) -> I64:
        """Return the rows of ``ids``, in their shape, 0 where they have none; changes nothing."""
        flat = np.array(ids, np.uint64).reshape(-1).view(np.int64)
        rows = np.empty(flat.size, np.int64)
        kernel.look_up(self._slots, flat, rows)
        return rows.reshape(np.shape(ids))

    def admit(self, ids: U64, at_ms: int) -> Admitted:
        """Use ``ids`` (any shape) at ``at_ms``: give rows to new ones, free those of expired ones.

        Time does not run backwards: an ``at_ms`` before an earlier one counts as that.
        """
        flat = np.array(ids, np.uint64).reshape(-1).view(np.int64)
        self._reserve(flat.size)
        sweep = 0
        if self._tick_ms:
            sweep = max(flat.size, _LEAST_SWEEP)
            self._counts[kernel.NOW] = max(self._counts[kernel.NOW], at_ms // self._tick_ms)
        self._counts[kernel.FRESH] = self._counts[kernel.GONE] = 0
        rows = np.empty(flat.size, np.int64)
        fresh = np.empty(flat.size, np.int32)
        gone = np.empty(sweep, np.int32)
        gone_ids = np.empty(sweep, np.int64)
        kernel.admit(
            self._slots, self._ids, self._links, self._ticks, self._spare, self._counts,
            self._candidates.index, self._candidates.rows, self._candidates.sizes,
            self._config.max_rows, self._config.admit_after, self._tick_ms > 0,
            flat, rows, fresh, gone, gone_ids,
        )  # fmt: skip  # by topic
        fresh = fresh[: self._counts[kernel.FRESH]].copy()
        n = int(self._counts[kernel.GONE])
        return Admitted(
            rows.reshape(np.shape(ids)),
            fresh,
            self._ids[fresh].view(np.uint64),
            gone[:n].copy(),
            gone_ids[:n].copy().view(np.uint64),
        )

    def _reserve(self, more: int) -> None:
        """Make room for ``more`` new ids, as far as the bound allows; capacities double."""
        config = self._config
        if config.admit_after > 1:
            self._candidates.reserve(more)
        self._slots = grown(self._slots, min(len(self) + more, config.max_rows))
        capacity = self._ids.size
        need = min(self.next_row + more, config.max_rows)
        if need > capacity:
            while capacity < need:
                capacity *= 2
            capacity = min(capacity, config.max_rows)
            self._ids = _longer(self._ids, capacity)
            self._spare = _longer(self._spare, capacity)
            if self._tick_ms:
                self._links = _longer(self._links, capacity)
                self._ticks = _longer(self._ticks, capacity)

    def state(self) -> State:
        """Return a copy of which row has which id, and of all that decides what follows."""
        order = np.empty(len(self) if self._tick_ms else 0, np.int32)
        kernel.in_order_of_use(self._links, order)
        return {
            "ids": self._ids[: self.next_row].copy().view(np.uint64),
            "spare": self._spare[: self._counts[kernel.SPARE]].copy(),
            "used": order,  # rows, the one unused for longest first …
            "used_at": self._ticks[order] if self._tick_ms else np.zeros(0, np.int64),  # … in ticks
            "now": int(self._counts[kernel.NOW]),
            "refused": self.refused,
            "candidates": self._candidates.state(),
        }

    def restore(self, state: State) -> None:
        """Continue as the map that gave ``state``; it must have been configured alike."""
        ids = np.array(state["ids"], np.uint64).view(np.int64)
        spare = np.asarray(state["spare"], np.int32)
        order = np.asarray(state["used"], np.int32)
        live = ids.size - 1 - spare.size
        if ids.size > self._config.max_rows or order.size != (live if self._tick_ms else 0):
            raise ValueError(
                f"a state of {ids.size} rows does not fit this id map (max_rows "
                f"{self._config.max_rows}, expire_after_s {self._config.expire_after_s}): "
                "resume with the configuration it was made with"
            )
        self._clear(max(ids.size, _FIRST_ROWS))
        self._ids[: ids.size] = ids
        self._spare[: spare.size] = spare
        self._counts[kernel.NEXT] = ids.size
        self._counts[kernel.SPARE] = spare.size
        self._counts[kernel.NOW] = state["now"]
        self._counts[kernel.REFUSED] = state["refused"]
        kernel.put_all(self._slots, self._ids, ids.size)
        kernel.link_all(self._links, order)
        if self._tick_ms:
            self._ticks[order] = state["used_at"]
        self._candidates.restore(state["candidates"])


def _longer(column: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    longer = np.zeros((size, *column.shape[1:]), column.dtype)
    longer[: len(column)] = column
    return longer
