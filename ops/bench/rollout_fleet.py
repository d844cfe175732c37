"""A rollout across ten thousand edges in virtual time, and what it costs the authority: `python -m ops.bench.rollout_fleet`.

Picture a rehearsal with an empty hall: the conductor, the score and every entry are real, only the orchestra is made of
cardboard and the clock is moved by hand. The real driver, state machine, fleet view and analysis run on a log in memory;
edges are a few numbers each, and report in frames, every second, as real ones do. Some die when the rollout has begun, some
take longer to get ready than any stage waits. Only what the region does is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final

from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.core import commands as c
from consistency_service.core.authority import Authority, Effect, Propose, PublishBeacon
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import Rollout
from consistency_service.core.strategy import Check, Metric, Prefetch, Stage, Strategy
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.rollouts import RolloutDriver
from edge_client.protocol.bucketing import SHARE_BP_MAX, bucket_of
from edge_client.protocol.messages import EdgeReport, ServedModel, decode_edge, encode_edge
from edge_client.protocol.models import Assignment, ModelView, Policy, Terms, Version
from edge_client.protocol.observations import Observations
from ops.bench.figures import Figure

MS: Final = 1_000_000
S: Final = 1_000 * MS
TICK_NS: Final = 250 * MS
TICKS_PER_REPORT: Final = 4
DEATH_NS: Final = 8 * S
GIVE_UP_NS: Final = 600 * S
STABLE, CANDIDATE = "1.0.0", "2.0.0"
VERSIONS: Final = {
    name: Version(version=name, digest="sha256:" + digit * 64, size_bytes=1)
    for name, digit in ((STABLE, "1"), (CANDIDATE, "2"))
}
STRATEGY: Final = Strategy(
    stages=tuple(Stage(share_bp=share_bp, bake_ms=2_000) for share_bp in (100, 1_000, 5_000, SHARE_BP_MAX)),
    prefetch=Prefetch(deadline_ms=15_000),
    analysis=(Check(metric=Metric.ERROR_RATE, worse_max=0.2),),
)
"""Every live edge must be ready, which slow ones never are in time: each stage goes on by the straggler policy."""
RATIO_MAX: Final = 1.5


class VirtualClock:
    """The port, moved by hand."""

    def __init__(self) -> None:
        self.at_ns = 1_000 * S

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic_ns(self) -> int:
        return self.at_ns

    def raw_ns(self) -> int:
        return self.at_ns

    def unix_ms(self) -> int:
        return self.at_ns // MS

    async def sleep_until(self, deadline_ns: int) -> None:
        raise AssertionError("nothing here waits")


@dataclass(slots=True)
class Edge:
    """One edge of cardboard."""

    edge_id: str
    bucket: int
    load_ns: int
    dies: bool
    ready_at_ns: int | None = None
    """When it has the candidate; None: nobody has asked it to."""
    serves: str = STABLE
    generation: int = 1
    read_count: int = 0

    def is_ready(self, *, now_ns: int) -> bool:
        return self.ready_at_ns is not None and now_ns >= self.ready_at_ns

    def wants(self, assignment: Assignment | None) -> bool:
        """It is among those that an assignment gives the candidate."""
        return assignment is not None and (
            assignment.stable == CANDIDATE or (assignment.candidate == CANDIDATE and self.bucket < assignment.share_bp)
        )

    def follow(self, view: ModelView, *, now_ns: int) -> None:
        """Fetch what is announced, and serve what is active as far as it is there."""
        if self.ready_at_ns is None and any(map(self.wants, (view.assignment, view.prefetch))):
            self.ready_at_ns = now_ns + self.load_ns
        wanted = CANDIDATE if self.wants(view.assignment) else STABLE
        if wanted == STABLE or self.is_ready(now_ns=now_ns):
            self.serves = wanted
        if view.generation != self.generation:
            self.generation, self.read_count = view.generation, 0
        self.read_count += 10

    def report(self, *, now_ns: int) -> bytes:
        """The frame of this second; one reading in ten is wrong, whoever is asked."""
        ready = tuple(
            VERSIONS[name].digest for name in (STABLE, CANDIDATE) if name == STABLE or self.is_ready(now_ns=now_ns)
        )
        observed = Observations(
            model="m",
            version=self.serves,
            generation=self.generation,
            count=self.read_count,
            judged_count=self.read_count,
            failed_count=self.read_count // 10,
            latencies={200: self.read_count},
        )
        served = ServedModel(
            model="m",
            version=self.serves,
            generation=self.generation,
            guarantee="strong",
            staleness_bound_ms=0,
            ready=ready,
        )
        report = EdgeReport(
            edge_id=self.edge_id, life_id="1", epoch=1, revision=1, models=(served,), observations=(observed,)
        )
        return encode_edge(report)


@dataclass(kw_only=True)
class Rehearsal:
    """How a rollout went, and what it cost."""

    rollout: Rollout
    edges: int
    virtual_s: float
    region_s: float
    """Processor time of the region: its share of reports, and every look at the rollout."""
    live: int
    served: Counter[str]
    """What the live edges serve at the end, by version."""
    outside_count: int
    """Reports of edges that served the candidate outside the share that was active."""
    stragglers: list[str] = field(default_factory=list)
    """The reasons of transitions that went on without some edges."""

    @property
    def us_per_edge_and_second(self) -> float:
        return self.region_s * 1e6 / self.virtual_s / self.edges


class Region:
    """One node without network: the log is memory, the bus is a method call."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.metadata = Metadata(log=MemoryLog(node_id="n"))
        self.authority = Authority(machine=self.metadata.machine, node_id="n", clock_id="c")
        self.fleet = FleetDriver(clock=self.clock, state=lambda: self.metadata.state)
        self.driver = RolloutDriver(
            metadata=self.metadata, authority=self.authority, fleet=self.fleet, clock=self.clock, web=None
        )
        self._effects: list[Effect] = []
        self.metadata.on_applied(self._applied)

    async def start(self) -> None:
        """A region with one model whose version 1.0.0 is active, and an authority."""
        await self.metadata.log.start(self.metadata)
        await self.propose(c.Bootstrap(region="r", region_epoch=1, terms=Terms()))
        await self.propose(c.CreateModel(model="m", policy=Policy()))
        for version in VERSIONS.values():
            await self.propose(c.RegisterVersion(model="m", version=version))
        status = self.metadata.log.status()
        self._effects += self.authority.leadership(leading=True, term=status.term, now_ns=self.clock.at_ns)
        await self.wait(lambda: self.authority.choose_instant(now_ns=self.clock.at_ns) is not None)
        instant = self.authority.choose_instant(now_ns=self.clock.at_ns)
        assert instant is not None
        await self.propose(
            c.ActivateGeneration(
                clock_id=instant.clock_id,
                assumption=instant.assumption,
                number=instant.number,
                changes=(c.Change(model="m", assignment=Assignment(stable=STABLE)),),
                effective_at_ns=instant.effective_at_ns,
                lead_ns=instant.lead_ns,
            )
        )
        await self.wait(lambda: self.metadata.state.models["m"].generation == 1)

    async def propose(self, command: c.AnyCommand) -> Outcome:
        outcome = await self.metadata.propose(command)
        assert outcome.ok, outcome
        return outcome

    async def wait(self, condition) -> None:  # type: ignore[no-untyped-def]
        """Let time pass until `condition` holds."""
        while not condition():
            self.clock.at_ns += TICK_NS
            await self.turn()

    async def turn(self) -> None:
        """Everything the authority wants at this instant."""
        self._effects += self.authority.tick(now_ns=self.clock.at_ns)
        while self._effects:
            effects, self._effects = self._effects, []
            for effect in effects:
                if isinstance(effect, Propose):
                    await self.metadata.propose(effect.command)
                elif isinstance(effect, PublishBeacon):
                    self.authority.own_beacon_heard()

    def _applied(self, command: c.AnyCommand, outcome: Outcome) -> None:
        self._effects += self.authority.applied(command, outcome, now_ns=self.clock.at_ns)


