"""What became of a refresh, and how long its steps took."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from extractor.guard import Verdict
from knowledge_store.manifest import Manifest
from knowledge_store.schedule import Switch


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What became of a refresh."""

    verdict: Verdict
    manifest: Manifest | None  # None: refused
    switch: Switch | None  # None: it is not in force
    changed: Mapping[str, int] = field(default_factory=dict)  # vectors by kind that differ
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step
    repeated: bool = False  # it had been made before, by a process that was stopped since

    def to_json(self) -> dict[str, Any]:
        """Return it for a monitor."""
        manifest, switch = self.manifest, self.switch
        return {
            "generation": manifest.name if manifest else None,
            "trained_until_ms": manifest.trained_until_ms if manifest else None,
            "from_ms": switch.from_ms if switch else None,
            "decision": self.verdict.decision.value,
            "reasons": list(self.verdict.reasons),
            "vectors": dict(manifest.counts) if manifest else {},
            "changed": dict(self.changed),
            "seconds": {step: round(s, 3) for step, s in self.seconds.items()},
            "repeated": self.repeated,
        }


class Steps:
    """The seconds that each step of a refresh took, by its name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a step."""
        began = self._clock()
        yield
        self.seconds[name] = self._clock() - began
