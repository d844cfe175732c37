"""Does our own clock keep its rate? Everything that is promised rests on yes.

Picture two metronomes side by side: `CLOCK_MONOTONIC`, which a time daemon may slew, and `CLOCK_MONOTONIC_RAW`, which
none does. Over ten seconds and more they must agree to within rho less 100 ppm. A machine that sleeps stops both, and
only `CLOCK_BOOTTIME` goes on: that step is a suspension, counted, and no fault (protocol, section 1). This module reads
no clock; it is told three readings about once a second.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

WINDOW_NS: Final = 10_000_000_000
RESERVE_PPM: Final = 100
SUSPENSION_NS: Final = 50_000_000
"""A step of BOOTTIME less MONOTONIC beyond this is a suspension; below, two readings a moment apart."""
READINGS_MAX: Final = 64
READING_APART_NS: Final = WINDOW_NS // 32
SPREAD_NS_MAX: Final = 200_000
"""Clocks that were not read together say nothing: 20 ppm of a window is the most that a reading may blur."""
_MILLION: Final = 1_000_000


class ClockState(StrEnum):
    TRUSTED = "trusted"
    DRIFTING = "drifting"


class ClockWatch:
    """Compares the rate of the slewed clock with the raw one. Both sides use it; neither is told what to do about it."""

    def __init__(self, *, rho_ppm: int) -> None:
        self._limit_ppm = max(1, rho_ppm - RESERVE_PPM)
        self._readings: deque[tuple[int, int]] = deque(maxlen=READINGS_MAX)
        self._offset_ns: int | None = None
        self.state = ClockState.TRUSTED
        self.rate_error_ppm: float | None = None
        """The last measured rate error; None before ten seconds have been seen."""
        self.blurred_count = 0
        """Readings that were ignored because they took too long."""
        self.suspension_count = 0
        self.suspended_ns = 0
        """All the time that suspensions took, in this life."""

    def read(self, *, monotonic_ns: int, raw_ns: int, spread_ns: int = 0, now_ns: int) -> ClockState:
        """Take the three clocks, read together about once a second; the verdict that holds from now on.

        `spread_ns` is how long it took to read them; a process that was interrupted meanwhile should read again.

        The window is the shortest that spans ten seconds: one second's jitter of reading the clocks does not decide, and
        a clock that was mended is believed ten seconds later.
        """
        if spread_ns > SPREAD_NS_MAX:
            self.blurred_count += 1
            return self.state
        self._suspension(now_ns - monotonic_ns)
        if not self._readings or raw_ns - self._readings[-1][1] >= READING_APART_NS:
            self._readings.append((monotonic_ns, raw_ns))
        while len(self._readings) > 2 and raw_ns - self._readings[1][1] >= WINDOW_NS:
            self._readings.popleft()
        first_monotonic_ns, first_raw_ns = self._readings[0]
        elapsed_ns = raw_ns - first_raw_ns
        if elapsed_ns >= WINDOW_NS:
            error_ns = (monotonic_ns - first_monotonic_ns) - elapsed_ns
            self.rate_error_ppm = error_ns * _MILLION / elapsed_ns
            beyond = abs(error_ns) * _MILLION > self._limit_ppm * elapsed_ns
            self.state = ClockState.DRIFTING if beyond else ClockState.TRUSTED
        return self.state

    def _suspension(self, offset_ns: int) -> None:
        if self._offset_ns is not None and offset_ns - self._offset_ns > SUSPENSION_NS:
            self.suspension_count += 1
            self.suspended_ns += offset_ns - self._offset_ns
        self._offset_ns = offset_ns

    def check_invariants(self) -> None:
        assert len(self._readings) <= READINGS_MAX
        assert self.state is ClockState.TRUSTED or self.rate_error_ppm is not None

    def __repr__(self) -> str:
        rate = "?" if self.rate_error_ppm is None else f"{self.rate_error_ppm:+.0f}ppm"
        return f"<ClockWatch {self.state} {rate} suspensions={self.suspension_count}>"
