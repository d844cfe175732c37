"""What the edge's drivers need from the world, and what they must not assume about it.

Each port is a small `Protocol`. A working in-memory fake lives in `tests`; fake and real adapter pass the same
conformance suite. Adapters translate the exceptions of their library into `edge_client.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_client.protocol.position import Position


class Clock(Protocol):
    """Nanoseconds that count suspension. Has no relation to wall time or to another host's clock."""

    counts_suspension: bool
    """False where the platform has no clock that counts suspended time; then nothing may be called strong."""

    def now_ns(self) -> int:
        """The instant every rule is given: `CLOCK_BOOTTIME`."""
        ...

    def monotonic_ns(self) -> int:
        """`CLOCK_MONOTONIC`: stops while suspended; compared with `now_ns` to tell a suspension from a fault."""
        ...

    def raw_ns(self) -> int:
        """`CLOCK_MONOTONIC_RAW`: not slewed by time daemons; what the rate is watched against."""
        ...

    def unix_ms(self) -> int:
        """Wall time, for people only."""
        ...

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return at or after `deadline_ns` of `now_ns`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message as it came off the bus: nothing about it is to be trusted yet."""

    subject: str
    payload: bytes
    trace: str = ""
    """The traceparent in its head, at most 256 characters, whatever they are; empty where there is none."""


class Bus(Protocol):
    """Messages to and from the region. At most once: a message may be lost, repeated or late, and nobody will say so.

    Reconnects by itself, for ever, and restores its subscriptions.
    """

    async def connect(self) -> None:
        """Return at once, or after the first connection if that is quick; a bus that is away is not an error."""
        ...

    async def close(self) -> None: ...

    @property
    def connected(self) -> bool: ...

    @property
    def fault(self) -> str:
        """Why it is not connected, in a sentence without secrets; empty while it is, and before that is known."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What happened so far, by stable words."""
        ...

    async def subscribe(self, subject: str, *, handler: Callable[[Delivery], None], pending_max: int) -> None:
        """Call `handler` on the event loop for each message; beyond `pending_max` unhandled ones the oldest go, counted."""
        ...

    async def publish(self, subject: str, *, payload: bytes, reply_to: str | None = None) -> None:
        """Raise `BusUnavailableError` when disconnected (nothing is buffered beyond the library's bounded buffer)."""
        ...

    def new_inbox(self) -> str:
        """A subject of our own to which replies may be sent; subscribe to it first."""
        ...


class LocalTier(Protocol):
    """The box's own Redis. Guarantees atomic single-key set-if-newer; not durability, nor survival until expiry."""

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def set_if_newer(self, key: str, *, value: bytes, position: Position) -> bool:
        """Store unless the entry under `key` has a position not older than `position`; say whether it was stored."""
        ...

    async def put_blob(self, name: str, *, chunks: AsyncIterator[bytes]) -> None:
        """Store a large immutable value; it is either there whole afterwards, or absent."""
        ...

    async def get_blob(self, name: str) -> AsyncIterator[bytes] | None:
        """The chunks of a blob, or None. What comes back must still be verified."""
        ...

    async def delete_blob(self, name: str) -> None: ...

    async def blobs(self) -> tuple[str, ...]:
        """The names of all blobs this edge's namespace holds."""
        ...


class ArtifactSource(Protocol):
    """The region's artifacts by HTTP. Says nothing about existence; what is read must be verified by digest."""

    def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        """Bytes of the artifact from `offset` on. Raises `ArtifactUnavailableError`."""
        ...

    async def close(self) -> None: ...
