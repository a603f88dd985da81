"""Whom a generation has vectors of: entities seen lately, the latest first where they are many."""

from typing import Final

import numpy as np

from extractor.config import ExtractorConfig
from stream.state import State
from trainer.entities import SeenEntities, seen_entities

_HOUR_MS: Final = 3_600_000


def active(state: State, at_ms: int, config: ExtractorConfig, *, everybody: bool) -> SeenEntities:
    """Return the entities of one side of `Entities.state` that are extracted at ``at_ms``, by id.

    Those seen in the last ``active_h``, or ``everybody``; of them the ``max_entities`` latest.
    """
    found = seen_entities(state)
    if config.active_h is not None and not everybody:
        found = found.take(found.last_ms >= at_ms - round(config.active_h * _HOUR_MS))
    return latest(found, config.max_entities)


def latest(found: SeenEntities, most: int) -> SeenEntities:
    """Return the ``most`` entities seen last, by id; of those seen at once the lower ids first."""
    if len(found) <= most:
        return found
    order = np.lexsort([found.ids, -found.last_ms])[:most]
    return found.take(np.sort(order))
