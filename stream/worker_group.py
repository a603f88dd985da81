"""The group of the workers: who works on which partitions. Faust carries it, and no message.

Faust has the membership, the co-partitioned assignment, the leader, the web view, the metrics. The
messages are read elsewhere, so its own consumer is paused on all partitions (docs/decisions/0012).
"""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiokafka import errors
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from yarl import URL

from stream.kafka import KafkaConfig, KafkaError, KafkaUnreachable
from stream.kafka_probe import probe
from stream.position import Partition
from stream.worker_faust import App, Transport, credentials, leader_of
from stream.worker_logs import said_sparingly

_NEVER_S: Final = 10 * 365 * 86_400.0  # Faust's consumer polls nothing, ever, and is to stay
_ASSIGN_S: Final = 10.0  # a group that forms, or that lost a member, takes about as long
_STOP_S: Final = 10.0  # what stopping may take: a supervisor kills after about as long


class WebPortTaken(KafkaError):
    """The port of the web view is in use."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(
            f"The web view cannot listen on {host}:{port}: {why}. Name a free port with --web-port,"
            " or 0 for no web view."
        )


class NotAMember(KafkaError):
    """The group cannot be joined."""

    def __init__(self, config: KafkaConfig, error: BaseException) -> None:
        super().__init__(
            f"Kafka at {config.bootstrap} does not let this worker into the group "
            f"{config.workers_group}: {error}. Give this user the right Read on the group, and "
            "Read and Describe on the topics; see the broker's log."
        )


class Work(Protocol):
    """What a member does with the partitions it is given. Calls come from several threads."""

    def start(self, failed: Callable[[Exception], None]) -> None:
        """Begin, with nothing assigned; ``failed`` is told, once, what ended it early."""
        ...

    def assign(self, numbers: frozenset[int]) -> None:
        """Work on the partitions ``numbers`` of every topic, and on no other. Returns at once."""
        ...

    def release(self) -> None:
        """Write what is in hand, then wait for `assign`: others may get what was assigned."""
        ...

    def stop(self) -> None:
        """Write what is in hand, and end; returns within seconds."""
        ...

    def positions(self) -> Mapping[Partition, int]:
        """Return the next offset to read of the partitions worked on, for displays of lag."""
        ...

    def status(self, ends: Mapping[Partition, int]) -> dict[str, Any]:
        """Return figures for the web view, JSON-ready; ``ends`` of partitions, where known."""
        ...


@dataclass(frozen=True, kw_only=True)
class LeaderJob:
    """Something that one worker of the group does, again and again."""

    name: str
    every_s: float
    run: Callable[[], None]  # on a thread of its own; it sees to its own errors


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Who this member is, and where its web view listens."""

    name: str = "worker"  # as logs and the brokers' lists of members show it
    web_host: str = "127.0.0.1"  # the view has no password: only this machine may look
    web_port: int = 6066  # Faust's own default; 0: no web view
    commit_s: float = 5.0  # how often displays of lag learn where it reads: a look takes as long


