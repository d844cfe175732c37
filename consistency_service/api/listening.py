"""The door: how many sockets may be open at once, counted where they come in.

uvicorn counts connections once their TLS handshake is done, and then still keeps the file open to say no. Whoever opens
thousands and says nothing would so take the files that the node needs for its log. Here a connection beyond `SOCKETS_MAX`
is closed as soon as it is accepted, before anything is read from it.
"""

from __future__ import annotations

import logging
import socket
import time
import weakref
from collections import Counter
from typing import Any, Final

from consistency_service.core.rate_limits import RateLimits

CONNECTIONS_MAX: Final = 1_000
"""Requests on connections beyond these are answered 503."""
SOCKETS_MAX: Final = 1_100
"""What is accepted beyond these is closed, TLS handshakes that are not finished included."""
BACKLOG: Final = 512
COMPLAINTS_PER_S: Final = 5
COMPLAINTS_BURST: Final = 50


class Listener(socket.socket):
    """Accepts `SOCKETS_MAX` at once. Counts `connections_refused` in `counters`."""

    open_count = 0
    counters: Counter[str]

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises `ConnectionAbortedError` for a connection that was refused; the event loop then looks for the next one."""
        descriptor, address = self._accept()  # type: ignore[attr-defined]
        accepted = _Accepted(self.family, self.type, self.proto, fileno=descriptor)
        if self.open_count >= SOCKETS_MAX:
            accepted.close()
            self.counters["connections_refused"] += 1
            raise ConnectionAbortedError("too many connections")
        self.open_count += 1
        accepted.left = weakref.finalize(accepted, self._left)
        return accepted, address

    def _left(self) -> None:
        self.open_count -= 1


class _Accepted(socket.socket):
    left: weakref.finalize[[], socket.socket] | None = None

    def close(self) -> None:
        """Its place is free again."""
        super().close()
        if self.left is not None:
            self.left()


class FewComplaints(logging.Filter):
    """Lets few warnings of a logger pass, for strangers cause them; counts the others as `complaints_not_logged`."""

    def __init__(self, *, counters: Counter[str]) -> None:
        super().__init__()
        self._counters = counters
        self._lines = RateLimits(per_s=COMPLAINTS_PER_S, burst=COMPLAINTS_BURST, keys_max=1)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or self._lines.take("", now_ns=time.monotonic_ns()) == 0:
            return True
        self._counters["complaints_not_logged"] += 1
        return False


def bound(host: str, port: int, *, counters: Counter[str]) -> Listener:
    """A listener at the address. Raises `OSError` if it cannot be bound."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = Listener(family, kind, protocol)
    listener.counters = counters
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
