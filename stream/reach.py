"""How far back a live log reaches, and where a history is to end for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from stream.position import Partition


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far back a partition reaches; times are those of whole messages, ms."""

    first: int  # the oldest offset kept; above 0 something was there that is not kept
    oldest_ms: int | None  # time of the oldest message kept; None: there is none


class HandOverGap(Exception):
    """Between a history and what is live lie events that nobody would learn."""

    def __init__(
        self, partition: Partition, reach: Reach, at_ms: int, needed_ms: int, otherwise: str
    ) -> None:
        if reach.oldest_ms is None:
            begins = f"keeps none of its {reach.first:,} messages, and their times are not known"
            history = "a history that reaches up to now"
        else:
            begins = f"begins at {said(reach.oldest_ms)} (offset {reach.first:,})"
            history = f"a history that reaches up to {said(needed_ms)}, with --handover at its end"
        super().__init__(
            f"The history is learned up to {said(at_ms)}, and {partition} {begins}: what lay "
            "between was deleted, and nobody would learn it. Give --bootstrap "
            f"{history}{otherwise}."
        )


def handover_ms(reaches: Mapping[Partition, Reach], newest_ms: int, lateness_ms: int) -> int:
    """Return the event time up to which a history is learned, from which on what is live.

    ``newest_ms`` is the history's newest impression. What may still have been missing when the
    history was taken, the last ``lateness_ms``, is left to what is live, as far as that reaches:
    a log that has begun since, and lost nothing, is older than no event of its own.
    """
    at_ms = newest_ms - lateness_ms
    if any(reach.first > 0 for reach in reaches.values()):
        return at_ms
    times = [reach.oldest_ms for reach in reaches.values() if reach.oldest_ms is not None]
    return max(at_ms, min([newest_ms + 1, *times]))


def check_reach(
    reaches: Mapping[Partition, Reach], at_ms: int, lateness_ms: int, otherwise: str = ""
) -> None:
    """Raise `HandOverGap` where events from ``at_ms`` on may have been deleted.

    That is not so where something older by ``lateness_ms`` is kept. ``otherwise`` is what else can
    be done about a gap, as ", or …".
    """
    for partition, reach in sorted(reaches.items()):
        if reach.first > 0 and (reach.oldest_ms is None or reach.oldest_ms > at_ms - lateness_ms):
            needed = at_ms if reach.oldest_ms is None else reach.oldest_ms + lateness_ms
            raise HandOverGap(partition, reach, at_ms, needed, otherwise)


def said(at_ms: int) -> str:
    """Return a time as people, and --handover, read it.

    >>> said(1684393200250)
    '2023-05-18T07:00:00.250Z'
    """
    text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
