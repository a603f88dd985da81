import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from benchmarks.broker import PASSWORD as RIGHT
from benchmarks.broker import USERNAME, Broker, certificate, kafka_home
from stream.kafka import (
    PASSWORD,
    KafkaConfig,
    KafkaError,
    KafkaRefused,
    KafkaSettingError,
    KafkaUnreachable,
)
from stream.kafka_probe import connect, probe

WRONG = "a-wrong-password"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
CLIENTS = (KafkaAdminClient, KafkaConsumer, KafkaProducer)


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the password from files only."""
    monkeypatch.delenv(PASSWORD, raising=False)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Broker]]:
    """Yield a broker with TLS, one with SASL, one with both."""
    if kafka_home() is None:
        pytest.skip("there is no Kafka to start: set KAFKA_HOME to an unpacked Kafka 4 download")
    folder = tmp_path_factory.mktemp("secured")
    started: dict[str, Broker] = {}
    try:
        for security in ("tls", "sasl", "sasl_tls"):
            one = Broker(folder / security, security=security)  # type: ignore[arg-type]
            started[security] = one.__enter__()
        yield started
    finally:
        for one in started.values():
            one.close()


def refusal(config: KafkaConfig) -> KafkaError:
    """Return the error that `probe` raises, which must come within seconds."""
    begin = time.monotonic()
    with pytest.raises(KafkaError) as caught:
        probe(config)
    assert time.monotonic() - begin < 5
    return caught.value


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_nobody_listening_is_named() -> None:
    """The commonest cause: a wrong port, or a broker that is down."""
    port = free_port()

    error = refusal(KafkaConfig(bootstrap=f"127.0.0.1:{port}", connect_s=0.5))

    assert isinstance(error, KafkaUnreachable)
    assert f"Nobody listens at 127.0.0.1:{port}." in str(error)


def test_an_unknown_host_is_named() -> None:
    """A name misspelt, or one that only the brokers' network knows."""
    error = refusal(KafkaConfig(bootstrap="no-such-host.invalid:9092", connect_s=0.5))

    assert isinstance(error, KafkaUnreachable)
    assert "No host is called 'no-such-host.invalid'" in str(error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "says nothing"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not Kafka")],
)
def test_what_is_no_kafka_is_named(answer: bytes | None, said: str) -> None:
    """A port of something else, or a broker that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                if answer is not None:
                    held[-1].recv(1000)
                    held[-1].sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        error = refusal(
            KafkaConfig(bootstrap=f"127.0.0.1:{server.getsockname()[1]}", connect_s=0.5)
        )
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in held:
            one.close()

    assert isinstance(error, KafkaUnreachable)
    assert said in str(error)


@pytest.mark.kafka
@pytest.mark.parametrize("security", ["plaintext", "tls", "sasl", "sasl_tls"])
def test_the_right_settings_let_every_client_in(
    kafka: KafkaConfig, secured: dict[str, Broker], security: str
) -> None:
    """The one case in which nothing may be said."""
    config = kafka if security == "plaintext" else secured[security].config()

    assert probe(config)
    for client in CLIENTS:
        connect(client, config).close()


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("security", ["sasl", "sasl_tls"])
def test_a_wrong_password_is_named(
    secured: dict[str, Broker], tmp_path: Path, mechanism: str, security: str
) -> None:
    """The broker's answer is lost in most of kafka-python's attempts, and never in ours."""
    there = secured[security]
    (tmp_path / "wrong").write_text(WRONG)
    assert probe(there.config(mechanism=mechanism))

    for changed in ({"password_file": str(tmp_path / "wrong")}, {"username": "nobody"}):
        error = refusal(there.config(mechanism=mechanism, **changed))
        assert isinstance(error, KafkaRefused)
        assert f"refuses the user {changed.get('username', USERNAME)!r} with {mechanism}" in str(
            error
        )
        assert PASSWORD in str(error)
        assert WRONG not in str(error) and RIGHT not in str(error)


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("there", "ours", "said"),
    [
        ("tls", "plaintext", "speaks TLS, and security = 'plaintext' is without"),
        ("tls", "sasl", "speaks TLS, and security = 'sasl' is without"),
        ("sasl_tls", "sasl", "speaks TLS, and security = 'sasl' is without"),
        ("sasl", "tls", "does not take our TLS"),
        ("sasl", "sasl_tls", "does not take our TLS"),
        ("sasl", "plaintext", "it likely asks for SASL"),
        ("sasl_tls", "tls", "it likely asks for SASL"),
        ("tls", "sasl_tls", "takes no user here"),
        ("plaintext", "tls", "does not take our TLS"),
        ("plaintext", "sasl", "takes no user here"),
    ],
)
def test_another_security_than_the_brokers_is_named(
    kafka: KafkaConfig, secured: dict[str, Broker], there: str, ours: str, said: str
) -> None:
    """A missing TLS or SASL setting costs seconds, not an afternoon."""
    bootstrap = kafka.bootstrap if there == "plaintext" else secured[there].bootstrap
    credentials = secured["sasl"].config()
    settings: dict[str, Any] = {"bootstrap": bootstrap, "security": ours}
    if "sasl" in ours:
        settings |= {"username": USERNAME, "password_file": credentials.password_file}
    if "tls" in ours:
        settings |= {"tls_ca": str(secured[there if "tls" in there else "tls"].tls_ca)}

    error = refusal(KafkaConfig(**settings))

    assert isinstance(error, KafkaSettingError)
    assert said in str(error)


@pytest.mark.kafka
def test_a_broker_signed_by_somebody_else_is_not_trusted(
    secured: dict[str, Broker], tmp_path: Path
) -> None:
    """Whoever answers in the broker's place would get the password."""
    certificate(tmp_path)

    error = refusal(secured["sasl_tls"].config(tls_ca=str(tmp_path / "ca.pem")))
    assert isinstance(error, KafkaSettingError)
    assert f"not to be trusted by tls_ca {tmp_path}" in str(error)
    error = refusal(secured["tls"].config(tls_ca=""))
    assert "not to be trusted by this machine's authorities" in str(error)


