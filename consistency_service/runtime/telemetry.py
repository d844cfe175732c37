"""What a node tells of itself while it works: how long things took, and which trace they belong to.

Whoever works hands over a duration or brackets its work with a span, and goes on; where that goes is the adapter's. The
trace of the present call travels in a context variable from REST to the log, and from there in the command.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from edge_client.protocol.metrics import Sheet
from edge_client.protocol.traces import TraceParent, parse_traceparent

current_trace: ContextVar[str] = ContextVar("current_trace", default="")
"""The traceparent of what is done at present; empty where nobody asked for it."""


class Span(Protocol):
    """Something that takes a while."""

    traceparent: str
    """What is done for it belongs to this; that of its parent where nothing is recorded."""

    def note(self, **attributes: Any) -> None:
        """Say more of it. Names get `ccs.` before them."""
        ...

    def failed(self, reason: str) -> None:
        """It came to nothing."""
        ...


class Telemetry(Protocol):
    """Takes what is told, at once: nothing waits for it, and nothing fails by it."""

    def record(self, name: str, value: float, **labels: str) -> None:
        """One value of a histogram of `NODE_METRICS`."""
        ...

    def span(
        self, name: str, *, parent: str, kind: str = "internal", **attributes: Any
    ) -> AbstractContextManager[Span]:
        """A span under this traceparent, for as long as the context lasts. Without a parent nothing is recorded.

        `kind` is `internal`, `server` or `producer`.
        """
        ...

    def observe(self, sheet: Callable[[], Sheet]) -> None:
        """From now on counters and gauges come from here."""
        ...

    def exposition(self) -> tuple[bytes, str]:
        """Everything as Prometheus reads it, and its content type."""
        ...

    def close(self) -> None:
        """Within seconds, what is still to be told is told."""
        ...


class Unrecorded:
    """A span of which nobody hears: what is done under it belongs to its parent."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def note(self, **attributes: Any) -> None:
        """Nothing."""

    def failed(self, reason: str) -> None:
        """Nothing."""


class Silence:
    """A `Telemetry` that tells nobody."""

    def record(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    @contextmanager
    def span(self, name: str, *, parent: str, kind: str = "internal", **attributes: Any) -> Iterator[Span]:
        """Nothing is recorded."""
        yield Unrecorded(parent)

    def observe(self, sheet: Callable[[], Sheet]) -> None:
        """Nothing."""

    def exposition(self) -> tuple[bytes, str]:
        """Nothing."""
        return b"", "text/plain; charset=utf-8"

    def close(self) -> None:
        """Nothing."""


SILENCE: Final = Silence()


def received_trace(headers: Mapping[str, str], *, header: str) -> tuple[str, bool]:
    """The traceparent that a caller sent, or a new one; and whether what came was none."""
    text = headers.get(header)
    parent = None if text is None else parse_traceparent(text)
    return str(parent or TraceParent(secrets.token_hex(16), secrets.token_hex(8))), text is not None and parent is None
