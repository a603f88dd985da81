"""Label policies: at which moments of an impression's life an example goes to the learner."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

SETTLED: Final = 0  # the label as it is at the deadline
EARLY_POSITIVE: Final = 1  # the click itself, before the deadline
CORRECTION: Final = 2  # of an example that was emitted before

NOTHING: Final = -1


@dataclass(frozen=True)
class Emission:
    """One example that goes out: its label and what kind of example it is."""

    label: int  # 0 or 1
    kind: int = SETTLED


@dataclass(frozen=True, kw_only=True)
class Emissions:
    """What goes out at each moment of an impression's life. A click is any label action.

    One row of the table "what enters the stream", which tells the delayed-feedback methods apart
    (Gu et al., "Real Negatives Matter" (DEFER), KDD 2021, section 3).
    """

    arrival: Emission | None = None  # it is shown
    click: Emission | None = None  # its first click, within the window
    deadline_negative: Emission | None = None  # the window closes without a click
    deadline_positive: Emission | None = None  # the window closes, clicked
    later_click: Emission | None = None  # its first click, settled but still remembered
    horizon_negative: Emission | None = None  # it is forgotten without a click
    horizon_positive: Emission | None = None  # it is forgotten, clicked

    @property
    def outlive_the_deadline(self) -> bool:
        """Whether an impression's row is needed until the impression is forgotten."""
        return any((self.later_click, self.horizon_negative, self.horizon_positive))

    def codes(self) -> npt.NDArray[np.int64]:
        """Return the row as the join's kernel reads it: 2 × kind + label a moment, or `NOTHING`."""
        moments = (
            self.arrival,
            self.click,
            self.deadline_negative,
            self.deadline_positive,
            self.later_click,
            self.horizon_negative,
            self.horizon_positive,
        )
        return np.array([NOTHING if m is None else 2 * m.kind + m.label for m in moments], np.int64)


ARRIVAL, CLICK, DEADLINE, LATER_CLICK, HORIZON = 0, 1, 2, 4, 5  # in `codes`; two have a row a label


class Policy(Protocol):
    """A label policy is a value: all it says is what is emitted when."""

    @property
    def emissions(self) -> Emissions:
        """What goes out at each moment."""
        ...


@dataclass(frozen=True)
class Wait:
    """One example an impression, with its final label of the window.

    A positive goes out with the negatives of its age at the ``deadline``, or at once at its
    ``click``: fresher, but then positives run ahead of the negatives of their time.
    """

    positive_at: Literal["deadline", "click"] = "deadline"  # both classes equally old: unbiased

    @property
    def emissions(self) -> Emissions:
        """A negative at the deadline; a positive there or at its click."""
        if self.positive_at == "click":
            return Emissions(
                click=Emission(1, EARLY_POSITIVE), deadline_negative=Emission(0, SETTLED)
            )
        return Emissions(
            deadline_negative=Emission(0, SETTLED), deadline_positive=Emission(1, SETTLED)
        )