@pytest.mark.kafka
def test_a_certificate_for_another_name_is_not_trusted(secured: dict[str, Broker]) -> None:
    """The certificate is for localhost and 127.0.0.1; 127.0.0.2 reaches the same machine."""
    port = secured["tls"].bootstrap.split(":")[1]
    with socket.create_server(("127.0.0.2", 0)) as front:
        thread = threading.Thread(target=_pass_on, args=(front, int(port)))
        thread.start()
        error = refusal(
            secured["tls"].config(bootstrap=f"127.0.0.2:{front.getsockname()[1]}", connect_s=2.0)
        )
        thread.join()

    assert isinstance(error, KafkaSettingError)
    assert "is for another name than '127.0.0.2'" in str(error)


def _pass_on(front: socket.socket, port: int) -> None:
    """Carry one connection's bytes to the port and back."""
    ours = front.accept()[0]
    with ours, socket.create_connection(("127.0.0.1", port)) as theirs:

        def answer() -> None:
            with suppress(OSError):  # who does not trust a certificate may leave at once
                while data := theirs.recv(4096):
                    ours.sendall(data)

        back = threading.Thread(target=answer)
        back.start()
        with suppress(OSError):
            while data := ours.recv(4096):
                theirs.sendall(data)
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        back.join()


@pytest.mark.kafka
def test_a_mechanism_that_the_broker_has_not_is_named(broker: Callable[..., Broker]) -> None:
    """The broker lists what it takes."""
    there = broker(security="sasl", properties={"sasl.enabled.mechanisms": "PLAIN"})

    assert probe(there.config(mechanism="PLAIN"))
    error = refusal(there.config(mechanism="SCRAM-SHA-512"))
    assert isinstance(error, KafkaSettingError)
    assert "takes PLAIN, not SCRAM-SHA-512" in str(error)


@pytest.mark.kafka
def test_addresses_that_clients_cannot_reach_are_named(
    kafka: KafkaConfig, broker: Callable[..., Broker]
) -> None:
    """A broker in a container gives its name in there; the first answer comes, and no more."""
    port = free_port()
    there = broker(
        properties={"advertised.listeners": f"CLIENT://127.0.0.1:{port},INNER://127.0.0.1:{port}"}
    )

    error = refusal(there.config(connect_s=1.0))
    assert isinstance(error, KafkaUnreachable)
    assert f"names as its brokers 127.0.0.1:{port}" in str(error)
    assert "advertised.listeners" in str(error)


@pytest.mark.kafka
def test_one_of_several_addresses_is_enough(kafka: KafkaConfig) -> None:
    """Of a cluster's brokers one may be down."""
    assert probe(KafkaConfig(bootstrap=f"127.0.0.1:{free_port()},{kafka.bootstrap}"))


@pytest.mark.kafka
def test_a_broker_on_its_way_up_is_waited_for(broker: Callable[..., Broker]) -> None:
    """Services start together; which is first is chance."""
    there = broker()
    there.kill()
    starting = threading.Thread(target=there.start)
    starting.start()
    try:
        assert probe(there.config(connect_s=60.0))
    finally:
        starting.join()


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_the_password_shows_nowhere(
    secured: dict[str, Broker], tmp_path: Path, caplog: pytest.LogCaptureFixture, mechanism: str
) -> None:
    """Logs and errors are sent around; kafka-python's own log at DEBUG prints every request."""
    caplog.set_level(logging.DEBUG)
    there = secured["sasl"]
    (tmp_path / "wrong").write_text(WRONG)

    for client in CLIENTS:
        connect(client, there.config(mechanism=mechanism)).close()
    with pytest.raises(KafkaRefused) as caught:
        connect(
            KafkaProducer,
            there.config(mechanism=mechanism, password_file=str(tmp_path / "wrong")),
        )

    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "kafka" in caplog.text  # there was a log
    for secret in (RIGHT, WRONG):
        assert secret not in caplog.text
        assert secret not in told
