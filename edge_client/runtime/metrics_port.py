"""A door in the wall for a scraper: `GET /metrics`, and nothing else is behind it.

Bounded in everything a stranger could stretch: connections, the head of a request, and the time for it. One request a
connection. It belongs to the event loop of the client, and an application with a server of its own needs none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from edge_client.errors import ConfigError
from edge_client.protocol.metrics import CONTENT_TYPE

CONNECTIONS_MAX: Final = 16
HEAD_BYTES_MAX: Final = 8 * 1024
HEAD_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 10.0


class MetricsPort:
    """Listens from `open` to `close`. `counters` say who was turned away."""

    def __init__(self, address: str, *, text: Callable[[], str]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._text = text
        self._server: asyncio.Server | None = None
        self._open_count = 0
        self.counters: Counter[str] = Counter()

    async def open(self) -> None:
        """Raises `ConfigError` when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._answer, self._host, self._port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise ConfigError(f"metrics: cannot listen on {self._host}:{self._port}: {error.strerror}") from error

    @property
    def port(self) -> int:
        """The port, once it is open: also where 0 was asked for."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Nobody is answered any more."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open_count += 1
        try:
            if self._open_count > CONNECTIONS_MAX:
                self.counters["metrics_connections_refused"] += 1
                return
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            async with asyncio.timeout(SEND_TIMEOUT_S):
                writer.write(self._response(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.counters["metrics_requests_broken"] += 1
        finally:
            self._open_count -= 1
            writer.transport.abort()

    def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _message("404 Not Found", b"only /metrics is here\n")
        if method not in (b"GET", b"HEAD"):
            return _message("405 Method Not Allowed", b"only GET is answered\n", more="Allow: GET, HEAD\r\n")
        self.counters["metrics_scrapes"] += 1
        body = self._text().encode()
        return _message("200 OK", body, kind=CONTENT_TYPE, with_body=method == b"GET")


def _message(
    status: str, body: bytes, *, kind: str = "text/plain; charset=utf-8", more: str = "", with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")
