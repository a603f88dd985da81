"""Which generation is in force at which event time: a pure value, searched by columns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from knowledge_store.errors import SwitchOutOfOrder

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """From an event time on, a generation is in force."""

    from_ms: int  # event time; the generation has learned from nothing at or after it
    generation: str


@dataclass(frozen=True, init=False)
class Schedule:
    """Switches in the order of their times, no two at the same one.

    >>> Schedule([Switch(from_ms=10, generation="g-00000001")]).at(np.array([9, 10, 11]))
    array([-1,  0,  0])
    """

    switches: tuple[Switch, ...]
    _from_ms: I64 = field(repr=False, compare=False)

    def __init__(self, switches: Iterable[Switch] = ()) -> None:
        given = tuple(switches)
        for before, after in pairwise(given):
            if after.from_ms <= before.from_ms:
                raise SwitchOutOfOrder(after.generation, after.from_ms, before.from_ms)
        object.__setattr__(self, "switches", given)
        object.__setattr__(self, "_from_ms", np.array([s.from_ms for s in given], np.int64))

    def at(self, at_ms: I64) -> npt.NDArray[np.intp]:
        """Return the index of the switch in force at each time (n,) in ms, -1 before the first."""
        return np.searchsorted(self._from_ms, at_ms, side="right") - 1

    def with_switch(self, switch: Switch) -> "Schedule":
        """Return this schedule with one more switch; one at the last one's time takes its place.

        Raises `SwitchOutOfOrder` where it lies before the last: what was learned stays learned.
        """
        kept = self.switches
        if kept and kept[-1].from_ms == switch.from_ms:
            kept = kept[:-1]
        return Schedule((*kept, switch))

    @property
    def last(self) -> Switch | None:
        """The switch that is in force from its time on, None where there is none."""
        return self.switches[-1] if self.switches else None

    def __len__(self) -> int:
        return len(self.switches)

    def __iter__(self) -> Iterator[Switch]:
        return iter(self.switches)