def cast(count: int, *, rng: Random) -> list[Edge]:
    """Of so many edges 5 % die soon, and 5 % get ready in minutes; the others in a few seconds."""
    edges = []
    for number in range(count):
        edge_id = f"edge-{number:05d}"
        chance = rng.random()
        load_ns = rng.randrange(60 * S, 300 * S) if 0.05 <= chance < 0.1 else rng.randrange(S, 6 * S)
        edges.append(Edge(edge_id, bucket_of(edge_id, salt="rollout"), load_ns, chance < 0.05))
    return edges


async def rehearse(count: int, *, seed: int = 1) -> Rehearsal:
    """Roll 2.0.0 out across `count` edges, until the rollout has ended and every reachable edge has it."""
    region = Region()
    await region.start()
    clock, fleet, driver, state = region.clock, region.fleet, region.driver, region.metadata.state
    edges = cast(count, rng=Random(seed))
    begun_ns, spent_ns, ticks, outside = clock.at_ns, 0, 0, 0
    rollout: Rollout | None = None
    async with asyncio.TaskGroup() as group:
        while True:
            clock.at_ns += TICK_NS
            elapsed_ns, ticks = clock.at_ns - begun_ns, ticks + 1
            view = state.models["m"].view()
            frames = []
            for edge in edges[ticks % TICKS_PER_REPORT :: TICKS_PER_REPORT]:
                if edge.dies and elapsed_ns > DEATH_NS:
                    continue
                edge.follow(view, now_ns=clock.at_ns)
                outside += edge.serves == CANDIDATE and not edge.wants(view.assignment)
                frames.append(edge.report(now_ns=clock.at_ns))
            before_ns = time.process_time_ns()
            for frame in frames:
                report = decode_edge(frame)
                assert isinstance(report, EdgeReport) and fleet.report_received(report)
            await region.turn()
            driver.tick(group)
            for _ in range(3):
                await asyncio.sleep(0)  # a proposal to a log in memory is applied as soon as its task runs
            spent_ns += time.process_time_ns() - before_ns
            if rollout is None and elapsed_ns >= 4 * S:
                await region.propose(c.CreateRollout(rollout_id="rollout", models={"m": CANDIDATE}, strategy=STRATEGY))
                rollout = state.rollouts["rollout"]
            slow = [edge for edge in edges if not edge.dies and edge.serves != CANDIDATE]
            if elapsed_ns > GIVE_UP_NS or (rollout is not None and rollout.phase.ended and not slow):
                break
    assert rollout is not None
    live = [edge for edge in edges if not edge.dies]
    return Rehearsal(
        rollout=rollout,
        edges=count,
        virtual_s=(clock.at_ns - begun_ns) / S,
        region_s=spent_ns / 1e9,
        live=len(live),
        served=Counter(edge.serves for edge in live),
        outside_count=outside,
        stragglers=[t.reason for t in rollout.transitions if "without the others" in t.reason],
    )


