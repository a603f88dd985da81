"""When an impression's feedback arrives: a constant, a column, or a draw that never changes.

A log that stores the label beside the impression has lost the moment of the click. Replay needs one
again, because a model that sees a click at once has seen the future.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from replay.errors import MappingError, nearest
from stream.ids import U64, salted

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

DISTRIBUTIONS: Final = {
    "lognormal": {"median_s", "sigma"},
    "exponential": {"mean_s"},
}
_LONGEST_S: Final = 366 * 86_400.0  # a draw past a year is cut there: event times stay in bounds


class Delay(Protocol):
    """From impression time to feedback time."""

    @property
    def column(self) -> str | None:
        """The column it reads, if any."""
        ...

    @property
    def column_is(self) -> Literal["seconds", "time"]:
        """What that column holds: seconds since the impression, or a time."""
        ...

    def feedback_ms(self, ts: I64, impression: U64, column: F64 | I64 | None) -> I64:
        """Return the feedback times (n,), epoch ms, of impressions at ``ts`` (n,), epoch ms.

        ``column`` (n,) holds seconds or epoch ms as `column_is` says.
        """
        ...


@dataclass(frozen=True)
class ConstantDelay:
    """Every feedback comes the same time after its impression."""

    delay_s: float = 60.0  # people take about a minute to come back; 0 would show the future
    column = None
    column_is: Literal["seconds", "time"] = "seconds"

    def feedback_ms(self, ts: I64, impression: U64, column: F64 | I64 | None) -> I64:
        """Return ``ts`` and the constant."""
        return ts + round(1000 * self.delay_s)


@dataclass(frozen=True)
class DelayColumn:
    """A column holds the seconds between impression and feedback."""

    column: str
    column_is: Literal["seconds", "time"] = "seconds"

    def feedback_ms(self, ts: I64, impression: U64, column: F64 | I64 | None) -> I64:
        """Return ``ts`` and the column's seconds."""
        assert column is not None
        return ts + np.rint(1000.0 * column).astype(np.int64)


@dataclass(frozen=True)
class TimeColumn:
    """A column holds the time of the feedback itself."""

    column: str
    column_is: Literal["seconds", "time"] = "time"

    def feedback_ms(self, ts: I64, impression: U64, column: F64 | I64 | None) -> I64:
        """Return the column."""
        assert column is not None
        return column.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class DrawnDelay:
    """A delay drawn for each impression from its id and a seed: the same in every run.

    Inverse transform for the exponential, Box-Muller for the lognormal.
    """

    distribution: Literal["lognormal", "exponential"]
    scale_s: float  # the median of the lognormal, the mean of the exponential
    sigma: float = 1.0  # of the logarithm of the lognormal's delays
    seed: int = 0  # another seed draws other delays
    column = None
    column_is: Literal["seconds", "time"] = "seconds"

    def feedback_ms(self, ts: I64, impression: U64, column: F64 | I64 | None) -> I64:
        """Return ``ts`` and a draw for each of ``impression`` (n,)."""
        first = _uniform(impression, f"delay-{self.seed}")
        if self.distribution == "exponential":
            seconds = -self.scale_s * np.log(first)
        else:
            angle = 2 * np.pi * _uniform(impression, f"angle-{self.seed}")
            normal = np.sqrt(-2 * np.log(first)) * np.cos(angle)
            seconds = self.scale_s * np.exp(self.sigma * normal)
        at_ms: I64 = ts + np.rint(1000 * np.minimum(seconds, _LONGEST_S)).astype(np.int64)
        return at_ms


def _uniform(impression: U64, name: str) -> F64:
    """Return a number in (0, 1] (n,) for each id: 53 bits of its salted hash."""
    bits = salted(impression, name) >> np.uint64(11)
    uniform: F64 = (bits.astype(np.float64) + 1) * 2.0**-53
    return uniform


def delay_from_table(table: Mapping[str, Any]) -> Delay:
    """Return the delay that ``[input.feedback]`` describes; a constant minute if it says nothing.

    Raises `MappingError` where it says two things, or a distribution is unknown or incomplete.
    """
    given = [k for k in ("delay_s", "delay_column", "time_column", "delay") if k in table]
    if len(given) > 1:
        raise MappingError(f"[input.feedback] has {' and '.join(given)}: keep one of them.")
    if not given:
        return ConstantDelay()
    value = table[given[0]]
    match given[0]:
        case "delay_s":
            return ConstantDelay(_positive(value, "delay_s", zero=True))
        case "delay_column":
            return DelayColumn(_name(value, "delay_column"))
        case "time_column":
            return TimeColumn(_name(value, "time_column"))
        case _:
            return _drawn(value)


def _drawn(table: Any) -> DrawnDelay:  # what TOML gave
    if not isinstance(table, Mapping) or "distribution" not in table:
        raise MappingError(
            '[input.feedback] delay is a table such as { distribution = "lognormal", '
            "median_s = 200, sigma = 1.8 }; for a constant write delay_s."
        )
    name = table["distribution"]
    if name not in DISTRIBUTIONS:
        raise MappingError(
            f"[input.feedback] delay has no distribution {name!r}. {nearest(name, DISTRIBUTIONS)}"
        )
    needed = DISTRIBUTIONS[name]
    if set(table) - {"distribution", "seed"} != needed:
        raise MappingError(
            f"[input.feedback] delay: {name} takes {', '.join(sorted(needed))} and an optional "
            f"seed, and was given {', '.join(sorted(set(table) - {'distribution'}))}."
        )
    seed = table.get("seed", 0)
    if name == "exponential":
        return DrawnDelay(
            distribution="exponential", scale_s=_positive(table["mean_s"], "mean_s"), seed=seed
        )
    return DrawnDelay(
        distribution="lognormal",
        scale_s=_positive(table["median_s"], "median_s"),
        sigma=_positive(table["sigma"], "sigma", zero=True),
        seed=seed,
    )


def _positive(value: Any, key: str, zero: bool = False) -> float:  # what TOML gave
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 <= value <= _LONGEST_S) or (value == 0 and not zero):
        raise MappingError(
            f"[input.feedback] {key} = {value!r}: it is a {'non-negative' if zero else 'positive'}"
            " number of at most a year of seconds."
        )
    return float(value)


def _name(value: Any, key: str) -> str:  # what TOML gave
    if not isinstance(value, str) or not value:
        raise MappingError(f"[input.feedback] {key} = {value!r}: it is the name of a column.")
    return value
