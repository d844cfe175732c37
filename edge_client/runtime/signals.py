"""How one part of the edge tells another that there is something to look at, from any thread.

A `Signal` is sticky: a driver that was busy when it was set finds it set. A `Pulse` is not: whoever waits for it has
looked just before, on the event loop, so that nothing can have happened in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock


class Signal:
    """An event of one event loop that any thread may set."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter; nothing happens once the loop is closed."""
        if threading.get_ident() == self._thread_id:
            self._event.set()
        else:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, *, clock: Clock, deadline_ns: int | None) -> bool:
        """Return when it is set, and clear it; or at the deadline. True if it was set."""
        await _either(self._event, clock=clock, deadline_ns=deadline_ns)
        was_set = self._event.is_set()
        self._event.clear()
        return was_set


class Pulse:
    """Wakes everybody who waits at this moment. On the event loop only."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, *, clock: Clock, deadline_ns: int | None) -> None:
        """Return at the next pulse, or at the deadline."""
        await _either(self._event, clock=clock, deadline_ns=deadline_ns)


async def _either(event: asyncio.Event, *, clock: Clock, deadline_ns: int | None) -> None:
    if deadline_ns is None or event.is_set():
        await event.wait()
        return
    # Both tasks live no longer than this call.
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep_until(deadline_ns))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
