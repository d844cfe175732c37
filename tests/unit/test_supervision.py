"""Both supervisors end, even if a library swallowed the cancellation of a driver, as `asyncio.wait_for` of Python 3.11 may."""

from __future__ import annotations

import asyncio

import pytest

import consistency_service.runtime.supervision as service
import edge_client.runtime.supervision as edge
from edge_client.adapters.system_clock import SystemClock


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "supervisor", [service.Supervisor(), edge.Supervisor(clock=SystemClock())], ids=["node", "edge"]
)
async def test_a_driver_whose_first_cancellation_was_swallowed_is_cancelled_again(supervisor):
    running = asyncio.Event()
    cancelled: list[str] = []

    async def stubborn() -> None:
        while cancelled.count("stubborn") < 2:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("stubborn")
        raise asyncio.CancelledError

    async def plain() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("plain")

    task = asyncio.ensure_future(supervisor.run({"plain": plain, "stubborn": stubborn}))
    await running.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["plain", "stubborn", "stubborn"] == sorted(cancelled)
