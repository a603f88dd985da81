"""A run on Kafka: what it reads, how that is opened, and what it tells Kafka of itself."""

from collections.abc import Callable
from typing import Any

from keepstream.around import Around
from keepstream.config import Config, ConfigError
from keepstream.reading import OpenSource, Say
from stream.deadletter_topic import DeadLetterTopic
from stream.events import EventSchema
from stream.examples_source import ExamplesSource
from stream.kafka import KafkaError, NoSuchTopicInKafka
from stream.kafka_source import KafkaSource
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Position
from stream.source import Source


def needs_kafka(config: Config) -> None:
    """Raise `ConfigError` where the configuration names no Kafka."""
    if not config.kafka.bootstrap:
        raise ConfigError(
            "kafka.bootstrap is not set: name a broker, as [kafka] bootstrap = "
            '"localhost:9092" or KEEPSTREAM_KAFKA_BOOTSTRAP=localhost:9092.'
        )


def reads_examples(config: Config) -> bool:
    """Return whether a trainer reads what workers have joined."""
    return config.kafka.read == "examples"


def topics_read(config: Config) -> tuple[str, ...]:
    """Return the topics that a trainer reads."""
    return (config.kafka.examples,) if reads_examples(config) else config.log.topics


def reads_of_topics(config: Config) -> dict[str, Any]:
    """Return what a run that reads topics may go on with only if it is the same.

    The id of the cluster, and by name the id of each topic: one that is deleted and created again
    has another. Raises `NoSuchTopicInKafka` and what a connection can raise.
    """
    with Topics(config.kafka) as topics:
        found = topics.describe(topics_read(config))
        return {
            "kafka": topics.cluster_id(),
            "topics": {name: info.id for name, info in found.items()},
        }


def topics_opener(
    config: Config, say: Say, from_ms: int | None = None, *, until_end: bool = False
) -> OpenSource:
    """Return the function that opens the topics of a configuration at a position, to follow.

    Events before ``from_ms`` are left out (not of examples). ``until_end``: the caller ends where
    they end. Opened again, because the topics have
    grown, it refuses others of the same names.
    """
    ids: dict[str, str] = {}  # of the topics that were opened first

    def open_source(schema: EventSchema, position: Position) -> Source:
        source: ExamplesSource | KafkaSource
        if reads_examples(config):
            source = ExamplesSource(
                config.kafka,
                config.kafka.examples,
                schema,
                position=position,
                follow=True,
                topic_ids=ids,
                block_events=config.log.block_events,
                until_end=until_end,
                say=say,
            )
        else:
            source = KafkaSource(
                config.kafka,
                config.log.topics,
                schema,
                position=position,
                follow=True,
                from_ms=from_ms,
                topic_ids=ids,
                block_events=config.log.block_events,
                say=say,
            )
        ids.update(source.topic_ids)
        return source

    return open_source


def around(config: Config, say: Say) -> Around:
    """Return what a run on Kafka does beside learning."""
    return Around(
        examples=reads_examples(config),
        saved=CommittedPositions(config, say),
        letters=letters_opener(config, say),
    )


def letters_opener(config: Config, say: Say) -> Callable[[], DeadLetterTopic] | None:
    """Return the function that opens the topic of dead letters, None where there is to be none.

    Raises `NoSuchTopicInKafka` at once, so that a run does not end at its first letter.
    """
    topic = config.kafka.deadletters
    if topic is None:
        return None
    with Topics(config.kafka) as topics:
        try:
            partitions = topics.describe([topic])[topic].partitions
        except NoSuchTopicInKafka as error:
            raise NoSuchTopicInKafka(
                f'{error} (kafka.deadletters = "off" keeps dead letters in the run folder only.)'
            ) from error

    def open_topic() -> DeadLetterTopic:
        writer = KafkaWriter(config.kafka, say=say)
        try:
            writer.limit(topic)  # all that is to be asked: from now on a broker may go away
        except BaseException:
            writer.close()
            raise
        return DeadLetterTopic(writer, topic, partitions)

    return open_topic


class CommittedPositions:
    """Tells Kafka how far a run has come: for lag displays, never to go on from.

    A failure is said once, until it works again; it ends nothing.
    """

    def __init__(self, config: Config, say: Say) -> None:
        self._config = config
        self._say = say
        self._failing = False

    def __call__(self, position: Position) -> None:
        """Commit the positions of the topics that are read; within seconds, or not at all."""
        names = topics_read(self._config)
        offsets = {p: o.message for p, o in position.offsets.items() if p.topic in names}
        try:
            with Topics(self._config.kafka) as topics:
                topics.commit(self._config.kafka.group, offsets)
        except KafkaError as error:
            if not self._failing:
                self._say(
                    f"The positions of group {self._config.kafka.group} could not be committed: "
                    f"{error} Lag displays stand still, training goes on."
                )
            self._failing = True
        else:
            self._failing = False


def groups_of(config: Config) -> tuple[str, str]:
    """Return the groups whose positions tell how far trainers and workers are."""
    return config.kafka.group, config.kafka.workers_group


def check_examples(config: Config) -> None:
    """Raise `ConfigError` where a configuration asks of examples what they cannot give."""
    if config.train.as_served:
        raise ConfigError(
            "as_served scores impressions when they are shown, and an example comes when its "
            'label is known. Leave it out, or read the events themselves (kafka.read = "events").'
        )
    if config.train.positive_at != "deadline":
        raise ConfigError(
            f'[train] positive_at = "{config.train.positive_at}": an example comes when its label '
            'is final. Set positive_at = "deadline", or read the events themselves (kafka.read = '
            '"events").'
        )
