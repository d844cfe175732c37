"""Connections between nodes: greeted, framed, bounded, and replaced when they fall silent.

Picture one pipe per pair of nodes; of the two, the one whose id sorts higher dials. What comes out of a pipe is a decoded
message of a node that said who it is. Whether that is true is not checked here yet: the greeting is no authentication,
so the port belongs on a network of its own until certificates name the peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.config import RaftLogConfig, split_address
from consistency_service.errors import LogStorageError

logger = logging.getLogger(__name__)

STRANGERS_MAX: Final = 32
"""Connections that have not greeted yet; one more is closed, and counted."""


class PeerTransport:
    """Best effort: a message is lost with its connection. In order as long as a connection lives.

    Calls back on the event loop only; never from within `send_nowait` or `close`.
    """

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
        on_message: Callable[[str, wire.Peer], None],
    ) -> None:
        self.config = config
        self.counters: Counter[str] = Counter()
        self.strangers: list[Connection] = []
        self.closing = False
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_message = on_message
        self._connections: dict[str, Connection] = {}
        self._server: asyncio.Server | None = None
        self._dialers: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listening. Raises `LogStorageError` if the address cannot be bound."""
        host, port = split_address(self.config.listen)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: Connection(self, expected=None), host, port)
        except OSError as error:
            raise LogStorageError(f"cannot listen on {self.config.listen} for raft peers: {error}") from error
        self._dialers = loop.create_task(self._dial_all(), name="raft-dialers")

    async def close(self) -> None:
        """Nothing is called back any more."""
        self.closing = True
        if self._dialers is not None:
            self._dialers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dialers
        if self._server is not None:
            self._server.close()
        for connection in [*self._connections.values(), *self.strangers]:
            connection.drop()
        if self._server is not None:
            await self._server.wait_closed()

    def send_nowait(self, node_id: str, message: wire.Message) -> bool:
        """Whether there was a connection to write to."""
        connection = self._connections.get(node_id)
        if connection is None:
            return False
        connection.write(wire.encode(message))
        return True

    def backlog_bytes(self, node_id: str) -> int:
        connection = self._connections.get(node_id)
        return 0 if connection is None else connection.backlog_bytes()

    async def _dial_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for node_id, address in sorted(self.config.peers.items()):
                if node_id < self.config.node_id:
                    group.create_task(self._dial(node_id, address=address), name=f"raft-dial-{node_id}")

    async def _dial(self, node_id: str, *, address: str) -> None:
        host, port = split_address(address)
        loop = asyncio.get_running_loop()
        retry_s = self.config.connection_retry_ms / 1_000
        while True:
            try:
                async with asyncio.timeout(self.config.connection_timeout_ms / 1_000):
                    _, connection = await loop.create_connection(lambda: Connection(self, expected=node_id), host, port)
                await connection.closed.wait()
            except (OSError, TimeoutError):
                self.counters["dials_failed"] += 1
            await asyncio.sleep(retry_s)

    def greet(self, connection: Connection) -> None:
        connection.write(
            wire.encode(
                wire.Hello(
                    version=wire.PROTOCOL_VERSION,
                    cluster_id=self.config.cluster_id,
                    sender=self.config.node_id,
                    target=connection.peer_id or "?",
                )
            )
        )

    def greeted(self, connection: Connection, hello: wire.Hello) -> None:
        """The connection is the peer's from here on; an older one of the same peer is dropped. Raises `WireError`."""
        known = hello.sender in self.config.peers and hello.sender != self.config.node_id
        if hello.version != wire.PROTOCOL_VERSION or hello.cluster_id != self.config.cluster_id or not known:
            raise wire.WireError(f"greeting of a stranger: {hello}")
        if hello.target != self.config.node_id or connection.expected not in {None, hello.sender}:
            raise wire.WireError(f"greeting for or from somebody else: {hello}")
        older = self._connections.get(hello.sender)
        if older is not None:
            older.drop()
            self.forget(older)
        connection.peer_id = hello.sender
        self._connections[hello.sender] = connection
        if connection.expected is None:
            self.greet(connection)
        self._on_connected(hello.sender)

    def received(self, connection: Connection, message: wire.Peer) -> None:
        if connection.peer_id is not None and not isinstance(message, wire.Ping):
            self._on_message(connection.peer_id, message)

    def forget(self, connection: Connection) -> None:
        if connection in self.strangers:
            self.strangers.remove(connection)
        peer_id = connection.peer_id
        if peer_id is not None and self._connections.get(peer_id) is connection:
            del self._connections[peer_id]
            if not self.closing:
                self._on_disconnected(peer_id)


class Connection(asyncio.Protocol):
    """One socket: a stranger until greeted, a peer until it falls silent or misbehaves."""

    def __init__(self, owner: PeerTransport, *, expected: str | None) -> None:
        self.expected = expected
        """Whom we dialled; None when we were dialled."""
        self.peer_id: str | None = None
        self.closed = asyncio.Event()
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._splitter = wire.FrameSplitter(bytes_max=wire.HELLO_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._made_at = self._heard_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        owner = self._owner
        if owner.closing or (self.expected is None and len(owner.strangers) >= STRANGERS_MAX):
            owner.counters["connections_refused"] += 1
            transport.abort()
            return
        owner.strangers.append(self)
        if self.expected is not None:
            self.peer_id = self.expected
            owner.greet(self)
            self.peer_id = None
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        self._splitter.feed(data)
        try:
            while self._transport is not None and (frame := self._splitter.next_frame()) is not None:
                self._frame_received(frame)
        except wire.WireError as error:
            self._owner.counters["frames_refused"] += 1
            logger.warning("raft_frame_refused", extra={"peer": self.peer_id, "reason": str(error)[:200]})
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def eof_received(self) -> None:
        """Close; half-open connections are of no use."""

    def write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def backlog_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def drop(self) -> None:
        """Nothing more is read or sent; the owner hears of it from the event loop."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _frame_received(self, frame: bytes) -> None:
        if self.peer_id is None:
            hello = wire.decode_hello(frame)
            self._owner.greeted(self, hello)
            self._owner.strangers.remove(self)
            self._splitter.bytes_max = wire.FRAME_BYTES_MAX
        else:
            self._owner.received(self, wire.decode_peer(frame))

    def _watch(self) -> None:
        """Silence beyond the timeout drops the connection; our own silence is filled."""
        timeout_s = self._owner.config.connection_timeout_ms / 1_000
        if self._transport is None:
            return
        since_s = self._made_at if self.peer_id is None else self._heard_at
        if self._loop.time() - since_s > timeout_s:
            self._owner.counters["connections_timed_out"] += 1
            self.drop()
            return
        if self.peer_id is not None and self.backlog_bytes() == 0:
            self.write(wire.encode(wire.Ping()))
        self._timer = self._loop.call_later(timeout_s / 4, self._watch)

    def _end(self) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._owner.forget(self)
        self.closed.set()
