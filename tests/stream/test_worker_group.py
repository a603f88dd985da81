import asyncio
import socket
import threading
import time

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from benchmarks.broker import PASSWORD, USERNAME, Broker
from stream.kafka import KafkaConfig, KafkaUnreachable, client_settings
from stream.kafka_topics import Topics
from stream.worker_group import NotAMember, _in_thread, _why
from tests.stream.workers import (
    Process,
    all_there,
    expected,
    lines,
    processes,
    produce,
    read,
    world,
)


def test_a_broker_that_goes_while_a_worker_starts_is_unreachable():
    """It has no right to be given then: whoever reads of rights looks in the wrong place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"

    why = _why(KafkaConfig(bootstrap=nobody), KafkaConnectionError("Unable to bootstrap"))

    assert (KafkaUnreachable, True) == (type(why), nobody in str(why))


@pytest.mark.kafka
def test_a_broker_that_is_back_already_was_unreachable(kafka):
    """Only a refusal sends somebody to look at rights."""
    assert KafkaUnreachable is type(_why(kafka, KafkaConnectionError("Unable to bootstrap")))
    assert NotAMember is type(_why(kafka, GroupAuthorizationFailedError("a-group")))


def test_a_leaders_job_does_not_hold_up_the_end():
    """A supervisor kills after some seconds what it has asked to end."""
    begun, over = threading.Event(), threading.Event()

    def job():
        begun.set()
        over.wait(30)

    async def run():
        working = asyncio.ensure_future(_in_thread(job)())
        while not begun.is_set():
            await asyncio.sleep(0.01)
        working.cancel()

    began = time.monotonic()
    asyncio.run(run())
    took = time.monotonic() - began
    over.set()

    assert took < 10


def test_a_leaders_job_that_fails_is_heard_of():
    """What ends silently on a thread is missed by nobody until it matters."""

    def job():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        asyncio.run(_in_thread(job)())


@pytest.mark.kafka
def test_a_secured_broker_is_worked_with_and_a_group_may_refuse(broker, tmp_path, monkeypatch):
    """A worker without its group waits in vain, and nobody notices that it does nothing."""
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    rules = {"authorizer.class.name": authorizer, "allow.everyone.if.no.acl.found": "true"}
    node: Broker = broker(security="sasl_tls", properties=rules)
    monkeypatch.setenv("KEEPSTREAM_KAFKA_PASSWORD", PASSWORD)
    kafka = node.config()
    here, written = _world(kafka), lines(seed=13, impressions=300, partitions=1)
    produce(kafka, here, written)
    refused = here.config(kafka, group="refused")
    _refuse(kafka, refused.kafka.workers_group)

    with processes() as running:
        working = Process(here.config(kafka), tmp_path, "working")
        running.append(working)
        waiting = Process(refused, tmp_path, "waiting")
        running.append(waiting)

        assert 1 == waiting.process.wait(30), waiting.said
        assert "NotAMember" in waiting.said
        assert "refused-workers" in waiting.said
        all_there(kafka, here, expected(written))
        assert 0 == working.stop()[0], working.said

    assert expected(written) == read(kafka, here).examples
    assert PASSWORD not in working.said + waiting.said


def _world(kafka):
    def make(name, partitions):
        with Topics(kafka) as topics:
            topics.create(name, partitions)
        return name

    return world(make, partitions=1)


def _refuse(kafka, group):
    admin = KafkaAdminClient(**client_settings(kafka))
    pattern = ResourcePattern(ResourceType.GROUP, group)
    admin.create_acls(
        [ACL(f"User:{USERNAME}", "*", ACLOperation.READ, ACLPermissionType.DENY, pattern)]
    )
    admin.close()
