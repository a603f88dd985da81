"""A real Apache Kafka (KRaft) on loopback, for tests and benchmarks: started, broken, stopped.

It comes from ``$KAFKA_HOME``, any unpacked Kafka 4 download, and needs Java 17. Brokers are also
the controllers, as in a small cluster. Whatever way this process ends, its brokers end with it.
"""

import atexit
import base64
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal

from stream.kafka import KafkaConfig

HOST: Final = "127.0.0.1"
USERNAME: Final = "keepstream"
PASSWORD: Final = "test-only-password"
UP: Final = b"Kafka Server started"  # what a broker says when it serves
START_S: Final = 90.0  # a start takes 3 s; machines that are shared take their time
STOP_S: Final = 10.0  # a clean stop takes 0.3 s; one without its quorum never ends
# Below the range that systems take source ports from: a client that tries again and again to reach
# a killed broker would in the end be given its port, and be connected with itself.
PORTS: Final = range(20_000, 32_000)
LOG4J: Final = """rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=STDOUT
appender.stdout.type=Console
appender.stdout.name=STDOUT
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=[%d] %p %m (%c)%n
logger.started.name=kafka.server.KafkaRaftServer
logger.started.level=INFO
"""

Security = Literal["plaintext", "tls", "sasl", "sasl_tls"]
_PROTOCOLS: Final = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}


class NoKafka(Exception):
    """There is no Kafka to start, or it did not start."""


def kafka_home() -> Path | None:
    """Return the folder of the Kafka to start, or None where there is none or no Java."""
    home = Path(os.environ.get("KAFKA_HOME") or "/nonexistent")
    return home if (home / "libs").is_dir() and shutil.which("java") else None


