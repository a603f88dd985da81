import json
import os
import random
import threading
import urllib.request

import pytest

from benchmarks.broker import Broker
from stream.kafka import KafkaError, NoSuchTopicInKafka
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from stream.worker_group import WebPortTaken, _check_port
from stream.worker_join import JoinWork
from stream.worker_resume import ExamplesGone, OtherInputs, PartitionsDiffer
from tests.stream.workers import (
    Process,
    expected,
    lines,
    processes,
    produce,
    read,
    wait_until,
    world,
)

pytestmark = pytest.mark.kafka


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


def all_there(kafka, here, wanted):
    """Return once the topic holds as many examples as are wanted."""
    wait_until(lambda: len(read(kafka, here).examples) >= len(wanted), "all examples")


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


@pytest.mark.chaos
def test_new_partitions_are_shared_too(kafka, topic, tmp_path):
    """Topics grow while workers work, one after the other: no restart is needed."""
    here = world(topic, partitions=1)

    with processes() as running:
        worker = Process(here.config(kafka, watch_s=0.5), tmp_path, "worker")
        running.append(worker)
        worker.wait_for("assigned: 0\n")
        for name in (here.impressions, here.feedback, here.examples):
            _grow(kafka, name, 2)
        worker.wait_for("assigned: 0-1")
        here, written = here._replace(partitions=2), lines(12, impressions=300, partitions=2)
        produce(kafka, here, written)
        all_there(kafka, here, expected(written))

    assert expected(written) == read(kafka, here).examples


@pytest.mark.chaos
def test_workers_come_and_go(kafka, topic, tmp_path):
    """1, then 3, then 1 worker: a rolling restart under load."""
    here, written = world(topic, partitions=3), lines(seed=8, impressions=5000, partitions=3)
    config, wanted = here.config(kafka), expected(written)

    with processes() as running:
        running.append(Process(config, tmp_path, "one"))
        running[0].wait_for("assigned: 0-2")
        produce(kafka, here, written, only=(0, 3))
        running += [Process(config, tmp_path, name) for name in ("two", "three")]
        for worker in running[1:]:
            worker.wait_for("assigned: ")
        produce(kafka, here, written, only=(3, 6))
        for worker in running[:2]:
            assert 0 == worker.stop()[0]
        produce(kafka, here, written, only=(6, 10))
        running[2].wait_for("assigned: 0-2")
        all_there(kafka, here, wanted)

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


@pytest.mark.chaos
def test_killed_workers_write_what_undisturbed_ones_do(kafka, topic, tmp_path):
    """By kill -9 in the middle, again and again: every impression comes through once."""
    here, written = world(topic, partitions=2), lines(seed=9, impressions=6000, partitions=2)
    soon = {} if os.environ.get("KEEPSTREAM_TEST_BOOTSTRAP") else {"session_s": 2.0}
    config, wanted = here.config(kafka, **soon), expected(written)
    rng = random.Random(9)

    with processes() as running:
        for tenth in range(10):
            produce(kafka, here, written, only=(tenth, tenth + 1), per_message=rng.choice([1, 20]))
            if tenth % 3 == 0:
                worker = Process(config, tmp_path, f"w{tenth}")
                running.append(worker)
                before = read(kafka, here).records
                wait_until(lambda n=before: read(kafka, here).records > n, "records")
                worker.kill()
        running.append(Process(config, tmp_path, "last"))
        all_there(kafka, here, wanted)

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


@pytest.mark.chaos
def test_a_worker_outlives_its_broker(broker: Broker, tmp_path):
    """Nothing ends and nothing is lost while the broker is away; no partition changes hands."""
    node = broker()
    kafka = node.config()

    def topic(hint, partitions):
        with Topics(kafka) as admin:
            admin.create(hint, partitions)
        return hint

    here, written = world(topic), lines(seed=10, impressions=3000, partitions=2)
    config, wanted = here.config(kafka), expected(written)
    with processes() as running:
        worker = Process(config, tmp_path, "worker")
        running.append(worker)
        worker.wait_for("assigned: 0-1")
        produce(kafka, here, written, only=(0, 5))
        wait_until(lambda: read(kafka, here).records, "records")
        node.kill()
        worker.wait_for("does not answer")
        node.start()
        produce(kafka, here, written, only=(5, 10))
        all_there(kafka, here, wanted)
        worker.stop()

        assert 1 == worker.said.count("partitions assigned")

    assert wanted == read(kafka, here).examples
    assert {1} == set(read(kafka, here).times.values())


@pytest.mark.chaos
def test_an_idle_worker_stays_a_member_and_shows_itself(kafka, topic, tmp_path):
    """Faust's consumer gets no message, ever: no interval of a group may take that for death."""
    here = world(topic)
    port = 20_000 + random.Random(str(tmp_path)).randrange(10_000)

    with processes() as running:
        worker = Process(here.config(kafka), tmp_path, "worker", web_port=port)
        running.append(worker)
        worker.wait_for("assigned: 0-1")
        worker.wait_for("caught up")
        seen = []

        def beyond_all_intervals():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/keepstream/", timeout=5) as page:
                seen.append(json.load(page))
            return len(seen) > 90  # ten times a second: 9 s, of a session of 6

        wait_until(beyond_all_intervals, "the web view")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert "Sensor0" in json.load(page)

        assert 1 == worker.said.count("partitions assigned")
        assert {"caught up"} == {one["state"] for one in seen}
        assert {"0", "1"} == set(seen[-1]["partitions"])
        assert seen[-1]["leader"]


@pytest.mark.chaos
def test_a_step_longer_than_any_interval_loses_no_partition(kafka, topic, tmp_path):
    """Membership is kept apart from the work: a slow step is no death."""
    here, written = world(topic), lines(seed=11, impressions=300, partitions=2)
    produce(kafka, here, written)

    with processes() as running:
        worker = Process(here.config(kafka), tmp_path, "worker", stall_s=9.0)
        running.append(worker)
        all_there(kafka, here, expected(written))

        assert 1 == worker.said.count("partitions assigned")


@pytest.mark.chaos
def test_a_worker_whose_work_fails_says_why_and_leaves(kafka, topic, tmp_path):
    """A supervisor starts it again; meanwhile the others have its partitions."""
    here = world(topic, partitions=1)
    writer = KafkaWriter(kafka)
    for _ in range(70):
        writer.append(Partition(here.examples, 0), b"hello")
    writer.flush()
    writer.close()

    with processes() as running:
        worker = Process(here.config(kafka), tmp_path, "worker")
        running.append(worker)

        assert 1 == worker.process.wait(30)
        assert "ExamplesGone" in worker.said


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


def _grow(kafka, name, partitions):
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    admin.create_partitions({name: partitions})
    admin.close()


def _delete_records(kafka, name):
    from kafka.admin import KafkaAdminClient
    from kafka.structs import TopicPartition

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    admin.delete_records({TopicPartition(name, 0): -1})
    admin.close()
