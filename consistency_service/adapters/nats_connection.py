"""One connection to NATS that comes back by itself, for ever, and that nothing another client says can disturb.

Picture a phone that is dialled again whenever the line drops, with the same questions asked anew. nats-py speaks the
wire; three of its habits we do not share, and each was seen to fail:

- It reconnects inside one client object, where one unexpected exception ends the attempts for good. Here every
  connection is a fresh client, and a keeper makes the next one.
- Its parser reads lines with regular expressions and decodes what other clients chose. A reply subject that is not
  UTF-8 makes it deaf for good while it says "connected"; one with a vertical tab tears the connection down. Here lines
  are cut at the exact bytes.
- It gives each subscription a queue, a task and the newest messages to drop. Here the handler is called where the
  message is parsed, and what a handler is too slow for costs the oldest.

Each of the two packages has this file, because neither may import the other's adapters; they differ in one import.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from consistency_service.adapters.nats_wire import WireParser
from consistency_service.errors import BusUnavailableError, ConfigError

CONNECT_GRACE_S: Final = 0.25
"""How long `open` waits for a first connection before it leaves that to the keeper."""

CONNECT_TIMEOUT_S: Final = 2
CLOSE_TIMEOUT_S: Final = 1.0
FLUSH_TIMEOUT_S: Final = 1
RETRY_S_FIRST: Final = (0.02, 0.3)
"""The first attempt after a loss comes at a random moment of this, so that a fleet does not come back as one."""

RETRY_S_NEXT: Final = (0.2, 1.0)
PING_INTERVAL_S: Final = 2
"""A server that answered none of two pings is given up: a cut line is noticed within three intervals."""

OUTBOUND_BYTES_MAX: Final = 4 * 1024 * 1024
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one subscription's unhandled messages, whatever their number."""

TURN_NS: Final = 5_000_000
"""What one subscription's handler may take of one turn of the event loop; then the rest waits, so that others have theirs."""

NO_RESPONDERS: Final = b"NATS/1.0 503"
"""The server's own answer to a request that nobody listens for; not a message."""

_SCHEMES: Final = ("nats", "tls")

Sink = Callable[[str, str, bytes], None]
"""Takes subject, reply subject (empty if there is none) and payload."""

logger = logging.getLogger(__name__)


