"""Runs the API in our own event loop: no signal handlers, no logging set-up, bounded connections, bounded farewell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from consistency_service.api.listening import BACKLOG, CONNECTIONS_MAX, FewComplaints, bound

HEAD_BYTES_MAX: Final = 32 * 1024
HEAD_TIMEOUT_S: Final = 10
KEEP_ALIVE_S: Final = 5
HANDSHAKE_TIMEOUT_S: Final = 10
FAREWELL_S: Final = 3
CERTIFICATE: Final = "ccs.certificate"
"""Under this key of a request's `state` lies the certificate that the caller showed, as DER."""


async def serve(
    app: FastAPI,
    *,
    host: str,
    port: int,
    shutdown: asyncio.Event,
    tls: ssl.SSLContext | None = None,
    listening: Callable[[int], None] | None = None,
) -> None:
    """Serve until `shutdown` is set; then finish what is under way, for about `FAREWELL_S` seconds at most.

    With `tls`, nothing else is spoken. `listening` is told the port once callers can connect. Raises `OSError` if the
    address cannot be bound.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FAREWELL_S,
        backlog=BACKLOG,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    counters = app.state.counters
    with bound(host, port, counters=counters) as listener, _quieter(FewComplaints(counters=counters)):
        server = _Server(config, listening=listening)
        async with asyncio.TaskGroup() as group:
            farewell = group.create_task(_farewell(server, app=app, shutdown=shutdown))
            await server.serve(sockets=[listener])
            farewell.cancel()


async def _farewell(server: uvicorn.Server, *, app: FastAPI, shutdown: asyncio.Event) -> None:
    await shutdown.wait()
    app.state.closing.set()
    server.should_exit = True


@contextlib.contextmanager
def _quieter(few: FewComplaints) -> Iterator[None]:
    """Of the lines that uvicorn writes for each request that it cannot read or has no room for, few are kept."""
    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(few)
    try:
        yield
    finally:
        logger.removeFilter(few)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, listening: Callable[[int], None] | None) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it for given sockets, but nobody takes a minute for a TLS handshake."""
        assert sockets is not None
        await self.lifespan.startup()
        loop, config = asyncio.get_running_loop(), self.config
        timeout_s = HANDSHAKE_TIMEOUT_S if config.is_ssl else None
        self.servers = [
            await loop.create_server(
                self._connection, sock=sock, ssl=config.ssl, ssl_handshake_timeout=timeout_s, backlog=config.backlog
            )
            for sock in sockets
        ]
        self.started = True
        if self._listening is not None:
            self._listening(sockets[0].getsockname()[1])

    def _connection(self) -> asyncio.Protocol:
        return _Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever owns the process."""
        yield


class _Protocol(H11Protocol):
    """Closes connections that take too long to say what they want; uvicorn itself waits for ever."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.app_state = {**self.app_state, CERTIFICATE: tls.getpeercert(binary_form=True) if tls is not None else None}
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch_head()

    @property
    def _between_requests(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _watch_head(self) -> None:
        if not self._between_requests:
            self._unwatch_head()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _unwatch_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self._between_requests and not self.transport.is_closing():
            self.transport.close()
