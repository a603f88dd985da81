"""Whether topics are still what they were: there, the same, and of as many partitions.

kafka-python asks the cluster for its topics now and then, and after every trouble, in a thread of
its own; it tells nobody when one is gone or another has taken its place. `TopicWatch` looks at what
it was told.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from stream.kafka import (
    KafkaConfig,
    KafkaError,
    KafkaRefused,
    KafkaUnreachable,
    NoSuchTopicInKafka,
)
from stream.position import Partition

_GRACE_S: Final = 2.0  # a topic just made, or a broker just started, may not be known so long
_LOOK_S: Final = 0.02
_EAGER_MS: Final = 5  # between two questions at the start; 100 otherwise


class TopicDeleted(KafkaError):
    """A topic was deleted while it was read."""


class TopicRecreated(KafkaError):
    """Under the name of a topic there is another one now."""


class TopicWatch:
    """Looks at the topics of a consumer (a `kafka.KafkaConsumer`, before any is assigned)."""

    def __init__(self, consumer: Any, topics: Iterable[str], config: KafkaConfig) -> None:
        """Find out about ``topics``.

        Raises `NoSuchTopicInKafka`, and `KafkaUnreachable` where nobody answers for ``connect_s``.
        """
        self._config = config
        self._grace_s = min(_GRACE_S, config.watch_s)
        self._cluster = consumer._cluster  # private: nothing else names the ids of topics
        self._cluster.config["allow_auto_create_topics"] = False  # to ask must not make one
        self._updated = threading.Event()
        self._cluster.add_listener(lambda _: self._updated.set())
        self._missing_since: float | None = None
        self.topics = tuple(sorted(set(topics)))
        self.ids: dict[str, str] = {}  # by topic: another id is another topic of the same name
        self._counts: dict[str, int] = {}  # partitions, by topic
        self.grown = False  # whether one has more of them by now
        self._begin()

    def _begin(self) -> None:
        asked = time.monotonic()
        answered: float | None = None  # first
        settings = self._cluster.config
        patient, settings["retry_backoff_ms"] = settings["retry_backoff_ms"], _EAGER_MS
        self._cluster.set_topics(self.topics)
        while True:
            counts = {t: self._cluster.partitions_for_topic(t) for t in self.topics}
            missing = [t for t, numbers in counts.items() if not numbers]
            if not missing:
                break
            now = time.monotonic()
            if answered is None and now - asked > self._config.connect_s:
                raise KafkaUnreachable(
                    f"Kafka at {self._config.bootstrap} lets us in, and does not say within "
                    f"{self._config.connect_s:g} s what topics it has. See whether its brokers "
                    "hang, then start again."
                )
            if answered is not None and now - answered > _GRACE_S:
                raise NoSuchTopicInKafka(self._not_there(missing[0]))
            if self.refresh(_LOOK_S) and answered is None:
                answered = time.monotonic()
        settings["retry_backoff_ms"] = patient
        self._counts = {t: len(numbers) for t, numbers in counts.items()}
        self.ids = {t: str(self._cluster.topic_id(t)) for t in self.topics}

    def choose(self, some: Iterable[Partition] | None) -> tuple[Partition, ...]:
        """Return ``some`` partitions of the topics, or all, sorted. Raises `NoSuchTopicInKafka`."""
        everyone = {Partition(t, n) for t, count in self._counts.items() for n in range(count)}
        chosen = everyone if some is None else set(some)
        for partition in chosen - everyone:
            raise NoSuchTopicInKafka(
                f"{partition} is not there: {partition.topic} has "
                f"{self._counts.get(partition.topic, 0)} partitions."
            )
        return tuple(sorted(chosen))

    def check_ids(self, expected: Mapping[str, str]) -> None:
        """Raise `TopicRecreated` where a topic is not the one that it was."""
        for topic, wanted in expected.items():
            if topic in self.ids and self.ids[topic] != wanted:
                raise _recreated(topic, wanted, self.ids[topic])

    def refresh(self, timeout_s: float) -> bool:
        """Ask the cluster; return whether it has answered within ``timeout_s``."""
        self._updated.clear()
        self._cluster.request_update()
        return self._updated.wait(timeout_s)

    def look(self) -> None:
        """Look at what was last told; costs nothing. Raises `TopicDeleted`, `TopicRecreated`."""
        if not self._updated.is_set():
            return
        self._updated.clear()
        for topic in self.topics:
            if topic in self._cluster.unauthorized_topics:
                raise KafkaRefused(
                    f"Kafka no longer lets this user read {topic}: give it the rights Read and "
                    "Describe."
                )
            numbers = self._cluster.partitions_for_topic(topic)
            if not numbers:
                self._is_missing(topic)
                return
            found = str(self._cluster.topic_id(topic))
            if found != self.ids[topic]:
                raise _recreated(topic, self.ids[topic], found)
            self.grown = self.grown or len(numbers) > self._counts[topic]
        self._missing_since = None

    def _is_missing(self, topic: str) -> None:
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        elif now - self._missing_since > self._grace_s:
            raise TopicDeleted(
                f"The topic {topic} was deleted while it was read. Create it again and begin with "
                "a new run folder, or take it out of log.topics."
            )

    def _not_there(self, topic: str) -> str:
        self._cluster.need_all_topic_metadata = True
        self.refresh(_GRACE_S)
        self._cluster.need_all_topic_metadata = False
        names = sorted(self._cluster.topics())
        there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"
        return (
            f"Kafka has no topic {topic}; topics there: {there}. Correct log.topics, or run "
            "`keepstream topics create`."
        )


def _recreated(topic: str, expected: str, found: str) -> TopicRecreated:
    return TopicRecreated(
        f"The topic {topic} was deleted and created again (its id was {expected}, and is {found}): "
        "positions in the old one mean nothing in the new. Begin with a new run folder."
    )
