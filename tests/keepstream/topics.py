"""Small worlds in topics of a real Kafka: made, filled, and a configuration that names them."""

import re
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from kafka import KafkaAdminClient, KafkaProducer

from stream.kafka import KafkaConfig
from stream.kafka_topics import Topics
from stream.position import Partition
from tests.keepstream.worlds import CONFIG, configured, passes


class World:
    """Topics of a test's own on a broker, and a configuration in ``folder`` that names them."""

    def __init__(self, folder: Path, kafka: KafkaConfig, partitions: int = 1, more: str = ""):
        self.mark = uuid4().hex[:8]
        self.folder, self.kafka = folder, kafka
        self.names = {t: f"{t}-{self.mark}" for t in ("impressions", "feedback")}
        self.letters, self.examples = f"letters-{self.mark}", f"examples-{self.mark}"
        security = {
            k: v
            for k in ("security", "mechanism", "username", "password_file", "tls_ca")
            if (v := getattr(kafka, k)) != getattr(KafkaConfig(), k)
        }
        lines = "".join(f'{k} = "{v}"\n' for k, v in security.items())
        self.config = configured(
            folder,
            f"{CONFIG}\n[log]\ntopics = {list(self.names.values())}\n[kafka]\n"
            f'bootstrap = "{kafka.bootstrap}"\n{lines}group = "group-{self.mark}"\n'
            f'examples = "{self.examples}"\ndeadletters = "{self.letters}"\n{more}',
        )
        if partitions:
            with Topics(kafka) as topics:
                for name in self.names.values():
                    topics.create(name, partitions)
                topics.create(self.letters, 1)

    def write(self, log: dict[Partition, list[bytes]]) -> None:
        """Append the messages of a log, as any producer would when their events happened."""
        producer = KafkaProducer(bootstrap_servers=self.kafka.bootstrap, linger_ms=5)
        try:
            for partition, values in log.items():
                for value in values:
                    producer.send(
                        self.names[partition.topic],
                        value=value,
                        partition=partition.number,
                        timestamp_ms=newest_ms(value),
                    )
            producer.flush()
        finally:
            producer.close()

    def grow(self, count: int) -> None:
        """Give both topics ``count`` partitions."""
        admin = KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        try:
            admin.create_partitions(dict.fromkeys(self.names.values(), count))
        finally:
            admin.close()

    def wait_until_committed(self, process: "subprocess.Popen[str]", count: int = 1) -> None:
        """Wait until a trainer has committed all that is in the ``count`` partitions of each."""
        deadline = time.monotonic() + 60
        with Topics(self.kafka) as topics:
            ends = topics.ends(self.partitions(count))
            while topics.committed(f"group-{self.mark}", ends) != ends:
                assert time.monotonic() < deadline, "the trainer has not come so far"
                assert process.poll() is None, "the trainer has ended"
                passes(process, 0.1)

    def partitions(self, count: int) -> Iterable[Partition]:
        """Return the partitions of both topics."""
        return [Partition(name, n) for name in self.names.values() for n in range(count)]


def newest_ms(value: bytes) -> int | None:
    """Return the time of a message's newest event."""
    return max((int(ts) for ts in re.findall(rb'"ts":(\d{13})', value)), default=None)


class Said:
    """What a process says on standard error, line by line, while it runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[str] = []
        self._process = process
        self._new = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until a line holds ``text``; fail where none does in time."""
        with self._new:
            found = self._new.wait_for(lambda: any(text in x for x in self.lines), seconds)
        assert found, (text, self.lines)

    def _read(self) -> None:
        for line in self._process.stderr:
            with self._new:
                self.lines.append(line)
                self._new.notify_all()
