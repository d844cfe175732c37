"""Runs a node's drivers: one task each, restarted with back-off when one fails, all ended together."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

_log = logging.getLogger(__name__)
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
CANCEL_AGAIN_S: Final = 0.1


class Supervisor:
    """A `TaskGroup` whose drivers may fail without taking the others with them; each failure is logged and counted."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    async def run(self, drivers: dict[str, Callable[[], Awaitable[None]]]) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep_running(name, driver), name=name) for name, driver in drivers.items()]
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                await _end(tasks)
                tasks.clear()
                # Its traceback refers to the tasks, and through them to all that the drivers held.
                raise error.with_traceback(None) from None

    async def _keep_running(self, name: str, driver: Callable[[], Awaitable[None]]) -> None:
        backoff_s = BACKOFF_MIN_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await driver()
                return
            except Exception:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # a driver that failed while it was being cancelled ends all the same
                self.counters[f"{name}_failed"] += 1
                _log.exception("driver_failed driver=%s restart_in_s=%s", name, backoff_s)
            if asyncio.get_running_loop().time() - began > BACKOFF_MAX_S:
                backoff_s = BACKOFF_MIN_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """All are done. Before Python 3.12 `asyncio.wait_for`, which our libraries use, may swallow a cancellation: ask again."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
