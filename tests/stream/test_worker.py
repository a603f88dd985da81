import threading

import pytest

from stream.copartitioned import PartitionsDiffer
from stream.kafka import KafkaError, NoSuchTopicInKafka
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from stream.worker_group import WebPortTaken, _check_port
from stream.worker_join import JoinWork
from stream.worker_resume import ExamplesGone, OtherInputs
from tests.stream.workers import (
    Process,
    all_there,
    expected,
    lines,
    processes,
    produce,
    read,
    wait_until,
    world,
)

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Worked:
    """A worker without its group: what it does with partitions it is told of."""

    def __init__(self, config):
        self.said, self.failed, self.error = [], threading.Event(), None
        self.work = JoinWork(config, self.said.append)
        self.work.start(self._fail)

    def _fail(self, error):
        self.error = error
        self.failed.set()

    def __enter__(self):
        return self.work

    def __exit__(self, *_):
        self.work.stop()


def test_a_worker_writes_what_an_undisturbed_join_makes(kafka, topic):
    """Whoever reads the examples learns what a trainer that joins itself would learn."""
    here, written = world(topic), lines(seed=1, impressions=3000, partitions=2)
    produce(kafka, here, written)
    wanted = expected(written)

    with Worked(here.config(kafka)) as work:
        work.assign(frozenset([0, 1]))
        all_there(kafka, here, wanted)

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


def test_what_comes_while_it_works_is_joined_too(kafka, topic):
    """A topic never ends: a worker follows it."""
    here, written = world(topic), lines(seed=2, impressions=1500, partitions=2)
    wanted = expected(written)

    with Worked(here.config(kafka)) as work:
        work.assign(frozenset([0, 1]))
        for tenth in range(10):
            produce(kafka, here, written, only=(tenth, tenth + 1))
        all_there(kafka, here, wanted)
        wait_until(lambda: work.status({})["state"] == "caught up", "caught up")

    assert wanted == read(kafka, here).examples


def test_partitions_that_come_and_go_are_joined_once(kafka, topic):
    """A rebalance moves a partition from worker to worker: nothing is lost, nothing twice."""
    here, written = world(topic, partitions=3), lines(seed=3, impressions=4000, partitions=3)
    wanted = expected(written)

    with Worked(here.config(kafka)) as one, Worked(here.config(kafka)) as two:
        shares = [({0, 1, 2}, set()), ({0}, {1, 2}), ({1}, {0, 2}), (set(), {0, 1, 2}), ({2}, {1})]
        for tenth in range(10):
            mine, theirs = shares[tenth % len(shares)]
            one.release()
            two.release()
            one.assign(frozenset(mine))
            two.assign(frozenset(theirs))
            produce(kafka, here, written, only=(tenth, tenth + 1))
        one.assign(frozenset())
        two.assign(frozenset([0, 1, 2]))
        all_there(kafka, here, wanted)

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


def test_two_that_believe_to_own_a_partition_do_no_harm(kafka, topic):
    """A worker that was silent for too long may go on writing beside the one that took over."""
    here, written = world(topic, partitions=1), lines(seed=4, impressions=2000, partitions=1)
    wanted = expected(written)

    with Worked(here.config(kafka)) as one, Worked(here.config(kafka)) as two:
        one.assign(frozenset([0]))
        produce(kafka, here, written, only=(0, 5))
        two.assign(frozenset([0]))
        produce(kafka, here, written, only=(5, 10))
        all_there(kafka, here, wanted)

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


def test_what_is_no_event_becomes_a_dead_letter_and_costs_nothing_else(kafka, topic):
    """Bad input never stops a worker, and never vanishes."""
    here, written = world(topic), lines(seed=5, impressions=500, partitions=2)
    written["impressions", 1].insert(200, b'{"impression_id": "poison"')
    produce(kafka, here, written, per_message=7)
    wanted = expected(written)

    with Worked(here.config(kafka)) as work:
        work.assign(frozenset([0, 1]))
        all_there(kafka, here, wanted)
        wait_until(lambda: work.status({})["dead_letters"], "a dead letter")

        assert {"bad_json": 1} == work.status({})["dead_letters"]

    assert wanted == read(kafka, here).examples
    with Topics(kafka) as admin:
        assert 1 == admin.ends([Partition(here.letters, 0)])[Partition(here.letters, 0)]


