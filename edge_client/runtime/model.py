"""A registered model as the application sees it; `read` is the path that costs about a hundred nanoseconds.

`read` compares one reading of the clock with one instant and returns a reading that was made before. Everything that
computes the instant is elsewhere. What was measured on the way here (CPython 3.11): seconds as a float from
`clock_gettime` are 12 ns cheaper than nanoseconds as an integer from its twin; a partial of the C function saves the
lookup of the clock's number; a method of a class with slots is cheaper to call than a closure kept in an attribute; the
pair in one tuple costs 3 ns more than two attributes, and cannot be torn by another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_client.core.reading import Reading
from edge_client.errors import ClosedError, EdgeError, NotStrongError, UnsupportedRegionError

if TYPE_CHECKING:
    from edge_client.runtime.listeners import Listener, Listeners
    from edge_client.runtime.ports import Clock
    from edge_client.runtime.signals import Pulse
    from edge_client.runtime.state import EdgeState
    from edge_client.runtime.window import Window

MS: Final = 1_000_000
ROUNDING_NS: Final = 1_000
"""Taken off every instant that becomes a float: more than a float can err on within centuries of uptime."""
SHUT: Final[tuple[float, Reading | None]] = (float("-inf"), None)

_boottime_s: Callable[[], float] = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class AsyncModel:
    """What `AsyncEdgeClient.model` returns. `read` may be called from any thread, everything else on the event loop."""

    __slots__ = ("_clock", "_listeners", "_pulse", "_state", "_window", "name")

    def __init__(self, name: str, *, state: EdgeState, clock: Clock, pulse: Pulse, listeners: Listeners) -> None:
        self.name = name
        self._state = state
        self._clock = clock
        self._pulse = pulse
        self._listeners = listeners
        self._window: tuple[float, Reading | None] = SHUT

    def read(self) -> Reading:
        """What is served now, and what it is worth. Never waits.

        Raises `UnknownModelError`, `ModelNotReadyError`, `TooStaleError` or `FallbackRefusedError` as the policy says,
        `UnsupportedRegionError`, and `ClosedError`.
        """
        until_s, reading = self._window
        if _boottime_s() < until_s:
            return reading  # type: ignore[return-value]  # None only where the instant is before every instant
        return self._state.read_slowly(self.name)

    async def read_strong(self, *, timeout_ms: int) -> Reading:
        """A strong reading, as soon as there is one. Raises `NotStrongError` after `timeout_ms`, and `ClosedError`."""
        deadline_ns = self._clock.now_ns() + timeout_ms * MS
        while (reading := self._state.read_strong_nowait(self.name)) is None:
            if self._clock.now_ns() >= deadline_ns:
                raise NotStrongError(f"{self.name}: no strong answer within {timeout_ms} ms; {self._why_not()}")
            await self._pulse.wait(clock=self._clock, deadline_ns=deadline_ns)
        return reading

    async def wait_ready(self, *, timeout_ms: int) -> None:
        """Return once `read` gives a reading. Raises what `read` raises when it does not within `timeout_ms`."""
        deadline_ns = self._clock.now_ns() + timeout_ms * MS
        while True:
            try:
                self._state.read_slowly(self.name)
            except (ClosedError, UnsupportedRegionError):
                raise
            except EdgeError:
                if self._clock.now_ns() >= deadline_ns:
                    raise
            else:
                return
            await self._pulse.wait(clock=self._clock, deadline_ns=deadline_ns)

    def on_change(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with a `Change` on the event loop whenever another version is served; returns how to stop it.

        What the listener raises is logged and counted, no more.
        """
        return self._listeners.add(self.name, listener)

    def show(self, window: Window) -> None:
        """Put a fresh window where `read` looks. For the client alone."""
        self._window = SHUT if window.reading is None else ((window.until_ns - ROUNDING_NS) / 1e9, window.reading)

    def _why_not(self) -> str:
        try:
            return f"read() gives {self._state.read_slowly(self.name)!r}"
        except EdgeError as error:
            return f"read() raises {type(error).__name__}: {error}"

    def __repr__(self) -> str:
        return f"<AsyncModel {self.name} {self._window[1]!r}>"


class ClockedModel(AsyncModel):
    """The same with a clock other than this machine's own, such as a test's; each read calls it."""

    __slots__ = ()

    def read(self) -> Reading:
        until_s, reading = self._window
        if self._clock.now_ns() < until_s:
            return reading  # type: ignore[return-value]  # as above
        return self._state.read_slowly(self.name)

    def show(self, window: Window) -> None:
        self._window = SHUT if window.reading is None else (window.until_ns, window.reading)
