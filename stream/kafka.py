"""How to reach Kafka: the settings, what a client is made of, and what can be wrong with them."""

import logging
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

PASSWORD: Final = "KEEPSTREAM_KAFKA_PASSWORD"  # environment; never in a configuration, nor in a log

Security = Literal["plaintext", "tls", "sasl", "sasl_tls"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
PROTOCOLS: Final = {
    "plaintext": "PLAINTEXT",
    "tls": "SSL",
    "sasl": "SASL_PLAINTEXT",
    "sasl_tls": "SASL_SSL",
}
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_SERVER: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+):([0-9]{1,5})")
# These print whole requests at DEBUG, the one that carries the password included.
_WIRE_LOGS: Final = (
    "kafka.admin.client",
    "kafka.net.connection",
    "kafka.protocol.parser",
    "aiokafka.conn",
)


class KafkaError(Exception):
    """Kafka cannot be used as asked; the message names the thing, the fact and the next move."""


class NoSuchTopicInKafka(KafkaError):
    """A topic, or a partition of it, is not there."""


class KafkaUnreachable(KafkaError):
    """No broker answers: nobody listens, no route, an unknown host."""


class KafkaRefused(KafkaError):
    """The brokers answer, and do not let this user in, or not do this."""


class KafkaSettingError(KafkaError, ValueError):
    """A setting cannot be used, or is not what the brokers speak."""


class Secret(str):
    """A text that shows itself nowhere: neither printed, nor formatted, nor in the repr of a dict.

    >>> Secret("hush"), f"{Secret('hush')}", str(Secret("hush"))
    ('***', '***', '***')
    >>> Secret("hush").encode()
    b'hush'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, form: str) -> str:
        return "***"


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
    compression: Compression = "zstd"  # smallest, and fast
    linger_s: float = 0.02  # a batch waits so long for more: doubles the speed of sending
    fetch_bytes: int = 4 << 20  # of a partition at once; a larger message still comes whole
    connect_s: float = 10.0  # after it a cluster that does not answer is named, with the cause
    session_s: float = 10.0  # a worker that is silent for so long has lost its partitions
    watch_s: float = 5.0  # how often topics are looked at: re-created, deleted, grown?

    def __post_init__(self) -> None:
        self._check_choices()
        if self.bootstrap:
            servers(self.bootstrap)
        for name in ("fetch_bytes", "connect_s", "session_s", "watch_s"):
            if not getattr(self, name) > 0:
                raise KafkaSettingError(f"{name} is {getattr(self, name)}. Set it above 0.")
        if not 0 <= self.linger_s <= 60:
            raise KafkaSettingError(f"linger_s is {self.linger_s}. Set it to 0 to 60 seconds.")
        for name, topic in (("examples", self.examples), ("deadletters", self.deadletters)):
            if topic is not None:
                check_topic(topic, name)
        if not self.group:
            raise KafkaSettingError("group is empty. Name a group: its positions show the lag.")
        if "sasl" in self.security:
            if not self.username:
                raise KafkaSettingError(
                    f"security = {self.security!r} needs a username. Set it, and the password in "
                    f"{PASSWORD} or in a file that password_file names."
                )
        elif self.username or self.password_file:
            raise KafkaSettingError(
                f"username or password_file is set, and security = {self.security!r} sends "
                "neither. Set security to 'sasl' or 'sasl_tls', or leave them out."
            )
        if "tls" not in self.security and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise KafkaSettingError(
                f"tls_ca, tls_certificate or tls_key is set, and security = {self.security!r} is "
                "without TLS. Set security to 'tls' or 'sasl_tls', or leave them out."
            )
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise KafkaSettingError(
                "tls_certificate and tls_key go together: set both, or neither."
            )

    @property
    def workers_group(self) -> str:
        """The name of the workers' group: a trainer commits for displays to ``group``."""
        return f"{self.group}-workers"

    def _check_choices(self) -> None:
        for name, field in type(self).__dataclass_fields__.items():
            choices = get_args(field.type)
            if choices and all(isinstance(choice, str) for choice in choices):
                value = getattr(self, name)
                if value not in choices:
                    raise KafkaSettingError(
                        f"{name} = {value!r} is not known. Choose one of {', '.join(choices)}."
                    )


def check_topic(name: str, setting: str = "topic") -> None:
    """Raise `KafkaSettingError` where ``name`` cannot be a topic's."""
    if not _TOPIC.fullmatch(name):
        raise KafkaSettingError(
            f"{setting} = {name!r} cannot be the name of a topic. Use letters, digits, '.', '_' "
            "and '-', at most 249 of them."
        )


