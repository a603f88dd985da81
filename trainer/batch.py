"""A batch of examples, as the learner takes it."""

# B examples, F id fields, L list positions (all sequences), D numbers, K knowledge width, J kinds

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Examples as columns; rows of the embedding table, 0 where there is no id.

    The first ``fresh`` examples are new. The others are rehearsed: learned again, neither scored
    nor counted.
    """

    rows: npt.NDArray[np.int64]  # (B, F)
    sequences: npt.NDArray[np.int64]  # (B, L), the sequences side by side, most recent first
    numbers: npt.NDArray[np.float32]  # (B, D), raw; not finite where missing
    label: npt.NDArray[np.float32]  # (B,), 0 or 1
    request: npt.NDArray[np.uint64]  # (B,): what the listwise loss compares within
    fresh: int  # leading examples that are new
    knowledge: npt.NDArray[np.float16] | npt.NDArray[np.float32] | None = None  # (B, K)
    known: npt.NDArray[np.bool_] | None = None  # (B, J): which kinds an example has
    actions: npt.NDArray[np.uint8] | None = None  # (B,), bits over EventSchema.actions

    def __len__(self) -> int:
        return self.label.size
