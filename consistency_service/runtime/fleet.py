"""Keeps this node's view of the edges, and wakes whoever waits for readiness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consistency_service.core.fleet import Fleet
from consistency_service.core.state import State
from consistency_service.runtime.ports import Clock
from consistency_service.runtime.waking import wait_set
from edge_client.protocol.feature_classes import DEFAULT_CLASS
from edge_client.protocol.messages import EdgeReport


class FleetDriver:
    """The fleet view on the event loop. `state` is what the region has decided, as far as this node knows."""

    def __init__(self, *, clock: Clock, state: Callable[[], State]) -> None:
        self._state = state
        self.view = Fleet(known=self._known, known_class=self._known_class)
        self._clock = clock
        self._heard = asyncio.Event()

    def report_received(self, report: EdgeReport) -> bool:
        """Take a report; False when its id belongs to another living process."""
        accepted = self.view.report_received(report, unix_ms=self._clock.unix_ms(), now_ns=self._clock.now_ns())
        self._heard.set()
        self._heard = asyncio.Event()
        return accepted

    async def wait_report(self, *, timeout_ms: int) -> None:
        """Return when the next report arrives, or after `timeout_ms`."""
        await wait_set(self._heard, timeout_s=timeout_ms / 1_000)

    def _known(self, model: str, version: str, generation: int) -> bool:
        """Whether any edge can have read this version under this generation."""
        held = self._state().models.get(model)
        if held is None or version not in held.versions:
            return False
        newest = held.generation if held.pending is None else held.pending.generation
        return 0 < generation <= newest

    def _known_class(self, name: str) -> bool:
        return name == DEFAULT_CLASS or name in self._state().feature_classes
