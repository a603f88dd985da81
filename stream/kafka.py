"""How to reach Kafka: the settings, what a client is made of, and what can be wrong."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

PASSWORD: Final = "KEEPSTREAM_KAFKA_PASSWORD"  # environment; never in a configuration, nor in a log

Security = Literal["plaintext", "tls", "sasl", "sasl_tls"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
_PROTOCOLS: Final = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}


class KafkaError(Exception):
    """Kafka cannot be used as asked; the message names the thing, the fact and the next move."""


class NoSuchTopicInKafka(KafkaError):
    """A topic is not there."""


class KafkaSettingError(KafkaError, ValueError):
    """A setting cannot be used."""


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """Where Kafka is and how it is spoken to; no number of these changes a result."""

    bootstrap: str = ""  # host:port, comma-separated; empty: no Kafka, the log is in files
    security: Security = "plaintext"  # tls and sasl as the cluster's listener asks for
    mechanism: Mechanism = "SCRAM-SHA-512"  # the strongest that every Kafka has
    username: str = ""  # the password comes from KEEPSTREAM_KAFKA_PASSWORD or password_file
    password_file: str = ""  # a secret that is mounted, read at every connection's start
    tls_ca: str = ""  # PEM of who signed the brokers; empty: the system's authorities
    tls_certificate: str = ""  # PEM of this client, where brokers ask for one
    tls_key: str = ""  # and its private key
    group: str = "keepstream"  # whose committed positions lag displays show
    read: Literal["events", "examples"] = "events"  # what a trainer reads: it joins, or workers do
    examples: str = "examples"  # the topic that workers write
    deadletters: str | None = "deadletters"  # the topic of what was refused; "off": files only
    lost: Literal["stop", "skip"] = "stop"  # offsets that retention took before they were read
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"  # smallest, and fast
    linger_s: float = 0.02  # a batch waits so long for more: doubles the speed of sending
    fetch_bytes: int = 4 << 20  # of a partition at once; a larger message still comes whole
    connect_s: float = 10.0  # after it a cluster that does not answer is named, with the cause
    session_s: float = 10.0  # a worker that is silent for so long has lost its partitions
    watch_s: float = 5.0  # how often topics are looked at: re-created, deleted, grown?

    def __post_init__(self) -> None:
        for name, kind in (("security", Security), ("mechanism", Mechanism)):
            if getattr(self, name) not in get_args(kind):
                raise KafkaSettingError(
                    f"{name} = {getattr(self, name)!r} is one of {', '.join(get_args(kind))}"
                )
        # … and the other Literals, positive numbers


def password(config: KafkaConfig) -> str | None:
    """Return the password, from the environment or the file."""
    if (text := os.environ.get(PASSWORD)) is not None:
        return text
    return Path(config.password_file).read_text("utf-8").strip() if config.password_file else None


def client_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return the settings that every kafka-python client is made with."""
    return {
        "bootstrap_servers": config.bootstrap.split(","),
        "security_protocol": _PROTOCOLS[config.security],
        "client_id": "keepstream",
        "reconnect_backoff_max_ms": 1000,  # the default's back-off reaches 30 s: a broker that is
        # back would wait as long
        "bootstrap_timeout_ms": round(config.connect_s * 1000),
    }
