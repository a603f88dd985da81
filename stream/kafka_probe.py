"""Why Kafka cannot be reached, named within seconds.

A client of kafka-python that cannot connect is silent for 30 s, then says "unable to bootstrap",
whatever the cause. `probe` asks the brokers itself, one step after the other (name, connection,
TLS, password, the brokers' own addresses), so that each cause is known for what it is.
"""

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kafka import errors
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from stream.kafka import (
    PASSWORD,
    KafkaConfig,
    KafkaError,
    KafkaRefused,
    KafkaSettingError,
    KafkaUnreachable,
    client_settings,
    servers,
)

Client = TypeVar("Client")
AGAIN_S: Final = 0.2  # between two rounds of attempts
ATTEMPT_S: Final = 5.0  # one server, of several: the next may answer at once
TLS_ALERT: Final = 0x15  # the first byte of what a TLS server says to a client that speaks none
_NAME: Final = {
    "plaintext": "without TLS or SASL",
    "tls": "with TLS, without SASL",
    "sasl": "with SASL, without TLS",
    "sasl_tls": "with SASL and TLS",
}


def connect(make: Callable[..., Client], config: KafkaConfig, **settings: Any) -> Client:
    """Return ``make(**client_settings(config), **settings)``, a client of kafka-python.

    ``settings`` go before those of `client_settings`. Raises what `probe` raises.
    """
    probe(config)
    made: list[Any] = []
    net = _net_client(made)
    try:
        return make(**{**client_settings(config), "kafka_client": net, **settings})
    except errors.KafkaError as error:
        for client in made:  # a constructor that fails leaves its thread and its connections
            with contextlib.suppress(Exception):
                client.close()
                client._net.stop()
        probe(config)
        raise KafkaUnreachable(
            f"Kafka at {config.bootstrap} answered, and then no longer ({_say(error)}). See "
            "whether its brokers stay up, then start again."
        ) from None


def probe(config: KafkaConfig, *, within_s: float | None = None) -> str:
    """Return the cluster's id when the settings let us in.

    Tries for ``connect_s``, or ``within_s``, as long as nobody answers: brokers may be on their
    way up. Raises `KafkaUnreachable`; `KafkaRefused` where the password is wrong;
    `KafkaSettingError` where the other end speaks with or without TLS or SASL and we do not, or
    its certificate is not to be trusted. Those two are raised at once.
    """
    settings = client_settings(config)
    addresses = servers(config.bootstrap)
    deadline = time.monotonic() + (config.connect_s if within_s is None else within_s)
    doubt: KafkaError | None = None
    while True:
        failures: list[KafkaError] = []
        for host, port in addresses:
            left = max(0.5, deadline - time.monotonic())
            try:
                return _try(config, settings, host, port, min(left, ATTEMPT_S))
            except _Doubtful as error:  # a broker that is going down does the same: look again
                if doubt is not None:
                    raise doubt from None
                doubt = error.cause
                failures.append(doubt)
            except KafkaUnreachable as error:
                failures.append(error)
        if time.monotonic() + AGAIN_S > deadline:
            raise _all(failures)
        time.sleep(AGAIN_S)


def _all(failures: list[KafkaError]) -> KafkaError:
    if len(failures) == 1 or len({str(failure) for failure in failures}) == 1:
        return failures[0]
    return KafkaUnreachable(" ".join(str(failure) for failure in failures))


