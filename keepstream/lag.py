"""How far behind readers are: what topics hold, what groups have committed, in messages and time.

A time is that of a message, as its producer gave it: `keepstream produce` gives the event's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keepstream.config import Config
from stream.kafka_peek import peek
from stream.kafka_topics import Topics
from stream.position import Partition

_HOUR_MS = 3_600_000


class TopicEnds:
    """Where partitions begin and end, and the times of messages; asks when it is made."""

    def __init__(self, config: Config, topics: Topics, partitions: Iterable[Partition]) -> None:
        self._kafka = config.kafka
        wanted = list(partitions)
        self.oldest = topics.beginnings(wanted)
        self.next = topics.ends(wanted)
        self._newest_ms = self._times({p: end - 1 for p, end in self.next.items()})

    def newest_ms(self, partition: Partition) -> int | None:
        """Return the time of a partition's last message."""
        return self._newest_ms[partition]

    def oldest_ms(self) -> dict[Partition, int | None]:
        """Return the time of each partition's first message."""
        return self._times(self.oldest)

    def lag_s(self, positions: Mapping[Partition, int]) -> dict[Partition, float | None]:
        """Return how much time lies between the next message to read and the last there is.

        0 where all is read; None where the times of messages are not known.
        """
        times = self._times(positions)
        lag: dict[Partition, float | None] = {}
        for partition, position in positions.items():
            first, last = times[partition], self._newest_ms[partition]
            if position >= self.next[partition]:
                lag[partition] = 0.0
            elif first is None or last is None:
                lag[partition] = None
            else:
                lag[partition] = max(0, last - first) / 1000
        return lag

    def _times(self, offsets: Mapping[Partition, int]) -> dict[Partition, int | None]:
        inside = {
            p: max(offset, self.oldest[p])
            for p, offset in offsets.items()
            if max(offset, self.oldest[p]) < self.next[p]
        }
        found = peek(self._kafka, inside)
        times = {p: record.at_ms for p, record in found.items() if record is not None}
        return {p: at if (at := times.get(p, -1)) >= 0 else None for p in offsets}


def rows_of(ends: TopicEnds, positions: Mapping[Partition, int]) -> list[dict[str, Any]]:
    """Return a row a partition: position, end, lag in messages and in seconds."""
    lag_s = ends.lag_s(positions)
    return [
        {
            "partition": str(p),
            "position": position,
            "next": ends.next[p],
            "lag": max(0, ends.next[p] - position),
            "lag_s": lag_s[p],
        }
        for p, position in sorted(positions.items())
    ]


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the lag of all partitions: messages together, the time of the worst."""
    times = [row["lag_s"] for row in rows if row["lag_s"] is not None]
    return {"lag": sum(row["lag"] for row in rows), "lag_s": max(times, default=None)}


def group_rows(
    topics: Topics, ends: TopicEnds, group: str, partitions: Iterable[Partition]
) -> dict[str, Any]:
    """Return what a group has committed of ``partitions``, and its lag; others are left out."""
    committed = topics.committed(group, partitions)
    rows = rows_of(ends, {p: o for p, o in committed.items() if o is not None})
    return {"group": group, **total(rows), "partitions": rows}


def describe(config: Config, groups: Sequence[str]) -> dict[str, Any]:
    """Return the topics of a configuration as they are, and how far ``groups`` have read them."""
    names = [*config.log.topics, config.kafka.examples]
    names += [config.kafka.deadletters] if config.kafka.deadletters is not None else []
    names = list(dict.fromkeys(names))
    with Topics(config.kafka) as topics:
        found = topics.find(names)
        partitions = [Partition(n, k) for n, i in found.items() for k in range(i.partitions)]
        ends = TopicEnds(config, topics, partitions)
        oldest_ms = ends.oldest_ms()
        return {
            "cluster": topics.cluster_id(),
            "missing": [name for name in names if name not in found],
            "topics": [
                {
                    "topic": name,
                    "id": info.id,
                    "replication": info.replication,
                    "retention_h": _hours(info.settings.get("retention.ms")),
                    "partitions": [
                        {
                            "partition": p.number,
                            "oldest": ends.oldest[p],
                            "next": ends.next[p],
                            "oldest_ms": oldest_ms[p],
                            "newest_ms": ends.newest_ms(p),
                        }
                        for p in partitions
                        if p.topic == name
                    ],
                }
                for name, info in found.items()
            ],
            "groups": [group_rows(topics, ends, group, partitions) for group in groups],
        }


def _hours(retention_ms: str | None) -> float | None:
    """Return a topic's retention in hours; None: for ever, or not to be seen."""
    if retention_ms is None or not retention_ms.isdecimal():
        return None
    return int(retention_ms) / _HOUR_MS