def measure(sizes: tuple[int, ...] = (100, 1_000, 10_000)) -> list[Figure]:
    """What each size costs per edge and second, and how much more the largest costs than the others."""
    found = {}
    for size in sizes:
        found[size] = run = asyncio.run(rehearse(size))
        print(
            f"{size} edges: {run.rollout!r} after {_ended_s(run):.0f} virtual s; {len(run.stragglers)} stages went on"
        )
        print(
            f"  without stragglers; {run.served[CANDIDATE]} of {run.live} live edges have it after {run.virtual_s:.0f} s;"
        )
        print(f"  reports of the candidate outside its share: {run.outside_count}", flush=True)
        print("\n".join(f"    {reason}" for reason in run.stragglers), flush=True)
    costs = {size: run.us_per_edge_and_second for size, run in found.items()}
    figures = [
        Figure(name=f"{size} edges: region, per edge and second", value=costs[size], unit="us") for size in sizes
    ]
    largest = max(sizes)
    return figures + [
        Figure(name=f"{largest} edges beside {size}", value=costs[largest] / costs[size], unit="x", limit=RATIO_MAX)
        for size in sizes
        if size != largest
    ]


def _ended_s(run: Rehearsal) -> float:
    made = run.rollout.transitions
    return (made[-1].at_unix_ms - made[1].at_unix_ms) / 1_000


def main() -> int:
    """Exit code 0 if every limit held."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.rollout_fleet", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--edges", type=int, default=10_000, help="the largest fleet; 100 and 1,000 are measured beside it"
    )
    arguments = parser.parse_args()
    sizes = tuple(sorted({100, 1_000, arguments.edges}))
    figures = measure(sizes)
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