class Broker:
    """A cluster of ``brokers`` nodes, numbered from 1; everything it has lies in ``folder``.

    ``properties`` are any settings of a broker. Raises `NoKafka` with the end of the broker's
    output where it does not come up. ``tls`` brokers show a certificate for 127.0.0.1 and localhost
    that `tls_ca` signs; ``sasl`` brokers know one user, by PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
    """

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        security: Security = "plaintext",
        properties: Mapping[str, object] | None = None,
    ) -> None:
        home = kafka_home()
        if home is None:
            raise NoKafka(
                "There is no Kafka to start: set KAFKA_HOME to an unpacked Kafka 4 download, and "
                "have Java 17 in the PATH."
            )
        self._libs, self.folder, self.security = home / "libs", Path(folder), security
        self._properties = dict(properties or {})
        ports = free_ports(3 * brokers)
        self._ports = [ports[i : i + 3] for i in range(0, len(ports), 3)]  # client, inner, control
        self._running: dict[int, tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]] = {}
        self._lay_out()

    def __enter__(self) -> "Broker":
        atexit.register(self.close)
        try:
            for node in self.nodes:
                self._launch(node)
            for node in self.nodes:
                self._wait(node)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def nodes(self) -> range:
        """The numbers of the nodes."""
        return range(1, len(self._ports) + 1)

    @property
    def bootstrap(self) -> str:
        """Where clients connect."""
        return ",".join(f"{HOST}:{client}" for client, _, _ in self._ports)

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the nodes that run."""
        return {n: process.pid for n, (process, _) in self._running.items()}

    @property
    def tls_ca(self) -> Path:
        """The certificate (PEM) that clients trust."""
        return self.folder / "ca.pem"

    def config(self, **settings: Any) -> KafkaConfig:
        """Return the configuration that gets in, changed by ``settings``."""
        right: dict[str, Any] = {"bootstrap": self.bootstrap, "security": self.security}
        if "sasl" in self.security:
            right |= {"username": USERNAME, "password_file": str(self.folder / "password")}
        if "tls" in self.security:
            right |= {"tls_ca": str(self.tls_ca)}
        return KafkaConfig(**{**right, **settings})

    def start(self, node: int = 1) -> None:
        """Bring a node back, on the same port with the same data; return when it serves.

        A broker that was killed is registered again only after its session has timed out: 3 s.
        """
        self._launch(node)
        self._wait(node)

    def kill(self, node: int = 1) -> None:
        """End a node at once (SIGKILL): what it holds in memory is gone, its files stay."""
        process, guard = self._running.pop(node)
        process.kill()
        process.wait()
        _end(guard)

    def pause(self, node: int = 1) -> None:
        """Let a node be there and say nothing (SIGSTOP)."""
        self._running[node][0].send_signal(signal.SIGSTOP)

    def resume(self, node: int = 1) -> None:
        """Let a paused node go on."""
        self._running[node][0].send_signal(signal.SIGCONT)

    def stop(self, node: int | None = None) -> None:
        """Shut a node, or all of them, down cleanly; what does not go in `STOP_S` is killed."""
        nodes = list(self._running) if node is None else [node]
        for n in nodes:
            self._running[n][0].terminate()
            self.resume(n)  # a paused one must wake up to leave
        deadline = time.monotonic() + STOP_S
        for n in nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running[n][0].wait(max(0.0, deadline - time.monotonic()))
            self.kill(n)

    def close(self) -> None:
        """Kill what runs and delete the data; idempotent."""
        atexit.unregister(self.close)
        for node in list(self._running):
            self.kill(node)
        for node in self.nodes:
            shutil.rmtree(self.folder / f"data-{node}", ignore_errors=True)

    def tool(self, name: str, *words: str) -> str:
        """Run a class of ``org.apache.kafka.tools`` on the cluster; return what it prints.

        As ``tool("TopicCommand", "--describe")``.
        """
        inner = ",".join(f"{HOST}:{port}" for _, port, _ in self._ports)
        return self._java(f"org.apache.kafka.tools.{name}", "--bootstrap-server", inner, *words)

    def _java_words(self, heap: str, *words: str) -> list[str]:
        """Return the command line that runs a class of Kafka's jars."""
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        jvm = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", log4j, "-cp", f"{self._libs}/*"]
        return [*jvm, *words]

    def _java(self, *words: str) -> str:
        done = subprocess.run(
            self._java_words("128m", "-XX:TieredStopAtLevel=1", *words),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoKafka(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _lay_out(self) -> None:
        """Write settings and certificates, and format the storage of every node."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(LOG4J)
        (self.folder / "password").write_text(PASSWORD + "\n")
        if "tls" in self.security:
            certificate(self.folder)
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        users = [f"SCRAM-SHA-{n}=[name={USERNAME},password={PASSWORD}]" for n in (256, 512)]
        scram = [word for user in users for word in ("--add-scram", user)]
        for node in self.nodes:
            path = self.folder / f"server-{node}.properties"
            path.write_text("".join(f"{k}={v}\n" for k, v in self._settings(node).items()))
            words = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(path)]
            self._java(*words, *(scram if "sasl" in self.security else []))

    def _settings(self, node: int) -> dict[str, object]:
        client, inner, control = self._ports[node - 1]
        replicas = min(3, len(self._ports))
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": ",".join(
                f"{n}@{HOST}:{port}" for n, (_, _, port) in enumerate(self._ports, 1)
            ),
            "listeners": f"CLIENT://{HOST}:{client},INNER://{HOST}:{inner},CONTROL://{HOST}:{control}",
            "advertised.listeners": f"CLIENT://{HOST}:{client},INNER://{HOST}:{inner}",
            "listener.security.protocol.map": (
                f"CLIENT:{_PROTOCOLS[self.security]},INNER:PLAINTEXT,CONTROL:PLAINTEXT"
            ),
            "inter.broker.listener.name": "INNER",
            "controller.listener.names": "CONTROL",
            "log.dirs": self.folder / f"data-{node}",
            "default.replication.factor": replicas,
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,  # a killed member is noticed after it, not 6 s
            "auto.create.topics.enable": "false",
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,  # a killed one may come back after this, not 9 s
            "num.network.threads": 2,
            "num.io.threads": 4,
            "log.retention.hours": -1,  # event times lie in the past, and nothing shall vanish
        }
        if "sasl" in self.security:
            modules = "org.apache.kafka.common.security"
            settings["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            settings["listener.name.client.plain.sasl.jaas.config"] = (
                f'{modules}.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";'
            )
            for n in (256, 512):
                settings[f"listener.name.client.scram-sha-{n}.sasl.jaas.config"] = (
                    f"{modules}.scram.ScramLoginModule required;"
                )
        if "tls" in self.security:
            settings["listener.name.client.ssl.keystore.type"] = "PEM"
            settings["listener.name.client.ssl.keystore.location"] = self.folder / "server.pem"
        return settings | self._properties

    def _output(self, node: int) -> Path:
        return self.folder / f"output-{node}.log"

    def _launch(self, node: int) -> None:
        settings = str(self.folder / f"server-{node}.properties")
        with self._output(node).open("wb") as output:
            process = subprocess.Popen(
                self._java_words("512m", "kafka.Kafka", settings),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is for the test, not for the broker
            )
        # The guard's input ends when this process does, even by SIGKILL: then it kills the broker.
        guard = subprocess.Popen(
            ["sh", "-c", 'read -r line; kill -9 "$0"', str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running[node] = process, guard

    def _wait(self, node: int) -> None:
        deadline = time.monotonic() + START_S
        while UP not in self._output(node).read_bytes():
            if self._running[node][0].poll() is not None or time.monotonic() > deadline:
                tail = self._output(node).read_text(errors="replace")[-3000:]
                raise NoKafka(f"Broker {node} did not come up; its output ends:\n{tail}")
            time.sleep(0.02)


def certificate(folder: Path) -> None:
    """Make a certificate for 127.0.0.1 and localhost: ``ca.pem``, ``key.pem``, ``server.pem``."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
         "-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}",
         "-keyout", folder / "key.pem", "-out", folder / "ca.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = (folder / "key.pem").read_text() + (folder / "ca.pem").read_text()
    (folder / "server.pem").write_text(both)


def _end(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.wait()
    pipe: IO[bytes] | None = guard.stdin
    assert pipe is not None
    pipe.close()


def free_ports(count: int) -> list[int]:
    """Return ports of `PORTS` that nothing listens on."""
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            one = socket.socket()
            held.append(one)
            while True:
                try:
                    one.bind((HOST, random.SystemRandom().choice(PORTS)))
                    break
                except OSError:  # taken: the next
                    continue
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()
