"""What a node listens to does not grow, whatever fails and however often its clock is doubted."""

from __future__ import annotations

import asyncio
import contextlib

from tests.api.served import Served
from tests.fakes.bus import FakeEventBus


def subjects(served: Served) -> list[str]:
    assert isinstance(served.node.bus, FakeEventBus)
    return sorted(inflow.subject for inflow in served.node.bus.inflows)


async def test_a_driver_that_begins_again_listens_once(served: Served):
    before = subjects(served)
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await served.node._answers.run()

    assert before == subjects(served)
    assert len(before) == len(set(before))


async def test_a_clock_that_is_doubted_and_trusted_again_is_asked_by_its_last_name_alone(served: Served):
    before = subjects(served)
    for _ in range(3):
        served.node._clock_distrusted()
        await served.node._clock_trusted()
    after = subjects(served)

    assert len(before) == len(after)
    assert any(subject.endswith(served.node.authority.core.clock_id) for subject in after)
