"""The service's bus over NATS: core messages at most once, and the event stream in JetStream.

The stream is a convenience of readers, not a memory of ours: whatever it held may be gone, and then it is made again.
What matters is that two relays cannot interleave, which the expected last sequence on each append sees to.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo

from consistency_service.config import ServiceConfig
from consistency_service.errors import BusUnavailableError, ConfigError, StreamFencedError
from consistency_service.runtime.ports import Delivery, StreamTail
from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_connection import NatsConnection
from edge_client.errors import BusUnavailableError as NotConnectedError
from edge_client.errors import ConfigError as ConnectionConfigError
from edge_client.protocol.subjects import NODE_INBOXES, Subjects
from edge_client.protocol.traces import HEADER as TRACE_HEADER

__all__ = ["NatsAccess", "NatsEventBus", "nats_access_of"]

STREAM_TIMEOUT_S: Final = 2.0
DUPLICATE_WINDOW_S: Final = 120
_MESSAGE_ID: Final = "Nats-Msg-Id"
_EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
_WRONG_LAST_SEQUENCE: Final = (10071, 10164)
"""JetStream's codes for it: from one server, and from a cluster in which another append is under way."""

_INBOX: Final = re.compile(r"_INBOX(\.[A-Za-z0-9_-]{1,64}){1,4}")
"""Where replies may go. Anywhere else, an edge could have us publish to the region's own subjects in its place."""


def nats_access_of(config: ServiceConfig) -> NatsAccess:
    """The files by which a node knows the bus's servers, and they it."""
    return NatsAccess(
        ca=config.nats_ca,
        certificate=config.nats_certificate,
        key=config.nats_key,
        credentials=config.nats_credentials,
    )


class NatsEventBus:
    """An `EventBus`. Raises `ConfigError` for servers or files that can never work.

    The stream keeps the newest `max_msgs` events and at most `max_bytes` of them; one that exists is left as it is.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        subjects: Subjects,
        stream_replicas: int = 1,
        max_msgs: int = 100_000,
        max_bytes: int = 256 * 1024 * 1024,
        inbox_prefix: str = NODE_INBOXES,
        access: NatsAccess | None = None,
    ) -> None:
        with _translated():
            self._connection = NatsConnection(servers, name=name, access=access, inbox_prefix=inbox_prefix)
        self._subjects = subjects
        self._stream = StreamConfig(
            name=subjects.stream,
            subjects=[subjects.event],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            num_replicas=stream_replicas,
            max_msgs=max_msgs,
            max_bytes=max_bytes,
            duplicate_window=DUPLICATE_WINDOW_S,
        )

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
        """What happened so far, by stable words such as `disconnected`, `pending_dropped`, `reply_refused`."""
        return self._connection.counters

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        """Raise `BusUnavailableError` when disconnected, when 4 MiB wait already, or for more than the server takes."""
        with _translated():
            await self._connection.publish(subject, payload=payload, reply_to=reply_to or "")

    async def subscribe(
        self, subject: str, *, handler: Callable[[Delivery], None], pending_max: int, queue: str = ""
    ) -> None:
        """Call `handler` on the event loop for each message; beyond `pending_max` unhandled ones the oldest go, counted.

        `reply_to` is an inbox or None: a message that asks for a reply anywhere else is delivered without, and counted.
        """

        def sink(subject: str, reply: str, payload: bytes, _trace: str) -> None:
            if reply and not _INBOX.fullmatch(reply):
                self._connection.counters["reply_refused"] += 1
                reply = ""
            handler(Delivery(subject=subject, payload=payload, reply_to=reply or None))

        await self._connection.subscribe(subject, sink=sink, pending_max=pending_max, queue=queue)

    async def unsubscribe(self, subject: str) -> None:
        """No handler of `subject` is called any more."""
        await self._connection.unsubscribe(subject)

    async def stream_tail(self) -> StreamTail:
        """The end of the event stream, created if it is missing. Raises `BusUnavailableError`, after 2 s at the latest."""
        async with self._jetstream("stream_tail") as jetstream:
            info = await self._stream_info(jetstream)
            sequence = info.state.last_seq
            try:
                last = await jetstream.get_msg(self._subjects.stream, seq=sequence) if info.state.messages else None
            except nats.js.errors.NotFoundError:
                last = None
            return StreamTail(sequence=sequence, message_id=(last.headers or {}).get(_MESSAGE_ID) if last else None)

    async def append(self, *, payload: bytes, message_id: str, expected_sequence: int, trace: str = "") -> int:
        """Persisted after `expected_sequence`, or already held under this id: the stream sequence of the event.

        The fence comes first: an event whose acknowledgement was lost is refused when it is offered once more after the
        same sequence, and the tail then shows it. `trace`, a traceparent, goes into its head.

        Raises `StreamFencedError` when the stream's last sequence is another, `BusUnavailableError` otherwise, after 2 s
        at the latest; the event may then be in the stream or not.
        """
        headers = {_MESSAGE_ID: message_id, _EXPECTED_SEQUENCE: str(expected_sequence)}
        if trace:
            headers[TRACE_HEADER] = trace
        async with self._jetstream("append") as jetstream:
            self._connection.check_size(payload, headers={**headers, "Nats-Expected-Stream": self._subjects.stream})
            try:
                acknowledged = await jetstream.publish(
                    self._subjects.event, payload, stream=self._subjects.stream, headers=headers
                )
            except nats.js.errors.APIError as error:
                if error.err_code in _WRONG_LAST_SEQUENCE:
                    self._connection.counters["fenced"] += 1
                    raise StreamFencedError(
                        f"{self._subjects.stream} does not end at {expected_sequence}: {error.description}"
                    ) from error
                raise
            return acknowledged.seq

    async def _stream_info(self, jetstream: JetStreamContext) -> StreamInfo:
        try:
            return await jetstream.stream_info(self._subjects.stream)
        except nats.js.errors.NotFoundError:
            self._connection.counters["stream_created"] += 1
            return await jetstream.add_stream(self._stream)

    @asynccontextmanager
    async def _jetstream(self, action: str) -> AsyncIterator[JetStreamContext]:
        """JetStream within the time allowed, its errors translated."""
        try:
            with _translated():
                async with asyncio.timeout(STREAM_TIMEOUT_S):
                    yield self._connection.client().jetstream(timeout=STREAM_TIMEOUT_S)
        except (nats.errors.Error, OSError, ValueError, KeyError, TypeError) as error:
            # The last three: answers that are not what the library expects.
            self._connection.counters["stream_failed"] += 1
            raise BusUnavailableError(f"{action} on {self._subjects.stream}: {error!r}") from error


@contextmanager
def _translated() -> Iterator[None]:
    """The connection is the edge's, and so are its errors."""
    try:
        yield
    except NotConnectedError as error:
        raise BusUnavailableError(str(error)) from error
    except ConnectionConfigError as error:
        raise ConfigError(str(error)) from error
