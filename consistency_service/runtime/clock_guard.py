"""Watches the rate of this process's own clock, and tells when it can be trusted (protocol, section 1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock
from edge_client.protocol.clock_watch import ClockState, ClockWatch

PERIOD_NS: Final = 1_000_000_000


class ClockGuard:
    """Reads the clocks about once a second under the terms of the epoch."""

    def __init__(
        self,
        *,
        clock: Clock,
        metadata: Metadata,
        distrusted: Callable[[], None],
        trusted: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._metadata = metadata
        self._distrusted = distrusted
        self._trusted = trusted
        self.watch: ClockWatch | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._metadata.wait_until(lambda: self._metadata.state.epoch > 0)
        self.watch = ClockWatch(rho_ppm=self._metadata.state.terms.rho_ppm)
        state = self.watch.state
        while True:
            before, state = state, self._read(self.watch)
            if before is ClockState.TRUSTED and state is ClockState.DRIFTING:
                self._distrusted()
            elif before is ClockState.DRIFTING and state is ClockState.TRUSTED:
                await self._trusted()
            await self._clock.sleep_until(self._clock.now_ns() + PERIOD_NS)

    def _read(self, watch: ClockWatch) -> ClockState:
        raw_ns = self._clock.raw_ns()
        monotonic_ns, now_ns = self._clock.monotonic_ns(), self._clock.now_ns()
        spread_ns = self._clock.raw_ns() - raw_ns
        return watch.read(monotonic_ns=monotonic_ns, raw_ns=raw_ns, spread_ns=spread_ns, now_ns=now_ns)