class NatsConnection:
    """Connected whenever a server answers. Subscriptions outlive connections; messages do not.

    `credentials` is the path of a `.creds` file and needs `nats-py[nkeys]`. Raises `ConfigError` for servers or
    credentials that can never work. `counters` says what went wrong so far, by stable words.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        tls: ssl.SSLContext | None = None,
        credentials: str | Path | None = None,
    ) -> None:
        self._servers = _checked_servers([servers] if isinstance(servers, str) else list(servers))
        self._name = name
        self._tls = tls
        self._credentials = _checked_credentials(credentials)
        self._inflows: list[_Inflow] = []
        self._client: _Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self.counters: Counter[str] = Counter()

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    async def open(self) -> None:
        """Connected, if that took less than `CONNECT_GRACE_S`; otherwise being tried from now on."""
        assert self._keeper is None, "opened twice"
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"nats {self._name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_GRACE_S):
                await self._up.wait()

    async def close(self) -> None:
        """Nothing is received any more; what was published has been handed to the server, or was lost within a second."""
        for inflow in self._inflows:
            inflow.close()
        self._inflows.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def subscribe(self, subject: str, *, sink: Sink, pending_max: int, queue: str = "") -> None:
        """`sink` is called for what is published from now on; if connected, the server knows when this returns."""
        inflow = _Inflow(subject=subject, queue=queue, sink=sink, pending_max=pending_max, counters=self.counters)
        self._inflows.append(inflow)
        client = self._client
        if client is not None:
            # A connection that fails just now is replaced, and the next one starts with all subscriptions.
            with suppress(nats.errors.Error, OSError):
                await client.attach(inflow)
                await client.settle()

    async def publish(
        self, subject: str, *, payload: bytes, reply_to: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Handed to the connection, which may still lose it. Raises `BusUnavailableError`."""
        client = self.client()
        self.check_size(payload, headers=headers)
        if client.pending_data_size > OUTBOUND_BYTES_MAX:
            self.counters["outbound_full"] += 1
            raise BusUnavailableError(f"the bus takes nothing: {client.pending_data_size} bytes wait to be sent")
        try:
            await client.publish(subject, payload, reply=reply_to, headers=headers)
        except (nats.errors.Error, OSError) as error:
            self.counters["publish_failed"] += 1
            raise BusUnavailableError(f"not published to {subject!r}: {error}") from error

    def client(self) -> Client:
        """The client of the present connection. Raises `BusUnavailableError` when there is none."""
        if self._client is None or not self._client.is_connected:
            raise BusUnavailableError(f"not connected to {', '.join(map(_host, self._servers))}")
        return self._client

    def check_size(self, payload: bytes, *, headers: Mapping[str, str] | None = None) -> None:
        """Raise `BusUnavailableError` for what the server would refuse, and hang up on."""
        head_bytes = sum(len(name) + len(value) + 4 for name, value in headers.items()) + 12 if headers else 0
        size_bytes, size_bytes_max = head_bytes + len(payload), self.client().max_payload
        if size_bytes > size_bytes_max:
            self.counters["oversized"] += 1
            raise BusUnavailableError(
                f"a message of {size_bytes} bytes exceeds the bus's limit of {size_bytes_max}: raise its max_payload"
            )

    async def _keep(self) -> None:
        failures_count = 0
        while True:
            client = _Client(self.counters)
            try:
                await self._connect(client)
                self._client = client
                self.counters["connected"] += 1
                failures_count = 0
                self._up.set()
                logger.info("bus connected", extra={"server": client.connected_url and client.connected_url.netloc})
                await client.ended.wait()
                self.counters["disconnected"] += 1
                logger.warning("bus lost", extra={"error": repr(client.last_error)})
            except Exception as error:  # whatever the library raises, another attempt follows
                self.counters["connect_failed"] += 1
                failures_count += 1
                if failures_count == 1:
                    logger.warning(
                        "bus away", extra={"servers": [_host(s) for s in self._servers], "error": repr(error)}
                    )
            finally:
                self._client = None
                await client.discard()
            await asyncio.sleep(random.uniform(*(RETRY_S_NEXT if failures_count else RETRY_S_FIRST)))

    async def _connect(self, client: _Client) -> None:
        await client.connect(
            servers=self._servers,
            name=self._name,
            error_cb=client.note_error,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            flush_timeout=FLUSH_TIMEOUT_S,
            tls=self._tls,
            user_credentials=self._credentials,
            pending_size=4 * OUTBOUND_BYTES_MAX,  # `publish` refuses first, so that the library never waits
        )
        while missing := [inflow for inflow in self._inflows if inflow not in client.inflows.values()]:
            for inflow in missing:
                await client.attach(inflow)
            await client.settle()


