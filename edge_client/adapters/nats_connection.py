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

Both packages use this one. What the bus refuses us for is told apart from a bus that is away: `fault` says either, in words
without secrets, and both are tried for ever, since servers and credentials are mended while we run.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_inflow import Inflow, Sink, trace_in
from edge_client.adapters.nats_wire import WireParser
from edge_client.errors import BusUnavailableError, ConfigError

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
NO_RESPONDERS: Final = b"NATS/1.0 503"
"""The server's own answer to a request that nobody listens for; not a message."""

DENIALS_LOGGED_MAX: Final = 8
"""Of one connection; the rest are counted."""

FAULT_CHARS_MAX: Final = 300
_SCHEMES: Final = ("nats", "tls")
_REFUSALS: Final = ("authorization violation", "authentication")
"""What servers say, in any case, when they know us not, or no longer."""

logger = logging.getLogger(__name__)


class NatsConnection:
    """Connected whenever a server answers. Subscriptions outlive connections; messages do not.

    Raises `ConfigError` for servers that can never work, and for files of `access` that are missing, damaged or open to
    others now; what becomes of them later is a `fault` that goes on being tried. `inbox_prefix` is where replies to the
    library's own requests come. `counters` says what went wrong so far, by stable words.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        access: NatsAccess | None = None,
        inbox_prefix: str = "_INBOX",
    ) -> None:
        self._servers = _checked_servers([servers] if isinstance(servers, str) else list(servers))
        self._name = name
        self._access = access or NatsAccess()
        self._access.context()
        self._access.proof()
        self._inbox_prefix = inbox_prefix
        self.fault = ""
        """Why there is no connection, in a sentence without secrets: `refused: …`, or what else; empty while there is one,
        and before the first attempt has ended."""
        self._inflows: list[Inflow] = []
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
        inflow = Inflow(subject=subject, queue=queue, sink=sink, pending_max=pending_max, counters=self.counters)
        self._inflows.append(inflow)
        client = self._client
        if client is not None:
            # A connection that fails just now is replaced, and the next one starts with all subscriptions.
            with suppress(nats.errors.Error, OSError):
                await client.attach(inflow)
                await client.settle()

    async def unsubscribe(self, subject: str) -> None:
        """No sink of `subject` is called any more."""
        gone = [inflow for inflow in self._inflows if inflow.subject == subject]
        self._inflows = [inflow for inflow in self._inflows if inflow not in gone]
        for inflow in gone:
            inflow.close()
        if self._client is not None:
            with suppress(nats.errors.Error, OSError):  # a connection that fails takes its subscriptions with it
                await self._client.detach(gone)

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
            fault = f": {self.fault}" if self.fault else ""
            raise BusUnavailableError(f"not connected to {', '.join(map(_host, self._servers))}{fault}")
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
                failures_count, self.fault = 0, ""
                self._up.set()
                logger.info("bus_connected server=%s", client.server)
                await client.ended.wait()
                self.counters["disconnected"] += 1
                self.fault = _fault_of(client.last_error)
                logger.warning("bus_lost server=%s fault=%s", client.server, self.fault)
            except Exception as error:  # whatever the library raises, another attempt follows
                self.counters["connect_failed"] += 1
                failures_count += 1
                fault = _fault_of(error)
                if fault.startswith("refused"):
                    self.counters["refused"] += 1
                if failures_count == 1 or fault.partition(":")[0] != self.fault.partition(":")[0]:
                    servers = ",".join(map(_host, self._servers))
                    logger.warning("bus_away servers=%s name=%s fault=%s", servers, self._name, fault)
                self.fault = fault
            finally:
                self._client = None
                await client.discard()
            await asyncio.sleep(random.uniform(*(RETRY_S_NEXT if failures_count else RETRY_S_FIRST)))

    async def _connect(self, client: _Client) -> None:
        context, proof = self._access.context(), self._access.proof()
        options: dict[str, Any] = {} if proof is None else proof.options()
        client.tls_is_wanted = context is not None
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
            tls=context,
            inbox_prefix=self._inbox_prefix,
            pending_size=4 * OUTBOUND_BYTES_MAX,  # `publish` refuses first, so that the library never waits
            **options,
        )
        while missing := [inflow for inflow in self._inflows if inflow not in client.inflows.values()]:
            for inflow in missing:
                await client.attach(inflow)
            await client.settle()


class _Client(Client):
    """nats-py for the length of one connection. `ended` is set when it will receive nothing more."""

    def __init__(self, counters: Counter[str]) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.inflows: dict[int, Inflow] = {}
        self.tls_is_wanted = False
        self._denials_logged = 0
        self._counters = counters
        self._ps = WireParser(self)  # type: ignore[assignment]

    @property
    def server(self) -> str:
        """Where we are connected, without the password that its URL may hold."""
        return "" if self.connected_url is None else _host(self.connected_url.netloc)

    async def attach(self, inflow: Inflow) -> None:
        await self.subscribe(inflow.subject, queue=inflow.queue)
        self.inflows[self._sid] = inflow

    async def detach(self, gone: list[Inflow]) -> None:
        for sid in [sid for sid, inflow in self.inflows.items() if inflow in gone]:
            del self.inflows[sid]
            self._remove_sub(sid)
            await self._send_unsubscribe(sid)

    async def settle(self) -> None:
        """The server has handled all that was sent. The library's `flush` alone would overtake what waits to be sent."""
        await self._flush_pending(force_flush=True)
        await self.flush(timeout=FLUSH_TIMEOUT_S)

    async def note_error(self, error: Exception) -> None:
        self._counters["library_error"] += 1
        logger.debug("bus_client_reported error=%s", _fault_of(error))
        if "permissions violation" in str(error).lower():
            self._err = None  # not what the connection will end by
            self._counters["permission_denied"] += 1
            if self._denials_logged < DENIALS_LOGGED_MAX:
                self._denials_logged += 1
                logger.error("bus_permission_denied server=%s error=%s", self.server, _said(error))

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
            inflow.offer(subject.decode(), reply.decode(), payload, trace_in(head))
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

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Before anything is said: whoever asked for TLS is not talked into doing without."""
        asked = self._current_server is not None and self._current_server.uri.scheme == "tls"
        if initial_connection and (self.tls_is_wanted or asked) and not info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS")
        await super()._process_info(info, initial_connection)

    async def _select_next_server(self) -> None:
        await super()._select_next_server()
        transport: Any = self._transport
        connect_tls = transport.connect_tls

        async def connect_quietly(*arguments: Any, **options: Any) -> None:
            """The library leaves asyncio in the belief that this is no TLS, which then warns of each lost connection."""
            await connect_tls(*arguments, **options)
            transport._io_writer.transport.get_protocol()._over_ssl = True  # noqa: SLF001

        transport.connect_tls = connect_quietly

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


def _host(server: str) -> str:
    """The server without the password that its URL may hold."""
    return server.rpartition("@")[2]


def _fault_of(error: BaseException | None) -> str:
    """Whose fault it is, and what was said of it; nothing of credentials is in what the library says."""
    if error is None:
        return "away: the server hung up"
    if isinstance(error, ConfigError):
        return f"credentials: {error}"[:FAULT_CHARS_MAX]
    said = _said(error)
    lowered = said.lower()
    kind = "refused" if any(word in lowered for word in _REFUSALS) else "away"
    return f"{kind}: {said}"


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:FAULT_CHARS_MAX]
