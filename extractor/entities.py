"""Whom a generation has vectors of: entities seen lately, of many the ones seen last."""

from typing import Final

import numpy as np

from extractor.config import ExtractorConfig
from stream.state import State
from trainer.entities import SeenEntities, seen_entities

_HOUR_MS: Final = 3_600_000


def active(state: State, at_ms: int, config: ExtractorConfig, *, everybody: bool) -> SeenEntities:
    """Return the entities of one side of `Entities.state` that are to have vectors, by id.

    Those seen in the ``active_h`` before ``at_ms``, or ``everybody``; bounds are up to the caller.
    """
    found = seen_entities(state)
    if config.active_h is not None and not everybody:
        found = found.take(found.last_ms >= at_ms - round(config.active_h * _HOUR_MS))
    return found


def latest(found: SeenEntities, most: int) -> SeenEntities:
    """Return the ``most`` entities seen last, by id; of those seen at once the lower ids first."""
    if len(found) <= most:
        return found
    order = np.lexsort([found.ids, -found.last_ms])[:most]
    return found.take(np.sort(order))
