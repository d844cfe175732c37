"""Runs the edge's drivers: one task each, restarted with back-off when one fails, all ended together.

A driver that fails is our mistake, or a library's; the application must not pay for it. It is logged, counted, and
begun again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock

_log = logging.getLogger(__name__)
BACKOFF_NS_MIN: Final = 100_000_000
BACKOFF_NS_MAX: Final = 5_000_000_000
CANCEL_AGAIN_S: Final = 0.1


class Supervisor:
    """A `TaskGroup` whose drivers may fail without taking the others, or the application, with them."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.counters: Counter[str] = Counter()

    async def run(self, drivers: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._keep_running(name, driver), name=f"edge-{name}")
                for name, driver in drivers.items()
            ]
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                await _end(tasks)
                tasks.clear()
                # Its traceback refers to the tasks, and through them to all that the drivers held.
                raise error.with_traceback(None) from None

    async def _keep_running(self, name: str, driver: Callable[[], Awaitable[None]]) -> None:
        backoff_ns = BACKOFF_NS_MIN
        while True:
            began_ns = self._clock.now_ns()
            try:
                await driver()
                return
            except Exception:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # a driver that failed while it was being cancelled ends all the same
                self.counters[f"{name}_driver_failed"] += 1
                _log.exception("driver_failed driver=%s restart_in_ms=%d", name, backoff_ns // 1_000_000)
            if self._clock.now_ns() - began_ns > BACKOFF_NS_MAX:
                backoff_ns = BACKOFF_NS_MIN
            await self._clock.sleep_until(self._clock.now_ns() + backoff_ns)
            backoff_ns = min(BACKOFF_NS_MAX, backoff_ns * 2)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """All are done. Before Python 3.12 `asyncio.wait_for`, which our libraries use, may swallow a cancellation: ask again."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
