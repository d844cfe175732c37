"""Of the loop of the shell grain: what nobody caught is told, unless whoever was to catch it is dead."""

from __future__ import annotations

import asyncio
import gc
from contextvars import Context
from random import Random

import pytest

from tests.simulation.clock import SimClock
from tests.simulation.shell.loop import Process, VirtualLoop


async def _fail() -> None:
    raise ValueError("nobody asks how")


@pytest.mark.parametrize(("dies", "paused"), [(False, False), (True, False), (True, True)])
def test_who_dies_before_it_could_ask_how_a_task_ended_is_not_accused(dies, paused):
    loop = VirtualLoop(rng=Random(1))
    told: list[str] = []
    loop.failed = told.append
    clock = SimClock(rng=Random(1), rho_ppm=0, varying=False, horizon_ns=10**12)
    process = Process("n", loop=loop, clock=clock)

    def begin() -> None:
        process.spawn(_fail()).add_done_callback(lambda done: None if dies else done.cancelled())
        if dies:
            loop.call_soon(stop, context=process.context)

    def stop() -> None:
        if paused:
            process.pause(1_000_000)
            loop.at_ns(loop.now_ns, process.die, context=Context())
        else:
            process.die()

    loop.at_ns(loop.now_ns, begin, context=process.context)
    loop.run_until_complete(asyncio.sleep(1))
    gc.collect()

    assert len(told) == (0 if dies else 1)
    loop.set_exception_handler(lambda *_: None)
    loop._graveyard.clear()
    gc.collect()
    loop.close()
