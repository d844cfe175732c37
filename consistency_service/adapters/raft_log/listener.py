"""The raft port itself: lets strangers in at a pace we can afford, whatever pace they come at.

Picture a revolving door with two wings, one for addresses at which peers live and one for everybody else, so that a crowd
from elsewhere does not keep a peer out. asyncio's own server is not used: it takes in all who come, and stops for good
measure when descriptors run out. A few descriptors are kept in reserve, because this process has other doors too.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

from consistency_service.adapters.raft_log.admission import TokenBucket

logger = logging.getLogger(__name__)

HANDSHAKES_PER_S: Final = 50
"""Of strangers, for each of the two wings. One costs about a millisecond: a twentieth of a core each."""
HANDSHAKES_BURST: Final = 32
ACCEPTS_PER_ROUND: Final = 16
ROUND_PAUSE_S: Final = 0.005
"""Between two full rounds, so that a flood of connections costs a few percent of a core."""
EXHAUSTED_PAUSE_S: Final = 0.1
BACKLOG: Final = 128
RESET: Final = struct.pack("ii", 1, 0)

T = TypeVar("T")
Arrived = Callable[[socket.socket, bool], None]
"""Takes a socket, and whether it comes from an address of a peer."""


class SpareDescriptors:
    """Descriptors held for moments in which the process has no others."""

    def __init__(self, *, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def spend(self, make: Callable[[], T]) -> T:
        """What `make` makes, at the cost of a spare one if need be. Raises `OSError`."""
        try:
            return make()
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE} or not self._held:
                raise
            os.close(self._held.pop())
            return make()

    def refill(self) -> None:
        """As many are held as there are to be had."""
        try:
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            logger.warning("raft_descriptors_short", extra={"spare_count": len(self._held)})

    def close(self) -> None:
        while self._held:
            os.close(self._held.pop())


class Listener:
    """Accepts, counts and sheds. Calls `on_arrived` on the event loop for whom it lets in."""

    def __init__(self, *, on_arrived: Arrived, spare: SpareDescriptors, counters: Counter[str]) -> None:
        self.peer_hosts: set[str] = set()
        self._on_arrived = on_arrived
        self._spare = spare
        self._counters = counters
        self._sockets: list[socket.socket] = []
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        now_ns = time.monotonic_ns()
        self._wings = {
            from_peer: TokenBucket(per_s=HANDSHAKES_PER_S, burst=HANDSHAKES_BURST, now_ns=now_ns)
            for from_peer in (False, True)
        }

    async def open(self, host: str, port: int) -> None:
        """Listening on every address of `host`. Raises `OSError`, and then on none."""
        self._loop = asyncio.get_running_loop()
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, address in sorted({(family, address[:2]) for family, *_, address in found}):
                listening = socket.create_server(address, family=family, backlog=BACKLOG)
                listening.setblocking(False)
                self._sockets.append(listening)
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_ROUND):
            try:
                accepted, address = self._spare.spend(listening.accept)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._counters["accepts_failed"] += 1
                logger.warning("raft_accept_failed", extra={"reason": str(error)})
                self._pause(listening, for_s=EXHAUSTED_PAUSE_S)
                return
            self._let_in(accepted, host=canonical(address[0]))
        self._pause(listening, for_s=ROUND_PAUSE_S)

    def _let_in(self, accepted: socket.socket, *, host: str) -> None:
        from_peer = host in self.peer_hosts
        if self._wings[from_peer].take(now_ns=time.monotonic_ns()):
            accepted.setblocking(False)
            self._on_arrived(accepted, from_peer)
        else:
            self._counters["connections_refused"] += 1
            shed(accepted)

    def _pause(self, listening: socket.socket, *, for_s: float) -> None:
        """Nobody is accepted meanwhile; the kernel keeps a few waiting."""
        self._loop.remove_reader(listening)
        self._timers[listening] = self._loop.call_later(for_s, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._timers[listening]
        self._loop.add_reader(listening, self._accept, listening)


def shed(accepted: socket.socket) -> None:
    """Closed without a trace in the kernel's tables."""
    try:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    except OSError:
        pass  # gone already
    finally:
        accepted.close()


def canonical(host: str) -> str:
    """An address as it is compared: IPv4 within IPv6 unwrapped, no zone."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