def servers(bootstrap: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of ``bootstrap``.

    >>> servers("a:9092, [::1]:9093")
    [('a', 9092), ('::1', 9093)]
    """
    found = []
    for text in bootstrap.split(","):
        match = _SERVER.fullmatch(text.strip())
        if match is None or not 0 < int(match[2]) < 65_536:
            # Not shown as it is: addresses of the form user:password@host are typed by mistake.
            raise KafkaSettingError(
                f"bootstrap has {_safe(text.strip())!r}. Write host:port, comma-separated."
            )
        found.append((match[1].strip("[]"), int(match[2])))
    return found


def _safe(text: str) -> str:
    return re.sub(r"[^\s,]*@", "***@", text)


def password(config: KafkaConfig) -> Secret | None:
    """Return the password, from the environment or else the file; None where neither is set.

    Raises `KafkaSettingError` where the file cannot be read, or what is there is empty.
    """
    if (text := os.environ.get(PASSWORD)) is not None:
        where = PASSWORD
    elif config.password_file:
        where = f"password_file {config.password_file}"
        try:
            text = Path(config.password_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KafkaSettingError(
                f"{where} cannot be read ({_reason(error)}). Put the password there, or into "
                f"{PASSWORD}."
            ) from None
    else:
        return None
    if not text:
        raise KafkaSettingError(f"{where} is empty. Put the password there.")
    return Secret(text)


def tls_context(config: KafkaConfig) -> ssl.SSLContext | None:
    """Return how to speak TLS to the brokers, None where ``security`` is without.

    Certificates are checked against ``tls_ca`` or the system's authorities, and for the host's
    name. Raises `KafkaSettingError` where a file cannot be read or is no PEM.
    """
    if "tls" not in config.security:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    named = ""
    try:
        if config.tls_ca:
            named = f"tls_ca {config.tls_ca}"
            context.load_verify_locations(config.tls_ca)
        else:
            context.load_default_certs()
        if config.tls_certificate:
            named = f"tls_certificate {config.tls_certificate} with tls_key {config.tls_key}"
            # Without a password function the library would ask for one on the terminal.
            context.load_cert_chain(config.tls_certificate, config.tls_key, lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise KafkaSettingError(
            f"{named} cannot be used ({_reason(error)}). Name PEM files that this process can "
            "read; a key is kept without a passphrase."
        ) from None
    return context


def client_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return the settings that every kafka-python client is made with.

    Raises `KafkaSettingError`: no bootstrap, no password, a file that cannot be used.
    """
    if not config.bootstrap:
        raise KafkaSettingError("bootstrap is empty. Set it to host:port of a broker.")
    from stream.kafka_sockets import PROXY_URL  # here: reading a configuration loads no client

    settings: dict[str, Any] = {
        "proxy_url": PROXY_URL,
        "bootstrap_servers": [text.strip() for text in config.bootstrap.split(",")],
        "security_protocol": PROTOCOLS[config.security],
        "client_id": "keepstream",
        "reconnect_backoff_max_ms": 1000,  # the default's back-off reaches 30 s: a broker that is
        # back would wait as long
        "bootstrap_timeout_ms": max(1, round(config.connect_s * 1000)),
    }
    if (context := tls_context(config)) is not None:
        settings["ssl_context"] = context
    if "sasl" in config.security:
        secret = password(config)
        if secret is None:
            raise KafkaSettingError(
                f"There is no password for {config.username!r}. Put it into {PASSWORD}, or into a "
                "file that password_file names."
            )
        _keep_from_logs()
        settings |= {
            "sasl_mechanism": config.mechanism,
            "sasl_plain_username": config.username,
            "sasl_plain_password": secret,
        }
    return settings


def consumer_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return the settings of a consumer whose positions are ours: no group, nothing done silently.

    To be given partitions by ``assign``. An offset that is not there raises, and what a
    transaction took back is not read.
    """
    return client_settings(config) | {
        "group_id": None,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": config.fetch_bytes,
        "fetch_max_bytes": max(config.fetch_bytes, 50 << 20),  # the default: all partitions' share
        "allow_auto_create_topics": False,
        "check_crcs": True,
        "metrics_enabled": False,  # per-record bookkeeping that nobody reads
    }


def _keep_from_logs() -> None:
    for name in _WIRE_LOGS:
        logging.getLogger(name).addFilter(_no_requests)  # adding it twice does nothing


def _no_requests(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _reason(error: Exception) -> str:
    """Return what was wrong, without the content of a file."""
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "no PEM").lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or "not UTF-8")
