from pathlib import Path
from typing import Any

import pytest

from benchmarks.broker import certificate
from stream.kafka import (
    PASSWORD,
    KafkaConfig,
    KafkaSettingError,
    check_topic,
    client_settings,
    consumer_settings,
    password,
    servers,
)

SASL: dict[str, Any] = {"bootstrap": "a:9092", "security": "sasl", "username": "u"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"security": "ssl"}, "security = 'ssl' is not known. Choose one of plaintext, tls, sasl"),
        ({"mechanism": "MD5"}, "Choose one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ({"compression": "zip"}, "compression = 'zip'"),
        ({"lost": "ignore"}, "lost = 'ignore'"),
        ({"read": "both"}, "read = 'both'"),
        ({"bootstrap": "a"}, "bootstrap has 'a'. Write host:port"),
        ({"bootstrap": "a:9092,"}, "bootstrap has ''"),
        ({"bootstrap": "a:70000"}, "bootstrap has 'a:70000'"),
        ({"bootstrap": "kafka://a:9092"}, "bootstrap has 'kafka://a:9092'"),
        ({"fetch_bytes": 0}, "fetch_bytes is 0. Set it above 0"),
        ({"connect_s": -1.0}, "connect_s is -1.0"),
        ({"session_s": float("nan")}, "session_s is nan"),
        ({"linger_s": -0.1}, "linger_s is -0.1"),
        ({"examples": "a b"}, "examples = 'a b' cannot be the name of a topic"),
        ({"deadletters": "x" * 250}, "deadletters = "),
        ({"group": ""}, "group is empty"),
        ({"security": "sasl_tls"}, "needs a username"),
        ({"username": "u"}, "security = 'plaintext' sends neither"),
        ({"security": "tls", "password_file": "f"}, "security = 'tls' sends neither"),
        ({"tls_ca": "ca.pem"}, "security = 'plaintext' is without TLS"),
        ({"security": "tls", "tls_key": "k"}, "tls_certificate and tls_key go together"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings: dict[str, Any], said: str) -> None:
    """What is wrong in a file is said when it is read, not when a broker hangs up."""
    with pytest.raises(KafkaSettingError) as caught:
        KafkaConfig(**settings)
    assert said in str(caught.value)


def test_servers_are_hosts_and_ports() -> None:
    """Names, addresses, and IPv6 in brackets, with spaces after the commas."""
    expected = [("a.b", 9092), ("127.0.0.1", 1), ("::1", 65535)]
    assert expected == servers("a.b:9092, 127.0.0.1:1,[::1]:65535")


def test_a_password_typed_into_the_address_is_not_repeated() -> None:
    """Error texts are copied into tickets."""
    with pytest.raises(KafkaSettingError) as caught:
        KafkaConfig(bootstrap="user:hunter2@a:9092")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ä", "a\n", "x" * 250])
def test_what_kafka_takes_for_no_name_is_refused(name: str) -> None:
    """Kafka's own message comes late, and from another process."""
    with pytest.raises(KafkaSettingError, match="cannot be the name of a topic"):
        check_topic(name)


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "...", "x" * 249])
def test_what_kafka_takes_for_a_name_is_taken(name: str) -> None:
    """All that is allowed there is allowed here."""
    check_topic(name)


def test_the_environment_goes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment overrides what an image brings, and the line's end is no part of a secret."""
    file = tmp_path / "secret"
    file.write_text(" from-file \n")
    config = KafkaConfig(**SASL, password_file=str(file))

    monkeypatch.delenv(PASSWORD, raising=False)
    assert b"from-file" == (password(config) or "").encode()
    monkeypatch.setenv(PASSWORD, "from-environment")
    assert b"from-environment" == (password(config) or "").encode()
    monkeypatch.delenv(PASSWORD)
    assert password(KafkaConfig()) is None


def test_a_password_that_is_not_there_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable and the file, whichever was meant."""
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(KafkaSettingError, match=f"no password for 'u'. Put it into {PASSWORD}"):
        client_settings(KafkaConfig(**SASL))
    with pytest.raises(KafkaSettingError, match=r"missing cannot be read .No such file"):
        client_settings(KafkaConfig(**SASL, password_file=str(tmp_path / "missing")))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(KafkaSettingError, match="empty is empty"):
        client_settings(KafkaConfig(**SASL, password_file=str(tmp_path / "empty")))
    monkeypatch.setenv(PASSWORD, "")
    with pytest.raises(KafkaSettingError, match=f"{PASSWORD} is empty"):
        client_settings(KafkaConfig(**SASL))


def test_settings_do_not_show_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are printed by whoever looks for an error; kafka-python logs them whole."""
    monkeypatch.setenv(PASSWORD, "hunter2")
    config = KafkaConfig(**SASL)
    settings = client_settings(config)

    shown = f"{config} {config!r} {settings} {settings['sasl_plain_password']}"
    assert "hunter2" not in shown
    assert "hunter2" not in "%s %r" % (settings, password(config))  # noqa: UP031  as loggers do
    assert b"\0hunter2" == "\0".join(["", settings["sasl_plain_password"]]).encode()


def test_files_of_tls_are_looked_at_before_any_connection(tmp_path: Path) -> None:
    """kafka-python would try for 30 s, and say nothing of the file."""
    tls: dict[str, Any] = {"bootstrap": "a:9092", "security": "tls"}
    certificate(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    ca, key = str(tmp_path / "ca.pem"), str(tmp_path / "key.pem")

    assert "ssl_context" in client_settings(KafkaConfig(**tls, tls_ca=ca))
    assert "ssl_context" in client_settings(KafkaConfig(**tls, tls_certificate=ca, tls_key=key))
    for wrong in ("missing.pem", "text.pem"):
        with pytest.raises(KafkaSettingError, match=f"tls_ca .*{wrong} cannot be used"):
            client_settings(KafkaConfig(**tls, tls_ca=str(tmp_path / wrong)))
        with pytest.raises(KafkaSettingError, match=f"with tls_key .*{wrong} cannot be used"):
            client_settings(KafkaConfig(**tls, tls_certificate=ca, tls_key=str(tmp_path / wrong)))


def test_a_consumer_does_nothing_by_itself() -> None:
    """No group to be expelled from, no commit, no jump to another offset, nothing taken back."""
    settings = consumer_settings(KafkaConfig(bootstrap="a:9092"))

    assert settings["group_id"] is None
    assert not settings["enable_auto_commit"]
    assert "none" == settings["auto_offset_reset"]
    assert "read_committed" == settings["isolation_level"]


def test_without_bootstrap_there_is_no_client() -> None:
    """An empty bootstrap means "no Kafka", and kafka-python would try localhost."""
    with pytest.raises(KafkaSettingError, match="bootstrap is empty"):
        client_settings(KafkaConfig())
