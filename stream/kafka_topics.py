"""Topics and positions in Kafka: what there is, made, measured and committed."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from kafka import KafkaAdminClient, errors
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.structs import OffsetAndMetadata, TopicPartition

from stream.kafka import (
    KafkaConfig,
    KafkaError,
    KafkaRefused,
    KafkaSettingError,
    KafkaUnreachable,
    NoSuchTopicInKafka,
    check_topic,
)
from stream.kafka_probe import connect, probe
from stream.position import Partition

READY_S: Final = 10.0  # a new topic has its leaders within 0.2 s; three brokers take longer
AGAIN_S: Final = 0.1
SHOWN: Final = 20  # names of topics in an error
_EARLIEST, _LATEST = -2, -1  # the protocol's "times" of a partition's two ends
_WRONG: Final = (  # what was asked for cannot be
    errors.InvalidConfigurationError,
    errors.InvalidPartitionsError,
    errors.InvalidReplicationFactorError,
    errors.InvalidRequestError,
    errors.InvalidTopicError,
    errors.PolicyViolationError,
)
_COMMITTED: Final = 1  # isolation: the end is that of what is committed, as all our readers read


@dataclass(frozen=True, kw_only=True)
class TopicInfo:
    """A topic as it is."""

    name: str
    id: str  # a UUID: a topic deleted and created again has another
    partitions: int
    replication: int
    settings: Mapping[str, str] = field(default_factory=dict)  # all, or none where we may not see


class TopicDiffers(KafkaError):
    """A topic is there, and not as it was asked for."""


class Topics:
    """One connection for everything about topics but their messages.

    Every method raises `KafkaUnreachable` where Kafka does not answer (with the cause, after
    ``connect_s``), and `KafkaRefused` where this user may not.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin: Any = connect(KafkaAdminClient, config, **self._settings_of_admin())

    def __enter__(self) -> "Topics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._admin.close()

    def cluster_id(self) -> str:
        """Return the name that the cluster gave itself."""
        cluster = self._ask("describing the cluster", lambda admin: admin.describe_cluster())
        return str(cluster["cluster_id"])

    def describe(self, names: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        """Return the topics ``names``, or all but Kafka's own.

        Raises `NoSuchTopicInKafka` where one is missing; it names those there.
        """
        wanted = None if names is None else list(dict.fromkeys(names))
        found = self.find(wanted)
        if missing := [name for name in wanted or () if name not in found]:
            raise NoSuchTopicInKafka(
                f"Kafka at {self._config.bootstrap} has no topic {', '.join(missing)}; it has "
                f"{_listed(list(self.find()))}. Correct the name, or run `keepstream topics "
                "create`."
            )
        return found

    def find(self, names: Iterable[str] | None = None) -> dict[str, TopicInfo]:
        """Return those of the topics ``names`` that are there, or all but Kafka's own."""
        wanted = None if names is None else list(dict.fromkeys(names))
        if wanted == []:
            return {}  # Kafka would take it for "all"
        answers = self._ask("describing topics", lambda admin: _there(admin, wanted))
        found = {str(a["name"]): a for a in answers if not a["is_internal"] or wanted is not None}
        settings = self._settings(list(found))
        return {
            name: TopicInfo(
                name=name,
                id=str(answer["topic_id"]),
                partitions=len(answer["partitions"]),
                replication=len(answer["partitions"][0]["replica_nodes"]),
                settings=settings.get(name, {}),
            )
            for name, answer in sorted(found.items())
        }

    def create(
        self,
        name: str,
        partitions: int,
        replication: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> bool:
        """Make a topic, and return when it can be used; False where it was there, and is alike.

        ``replication`` None: what the brokers make by default. ``settings`` are the topic's own, as
        ``{"retention.ms": 3600000}``. Raises `TopicDiffers` where the one that is there has other
        partitions, replication or settings than asked for, `KafkaSettingError` where Kafka cannot
        make it.
        """
        check_topic(name)
        asked = {key: _text(value) for key, value in (settings or {}).items()}
        if partitions < 1:
            raise KafkaSettingError(f"A topic has 1 partition or more, not {partitions}.")
        new = NewTopic(name, partitions, replication or -1, topic_configs=asked)
        try:
            self._ask(f"creating the topic {name}", lambda admin: admin.create_topics([new]))
        except _Exists:
            self._compare(self.describe([name])[name], partitions, replication, asked)
            return False
        self._wait(name, partitions)
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Delete topics, with all that is in them; what is not there is left out."""
        if there := list(self.find(names)):
            self._ask(f"deleting {', '.join(there)}", lambda admin: admin.delete_topics(there))

    def beginnings(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the offsets of the oldest messages that are still there."""
        return self._offsets(partitions, _EARLIEST)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the offsets that the next messages will have."""
        return self._offsets(partitions, _LATEST)

    def offsets_at(self, partitions: Iterable[Partition], at_ms: int) -> dict[Partition, int]:
        """Return the offset of each partition's first message stamped ``at_ms`` or later.

        Where there is none, the partition's end.
        """
        wanted = list(partitions)
        ends = self.ends(wanted)  # before: what comes meanwhile is not passed over
        found = self._offsets(wanted, at_ms)
        return {p: ends[p] if offset < 0 else offset for p, offset in found.items()}

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int | None]:
        """Return the next offsets that ``group`` has committed; None where it has not."""
        wanted = list(partitions)
        if not wanted:
            return {}
        asked = {group: [TopicPartition(*p) for p in wanted]}
        answer = self._ask(
            f"reading the positions of the group {group}",
            lambda admin: admin.list_group_offsets(asked),
        )
        offsets = {Partition(*p): int(o.offset) for p, o in answer.get(group, {}).items()}
        return {p: o if (o := offsets.get(p, -1)) >= 0 else None for p in wanted}

    def commit(self, group: str, offsets: Mapping[Partition, int]) -> None:
        """Write ``group``'s next offsets, for lag displays; it must be without members.

        Raises `KafkaError` where it has some: a consumer of that name runs.
        """
        if not offsets:
            return
        named = {TopicPartition(*p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()}

        def write(admin: Any) -> None:
            for error in admin.alter_group_offsets(group, named).values():
                if error is errors.UnknownMemberIdError:
                    raise KafkaError(
                        f"The group {group} has members of its own: its positions are theirs. Set "
                        "kafka.group to another name."
                    )
                if error is not errors.NoError:
                    raise error()

        self._ask(f"committing the positions of the group {group}", write)

    def _offsets(self, partitions: Iterable[Partition], at: int) -> dict[Partition, int]:
        wanted = list(dict.fromkeys(partitions))
        if not wanted:
            return {}
        specs = {TopicPartition(*p): at for p in wanted}

        def read(admin: Any) -> Any:
            try:
                return admin.list_partition_offsets(specs, isolation_level=_COMMITTED)
            except errors.UnknownTopicOrPartitionError:
                raise self._not_there(wanted) from None

        answer = self._ask("reading offsets", read)
        return {p: int(answer[TopicPartition(*p)].offset) for p in wanted}

    def _not_there(self, partitions: list[Partition]) -> KafkaError:
        found = self.describe(sorted({p.topic for p in partitions}))  # raises where one is missing
        for partition in partitions:
            count = found[partition.topic].partitions
            if partition.number >= count:
                return NoSuchTopicInKafka(
                    f"{partition} is not in Kafka: {partition.topic} has {count} partitions, 0 to "
                    f"{count - 1}. Correct the number, or give the topic more."
                )
        return KafkaUnreachable(f"{partitions[0].topic} has no leader now. Try again.")

    def _settings(self, names: list[str]) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        try:
            answer = self._ask(
                "describing topics",
                lambda admin: admin.describe_configs(resources, config_filter="all"),
            ).get("topic", {})
        except KafkaRefused:
            return {}  # who may read a topic may not always see how it is kept
        return {
            name: {key: str(entry["value"]) for key, entry in entries.items()}
            for name, entries in answer.items()
        }

    def _compare(
        self, there: TopicInfo, partitions: int, replication: int | None, asked: dict[str, str]
    ) -> None:
        differences = []
        if there.partitions != partitions:
            differences.append(f"{there.partitions} partitions, not {partitions}")
        if replication is not None and there.replication != replication:
            differences.append(f"replication {there.replication}, not {replication}")
        differences += [
            f"{key} {there.settings[key]}, not {value}"
            for key, value in asked.items()
            if there.settings.get(key, value) != value
        ]
        if differences:
            raise TopicDiffers(
                f"The topic {there.name} is there, with {'; '.join(differences)}. Ask for what it "
                "has, change it with Kafka's own tools, or use another name."
            )

    def _wait(self, name: str, partitions: int) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            answer = self._ask(
                f"waiting for the topic {name}", lambda admin: admin.describe_topics([name])
            )[0]
            led = [p for p in answer["partitions"] if not p["error_code"] and p["leader_id"] >= 0]
            if len(led) == partitions:
                return
            if time.monotonic() > deadline:
                raise KafkaUnreachable(
                    f"The topic {name} is made, and not every partition has a leader after "
                    f"{READY_S:.0f} s. See whether all brokers are up."
                )
            time.sleep(AGAIN_S)

    def _ask(self, doing: str, call: Callable[[Any], Any]) -> Any:
        """Return what ``call`` of the connection returns; what passes is tried for ``connect_s``.

        What kafka-python raises becomes an error of ours.
        """
        deadline = time.monotonic() + self._config.connect_s
        while True:
            try:
                return call(self._admin)
            except errors.TopicAlreadyExistsError:
                raise _Exists from None
            except errors.AuthorizationError as error:
                raise KafkaRefused(
                    f"Kafka at {self._config.bootstrap} does not let "
                    f"{self._config.username or 'a client without a user'!r} do this: {doing} "
                    f"({type(error).__name__}). Give it the rights, or use another user."
                ) from None
            except _WRONG as error:
                raise KafkaSettingError(f"Kafka refused {doing}: {_said(error)}") from None
            except (errors.KafkaError, OSError) as error:
                if time.monotonic() + AGAIN_S > deadline or not _passes(error):
                    probe(self._config, within_s=0)  # raises the cause, where it is the connection
                    raise KafkaUnreachable(
                        f"Kafka at {self._config.bootstrap} did not do it: {doing} "
                        f"({_said(error)}). Try again; see the broker's log if it stays."
                    ) from None
                if isinstance(error, errors.NotCoordinatorError):
                    self._reopen()  # it remembers the coordinator it had for ever
                time.sleep(AGAIN_S)

    def _reopen(self) -> None:
        self._admin.close()
        self._admin = connect(KafkaAdminClient, self._config, **self._settings_of_admin())

    def _settings_of_admin(self) -> dict[str, Any]:
        return {"request_timeout_ms": max(1, round(self._config.connect_s * 1000))}


class _Exists(Exception):
    """The topic that was to be made is there."""


def _there(admin: Any, names: list[str] | None) -> list[dict[str, Any]]:
    """Return Kafka's descriptions of those of ``names`` that are there."""
    answers = admin.describe_topics(names)
    for answer in answers:
        if answer["error_code"] == errors.TopicAuthorizationFailedError.errno:
            raise errors.TopicAuthorizationFailedError(answer["name"])
    return [a for a in answers if not a["error_code"] and a["partitions"]]


def _passes(error: BaseException) -> bool:
    return isinstance(error, OSError | errors.RetriableError)


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _said(error: BaseException) -> str:
    """Return what the broker said, without the request that kafka-python puts around it."""
    text = str(error)
    mark = "error_message='"
    if mark in text:
        return text.split(mark, 1)[1].split("'", 1)[0]
    return text[:300] if text else type(error).__name__
