"""Connections of kafka-python whose failed attempts leave nothing open.

By itself it leaves a socket that could not be connected to the garbage collector: one a second
while a broker is away. A way to connect is chosen by the scheme of ``proxy_url``, as a proxy is.
"""

from typing import Any, Final

from kafka.net.inet import KafkaNetSocket

PROXY_URL: Final = "direct://brokers"  # no proxy: only the scheme is looked at


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # kafka-python has no types
    """Connects without a proxy, and closes what it could not connect."""

    SCHEMES = ("direct",)

    async def sock_connect(
        self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None
    ) -> Any:
        """Return the connected socket, or raise with the socket closed."""
        try:
            return await super().sock_connect(net, sock, sockaddr, timeout_at=timeout_at)
        except BaseException:
            sock.close()
            raise
