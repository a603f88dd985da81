"""Which knowledge a run uses, for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.knowledge_journal import Taken


@dataclass(frozen=True)
class InForce:
    """What a run uses at this moment, and what it has found so far, for people."""

    taken: Taken | None  # None: nothing yet
    switches: int
    looked_up: int  # impressions
    known: Mapping[str, int]  # of them by kind
    digest: str  # of all vectors given so far, in the order of the impressions

    def to_json(self) -> dict[str, Any]:
        """Return what a result says of it."""
        return {
            "generation": self.taken.generation if self.taken else None,
            "from_ms": self.taken.from_ms if self.taken else None,
            "switches": self.switches,
            "looked_up": self.looked_up,
            "known": {
                kind: round(n / self.looked_up, 4) if self.looked_up else None
                for kind, n in self.known.items()
            },
            "digest": self.digest,
        }
