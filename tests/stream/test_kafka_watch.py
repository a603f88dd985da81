import pytest

from stream.kafka import KafkaConfig, KafkaUnreachable, NoSuchTopicInKafka
from stream.kafka_watch import TopicWatch


class Cluster:
    """What kafka-python knows of a cluster that may answer, and has no topics."""

    def __init__(self, answers):
        self.config = {"retry_backoff_ms": 100}
        self.need_all_topic_metadata = False
        self._answers, self._listeners = answers, []

    def add_listener(self, listener):
        """Tell it of every answer."""
        self._listeners.append(listener)

    def set_topics(self, topics):
        """Ask for these from now on."""

    def partitions_for_topic(self, topic):
        """Return what is known of it."""
        return None

    def topics(self):
        """Return the names of all."""
        return set()

    def request_update(self):
        """Ask, and be answered at once or never."""
        if self._answers:
            for listener in self._listeners:
                listener(self)


class Consumer:
    """A consumer of it."""

    def __init__(self, answers):
        self._cluster = Cluster(answers)


def test_a_broker_that_hangs_is_not_taken_for_one_without_the_topic():
    """Whoever is told of a missing topic creates one, or looks for a spelling mistake."""
    config = KafkaConfig(bootstrap="here:1", connect_s=0.2)

    with pytest.raises(KafkaUnreachable, match=r"here:1 .* within 0\.2 s"):
        TopicWatch(Consumer(answers=False), ["impressions"], config)


def test_a_topic_is_missing_once_the_brokers_have_said_so(monkeypatch):
    """A broker that does answer is believed, soon."""
    monkeypatch.setattr("stream.kafka_watch._GRACE_S", 0.1)
    config = KafkaConfig(bootstrap="here:1", connect_s=0.05)

    with pytest.raises(NoSuchTopicInKafka, match="no topic impressions"):
        TopicWatch(Consumer(answers=True), ["impressions"], config)