class _Doubtful(Exception):
    """The other end hung up, which has a likely cause."""

    def __init__(self, cause: KafkaError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _try(
    config: KafkaConfig, settings: dict[str, Any], host: str, port: int, within_s: float
) -> str:
    """Go through all steps with one server; return the cluster's id."""
    server = f"{host}:{port}"
    with contextlib.ExitStack() as closing:
        plain = _open(host, port, within_s)
        closing.callback(plain.close)
        link = plain
        if (context := settings.get("ssl_context")) is not None:
            link = _secured(plain, context, host, server, config)
            closing.callback(link.close)
        talk = _Talk(link, server, config)
        versions = talk.ask(ApiVersionsRequest(version=0))
        supported = BrokerVersionData(
            api_versions={api.api_key: (api.min_version, api.max_version)
                          for api in versions.api_keys}
        )  # fmt: skip
        if "sasl" in config.security:
            _log_in(talk, config, settings, server)
        request = MetadataRequest(topics=[], allow_auto_topic_creation=False)
        request.API_VERSION = supported.api_version(request)
        metadata = talk.ask(request)
    brokers = [(str(broker.host), int(broker.port)) for broker in metadata.brokers]
    if not brokers:
        raise KafkaUnreachable(f"Kafka at {server} knows of no broker yet. It may be starting.")
    _reach_one(brokers, server, within_s)
    return str(metadata.cluster_id)


def _open(host: str, port: int, within_s: float) -> socket.socket:
    server = f"{host}:{port}"
    try:
        return socket.create_connection((host, port), within_s)
    except socket.gaierror as error:
        raise KafkaUnreachable(
            f"No host is called {host!r} (bootstrap {server}): {error.strerror}. Check the name, "
            "and that this machine resolves it."
        ) from None
    except TimeoutError:
        raise KafkaUnreachable(
            f"Kafka at {server} does not answer. Check the address, that the broker runs, and "
            "that no firewall is between."
        ) from None
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            raise KafkaUnreachable(
                f"Nobody listens at {server}. Check the address, and that the broker runs."
            ) from None
        raise KafkaUnreachable(
            f"Kafka at {server} cannot be reached: {error.strerror}. Check the address."
        ) from None


def _secured(
    plain: socket.socket, context: ssl.SSLContext, host: str, server: str, config: KafkaConfig
) -> ssl.SSLSocket:
    trusted = f"tls_ca {config.tls_ca}" if config.tls_ca else "this machine's authorities"
    try:
        return context.wrap_socket(plain, server_hostname=host.rstrip("."))
    except ssl.SSLCertVerificationError as error:
        if "mismatch" in error.verify_message or "doesn't match" in error.verify_message:
            raise KafkaSettingError(
                f"The certificate of Kafka at {server} is for another name than {host!r}. Use the "
                "name in the certificate as bootstrap, or give the broker one for this name."
            ) from None
        raise KafkaSettingError(
            f"The certificate of Kafka at {server} is not to be trusted by {trusted}: "
            f"{error.verify_message}. Set tls_ca to the PEM file of who signed it."
        ) from None
    except TimeoutError:
        raise KafkaUnreachable(
            f"Kafka at {server} takes the connection and says nothing. It hangs, or something "
            "else listens there."
        ) from None
    except OSError as error:  # an answer that is no TLS, or none at all
        raise _Doubtful(
            KafkaSettingError(
                f"Kafka at {server} does not take our TLS ({_say(error)}): it likely listens "
                "without. Set security to 'plaintext' or 'sasl', or use the port that speaks TLS."
            )
        ) from None


class _Talk:
    """Requests and answers on one connection, in turn."""

    def __init__(self, link: socket.socket, server: str, config: KafkaConfig) -> None:
        self._link, self._server, self._config = link, server, config
        self._protocol = KafkaProtocol(client_id="keepstream")
        self._answered = 0

    def ask(self, request: Any) -> Any:
        """Return the answer to ``request``; raises why there is none."""
        self._protocol.send_request(request)
        try:
            self._link.sendall(self._protocol.send_bytes())
            while True:
                data = self._link.recv(1 << 16)
                if not data:
                    raise self._hung_up()
                if not self._answered and data[0] == TLS_ALERT:
                    raise self._speaks_tls()
                if answers := self._protocol.receive_bytes(data):
                    self._answered += 1
                    return answers[0][1]
        except TimeoutError:
            raise KafkaUnreachable(
                f"Kafka at {self._server} takes the connection and says nothing. It hangs, or "
                "something else listens there."
            ) from None
        except ssl.SSLError as error:
            if "certificate" in _say(error).lower():
                raise KafkaSettingError(
                    f"Kafka at {self._server} refuses our certificate ({_say(error)}). Set "
                    "tls_certificate and tls_key to a pair that it trusts."
                ) from None
            raise self._hung_up() from None
        except errors.KafkaProtocolError:
            raise KafkaUnreachable(
                f"What answers at {self._server} is not Kafka. Check the address."
            ) from None
        except OSError:
            raise self._hung_up() from None

    def _speaks_tls(self) -> KafkaError:
        with_tls = "sasl_tls" if "sasl" in self._config.security else "tls"
        return KafkaSettingError(
            f"Kafka at {self._server} speaks TLS, and security = {self._config.security!r} is "
            f"without. Set security = {with_tls!r} (and tls_ca), or use the port without TLS."
        )

    def _hung_up(self) -> Exception:
        """Return the likely cause of a connection that the other end closed."""
        if not self._answered and "tls" not in self._config.security:
            return _Doubtful(
                KafkaSettingError(
                    f"Kafka at {self._server} hangs up at our first word: it likely speaks TLS, "
                    f"and security = {self._config.security!r} is without. Set security to 'tls' "
                    "or 'sasl_tls' (and tls_ca), or use the port without TLS."
                )
            )
        if self._answered and "sasl" not in self._config.security:
            with_sasl = "sasl_tls" if "tls" in self._config.security else "sasl"
            return _Doubtful(
                KafkaSettingError(
                    f"Kafka at {self._server} hangs up on a client without a user: it likely asks "
                    f"for SASL. Set security = {with_sasl!r}, mechanism, username and {PASSWORD}."
                )
            )
        return KafkaUnreachable(
            f"Kafka at {self._server} hangs up on a client {_NAME[self._config.security]}. See "
            "the broker's log."
        )


def _log_in(talk: _Talk, config: KafkaConfig, settings: dict[str, Any], server: str) -> None:
    shaken = talk.ask(SaslHandshakeRequest(mechanism=config.mechanism, version=1))
    if shaken.error_code == errors.UnsupportedSaslMechanismError.errno:
        raise KafkaSettingError(
            f"Kafka at {server} takes {', '.join(sorted(shaken.mechanisms)) or 'no mechanism'}, "
            f"not {config.mechanism}. Set mechanism to one that it takes."
        )
    if shaken.error_code:
        without = "tls" if "tls" in config.security else "plaintext"
        raise KafkaSettingError(
            f"Kafka at {server} takes no user here ({_named(shaken.error_code)}): it listens "
            f"without SASL. Set security = {without!r}, or use the port that asks for a user."
        )
    mechanism = get_sasl_mechanism(config.mechanism)(host=server, **settings)
    while not mechanism.is_done():
        answer = talk.ask(SaslAuthenticateRequest(mechanism.auth_bytes(), version=1))
        if answer.error_code:
            raise _wrong_password(config, server, answer.error_message)
        try:
            mechanism.receive(answer.auth_bytes)
        except (ValueError, KeyError):  # the broker's proof that it knows the password
            raise _wrong_password(config, server, "it cannot prove who it is") from None
    if not mechanism.is_authenticated():
        raise _wrong_password(config, server, None)


def _wrong_password(config: KafkaConfig, server: str, said: str | None) -> KafkaRefused:
    return KafkaRefused(
        f"Kafka at {server} refuses the user {config.username!r} with {config.mechanism}"
        f"{f' ({said})' if said else ''}. Check username, and the password in {PASSWORD}"
        f"{f' or {config.password_file}' if config.password_file else ''}; with SCRAM, that the "
        "user was made for this mechanism."
    )


def _reach_one(brokers: list[tuple[str, int]], server: str, within_s: float) -> None:
    """Raise `KafkaUnreachable` where none of the addresses that brokers give can be reached."""
    for host, port in brokers:
        with contextlib.suppress(OSError), socket.create_connection((host, port), within_s):
            return
    named = ", ".join(f"{host}:{port}" for host, port in brokers)
    raise KafkaUnreachable(
        f"Kafka at {server} answers, and names as its brokers {named}, which cannot be reached "
        "from here. Set its advertised.listeners to addresses that clients can reach."
    )


def _net_client(made: list[Any]) -> Callable[..., Any]:
    """Return a maker of kafka-python's connections that remembers what it made."""
    from kafka.net.compat import KafkaNetClient

    def make(**settings: Any) -> Any:
        made.append(KafkaNetClient(**settings))
        return made[-1]

    return make


def _say(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).lower().replace("_", " ")
    return str(error) or type(error).__name__


def _named(code: int) -> str:
    return str(errors.for_code(code).__name__).removesuffix("Error")
