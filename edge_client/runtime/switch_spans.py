"""Tells of each switch of this edge as the last span of the trace that led to it.

The trace is in what the region signed; the message that brought it may name a nearer parent in its head, which nobody
signed, so that it counts only if it is of the same trace. Spans are made when all is over, and nothing waits for them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from edge_client.protocol.traces import TraceParent, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_client.protocol.messages import Event, Switch
    from edge_client.protocol.models import Pending
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Signal
    from edge_client.runtime.state import EdgeState
    from edge_client.runtime.window import ModelWindow, Outlook

PARENTS_MAX: Final = 256
TOLD_MAX: Final = 1_024
SPAN_NAME: Final = "edge switch"


class Spans(Protocol):
    """Where spans go; never waits, and never raises."""

    def span(
        self, name: str, *, parent: TraceParent, begin_unix_ns: int, end_unix_ns: int, attributes: Mapping[str, Any]
    ) -> None: ...


class SwitchSpans:
    """One span for each activation of which this edge knows when it began to serve it, and in which trace."""

    def __init__(self, *, state: EdgeState, clock: Clock, wake: Signal, spans: Callable[[], Spans | None]) -> None:
        self._state = state
        self._clock = clock
        self._wake = wake
        self._spans = spans
        self._parents: OrderedDict[str, TraceParent] = OrderedDict()
        self._told: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.counters: Counter[str] = Counter()

    def event_heard(self, event: Event, *, head: str) -> None:
        """A verified event came under this traceparent; empty where it had none."""
        if not head:
            return
        nearer, signed = parse_traceparent(head), parse_traceparent(event.trace)
        if nearer is None or signed is None or nearer.trace_id != signed.trace_id:
            self.counters["traceparents_ignored"] += 1
            return
        for view in event.models:
            if view.pending is not None and view.pending.trace == event.trace:
                self._parents[event.trace] = nearer
        while len(self._parents) > PARENTS_MAX:
            self._parents.popitem(last=False)

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait(clock=self._clock, deadline_ns=None)
            self._tell()

    def _tell(self) -> None:
        spans = self._spans()
        for switch, pending, known_at_ns, served in self._state.looked_at(_switched):
            key = (switch.model, switch.activation)
            parent = parse_traceparent(pending.trace)
            if spans is None or parent is None or key in self._told:
                continue
            self._told[key] = None
            if len(self._told) > TOLD_MAX:
                self._told.popitem(last=False)
            spans.span(
                SPAN_NAME,
                parent=self._parents.get(pending.trace, parent),
                begin_unix_ns=self._unix_ns(known_at_ns),
                end_unix_ns=self._unix_ns(switch.at_ns),
                attributes={
                    "ccs.model": switch.model,
                    "ccs.generation": switch.generation,
                    "ccs.activation": switch.activation,
                    "ccs.version": served[0],
                    "ccs.guarantee": served[1],
                    "ccs.late_ms": switch.late_ns / 1e6,
                    "ccs.uncertainty_ms": switch.uncertainty_ns / 1e6,
                },
            )
            self.counters["switches_traced"] += 1

    def _unix_ns(self, at_ns: int) -> int:
        """An instant of our clock by wall time, for people."""
        return self._clock.unix_ms() * 1_000_000 - (self._clock.now_ns() - at_ns)


def _switched(
    outlook: Outlook, windows: Mapping[str, ModelWindow], _reads: Mapping[str, int], now_ns: int
) -> list[tuple[Switch, Pending, int, tuple[str, str]]]:
    """The newest switch of each model whose activation is still known, with when that was known, and what is served."""
    found = []
    for window in windows.values():
        activation = window.served.activation
        switch = window.served.switches[-1] if window.served.switches else None
        if activation is not None and switch is not None and switch.activation == activation[0].revision:
            status = window.status(outlook, now_ns=now_ns)
            found.append((switch, *activation, (status.version or "", status.guarantee or "none")))
    return found
