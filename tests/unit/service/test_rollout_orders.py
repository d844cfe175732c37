"""What the rollout driver makes of the answers to its orders: time is written down once, and none is lost by a refusal."""

from __future__ import annotations

import asyncio

from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.core import commands as c
from consistency_service.core.authority import Authority, Propose
from consistency_service.core.rollout import Phase
from consistency_service.core.strategy import Stage, Strategy
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.rollouts import RolloutDriver
from tests.support.rollouts import RolloutRegion
from tests.unit.edge.worlds import HandClock

STRATEGY = Strategy(stages=(Stage(share_bp=100, bake_ms=60_000),), progress_deadline_ms=120_000)


class Board:
    """A driver with authority over a rollout `r` that bakes, on a log of one."""

    def __init__(self, region: RolloutRegion) -> None:
        self.clock = HandClock()
        log = MemoryLog(node_id="n")
        self.metadata = Metadata(log=log)
        self._log = log
        self._state = region.machine.snapshot()
        self.core = Authority(machine=self.metadata.machine, node_id="n", clock_id="b")
        self.metadata.on_applied(self._applied)
        fleet = FleetDriver(clock=self.clock, state=lambda: self.metadata.state)
        self.driver = RolloutDriver(
            metadata=self.metadata, authority=self.core, fleet=fleet, clock=self.clock, web=None
        )

    async def start(self) -> Board:
        await self._log.start(self.metadata)
        self.metadata.restore(state=self._state, index=0)
        (effect,) = self.core.leadership(leading=True, term=1, now_ns=self.clock.now_ns())
        assert isinstance(effect, Propose)
        await self.metadata.propose(effect.command)
        self.clock.jump(5_000)
        await self.look()
        return self

    def _applied(self, command: c.AnyCommand, outcome: object) -> None:
        self.core.applied(command, outcome, now_ns=self.clock.now_ns())  # type: ignore[arg-type]

    async def look(self, *, overtaken: bool = False) -> None:
        """Tick once, and let the orders arrive; `overtaken` by a confirmation with a later number."""
        async with asyncio.TaskGroup() as group:
            self.driver.tick(group)
            if overtaken:
                now_ns = self.clock.now_ns()
                instant = self.core.choose_instant(now_ns=now_ns)
                assert instant is not None
                confirm = c.ConfirmAuthority(
                    clock_id="b", assumption=instant.assumption, number=instant.number, t0_ns=now_ns
                )
                assert (await self.metadata.propose(confirm)).ok

    @property
    def written_ms(self) -> tuple[int, int]:
        rollout = self.metadata.state.rollouts["r"]
        return rollout.baked_ms, rollout.waited_ms


async def baking(*, pending: bool = False) -> Board:
    region = RolloutRegion()
    region.bring_to(Phase.PREFETCHING, strategy=STRATEGY)
    assert region.advance().ok
    if not pending:
        region.settle()
    return await Board(region).start()


async def test_the_time_of_a_refused_order_is_written_down_by_the_next() -> None:
    board = await baking()
    board.clock.jump(1_000)
    await board.look(overtaken=True)
    assert board.driver.counters["orders_number_passed"] == 1 and board.written_ms == (0, 0)
    board.clock.jump(250)
    await board.look()

    assert board.written_ms == (1_250, 1_250)
    board.clock.jump(1_000)
    await board.look()
    assert board.written_ms == (2_250, 2_250)


async def test_time_that_passed_while_the_activation_was_pending_is_never_written_down_as_baked() -> None:
    board = await baking(pending=True)
    board.clock.jump(1_000)
    await board.look(overtaken=True)
    for model in board.metadata.state.models.values():
        model.pending = model.pending_origin = None
    board.clock.jump(1_000)
    await board.look()

    assert board.driver.counters["orders_number_passed"] == 1 and board.written_ms == (1_000, 1_000)


async def test_a_refusal_gives_nothing_back_once_time_is_counted_anew() -> None:
    board = await baking()
    board.clock.jump(1_000)
    async with asyncio.TaskGroup() as group:
        board.driver.tick(group)
        await board.metadata.propose(c.AssumeAuthority(clock_id="x", node_id="x", replaces=_assumption(board)))
        board.driver.tick(group)
        (effect,) = board.core.tick(now_ns=board.clock.now_ns())
        assert isinstance(effect, Propose)
        await board.metadata.propose(effect.command)
        board.clock.jump(1_000)
        board.driver.tick(group)
    board.clock.jump(1_000)
    await board.look()

    assert board.driver.counters["orders_not_authority"] == 1 and board.written_ms == (1_000, 1_000)


def _assumption(board: Board) -> int:
    assert board.metadata.state.authority is not None
    return board.metadata.state.authority.assumption
