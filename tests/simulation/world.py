"""The world of a run: one heap of instants, one source of chance, and everything that can happen.

`run(seed)` plays one seed to its end: faults and callers for a while, then peace, after which every edge must be strong
at the newest revision within `HEAL_NS`. The same seed gives the same trace, byte for byte, in any process.
"""

from __future__ import annotations

import hashlib
import heapq
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from consistency_service.core.outcomes import Outcome
from edge_client.core.follower import FetchSnapshot
from edge_client.protocol import reader as reader_module
from edge_client.protocol.reader import SendClockRequest
from tests.simulation import workload
from tests.simulation.clock import MS, S, SimClock, on_grain
from tests.simulation.edge import SimEdge
from tests.simulation.fabric import Bus, Log
from tests.simulation.forger import Forger
from tests.simulation.judge import Judge, Truth
from tests.simulation.knobs import Knobs, drawn
from tests.simulation.nemesis import Nemesis
from tests.simulation.node import SimNode
from tests.simulation.process import Process
from tests.simulation.result import HEAL_NS, Result
from tests.simulation.rollout_judge import RolloutJudge
from tests.simulation.rollouts import STEP_NS, Murder, Rollouts

LOOK_NS = 200 * MS
TRACE_LINE_CHARS = 400


class World:
    """Everything of one run."""

    def __init__(self, knobs: Knobs, *, tracing: bool = False) -> None:
        self.knobs = knobs
        self.rng = Random(f"world {knobs.seed}")
        self.active = knobs.faults
        self.terms = knobs.terms()
        self.tracing = tracing
        self.lines: list[str] = []
        self._digest = hashlib.sha256()
        self.now_ns = 0
        self.work_until_ns = knobs.duration_ns
        self.step_count = 0
        self.request_count = 0
        self.acknowledged: dict[str, Outcome] = {}
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._tokens = 0
        self.models = tuple("mnop"[: knobs.models])
        self.clocks: dict[str, SimClock] = {}
        self.truth = Truth(self.clocks)
        self.judge = Judge(self.truth)
        self.log = Log(self, base=None)
        self.bus = Bus(self)
        self.forger = Forger(self)
        self.backups: list[bytes] = []
        self.rollouts = Rollouts(self) if "rollouts" in knobs.faults else None
        self.rollout_judge = RolloutJudge(self) if "rollouts" in knobs.faults else None
        self.murder = Murder(self) if "murder" in knobs.faults else None
        self.nodes: list[SimNode] = []
        self.edges: list[SimEdge] = []
        for command in workload.bootstrap_commands(self):
            self.log._commit(command, 0)
        self.backups.append(self.truth.machine.snapshot())
        for i in range(knobs.nodes):
            self.nodes.append(SimNode(self, name=f"node{i}", clock=self._new_clock()))
        for i in range(knobs.edges):
            self.edges.append(SimEdge(self, name=f"edge{i}", clock=self._new_clock()))
        self.nemesis = Nemesis(self)

    # ---- the heap

    def at(self, real_ns: int, act: Callable[..., None], *args: Any) -> None:
        """Let `act(*args)` happen at `real_ns`, which lies on the grain."""
        self._count += 1
        heapq.heappush(self._heap, (max(real_ns, self.now_ns), self._count, act, args))

    def play(self, until_ns: int) -> None:
        heap, violations, pop = self._heap, self.judge.violations, heapq.heappop
        while heap and heap[0][0] <= until_ns and not violations:
            self.now_ns, _, act, args = pop(heap)
            act(*args)

    def run(self) -> Result:
        """Play to the end, or until something breaks."""
        healed_ns = None
        try:
            with scaled_sampling(self.knobs.sample_period_ns):
                self.nemesis.start()
                self._work()
                self._read()
                if self.rollouts is not None:
                    self.rollouts.start()
                self.play(self.work_until_ns)
                healed_ns = self._heal()
            for process in (*self.nodes, *self.edges):
                if process.alive:
                    process.account_now()
            self._judge_the_end()
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{error!r} in {Path(frame.filename).name}:{frame.lineno} {frame.line}"
            self.judge.accuse("broke", self.now_ns, what)
        return Result(
            seed=self.knobs.seed,
            violations=self.judge.violations,
            virtual_ns=self.now_ns,
            healed_ns=healed_ns,
            step_count=self.step_count,
            seen=dict(self.judge.seen) | {"strong_ns": self.judge.strong_ns},
            digest=self._digest.hexdigest() if self.tracing else "",
            trace=self.lines,
        )

    def trace(self, who: str, what: str, args: object) -> None:
        line = f"{self.now_ns} {who} {what} {args!r}"
        self._digest.update(line.encode())
        if len(self.lines) < 200_000:
            self.lines.append(line[:TRACE_LINE_CHARS])

    def drawn_ns(self, limit_ns: int) -> int:
        """A whole number from 1 to `limit_ns`. As `randrange`, in a fraction of its time."""
        return 1 + int(self.rng.random() * limit_ns)

    def drawn_pause_ns(self) -> int:
        """How long a step takes; most take no time."""
        knobs = self.knobs
        if knobs.pause_chance and self.rng.random() < knobs.pause_chance:
            return on_grain(self.drawn_ns(knobs.pause_ns))
        return 0

    # ---- names

    def new_token(self) -> int:
        self._tokens += 1
        return self._tokens

    def new_clock_id(self, clock: SimClock) -> str:
        clock_id = f"c{len(self.clocks)}"
        self.clocks[clock_id] = clock
        return clock_id

    def known_index(self, node: SimNode) -> int:
        """How much of the log a node knows to be committed when it starts."""
        return self.rng.randint(0, len(self.log.entries))

    def _new_clock(self) -> SimClock:
        return SimClock(
            rng=self.rng,
            rho_ppm=self.knobs.rho_ppm,
            varying="varying" in self.active,
            horizon_ns=self.knobs.duration_ns + HEAL_NS + 60 * S,
        )

    # ---- messages that need to find their way

    def ask_clocks(self, source: Process, request: SendClockRequest) -> None:
        for node in self.nodes:
            if request.clock_id in (None, node.authority.clock_id):
                self.bus.ask_clock(source, node, request.nonce)

    def ask_snapshot(self, edge: SimEdge, request: FetchSnapshot) -> None:
        self.judge.seen["snapshots_asked"] += 1
        node = self.rng.choice(self.nodes)
        self.bus.send(edge, node, node.snapshot_asked, edge, request.at_least, request.nonce)

    # ---- callers

    def _work(self) -> None:
        if self.now_ns < self.work_until_ns:
            workload.work(self)
            if self.rng.random() < 0.1:
                self.backups.append(self.truth.machine.snapshot())
            self.at(self.now_ns + on_grain(self.rng.randrange(1, 2 * self.knobs.work_every_ns)), self._work)

    def _read(self) -> None:
        model = self.rng.choice(self.models)
        if self.rng.random() < 0.5:
            node = self.rng.choice(self.nodes)
            node.run(node.life, node.read_strong, model, self.now_ns)
        else:
            edge = self.rng.choice(self.edges)
            edge.run(edge.life, edge.read, model, self.rng.random() < 0.3)
        self.at(self.now_ns + on_grain(self.rng.randrange(1, 300 * MS)), self._read)

    # ---- the end

    def _heal(self) -> int | None:
        """How long after the last fault every edge was strong at the newest revision."""
        begun_ns = self.now_ns = max(self.now_ns, self.work_until_ns)
        if self.judge.violations:
            return None
        self.nemesis.heal()
        if self.rollouts is not None:
            begun_ns = self._rest()
        while self.now_ns < begun_ns + HEAL_NS and not self.judge.violations:
            until_ns = on_grain(self.now_ns + LOOK_NS)
            self.play(until_ns)
            self.now_ns = until_ns
            if self._peaceful():
                return self.now_ns - begun_ns
            if not self._heap:
                break
        if not self.judge.violations:
            lagging = [p.name for p in self.edges if not p.is_current(p.clock.read(self.now_ns))]
            pendings = self.truth.machine.state.pendings()
            self.judge.accuse("heal", self.now_ns, f"not current: {lagging}, pending: {sorted(pendings)}")
        return None

    def _rest(self) -> int:
        """Play until no rollout can go on; each must take a step now and then. When that was."""
        assert self.rollouts is not None
        restless, since_ns = self.rollouts.restless(), self.now_ns
        while restless and not self.judge.violations:
            if self.now_ns > since_ns + STEP_NS:
                self.judge.accuse("stuck", self.now_ns, f"{restless} took no step since {since_ns}")
            until_ns = on_grain(self.now_ns + LOOK_NS)
            self.play(until_ns)
            self.now_ns = until_ns
            if (found := self.rollouts.restless()) != restless:
                restless, since_ns = found, self.now_ns
        return self.now_ns

    def _peaceful(self) -> bool:
        if self.truth.machine.state.pendings():
            return False
        free = [p for p in (*self.edges, *self.nodes) if p.free_at_ns <= self.now_ns]
        if len(free) < len(self.edges) + len(self.nodes):
            return False
        if any(node.applied_index < len(self.log.entries) - 20 for node in self.nodes):
            return False
        return all(edge.is_current(edge.clock.read(self.now_ns)) for edge in self.edges)

    def _judge_the_end(self) -> None:
        judge, truth = self.judge, self.truth
        if self.rollout_judge is not None:
            self.rollout_judge.check(truth.machine.state)
        for node in self.nodes:
            if node.alive and node.machine.state.position == truth.position and not judge.violations:
                node.learn(node.log, len(node.log.entries), node.clock.read(self.now_ns))
                if node.machine.snapshot() != truth.machine.snapshot():
                    judge.accuse("determinism", self.now_ns, f"{node.name} has another state")
        for (_, request_id), count in truth.effects.items():
            if count > 1:
                judge.accuse("twice", self.now_ns, f"{request_id} took effect {count} times")
        requests = truth.machine.state.requests
        if "restore" not in self.knobs.faults:
            for request_id, outcome in self.acknowledged.items():
                if request_id not in requests or requests[request_id].outcome != outcome:
                    judge.accuse("lost", self.now_ns, f"{request_id} was acknowledged, and is not there")
        readers = {node.name: node.reader for node in self.nodes} | {e.name: e.state._reader for e in self.edges}
        for name, reader in readers.items():
            if reader.counters["clocks_contradicted"]:
                judge.accuse("contradiction", self.now_ns, f"{name} thinks that a clock is wrong")


@contextmanager
def scaled_sampling(period_ns: int) -> Iterator[None]:
    before_ns = reader_module.SAMPLE_PERIOD_NS
    reader_module.SAMPLE_PERIOD_NS = period_ns  # type: ignore[misc]
    try:
        yield
    finally:
        reader_module.SAMPLE_PERIOD_NS = before_ns  # type: ignore[misc]


def run(seed: int, *, tracing: bool = False, **changes: Any) -> Result:
    """Play `seed`, with `changes` to what is drawn for it (see `drawn`)."""
    return World(drawn(seed, **changes), tracing=tracing).run()
