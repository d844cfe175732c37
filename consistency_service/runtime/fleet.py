"""Keeps this node's view of the edges, and wakes whoever waits for readiness."""

from __future__ import annotations

import asyncio

from consistency_service.core.fleet import Fleet
from consistency_service.runtime.ports import Clock
from edge_client.protocol.messages import EdgeReport


class FleetDriver:
    """The fleet view on the event loop."""

    def __init__(self, *, clock: Clock) -> None:
        self.view = Fleet()
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
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await self._heard.wait()
        except TimeoutError:
            return
