"""What a run does beside learning."""

from collections.abc import Callable
from dataclasses import dataclass

from stream.deadletter_topic import DeadLetterTopic
from stream.position import Position


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a run does beside learning, where its log is in Kafka."""

    examples: bool = False  # what is read has been joined by workers
    saved: Callable[[Position], None] = lambda position: None  # a checkpoint of it is on the disk
    letters: Callable[[], DeadLetterTopic] | None = None  # opens where they go beside the file
