"""A machine with a service node: its disk outlives its lives, and its log is the real one.

Everything between REST and the operating system is the product's: `runtime.node.Node` with all its drivers, and `RaftLog`
with pysyncobj inside. `Ledger` hears of everything that any node applies, answers or says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.adapters.raft_log.surroundings import Surroundings
from consistency_service.adapters.raft_log.worker import Job
from consistency_service.config import Peer, ServiceConfig
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import LogStorageError
from consistency_service.runtime.node import Node
from consistency_service.runtime.ports import Committed, ProposalOutcome, StateMachine
from edge_client.protocol.subjects import Subjects
from tests.simulation.clock import MS
from tests.simulation.shell.bus import SimEventBus
from tests.simulation.shell.loop import PortClock, Process
from tests.simulation.shell.network import transport_type
from tests.support.forgetful_disk import CONTENTS, NAMES, ForgetfulDisk, PowerCut

if TYPE_CHECKING:
    from tests.simulation.shell.world import World

REGION = "sim"
DATA_DIR = Path("/virtual")
BROKEN_DISK = "OSError"


class SimJob(Job):
    """Runs where it is waited for, at the latest."""

    def wait(self) -> None:
        if not self.done:
            self.run()


class SimWorker:
    """The thread of a log: one job after the other, each after as long as the disk takes."""

    def __init__(self, machine: Machine, *, wake: Callable[[], None]) -> None:
        self._machine = machine
        self._process = machine.process
        self._wake = wake
        self._jobs: deque[SimJob] = deque()
        self._busy = False

    def start(self, work: Callable[[], None]) -> Job:
        job = SimJob(work)
        self._jobs.append(job)
        self._next()
        return job

    def close(self) -> None:
        while self._jobs:
            self._jobs.popleft().wait()

    def _next(self) -> None:
        if self._jobs and not self._busy:
            self._busy = True
            process = self._process
            due_ns = process.loop.now_ns + self._machine.sync_ns()
            process.loop.at_ns(due_ns, self._work, context=process.context)

    def _work(self) -> None:
        self._busy = False
        if self._jobs:
            self._machine.in_worker = True
            try:
                self._jobs.popleft().wait()
            finally:
                self._machine.in_worker = False
            self._wake()
        self._next()


class Watched:
    """The state machine, under the eyes of the ledger."""

    def __init__(self, machine: StateMachine, *, seat: Machine) -> None:
        self._machine = machine
        self._seat = seat
        self._ledger = seat.world.ledger

    def apply(self, *, index: int, command: bytes) -> Outcome:
        outcome = self._machine.apply(index=index, command=command)
        self._ledger.applied(self._seat.name, index=index, command=command, outcome=outcome, state=self._machine)
        self._seat.applied_through = index
        return outcome

    def snapshot(self) -> bytes:
        return self._machine.snapshot()

    def restore(self, *, state: bytes, index: int) -> None:
        self._machine.restore(state=state, index=index)
        self._ledger.restored(self._seat.name, index=index, state=state)
        self._seat.applied_through = max(self._seat.applied_through, index)


class WatchedLog(RaftLog):
    """What it acknowledges is on record, and a barrier that lies is found out."""

    seat: Machine

    async def start(self, machine: StateMachine) -> None:
        await super().start(Watched(machine, seat=self.seat))

    async def propose(self, command: bytes, *, timeout_ms: int) -> ProposalOutcome:
        outcome = await super().propose(command, timeout_ms=timeout_ms)
        if isinstance(outcome, Committed):
            self.seat.world.ledger.acknowledged(self.seat.name, index=outcome.index, command=command)
        return outcome

    async def barrier(self, *, timeout_ms: int) -> ProposalOutcome:
        ledger = self.seat.world.ledger
        committed_through = ledger.applied_through
        outcome = await super().barrier(timeout_ms=timeout_ms)
        if isinstance(outcome, Committed):
            self.seat.world.judge.seen["barriers"] += 1
            if self.seat.applied_through < committed_through:
                what = f"{self.seat.name} reads at {self.seat.applied_through}, {committed_through} was applied before"
                self.seat.world.accuse("barrier", what)
        return outcome


class Machine:
    """One node, running or not."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.url = f"http://{name}"
        self.disk = ForgetfulDisk()
        self.process: Process = world.new_process(name)
        self.process.alive = False
        self.node: Node | None = None
        self.log: WatchedLog | None = None
        self.bus: SimEventBus | None = None
        self.running: asyncio.Task[None] | None = None
        self.applied_through = 0
        self.cut_in: int | None = None
        """How many steps of the disk from now the power fails."""
        self.slow_ns = 0
        self.in_worker = False
        self.life = 0
        self.role = ""

    @property
    def alive(self) -> bool:
        return self.process.alive

    # Lives.

    def start(self) -> None:
        world, knobs = self.world, self.world.knobs
        self.life += 1
        self.applied_through, self.role, self.cut_in, self.in_worker = 0, "", None, False
        process = self.process = world.new_process(self.name)
        process.after_step = self._look
        self.disk.before_step = self._disk_step(process)
        rng = Random(f"{knobs.seed} {self.name} {self.life}")
        clock = PortClock(process)
        bus = self.bus = SimEventBus(world.hub, subjects=Subjects(REGION), process=process)
        log = self.log = process.context.copy().run(
            WatchedLog,
            self._raft_config(),
            on_fatal=lambda reason: self._failed(process, reason),
            surroundings=Surroundings(
                claim=lambda _: _Claimed(),
                files=lambda _: self.disk,
                worker=self._worker,
                transport=transport_type(world.network),  # type: ignore[arg-type]
                random=rng,
            ),
        )
        log.seat = self
        self.node = process.context.copy().run(
            lambda: Node(
                config=self._config(),
                clock=clock,
                log=log,
                bus=bus,
                artifacts=world.store_of(self),
                signer=world.signer,
                peer_status=self._peer_status,
                rng=rng,
            )
        )
        world.clock_ids[self.node.authority.core.clock_id] = process.clock
        world.say(f"{self.name}: starts life {self.life}")
        self.running = process.spawn(self._run(process, self.node), name=f"{self.name} node")

    def start_again(self) -> None:
        if not self.alive:
            self.start()

    def kill(self) -> None:
        """The process is gone; its kernel, and what it wrote, are not."""
        if self.alive:
            self.world.say(f"{self.name}: killed")
            self._gone(silently=False)
            self.disk = self.disk.after_kill()

    def power_cut(self, *, contents: str | None = None, names: str | None = None) -> None:
        """What was not synced is gone, or half of it, or none."""
        if self.alive:
            rng = self.world.chaos
            contents = self.world.knobs.contents or contents or rng.choice((*CONTENTS, "dropped"))
            names = names or rng.choice((*NAMES, "synced"))
            self.world.say(f"{self.name}: power cut, contents {contents}, names {names}")
            self._gone(silently=rng.random() < 0.5)
            self.disk = self.disk.after_power_cut(contents=contents, names=names)

    async def stop(self) -> None:
        """As `app.run_node` ends."""
        process, node, running = self.process, self.node, self.running
        if self.alive and node is not None and running is not None:
            self.world.say(f"{self.name}: stops")
            node.resign()
            await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait({running})
            if process.alive:
                self.kill()

    def _gone(self, *, silently: bool) -> None:
        process, world = self.process, self.world
        process.die()
        if self.bus is not None:
            world.hub.forget(self.bus)
        if self.log is not None and self.log._transport is not None:
            world.network.gone(self.log._transport, silently=silently)  # type: ignore[arg-type]
        world.judge.seen["crashes"] += 1

    async def _run(self, process: Process, node: Node) -> None:
        try:
            await node.run()
        except LogStorageError as error:
            if not self.disk.full and not self.disk.broken:
                self.world.accuse("start", f"{self.name} refuses to start: {error}")
            self.kill()
        except Exception as error:
            if not (isinstance(error, OSError) and (self.disk.full or self.disk.broken)):
                self.world.accuse("uncaught", f"{self.name} ends by {error!r}")
            self.kill()

    def _failed(self, process: Process, reason: str) -> None:
        if process.alive:
            self.world.say(f"{self.name}: fatal: {reason}")
            if not (self.disk.broken and reason.startswith(BROKEN_DISK)):
                self.world.accuse("fatal", f"{self.name}: {reason}")
            self.kill()

    def _worker(self, *, name: str, wake: Callable[[], None]) -> SimWorker:
        return SimWorker(self, wake=wake)

    def _disk_step(self, process: Process) -> Callable[[str, Path], None]:
        def before(what: str, path: Path) -> None:
            if not process.alive:
                raise PowerCut
            if self.cut_in is not None:
                self.cut_in -= 1
                if self.cut_in <= 0:
                    self.world.judge.seen["cut_at_a_step"] += 1
                    self.power_cut()
                    raise PowerCut
            if what == "sync" and self.slow_ns and not self.in_worker:
                process.spent_ns += self.sync_ns()

        return before

    def sync_ns(self) -> int:
        rng = self.world.chaos
        return rng.randrange(self.slow_ns) if self.slow_ns else rng.randrange(50_000, 2 * MS)

    # What callers and other nodes ask.

    async def _peer_status(self, url: str) -> dict[str, Any] | None:
        other = next(machine for machine in self.world.machines.values() if machine.url == url)

        async def answer(node: Node) -> dict[str, Any]:
            return node.self_status()

        cut = {(self.name, other.name), (other.name, self.name)} & self.world.network.cut
        return None if cut else await self.world.ask(other, answer, timeout_s=1.0)

    # Settings.

    def _raft_config(self) -> RaftLogConfig:
        knobs = self.world.knobs
        return RaftLogConfig(
            node_id=self.name,
            listen="127.0.0.1:1",
            peers=dict.fromkeys(self.world.names, "127.0.0.1:1"),
            urls={name: f"http://{name}" for name in self.world.names},
            data_dir=DATA_DIR,
            tick_ms=40,
            compaction_min_entries=knobs.compaction_min_entries,
            snapshot_part_bytes=knobs.snapshot_part_bytes,
            sync_inline_max_us=knobs.sync_inline_max_us,
        )

    def _config(self) -> ServiceConfig:
        terms = self.world.knobs.terms()
        return ServiceConfig(
            node_id=self.name,
            data_dir=DATA_DIR,
            peers={name: Peer(raft="127.0.0.1:1", url=f"http://{name}") for name in self.world.names},
            region_key=DATA_DIR / "key",
            region=REGION,
            lease_ms=terms.lease_ms,
            margin_ms=terms.margin_ms,
            clock_drift_max_ppm=terms.rho_ppm,
            garbage_interval_ms=3_000,
        )

    # What is looked at after every step.

    def _look(self) -> None:
        replica = None if self.log is None else self.log._replica
        if self.log is not None and replica is not None and replica.leading and self.log._running:
            self.world.ledger.leads(self.name, term=replica.term)


class _Claimed:
    def close(self) -> None:
        """Nobody else could have it."""


AskNode = Callable[[Node], Awaitable[Any]]
