"""Faust without messages: membership and assignment only (docs/decisions/0012)."""

from typing import Any

import faust
from faust.assignor.leader_assignor import LeaderAssignor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.kafka import KafkaConfig, password, tls_context


class App(faust.App):  # type: ignore[misc]  # Faust has no types
    """Faust without tables."""

    def _create_directories(self) -> None:
        """Make none: there are no tables."""


class _Listener(driver.ConsumerRebalanceListener):  # type: ignore[misc]  # Faust has no types
    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Fetch nothing, ever: a paused partition is not read ahead."""
        self._thread._ensure_consumer().pause(*assigned)
        await super().on_partitions_assigned(assigned)


class _Consumer(driver.Consumer):  # type: ignore[misc]  # Faust has no types
    RebalanceListener = _Listener

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand on nothing: stand in for the loop that would."""
        while not (self.should_stop or fetcher.should_stop):
            await self.sleep(0.1)


class Transport(driver.Transport):  # type: ignore[misc]  # Faust has no types
    """Faust's way to Kafka, without the messages."""

    Consumer = _Consumer


def leader_of(topic: str) -> type[LeaderAssignor]:
    """Return who leads: the owner of the first partition, so that it takes no topic more."""

    class Leader(LeaderAssignor):  # type: ignore[misc]  # Faust has no types
        _leader_tp = TP(topic, 0)

        async def on_start(self) -> None:
            """Need no topic."""

    return Leader


def credentials(config: KafkaConfig) -> Any:
    """Return what Faust logs in with; None where brokers take anybody.

    Raises `KafkaSettingError`.
    """
    context = tls_context(config)
    if "sasl" in config.security:
        return faust.SASLCredentials(
            username=config.username,
            password=password(config),
            ssl_context=context,
            mechanism=config.mechanism,
        )
    return faust.SSLCredentials(context=context) if context else None
