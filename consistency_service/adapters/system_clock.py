"""The clock of this machine, and a faulty one for tests.

`now_ns` is read on every read of a model, so it is an attribute that holds the cheapest callable there is (a partial of
the C function: 70 ns where a method takes 100), not a method.

Each of the two packages has this file, because neither may import the other's adapters.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Final

FAULTS_VARIABLE: Final = "CCS_CLOCK_FAULTS"
"""Names the control file of a `FaultyClock` for this process. For tests only: it makes every promise void."""

SLEEP_S_MAX: Final = 1.0
"""Timers of the event loop stand still while the machine is suspended; nobody oversleeps by more than this."""

FAULTS_CHECK_NS: Final = 20_000_000

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
_RAW: Final[int | None] = getattr(time, "CLOCK_MONOTONIC_RAW", None)


class SystemClock:
    """`CLOCK_BOOTTIME` where there is one (Linux); elsewhere the monotonic clock, and `counts_suspension` is False."""

    def __init__(self) -> None:
        self.counts_suspension = _BOOTTIME is not None
        self.monotonic_ns: Callable[[], int] = time.monotonic_ns
        self.now_ns = _reader(_BOOTTIME)
        self.raw_ns = _reader(_RAW)

    def unix_ms(self) -> int:
        """Wall time, for people only."""
        return time.time_ns() // 1_000_000

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return at or after `deadline_ns` of `now_ns`; at most a second late after a suspension."""
        await _sleep_until(deadline_ns, now_ns=self.now_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFaults:
    """What a `FaultyClock` does, counted from the moment at which it learns so; also the control file's JSON object."""

    rate_ppm: int = 0
    """All three clocks run this much too fast: a bad crystal, which nothing on the machine can see."""

    slew_ppm: int = 0
    """`now_ns` and `monotonic_ns` run this much faster than `raw_ns`: a time daemon at work."""

    offset_ns: int = 0
    """All three clocks are ahead by this: another host's clock, or, when it changes, a step."""

    jump_ns: int = 0
    """`now_ns` is ahead of `monotonic_ns` by this; when it grows, the machine was suspended for the difference."""


class FaultyClock:
    """A clock that errs on purpose, by fixed faults or by those of `control_file`, looked at every 20 ms. For tests only.

    A control file that is missing or makes no sense changes nothing. Accumulated drift stays when a rate changes.
    """

    def __init__(
        self,
        inner: SystemClock,
        *,
        rate_ppm: int = 0,
        offset_ns: int = 0,
        control_file: Path | None = None,
    ) -> None:
        self.counts_suspension = inner.counts_suspension
        self._inner = inner
        self._control_file = control_file
        self._checked_at_ns = 0
        self._stamp: tuple[int, int, int] | None = None
        self._faults = ClockFaults(rate_ppm=rate_ppm, offset_ns=offset_ns)
        self._drift_since_ns = inner.raw_ns()
        self._drift_ns = (0, 0)

    def now_ns(self) -> int:
        """The instant every rule is given, with all faults."""
        drift_ns, slew_ns = self._drifted_ns()
        return self._inner.now_ns() + drift_ns + slew_ns + self._faults.offset_ns + self._faults.jump_ns

    def monotonic_ns(self) -> int:
        """As `now_ns`, without the suspensions."""
        drift_ns, slew_ns = self._drifted_ns()
        return self._inner.monotonic_ns() + drift_ns + slew_ns + self._faults.offset_ns

    def raw_ns(self) -> int:
        """As `monotonic_ns`, not slewed."""
        return self._inner.raw_ns() + self._drifted_ns()[0] + self._faults.offset_ns

    def unix_ms(self) -> int:
        """Wall time, without faults."""
        return self._inner.unix_ms()

    async def sleep_until(self, deadline_ns: int) -> None:
        """Return at or after `deadline_ns` of the faulty `now_ns`; at most a second late after a jump."""
        await _sleep_until(deadline_ns, now_ns=self.now_ns)

    def _drifted_ns(self) -> tuple[int, int]:
        """What rate and slew have added up to."""
        raw_ns = self._inner.raw_ns()
        if self._control_file is not None and raw_ns - self._checked_at_ns >= FAULTS_CHECK_NS:
            self._checked_at_ns = raw_ns
            self._read_control(self._control_file)
        elapsed_ns = raw_ns - self._drift_since_ns
        drift_ns, slew_ns = self._drift_ns
        faults = self._faults
        return drift_ns + elapsed_ns * faults.rate_ppm // 10**6, slew_ns + elapsed_ns * faults.slew_ppm // 10**6

    def _read_control(self, path: Path) -> None:
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            values = json.loads(path.read_bytes())
            known = {field.name for field in fields(ClockFaults)}
            faults = ClockFaults(**{name: int(values[name]) for name in known & values.keys()})
        except (OSError, ArithmeticError, ValueError, TypeError, AttributeError):
            return  # half written, or not there yet: looked at again in a moment
        drift_ns = self._drifted_ns()
        self._stamp, self._drift_since_ns, self._drift_ns, self._faults = stamp, self._inner.raw_ns(), drift_ns, faults


def open_clock(environment: Mapping[str, str] = os.environ) -> SystemClock | FaultyClock:
    """This machine's clock; a faulty one if the environment has `CCS_CLOCK_FAULTS`, as tests do."""
    control_file = environment.get(FAULTS_VARIABLE)
    return FaultyClock(SystemClock(), control_file=Path(control_file)) if control_file else SystemClock()


def _reader(clock: int | None) -> Callable[[], int]:
    return time.monotonic_ns if clock is None else partial(time.clock_gettime_ns, clock)


async def _sleep_until(deadline_ns: int, *, now_ns: Callable[[], int]) -> None:
    while (left_ns := deadline_ns - now_ns()) > 0:  # noqa: ASYNC110  (nobody could set an event: what passes is time)
        await asyncio.sleep(min(left_ns / 1e9, SLEEP_S_MAX))
