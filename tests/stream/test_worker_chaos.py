import json
import os
import random
import signal
import time
import urllib.request

import pytest

from benchmarks.broker import Broker, free_ports
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
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

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


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


def test_a_worker_without_partitions_waits_and_ends_well(kafka, topic, tmp_path):
    """More workers than partitions is ordinary: it must cost nothing, and stopping is no error."""
    here = world(topic, partitions=1)
    config = here.config(kafka)

    with processes() as running:
        running += [Process(config, tmp_path, name) for name in ("one", "two", "three")]
        for worker in running:
            worker.wait_for("assigned: ")
        time.sleep(1.0)  # long enough for one that goes round and round to say so often
        assert [0, 0, 0] == [worker.stop()[0] for worker in running]
        said = [worker.said.count("assigned: none") for worker in running]

    assert max(said) <= 4, said  # once an assignment: who comes and goes makes a few


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


def test_an_idle_worker_stays_a_member_and_shows_itself(kafka, topic, tmp_path):
    """Faust's consumer gets no message, ever: no interval of a group may take that for death."""
    here = world(topic)
    (port,) = free_ports(1)

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


def test_a_worker_whose_group_keeps_it_waiting_says_so(kafka, topic, tmp_path):
    """One that neither works nor speaks is taken for one that works."""
    here = world(topic, partitions=1)

    with processes() as running:
        running.append(Process(here.config(kafka, session_s=25.0), tmp_path, "frozen"))
        running[0].wait_for("assigned: 0\n")
        running[0].process.send_signal(signal.SIGSTOP)
        running.append(Process(here.config(kafka, session_s=25.0), tmp_path, "waiting"))
        running[1].wait_for(f"{here.examples}-workers has assigned nothing for 10 s")
        running[0].process.send_signal(signal.SIGCONT)
        wait_until(lambda: "assigned: " in running[1].said, "an assignment")
        assert 1 == running[1].said.count("has assigned nothing")
        for worker in running:
            assert 0 == worker.stop()[0], worker.said


def test_a_step_longer_than_any_interval_loses_no_partition(kafka, topic, tmp_path):
    """Membership is kept apart from the work: a slow step is no death."""
    here, written = world(topic), lines(seed=11, impressions=300, partitions=2)
    produce(kafka, here, written)

    with processes() as running:
        worker = Process(here.config(kafka), tmp_path, "worker", stall_s=9.0)
        running.append(worker)
        all_there(kafka, here, expected(written))

        assert 1 == worker.said.count("partitions assigned")


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


def _grow(kafka, name, partitions):
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap.split(","))
    admin.create_partitions({name: partitions})
    admin.close()
