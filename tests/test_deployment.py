import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.broker import Broker
from stream.archive_commits import Commits
from tests.compose import composed
from tests.deployment import Deployment, free_port

PARTITIONS = 4
IMPRESSIONS = 12_000  # of a world that lasts an hour and a half: the windows of most of it are over
# Where the image differs from any Kafka: these say how its only node is found, not how it works.
OF_THE_IMAGE = ("NODE_ID", "PROCESS_ROLES", "LISTENER", "QUORUM", "LOG_DIRS", "HEAP_OPTS")
TOOLS = {"kafka-broker-api-versions.sh": "BrokerApiVersionsCommand"}

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def settings_of_the_broker() -> dict[str, str]:
    """Return the settings that the image makes of its environment: KAFKA_A_B is a.b."""
    environment = composed()["services"]["kafka"]["environment"]
    return {
        key.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for key, value in environment.items()
        if key.startswith("KAFKA_") and not any(word in key for word in OF_THE_IMAGE)
    }


@pytest.fixture
def deployed(broker: Callable[..., Broker], tmp_path: Path) -> Iterator[tuple[Broker, Deployment]]:
    """Yield a broker with the settings of compose.yaml, and what is deployed at it."""
    one = broker(properties=settings_of_the_broker())
    deployment = Deployment(
        tmp_path,
        one.bootstrap,
        PARTITIONS=str(PARTITIONS),
        DEMO_IMPRESSIONS=str(IMPRESSIONS),
        DEMO_EVENTS_PER_S="100000",
    )
    yield one, deployment
    deployment.close()


def page(port: int) -> dict[str, Any]:
    """Return what a worker shows of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/keepstream/", timeout=10) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def learned(run: Path) -> int:
    """Return how many batches a run's newest checkpoint has learned."""
    manifests = run.glob("checkpoints/checkpoint-*/manifest.json")
    return max((json.loads(m.read_bytes())["batches"] for m in manifests), default=0)


def test_the_commands_of_compose_work_together_and_stop_when_told(
    deployed: tuple[Broker, Deployment],
) -> None:
    """No Docker is at hand where tests run: what it would start is started in its order."""
    kafka, deployment = deployed
    kind, script, *_ = deployment.service("kafka")["healthcheck"]["test"]
    assert "CMD" == kind and "Produce(0)" in kafka.tool(TOOLS[Path(script).name])

    assert 0 == deployment.start("topics").wait(120), deployment.said()

    ports = [free_port() for _ in range(2)]
    assert not deployment.is_healthy("worker", {6066: ports[0]})  # nobody is there yet
    workers = [deployment.start("worker", {6066: port}) for port in ports]
    for port in ports:
        deployment.wait(lambda p=port: deployment.is_healthy("worker", {6066: p}), "a page")
    deployment.wait(
        lambda: [2, 2] == [len(page(port)["partitions"]) for port in ports], "shared partitions"
    )

    assert 0 == deployment.start("produce").wait(300), deployment.said()
    archive = deployment.start("archive")
    trainer = deployment.start("trainer", KEEPSTREAM_CHECKPOINT_EVERY_S="2")
    run = deployment.volume("runs") / "live"
    most = IMPRESSIONS // 2 // 512
    deployment.wait(lambda: learned(run) >= most, f"{most} batches")

    kept = Commits(deployment.volume("archive") / "events")
    deployment.wait(lambda: kept.refresh() or kept.last is not None, "an archive")
    assert 0 == deployment.stop("archive", archive), deployment.said()
    kept.refresh()
    assert IMPRESSIONS < sum(file.rows for file in kept.files())  # and their feedback
    assert 0 == deployment.stop("trainer", trainer), deployment.said()
    assert [0, 0] == [deployment.stop("worker", w) for w in workers], deployment.said()
    result = json.loads((run / "result.json").read_bytes())
    assert IMPRESSIONS // 2 < result["examples"] <= IMPRESSIONS
    assert result["clicks"] > 0
    assert "Traceback" not in deployment.said()