class _Inflow:
    """The way of one subscription's messages to its sink: at once, or a few turns of the event loop later, oldest first."""

    def __init__(self, *, subject: str, queue: str, sink: Sink, pending_max: int, counters: Counter[str]) -> None:
        assert pending_max > 0, pending_max
        self.subject = subject
        self.queue = queue
        self._sink: Sink | None = sink
        self._pending: deque[tuple[str, str, bytes]] = deque()
        self._pending_bytes = 0
        self._pending_max = pending_max
        self._spent_ns = 0
        self._turning = False
        self._counters = counters
        self._loop = asyncio.get_running_loop()

    def offer(self, subject: str, reply: str, payload: bytes) -> None:
        """Hand it on now if this turn still has time and nothing waits; otherwise it waits, and the oldest may go."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        if self._spent_ns < TURN_NS and not self._pending:
            self._hand_on(subject, reply, payload)
            return
        self._pending.append((subject, reply, payload))
        self._pending_bytes += len(payload)
        while len(self._pending) > self._pending_max or self._pending_bytes > PENDING_BYTES_MAX:
            self._pending_bytes -= len(self._pending.popleft()[2])
            self._counters["pending_dropped"] += 1

    def close(self) -> None:
        """Nothing is handed on any more."""
        self._sink = None
        self._pending.clear()

    def _turn(self) -> None:
        self._spent_ns = 0
        while self._spent_ns < TURN_NS and self._pending:
            message = self._pending.popleft()
            self._pending_bytes -= len(message[2])
            self._hand_on(*message)
        self._turning = bool(self._pending)
        if self._turning:
            self._loop.call_soon(self._turn)

    def _hand_on(self, subject: str, reply: str, payload: bytes) -> None:
        if self._sink is None:
            return
        started_ns = time.monotonic_ns()
        try:
            self._sink(subject, reply, payload)
        except Exception:
            self._counters["handler_failed"] += 1
            logger.exception("bus handler failed", extra={"subject": subject})
        self._spent_ns += time.monotonic_ns() - started_ns


class _Client(Client):
    """nats-py for the length of one connection. `ended` is set when it will receive nothing more."""

    def __init__(self, counters: Counter[str]) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.inflows: dict[int, _Inflow] = {}
        self._counters = counters
        self._ps = WireParser(self)  # type: ignore[assignment]

    async def attach(self, inflow: _Inflow) -> None:
        await self.subscribe(inflow.subject, queue=inflow.queue)
        self.inflows[self._sid] = inflow

    async def settle(self) -> None:
        """The server has handled all that was sent. The library's `flush` alone would overtake what waits to be sent."""
        await self._flush_pending(force_flush=True)
        await self.flush(timeout=FLUSH_TIMEOUT_S)

    async def note_error(self, error: Exception) -> None:
        self._counters["library_error"] += 1
        logger.debug("bus client reported", extra={"error": repr(error)})
        if "permissions violation" in str(error):
            self._counters["permission_denied"] += 1
            logger.error("bus permission denied", extra={"error": str(error)[:300]})

    async def discard(self) -> None:
        """Closed, politely if that takes less than a second."""
        closing = asyncio.ensure_future(self.close())
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()  # the library itself would wait for a peer that may be gone
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

    def receive(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> bool:
        """Hand a message to its subscription, if it is one of ours; what is not text came from a hostile client."""
        inflow = self.inflows.get(sid)
        if inflow is None:
            return False
        if not payload and head.startswith(NO_RESPONDERS):
            self._counters["no_responders"] += 1
            return True
        try:
            inflow.offer(subject.decode(), reply.decode(), payload)
        except UnicodeDecodeError:
            self._counters["undecodable"] += 1
        return True

    async def receive_internal(self, sid: int, *, subject: bytes, reply: bytes, payload: bytes, head: bytes) -> None:
        """A reply to one of the library's own requests."""
        try:
            await self._process_msg(sid, subject, reply, payload, head)
        except Exception as error:  # it decodes what others chose; its reader must not end for that
            self._counters["undecodable"] += 1
            logger.debug("bus reply undecodable", extra={"error": repr(error)})

    async def _process_pong(self) -> None:
        with suppress(asyncio.InvalidStateError):  # the answer to a flush that was given up
            await super()._process_pong()

    async def _read_loop(self) -> None:
        try:
            await super()._read_loop()
        finally:
            self.ended.set()
            for waiting in list(self._resp_map.values()):
                if not waiting.done():
                    waiting.set_exception(nats.errors.ConnectionClosedError())

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self.ended.set()
        await super()._close(status, do_cbs)


def _checked_servers(servers: list[str]) -> list[str]:
    for server in servers:
        with_scheme = server if "://" in server else f"nats://{server}"
        try:
            parts = urlsplit(with_scheme)
            acceptable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            acceptable = False
        if not acceptable:
            raise ConfigError(f"{_host(server)!r} is no NATS server: expected nats://HOST:PORT or tls://HOST:PORT")
    if not servers:
        raise ConfigError("no NATS server is named")
    return servers


def _checked_credentials(credentials: str | Path | None) -> Path | None:
    if credentials is None:
        return None
    if not Path(credentials).is_file():
        raise ConfigError(f"{credentials}: no such credentials file")
    if find_spec("nkeys") is None:
        raise ConfigError("a credentials file needs one more package: pip install 'nats-py[nkeys]'")
    return Path(credentials)


def _host(server: str) -> str:
    """The server without the password that its URL may hold."""
    return server.rpartition("@")[2]
