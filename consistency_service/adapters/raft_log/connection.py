"""One socket between two nodes: a stranger until its certificate and its greeting were believed, then a peer.

Picture three rooms behind one another. In the first there is only TLS; in the second one greeting, a kilobyte at most; in
the third the words of a peer. Nothing enters a room before the door behind it is shut, and who lingers is shown out: a
stranger after one timeout whatever it does, a peer when it brings neither a whole frame nor a decent piece of one in that
time, or takes nothing of what is sent to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Final, Protocol

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.tls import CertificateRefusedError, Identity, TlsChannel, TlsError

HANDSHAKE_BYTES_MAX: Final = 1 << 15
"""All that a stranger may send, its certificate and its greeting included, one read of its socket more at most."""

PROGRESS_BYTES_MIN: Final = 1 << 16
"""Of a frame that takes longer than the timeout, in each timeout: slow links pass, slow writers do not."""

PING: Final = wire.encode(wire.Ping())


class Owner(Protocol):
    """Whoever keeps the connections. Called on the event loop; what they raise closes the connection and is counted."""

    def identified(self, connection: Connection) -> None:
        """The certificate was verified. Raises `CertificateRefusedError` if it is not that of an expected peer."""

    def greet(self, connection: Connection, *, target: str) -> None:
        """Our own greeting is on its way."""

    def greeted(self, connection: Connection, hello: wire.Hello) -> None:
        """Raises `wire.WireError` for a stranger; otherwise `connection.peer_id` is set afterwards."""

    def received(self, connection: Connection, message: wire.Peer) -> None: ...

    def refused(self, connection: Connection, kind: str, reason: str) -> None:
        """The connection is closed for a fault of the other side, to be counted as `kind`."""

    def ended(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """`channel` None is a connection without TLS."""

    def __init__(
        self,
        owner: Owner,
        *,
        channel: TlsChannel | None,
        timeout_s: float,
        expected: str | None,
        from_peer_host: bool = False,
    ) -> None:
        self.expected = expected
        """Whom we dialled; None when we were dialled."""
        self.from_peer_host = from_peer_host
        self.peer_id: str | None = None
        self.closed = asyncio.Event()
        self.closed.set()
        self._owner = owner
        self._channel = channel
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._splitter = wire.FrameSplitter(bytes_max=wire.HELLO_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._dropped = False
        self._timer: asyncio.TimerHandle | None = None
        self._made_at = self._heard_at = self._taken_at = self._loop.time()
        self._unheard_bytes = self._received_bytes = 0
        self._sent_bytes = self._taken_bytes = 0

    @property
    def identity(self) -> Identity | None:
        """Who the certificate says it is; None without one."""
        return None if self._channel is None else self._channel.identity

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.closed.clear()
        self._transport = transport
        self._made_at = self._taken_at = self._loop.time()
        # asyncio does so only for sockets that were made with the number of TCP; without it commits wait for the kernel.
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._dropped:
            self.drop()
            return
        self._timer = self._loop.call_later(self._timeout_s / 4, self._watch)
        if self._channel is None:
            self._begin_greeting()
        elif self.expected is not None:
            self._channel.start()
            self._send_raw(self._channel.take_outgoing())

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            self._take(data)
        except CertificateRefusedError as error:
            self._refuse("certificates_refused", error)
        except TlsError as error:
            self._refuse("tls_failed", error)
        except wire.WireError as error:
            self._refuse("frames_refused", error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._owner.ended(self)
        self.closed.set()

    def eof_received(self) -> None:
        """Close; half-open connections are of no use."""

    def write(self, frame: bytes) -> None:
        """Best effort."""
        if self._transport is None:
            return
        try:
            self._send_raw(frame if self._channel is None else self._channel.send(frame))
        except TlsError as error:
            self._loop.call_soon(self._refuse, "tls_failed", error)

    def backlog_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def part(self) -> None:
        """As `drop`, but what was written so far arrives, if the other side takes it within the timeout."""
        transport, self._transport, self._dropped = self._transport, None, True
        if transport is not None:
            transport.close()
            self._loop.call_later(self._timeout_s, transport.abort)

    def drop(self) -> None:
        """Nothing more is read or sent, nor ever will be; the owner hears of the end from the event loop."""
        self._dropped = True
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _take(self, data: bytes) -> None:
        self._received_bytes += len(data)
        self._unheard_bytes += len(data)
        if self._channel is not None:
            verified_before = self.identity is not None
            data = self._channel.receive(data)
            if self.identity is None or verified_before:
                self._send_raw(self._channel.take_outgoing())
            else:
                self._owner.identified(self)
                self._send_raw(self._channel.take_outgoing())
                self._begin_greeting()
        self._splitter.feed(data)
        while self._transport is not None and (frame := self._splitter.next_frame()) is not None:
            self._frame_received(frame)
            self._heard()
        # Looked at last: behind its greeting a peer sends whatever it has for us, and all that may arrive at once.
        if self.peer_id is None and self._received_bytes > HANDSHAKE_BYTES_MAX:
            raise wire.WireError(f"a stranger sent more than {HANDSHAKE_BYTES_MAX} bytes")
        if self._unheard_bytes >= PROGRESS_BYTES_MIN:
            self._heard()

    def _begin_greeting(self) -> None:
        if self.expected is not None:
            self._owner.greet(self, target=self.expected)

    def _frame_received(self, frame: bytes) -> None:
        if self.peer_id is None:
            self._owner.greeted(self, wire.decode_hello(frame))
            self._splitter.bytes_max = wire.FRAME_BYTES_MAX
        else:
            self._owner.received(self, wire.decode_peer(frame))

    def _heard(self) -> None:
        self._heard_at = self._loop.time()
        self._unheard_bytes = 0

    def _send_raw(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._sent_bytes += len(data)
            self._transport.write(data)

    def _refuse(self, kind: str, error: Exception) -> None:
        """The other side hears why, if it listens and TLS has a word for it."""
        if self._transport is None:
            return
        if self._channel is not None and self.identity is None and self.backlog_bytes() == 0:
            self._send_raw(self._channel.take_outgoing())
        self._owner.refused(self, kind, str(error))
        self.drop()

    def _watch(self) -> None:
        """Silence and deafness beyond the timeout drop the connection; our own silence is filled."""
        if self._transport is None:
            return
        now, limit_s, backlog_bytes = self._loop.time(), self._timeout_s, self.backlog_bytes()
        taken_bytes = self._sent_bytes - backlog_bytes
        if backlog_bytes == 0 or taken_bytes > self._taken_bytes:
            self._taken_at, self._taken_bytes = now, taken_bytes
        heard_at = self._made_at if self.peer_id is None else self._heard_at
        if now - heard_at > limit_s or now - self._taken_at > limit_s:
            self._owner.refused(self, "connections_timed_out", f"nothing heard or taken for {limit_s} s")
            self.drop()
        elif self.identity is not None and self.identity.expires_at_unix_s < time.time():
            self._owner.refused(self, "certificates_expired", "the certificate expired meanwhile")
            self.drop()
        else:
            if self.peer_id is not None and backlog_bytes == 0:
                self.write(PING)
            self._timer = self._loop.call_later(limit_s / 4, self._watch)
