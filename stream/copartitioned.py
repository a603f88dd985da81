"""Topics that are joined: a user's events share a partition number in all of them."""

from collections.abc import Mapping

from stream.kafka import KafkaError


class PartitionsDiffer(KafkaError):
    """Topics whose partitions belong together have different numbers of them."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        super().__init__(
            "A user's impressions, feedback and examples share a partition number, so their topics "
            f"need equally many partitions, but {said}. Add partitions to the smaller ones."
        )


def copartitioned(counts: Mapping[str, int]) -> int:
    """Return how many partitions each of the topics has. Raises `PartitionsDiffer`."""
    if len(set(counts.values())) > 1:
        raise PartitionsDiffer(counts)
    return next(iter(counts.values()))