def test_topics_with_other_numbers_of_partitions_are_refused(kafka, topic):
    """A user's clicks would lie where nobody joins them with the impressions."""
    here = world(topic)._replace(feedback=topic("feedback", 3))

    with pytest.raises(PartitionsDiffer, match=r"impressions-\S+ has 2, feedback-\S+ has 3"):
        JoinWork(here.config(kafka), print)


def test_a_missing_topic_is_named(kafka, topic):
    """Nobody waits for a topic whose name is spelt wrong."""
    here = world(topic)._replace(examples="exmaples")

    with pytest.raises(NoSuchTopicInKafka, match=r"exmaples.*topics create"):
        JoinWork(here.config(kafka), print)


def test_a_topic_that_lost_its_records_says_so(kafka, topic):
    """Retention took where to go on; to begin at the beginning would write everything twice."""
    here = world(topic, partitions=1)
    writer = KafkaWriter(kafka)
    writer.append(Partition(here.examples, 0), b"x")
    writer.flush()
    writer.close()
    _delete_records(kafka, here.examples)

    assert isinstance(_failure(here.config(kafka)), ExamplesGone)


def test_examples_of_somebody_else_are_not_gone_on_from(kafka, topic):
    """What another program writes there does not say where the join is."""
    here = world(topic, partitions=1)
    writer = KafkaWriter(kafka)
    for _ in range(70):
        writer.append(Partition(here.examples, 0), b"hello")
    writer.flush()
    writer.close()

    assert isinstance(_failure(here.config(kafka)), ExamplesGone)


def test_examples_of_other_topics_are_not_gone_on_from(kafka, topic):
    """A topic created anew has other events at the same offsets."""
    here, written = world(topic, partitions=1), lines(seed=6, impressions=300, partitions=1)
    produce(kafka, here, written)
    with Worked(here.config(kafka)) as work:
        work.assign(frozenset([0]))
        all_there(kafka, here, expected(written))
    other = here._replace(feedback=topic("feedback", 1))

    assert isinstance(_failure(other.config(kafka)), OtherInputs)


def test_the_group_shares_the_partitions(kafka, topic, tmp_path):
    """Two workers each have whole users: impressions and feedback of the same partitions."""
    here, written = world(topic, partitions=4), lines(seed=7, impressions=2000, partitions=4)
    config, wanted = here.config(kafka), expected(written)

    with processes() as running:
        running += [Process(config, tmp_path, name) for name in ("one", "two")]
        wait_until(
            lambda: all(worker.said.count("assigned: ") for worker in running), "assignments"
        )
        produce(kafka, here, written)
        all_there(kafka, here, wanted)
        led = [worker.said.count("leads") for worker in running]

        def leads(i):
            return running[i].said.count("leads") > led[i] + 1

        wait_until(lambda: leads(0) or leads(1), "a leader")
        assert not (leads(0) and leads(1))
        leader, other = running if leads(0) else running[::-1]
        led = other.said.count("leads")
        code, took = leader.stop()
        assert (0, True) == (code, took < 10), leader.said
        wait_until(lambda: other.said.count("leads") > led, "the other's lead")
        assert 0 == other.stop()[0]

    assert wanted == read(kafka, here).examples


def test_a_port_that_is_taken_is_named():
    """Faust would say it in a traceback, after the group has been joined."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(WebPortTaken, match="--web-port"):
            _check_port("127.0.0.1", listener.getsockname()[1])


def _failure(config) -> KafkaError | None:
    """Return what ends a worker that is given its first partition."""
    worked = Worked(config)
    with worked as work:
        work.assign(frozenset([0]))
        assert worked.failed.wait(30)
    return worked.error


def _delete_records(kafka, name):
    from kafka.admin import KafkaAdminClient
    from kafka.structs import TopicPartition

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    admin.delete_records({TopicPartition(name, 0): -1})
    admin.close()
