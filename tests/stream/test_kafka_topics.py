import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaProducer

from benchmarks.broker import Broker
from stream.kafka import KafkaConfig, KafkaError, KafkaSettingError, NoSuchTopicInKafka
from stream.kafka_topics import TopicDiffers, Topics
from stream.position import Partition

pytestmark = pytest.mark.kafka


@pytest.fixture
def topics(kafka: KafkaConfig) -> Iterator[Topics]:
    """Yield a connection to the broker of this run."""
    with Topics(kafka) as opened:
        yield opened


def name(hint: str) -> str:
    """Return a name that no other test has."""
    return f"{hint}-{uuid.uuid4().hex[:12]}"


def write(kafka: KafkaConfig, topic: str, at_ms: list[int], number: int = 0) -> None:
    """Write a message for each of the times."""
    with KafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for at in at_ms:
            producer.send(topic, b"x", partition=number, timestamp_ms=at)
        producer.flush()


def test_a_topic_is_described_as_it_was_made(topics: Topics) -> None:
    """What a reader decides by: which topic it is, how many partitions, how long it keeps."""
    made = name("made")
    assert topics.create(made, 3, 1, {"retention.ms": 3_600_000, "max.message.bytes": 5000})

    info = topics.describe([made])[made]

    assert (made, 3, 1) == (info.name, info.partitions, info.replication)
    assert 36 == len(info.id)
    assert "3600000" == info.settings["retention.ms"]
    assert "5000" == info.settings["max.message.bytes"]
    assert "delete" == info.settings["cleanup.policy"]  # defaults are among them
    assert info == topics.describe()[made]


def test_a_new_topic_can_be_used_at_once(topics: Topics) -> None:
    """Kafka says "made" before every partition has a leader: `create` waits for them."""
    made = name("at-once")
    topics.create(made, 12)

    places = [Partition(made, n) for n in range(12)]
    assert dict.fromkeys(places, 0) == topics.ends(places) == topics.beginnings(places)


def test_making_a_topic_twice_changes_nothing(topics: Topics) -> None:
    """A deployment runs its commands again and again."""
    made = name("twice")
    assert topics.create(made, 2, 1, {"retention.ms": 60_000})
    before = topics.describe([made])

    assert not topics.create(made, 2, 1, {"retention.ms": 60_000})
    assert not topics.create(made, 2)  # what is not asked for may be as it is
    assert before == topics.describe([made])


@pytest.mark.parametrize(
    ("partitions", "replication", "settings", "said"),
    [
        (4, None, {}, "2 partitions, not 4"),
        (2, 3, {}, "replication 1, not 3"),
        (2, None, {"retention.ms": 1}, "retention.ms 60000, not 1"),
    ],
)
def test_a_topic_that_is_another_is_not_taken_for_it(
    topics: Topics, partitions: int, replication: int | None, settings: dict[str, int], said: str
) -> None:
    """Another number of partitions puts users where nobody looks for them."""
    made = name("other")
    topics.create(made, 2, 1, {"retention.ms": 60_000})

    with pytest.raises(TopicDiffers, match=f"{made}.*{said}"):
        topics.create(made, partitions, replication, settings)


@pytest.mark.parametrize(
    ("partitions", "replication", "settings"),
    [(1, 3, {}), (1, None, {"no.such.setting": 1}), (1, None, {"retention.ms": "long"})],
)
def test_what_kafka_cannot_make_is_a_setting_error(
    topics: Topics, partitions: int, replication: int | None, settings: dict[str, object]
) -> None:
    """Three replicas on one broker, a setting misspelt: the broker's own words say which."""
    made = name("wrong")

    with pytest.raises(KafkaSettingError, match=made) as caught:
        topics.create(made, partitions, replication, settings)
    assert len(str(caught.value)) < 400
    assert {} == topics.find([made])


def test_a_missing_topic_is_named_with_those_there(topics: Topics) -> None:
    """A name misspelt is seen at once beside the right one."""
    made, missing = name("aaa"), name("missing")
    topics.create(made, 1)

    with pytest.raises(NoSuchTopicInKafka, match=f"no topic {missing}; it has .*aaa"):
        topics.describe([made, missing])
    assert [made] == list(topics.find([made, missing]))
    topics.delete([made, missing])
    assert {} == topics.find([made])
    assert {} == topics.find([])


def test_a_missing_partition_is_named(topics: Topics) -> None:
    """Beyond the last partition there is nothing to read, and nothing comes."""
    made = name("narrow")
    topics.create(made, 2)

    with pytest.raises(NoSuchTopicInKafka, match=f"{made}/2 is not in Kafka: .* 0 to 1"):
        topics.ends([Partition(made, 2)])
    with pytest.raises(NoSuchTopicInKafka, match="missing-"):
        topics.beginnings([Partition(name("missing"), 0)])


def test_kafkas_own_topics_are_not_among_all(topics: Topics) -> None:
    """The topic of committed offsets is nobody's input."""
    made = name("mine")
    topics.create(made, 1)
    topics.commit(name("group"), {Partition(made, 0): 0})  # which makes it

    assert not [there for there in topics.describe() if there.startswith("__")]


def test_offsets_are_found_by_time(kafka: KafkaConfig, topics: Topics) -> None:
    """A run that begins at a time reads from the first message of that time or later."""
    made = name("times")
    topics.create(made, 2)
    write(kafka, made, [1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000])
    first, second = Partition(made, 0), Partition(made, 1)

    assert {first: 0, second: 0} == topics.offsets_at([first, second], 1_600_000_000_000)
    assert {first: 1, second: 0} == topics.offsets_at([first, second], 1_700_000_000_500)
    assert {first: 3} == topics.offsets_at([first], 1_800_000_000_000)  # none: the end
    assert {first: 3, second: 0} == topics.ends([first, second])


def test_what_was_committed_is_read_back(topics: Topics) -> None:
    """Positions that Kafka shows are for people and alarms; those that were never set are None."""
    made, group = name("lag"), name("group")
    topics.create(made, 2)
    first, second = Partition(made, 0), Partition(made, 1)

    assert {first: None, second: None} == topics.committed(group, [first, second])
    topics.commit(group, {first: 7})
    assert {first: 7, second: None} == topics.committed(group, [first, second])
    topics.commit(group, {first: 9, second: 0})
    assert {first: 9, second: 0} == topics.committed(group, [first, second])
    topics.commit(group, {})


def test_a_group_with_members_keeps_its_positions(kafka: KafkaConfig, topics: Topics) -> None:
    """Two that commit under one name would overwrite each other: it is refused by name."""
    from kafka import KafkaConsumer

    made, group = name("busy"), name("group")
    topics.create(made, 1)
    with KafkaConsumer(made, bootstrap_servers=kafka.bootstrap, group_id=group) as member:
        while not member.assignment():
            member.poll(timeout_ms=100)
        with pytest.raises(KafkaError, match=f"group {group} has members"):
            topics.commit(group, {Partition(made, 0): 1})


def test_the_cluster_has_a_name(topics: Topics) -> None:
    """A run of one cluster is not continued on another."""
    assert topics.cluster_id()
    assert topics.cluster_id() == topics.cluster_id()


def test_a_broker_that_goes_away_is_named(broker: Callable[..., Broker]) -> None:
    """A command that asks for positions must not hang, nor blame the topic."""
    there = broker()
    with Topics(there.config(connect_s=1.0)) as topics:
        topics.create("known", 1)
        there.kill()
        with pytest.raises(KafkaError, match=f"Nobody listens at {there.bootstrap}"):
            topics.ends([Partition("known", 0)])
