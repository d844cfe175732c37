"""The windows' driver: the authority's alone, told by edges, silent when it hears nobody, and patient with lost orders."""

from __future__ import annotations

import pytest

from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.core import commands as c
from consistency_service.core.authority import Authority, Propose
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import UnknownOutcomeError
from consistency_service.runtime.feature_windows import FeatureWindowDriver
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import EdgeReport, FeatureObservations
from tests.support.region import bootstrapped
from tests.unit.edge.worlds import HandClock

TRACK = FeatureClass(name="track", window_base_ms=4_000, window_floor_ms=500)


class Desk:
    """A node with authority, class `track`, and one edge whose readings go wrong as a test says."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self._log = MemoryLog(node_id="n")
        self.metadata = Metadata(log=self._log)
        self.core = Authority(machine=self.metadata.machine, node_id="n", clock_id="a")
        self.metadata.on_applied(self._applied)
        self.fleet = FleetDriver(clock=self.clock, state=lambda: self.metadata.state)
        self.driver = FeatureWindowDriver(
            metadata=self.metadata, authority=self.core, fleet=self.fleet, clock=self.clock
        )
        self.judged = self.failed = 0

    def _applied(self, command: c.AnyCommand, outcome: Outcome) -> None:
        self.core.applied(command, outcome, now_ns=self.clock.now_ns())

    async def start(self) -> Desk:
        await self._log.start(self.metadata)
        self.metadata.restore(state=bootstrapped().snapshot(), index=0)
        (effect,) = self.core.leadership(leading=True, term=1, now_ns=self.clock.now_ns())
        assert isinstance(effect, Propose)
        await self.metadata.propose(effect.command)
        await self.metadata.propose(c.SetFeatureClass(feature_class=TRACK))
        self.clock.jump(5_000)
        self.hear(0)
        return self

    def hear(self, judged: int, *, failed: int = 0) -> None:
        self.judged, self.failed = self.judged + judged, self.failed + failed
        told = FeatureObservations(class_name="track", judged_count=self.judged, failed_count=self.failed)
        report = EdgeReport(edge_id="e", life_id="1", epoch=1, revision=1, features=(told,))
        assert self.fleet.report_received(report)

    @property
    def window_ms(self) -> int:
        return self.metadata.state.feature_classes["track"].feature_class.window_now_ms


async def test_the_authority_sets_what_edges_told_and_says_why() -> None:
    desk = await Desk().start()
    desk.hear(1_000, failed=500)
    await desk.driver.look()

    assert desk.window_ms == 2_000
    assert desk.metadata.state.outbox[-1].detail["reason"].startswith("500 of 1000 judged readings wrong")
    assert desk.driver.counters == {"orders_applied": 1}


async def test_any_other_node_only_listens() -> None:
    desk = await Desk().start()
    desk.hear(1_000, failed=500)
    desk.core.leadership(leading=False, term=2, now_ns=desk.clock.now_ns())
    await desk.driver.look()

    assert desk.window_ms == 4_000 and not desk.driver.counters


async def test_a_node_that_hears_no_edge_any_more_decides_nothing() -> None:
    desk = await Desk().start()
    desk.hear(1_000, failed=500)
    desk.clock.jump(11_000)
    await desk.driver.look()
    assert desk.window_ms == 4_000
    desk.hear(0)
    await desk.driver.look()

    assert desk.window_ms == 2_000


async def test_an_order_without_an_answer_is_counted_and_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await Desk().start()
    desk.hear(1_000, failed=500)

    async def lost(_command: c.AnyCommand) -> None:
        raise UnknownOutcomeError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(desk.metadata, "propose", lost)
        await desk.driver.look()
    assert desk.driver.counters == {"orders_unanswered": 1}
    desk.clock.jump(5_000)
    desk.hear(0)
    await desk.driver.look()

    assert desk.window_ms == 2_000


async def test_what_edges_say_of_classes_that_are_gone_is_not_heard() -> None:
    desk = await Desk().start()
    await desk.metadata.propose(c.RemoveFeatureClass(class_name="track"))
    desk.hear(1_000, failed=500)
    await desk.driver.look()

    assert desk.fleet.view.counters["feature_observations_unknown"] == 1 and not desk.driver.counters
