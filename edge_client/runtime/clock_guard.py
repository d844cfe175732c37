"""Watches the rate of this machine's clock; without trust in it, nothing is called strong (protocol, section 1)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from edge_client.protocol.clock_watch import SPREAD_NS_MAX, ClockState, ClockWatch

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Signal
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)
PERIOD_NS: Final = 1_000_000_000
TRIES: Final = 5


class ClockGuard:
    """Reads the clocks about once a second, under the terms of the epoch."""

    def __init__(self, *, state: EdgeState, clock: Clock, wake: Signal) -> None:
        self._state = state
        self._clock = clock
        self._wake = wake
        self._rho_ppm = state.rho_ppm
        self.watch = ClockWatch(rho_ppm=self._rho_ppm)
        self._trusted_before = True
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self.look()
            await self._clock.sleep_until(self._clock.now_ns() + PERIOD_NS)

    def look(self) -> None:
        """Read the clocks once, and say so if the verdict changes."""
        if self._state.rho_ppm != self._rho_ppm:
            self._rho_ppm = self._state.rho_ppm
            self.watch = ClockWatch(rho_ppm=self._rho_ppm)
        suspension_count = self.watch.suspension_count
        trusted = self._read() is ClockState.TRUSTED
        if self.watch.suspension_count > suspension_count:
            self.counters["suspensions"] += 1
            _log.warning("suspension_noticed total_ms=%d", self.watch.suspended_ns // 1_000_000)
        if trusted != self._trusted_before:
            self._trusted_before = trusted
            _log.warning("own_clock_judged trusted=%s rate_error_ppm=%s", trusted, self.watch.rate_error_ppm)
        self._state.clock_judged(trusted=trusted, now_ns=self._clock.now_ns())
        self._wake.set()

    def _read(self) -> ClockState:
        """Take the first reading that was not interrupted; after a few tries there is none this time."""
        for _ in range(TRIES):
            raw_ns = self._clock.raw_ns()
            monotonic_ns, now_ns = self._clock.monotonic_ns(), self._clock.now_ns()
            spread_ns = self._clock.raw_ns() - raw_ns
            if spread_ns <= SPREAD_NS_MAX:
                return self.watch.read(monotonic_ns=monotonic_ns, raw_ns=raw_ns, spread_ns=spread_ns, now_ns=now_ns)
        self.counters["clock_readings_interrupted"] += 1
        return self.watch.state
