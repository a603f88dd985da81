"""What has been taken from a model: vectors by kind, of one moment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extractor.errors import BadVectors
from knowledge_store.kinds import Kind

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

ITEM: Final = "item"
USER: Final = "user"
ITEM_STATE: Final = "item_state"
INTERACTION: Final = "interaction"
CLUSTER: Final = "cluster"


@dataclass(frozen=True, kw_only=True, eq=False)
class Extracted:
    """The vectors of n entities of one kind; no id comes twice, none is 0."""

    ids: U64  # (n,) as events hold them, or `knowledge_store.kinds.pair_ids`
    vectors: F32  # (n, W)
    seen: I64  # (n,) impressions of the entity so far; of a pair, its user's
    of: int | None = None  # impressions of all that bounds have left out too; None: there are none

    def __len__(self) -> int:
        return self.ids.size


@dataclass(frozen=True, kw_only=True, eq=False)
class Extraction:
    """All kinds as of ``at_ms``: nothing at or after it is known to any vector.

    "item" and "user" hold what is entity of the model's logit, as a product: ⟨user, item⟩.
    "item_state" has the ids of "item", in the same order. Without categories "cluster" and
    "interaction" come by `with_clusters`.
    """

    at_ms: int  # event time: `trained_until` of a generation
    kinds: Mapping[str, Extracted]
    about: Mapping[str, Any] = field(default_factory=dict)  # JSON, for people
    pairs: Callable[[I32], Extracted] | None = None  # of users and clusters of "item", by number

    def stored(self) -> dict[str, Kind]:
        """Return the kinds as a store keeps them: float16, but for the numbers of clusters."""
        return {
            name: Kind(name, found.vectors.shape[1], "float32" if name == CLUSTER else "float16")
            for name, found in self.kinds.items()
        }

    def with_clusters(self, numbers: I32) -> "Extraction":
        """Return all that, and "cluster" and "interaction" by the clusters (n,) of the items.

        ``numbers`` are in the order of the items, −1 where one has no cluster. To be called before
        the model learns on. Where the log has categories nothing is added. Raises BadVectors.
        """
        if self.pairs is None:
            return self
        items = self.kinds[ITEM]
        if numbers.shape != items.ids.shape:
            raise BadVectors("the clusters", numbers.shape, f"one for each of {len(items)} items")
        there = numbers >= 0
        clusters = Extracted(
            ids=items.ids[there],
            vectors=numbers[there].astype(np.float32)[:, None],
            seen=items.seen[there],
        )
        kinds = {**self.kinds, CLUSTER: clusters, INTERACTION: self.pairs(numbers)}
        return replace(self, kinds=kinds, pairs=None)
