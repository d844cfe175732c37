"""The edge's bus over NATS core: at most once, the handler called where the message is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nats.nuid import NUID

from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_connection import NatsConnection
from edge_client.protocol.subjects import EDGE_INBOXES
from edge_client.runtime.ports import Delivery


class NatsBus:
    """A `Bus`. Replies come below `inbox_prefix`. Raises `ConfigError` for servers or files that can never work."""

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        inbox_prefix: str = EDGE_INBOXES,
        access: NatsAccess | None = None,
    ) -> None:
        self._connection = NatsConnection(servers, name=name, access=access, inbox_prefix=inbox_prefix)
        self._inbox_prefix = inbox_prefix
        self._nuid = NUID()

    async def connect(self) -> None:
        """Return within a quarter of a second, connected or not; it is tried for ever from now on."""
        await self._connection.open()

    async def close(self) -> None:
        """No handler is called any more, and the connection is gone, within about a second."""
        await self._connection.close()

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def fault(self) -> str:
        """Why there is no connection, in a sentence without secrets; empty while there is one."""
        return self._connection.fault

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened so far, by stable words such as `disconnected`, `pending_dropped`, `undecodable`."""
        return self._connection.counters

    async def subscribe(self, subject: str, *, handler: Callable[[Delivery], None], pending_max: int) -> None:
        """Call `handler` on the event loop for each message; beyond `pending_max` unhandled ones the oldest go, counted."""

        def sink(subject: str, _reply: str, payload: bytes, trace: str) -> None:
            handler(Delivery(subject=subject, payload=payload, trace=trace))

        await self._connection.subscribe(subject, sink=sink, pending_max=pending_max)

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        """Raise `BusUnavailableError` when disconnected, when 4 MiB wait already, or for more than the server takes."""
        await self._connection.publish(subject, payload=payload, reply_to=reply_to or "")

    def new_inbox(self) -> str:
        """A subject of our own to which replies may be sent; subscribe to it first."""
        return f"{self._inbox_prefix}.{self._nuid.next().decode()}"