class Group:
    """One member of the workers' group.

    Raises what the work raised, `KafkaError` where the member cannot start.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        topics: Sequence[str],
        work: Work,
        config: GroupConfig,
        say: Callable[[str], None],
        leader_jobs: Sequence[LeaderJob] = (),
    ) -> None:
        self._kafka = kafka
        self._topics = tuple(topics)
        self._work = work
        self._config = config
        self._say = say
        self._leader_jobs = leader_jobs
        self._assigned_once = False  # perhaps nothing
        self._ends: dict[Partition, int] = {}  # of the inputs, as last heard

    def run(self) -> None:
        """Be a member until SIGINT or SIGTERM, or until the work fails."""
        if self._config.web_port:
            _check_port(self._config.web_host, self._config.web_port)
        with said_sparingly(self._say):
            asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ending: asyncio.Future[Exception | None] = loop.create_future()

        def end(reason: Exception | None) -> None:
            if not ending.done():
                ending.set_result(reason)

        def interrupted(number: signal.Signals) -> None:
            self._say(f"{number.name}: writing what is in hand, leaving the group")
            end(None)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted, number)
        app = self._app()
        self._work.start(lambda error: _call(loop, end, error))
        starting = asyncio.ensure_future(app.start())
        committing = asyncio.ensure_future(self._commit_again_and_again(app, end))
        crashed = asyncio.ensure_future(app.wait_until_stopped())
        try:
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                if error := starting.exception():
                    raise await loop.run_in_executor(None, _why, self._kafka, error) from error
                await asyncio.wait({ending, crashed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            committing.cancel()
            await loop.run_in_executor(None, self._work.stop)
            with suppress(TimeoutError):
                await asyncio.wait_for(_commit(app, self._work.positions()), 1.0)
            try:
                await asyncio.wait_for(app.stop(), _STOP_S)
            except TimeoutError:
                self._say("the group did not let go in time: it will notice by itself")
            starting.cancel()
            crashed.cancel()
            await asyncio.gather(starting, crashed, committing, return_exceptions=True)
        # What Faust cancels as it stops it may call a crash: no matter where a signal ended it.
        reason = ending.result() if ending.done() else app.crash_reason
        if reason is not None:
            raise reason

    def _app(self) -> Any:
        kafka, config = self._kafka, self._config
        servers = [server.strip() for server in kafka.bootstrap.split(",")]
        app = App(
            kafka.workers_group,
            autodiscover=False,
            broker=";".join(f"aiokafka://{server}" for server in servers),
            broker_client_id=f"keepstream-{config.name}",
            broker_commit_interval=_NEVER_S,  # it has nothing to acknowledge
            broker_credentials=credentials(kafka),
            broker_heartbeat_interval=kafka.session_s / 10,
            broker_max_poll_interval=_NEVER_S,  # a paused member leaves the group after it
            broker_request_timeout=max(30.0, kafka.session_s),
            broker_session_timeout=kafka.session_s,
            consumer_auto_offset_reset="earliest",
            consumer_metadata_max_age_ms=round(1000 * kafka.watch_s),  # new partitions are shared
            stream_processing_timeout=_NEVER_S,  # it would call its silence an error
            stream_wait_empty=False,
            table_standby_replicas=1,  # at 0 Faust assigns topics one by one, not co-partitioned
            topic_allow_declare=False,
            web_bind=config.web_host,
            web_enabled=bool(config.web_port),
            web_port=config.web_port or None,
            web_stats_enabled=True,
            LeaderAssignor=leader_of(self._topics[0]),
        )
        app.in_worker = True
        app.transport = Transport([URL(f"aiokafka://{server}") for server in servers], app)
        app.topics.add(app.topic(*self._topics, value_type=bytes, acks=False))
        app.on_partitions_revoked.connect(self._revoked, weak=False)
        app.on_partitions_assigned.connect(self._assigned, weak=False)

        async def page(view: Any, request: Any) -> Any:
            member = {"name": config.name, "leader": app.is_leader()}
            return view.json({**member, **self._work.status(self._ends)})

        app.page("/keepstream/", name="keepstream")(page)
        for job in self._leader_jobs:
            app.timer(job.every_s, on_leader=True, name=job.name)(_in_thread(job.run))
        return app

    async def _revoked(self, app: Any, revoked: set[TP], **_: Any) -> None:
        if revoked:
            await asyncio.get_running_loop().run_in_executor(None, self._work.release)

    async def _assigned(self, app: Any, assigned: set[TP], **_: Any) -> None:
        self._assigned_once = True
        topics_of: dict[int, set[str]] = {}
        for partition in assigned:
            topics_of.setdefault(partition.partition, set()).add(partition.topic)
        whole = frozenset(n for n, topics in topics_of.items() if len(topics) == len(self._topics))
        if partly := sorted(topics_of.keys() - whole):
            self._say(
                f"partitions {partly} do not exist in all of {', '.join(self._topics)}: nobody can "
                "join them. Give the topics the same number of partitions."
            )
        self._work.assign(whole)

    async def _commit_again_and_again(
        self, app: Any, end: Callable[[Exception | None], None]
    ) -> None:
        began, told = time.monotonic(), False
        while True:
            await asyncio.sleep(self._config.commit_s)
            if error := await _refusal(app):
                return end(NotAMember(self._kafka, error))
            if not (told or self._assigned_once) and time.monotonic() - began > _ASSIGN_S:
                told = True
                self._say(
                    f"the group {self._kafka.workers_group} has assigned nothing for "
                    f"{_ASSIGN_S:g} s: waiting for it"
                )
            positions = self._work.positions()
            await _commit(app, positions)
            self._ends = await _ends(app, positions)


def _in_thread(run: Callable[[], None]) -> Callable[[], Any]:
    async def job() -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def finish(error: Exception | None) -> None:
            if over.done():
                return
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)

        def work() -> None:
            error = None
            try:
                run()
            except Exception as raised:  # noqa: BLE001  # it is raised where the job is awaited
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, error)

        # Not one of the loop's own threads: their end is waited for, and a job may take minutes.
        threading.Thread(target=work, name="leader job", daemon=True).start()
        await over

    return job


def _why(config: KafkaConfig, error: BaseException) -> KafkaError:
    """Return why a member could not start: most often the broker has gone meanwhile."""
    try:
        probe(config, within_s=0)
    except KafkaError as cause:
        return cause
    if isinstance(error, errors.KafkaConnectionError | OSError):
        return KafkaUnreachable(
            f"Kafka at {config.bootstrap} answered, and then no longer ({error}). See whether its "
            "brokers stay up, then start again."
        )
    return NotAMember(config, error)


async def _refusal(app: Any) -> BaseException | None:
    """Return why the group will not have this member; None where it has it, or may yet.

    aiokafka tries no more until somebody has looked, whatever the error.
    """
    if (consumer := app.consumer._thread._consumer) is None or consumer._coordinator is None:
        return None

    async def look() -> None:
        consumer._coordinator.check_errors()

    try:
        await _on_its_loop(app, look())
    except errors.KafkaError as error:
        return None if error.retriable else error
    return None


async def _commit(app: Any, positions: Mapping[Partition, int]) -> None:
    """Commit what this member is assigned, for displays; what fails is committed the next time."""
    if (consumer := app.consumer._thread._consumer) is None or app.rebalancing:
        return  # a commit of a generation that is over makes aiokafka join the group anew
    mine = consumer.assignment()
    offsets = {
        tp: driver.OffsetAndMetadata(offset, "")
        for partition, offset in positions.items()
        if (tp := driver.TopicPartition(*partition)) in mine
    }
    if offsets:  # past Faust: it ends a worker whose commit fails
        with suppress(Exception):
            await _on_its_loop(app, consumer.commit(offsets))


async def _ends(app: Any, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """Return the ends of partitions; none while the broker does not answer."""
    consumer = app.consumer._thread._consumer
    wanted = [driver.TopicPartition(*partition) for partition in partitions]
    if consumer is None or not wanted:
        return {}
    with suppress(Exception):
        ends = await _on_its_loop(app, consumer.end_offsets(wanted))
        return {Partition(tp.topic, tp.partition): end for tp, end in ends.items()}
    return {}


async def _on_its_loop(app: Any, asked: Coroutine[Any, Any, Any]) -> Any:
    """Await what Faust's consumer does: it has a thread and a loop of its own."""
    loop = app.consumer._thread.thread_loop
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, loop))


def _call(
    loop: asyncio.AbstractEventLoop, function: Callable[[Exception], None], error: Exception
) -> None:
    with suppress(RuntimeError):  # the loop has ended: nobody is there to be told
        loop.call_soon_threadsafe(function, error)


def _check_port(host: str, port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise WebPortTaken(host, port, error.strerror or str(error)) from error
