"""One subscription's messages on their way to whoever asked for them, bounded in number, in bytes and in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from edge_client.protocol.traces import HEADER, TRACEPARENT_CHARS_MAX

PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of one subscription's unhandled messages, whatever their number."""

TURN_NS: Final = 5_000_000
"""What one subscription's handler may take of one turn of the event loop; then the rest waits, so that others have theirs."""

HEAD_BYTES_READ: Final = 4 * 1024
"""Of a message's head; whoever puts a traceparent behind so much has none."""

Sink = Callable[[str, str, bytes, str], None]
"""Takes subject, reply subject (empty if there is none), payload, and what its head calls `traceparent` (or nothing)."""

_log = logging.getLogger(__name__)


class Inflow:
    """The way of one subscription's messages to its sink: at once, or a few turns of the event loop later, oldest first."""

    def __init__(self, *, subject: str, queue: str, sink: Sink, pending_max: int, counters: Counter[str]) -> None:
        assert pending_max > 0, pending_max
        self.subject = subject
        self.queue = queue
        self._sink: Sink | None = sink
        self._pending: deque[tuple[str, str, bytes, str]] = deque()
        self._pending_bytes = 0
        self._pending_max = pending_max
        self._spent_ns = 0
        self._turning = False
        self._counters = counters
        self._loop = asyncio.get_running_loop()

    def offer(self, subject: str, reply: str, payload: bytes, trace: str = "") -> None:
        """Hand it on now if this turn still has time and nothing waits; otherwise it waits, and the oldest may go."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        if self._spent_ns < TURN_NS and not self._pending:
            self._hand_on(subject, reply, payload, trace)
            return
        self._pending.append((subject, reply, payload, trace))
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

    def _hand_on(self, subject: str, reply: str, payload: bytes, trace: str) -> None:
        if self._sink is None:
            return
        started_ns = time.monotonic_ns()
        try:
            self._sink(subject, reply, payload, trace)
        except Exception:
            self._counters["handler_failed"] += 1
            _log.exception("bus_handler_failed subject=%s", subject)
        self._spent_ns += time.monotonic_ns() - started_ns


def trace_in(head: bytes) -> str:
    """The first `traceparent` in a message's head, cut at a length that is none; empty where there is none."""
    for line in head[:HEAD_BYTES_READ].split(b"\r\n")[1:] if head else ():
        name, _, value = line.partition(b":")
        if name.lower() == HEADER.encode():
            return value.strip()[: TRACEPARENT_CHARS_MAX + 1].decode("latin-1")
    return ""
