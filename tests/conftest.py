"""Fixtures for every test."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from benchmarks.broker import Broker, kafka_home
from stream.kafka import KafkaConfig

settings.register_profile("keepstream", deadline=None)  # compiling takes what it takes
settings.load_profile("keepstream")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BOOTSTRAP = "KEEPSTREAM_TEST_BOOTSTRAP"
NO_KAFKA = (
    "there is no Kafka: set KAFKA_HOME to an unpacked Kafka 4 download (and have Java 17), or "
    f"{BOOTSTRAP} to host:port of a broker that takes anybody, to run this test"
)


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python be imported: it reads its schemas by functions that Python deprecates."""
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is depr:DeprecationWarning")


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real data sets; the test skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data is not at {DATA.name}/: put it beside the project to run this test")
    return DATA


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaConfig]:
    """Yield how to reach the broker of this run: one for all tests, without security."""
    if bootstrap := os.environ.get(BOOTSTRAP):
        yield KafkaConfig(bootstrap=bootstrap)
    elif kafka_home() is None:
        pytest.skip(NO_KAFKA)
    else:
        with Broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield broker.config()


@pytest.fixture
def topic(kafka: KafkaConfig) -> Iterator[Callable[..., str]]:
    """Yield ``topic(hint, partitions=1, **settings)``: it makes a topic of the test's own.

    ``settings`` are the topic's, with _ for the dots: ``max_message_bytes=2000``.
    """
    from stream.kafka_topics import Topics

    made: list[str] = []
    with Topics(kafka) as topics:

        def make(hint: str = "topic", partitions: int = 1, **settings: Any) -> str:
            name = f"{hint}-{uuid.uuid4().hex[:12]}"
            topics.create(
                name, partitions, settings={k.replace("_", "."): v for k, v in settings.items()}
            )
            made.append(name)
            return name

        yield make
        if made and os.environ.get(BOOTSTRAP):  # a broker of this run goes as a whole
            topics.delete(made)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Yield ``broker(brokers=1, security="plaintext", properties={…})``: a Kafka of one's own.

    For tests that kill it, pause it, or need settings of their own.
    """
    if kafka_home() is None:
        pytest.skip(NO_KAFKA)
    started: list[Broker] = []

    def start(**options: Any) -> Broker:
        one = Broker(tmp_path / f"kafka-{len(started)}", **options)
        started.append(one)
        return one.__enter__()

    yield start
    for one in started:
        one.close()
