"""The shell grain of the simulation: everything of a region but REST, NATS, Redis and the operating system is the real code.

Picture a ship in a bottle. Three or five nodes with the real drivers, the real raft log and pysyncobj inside, and some
boxes with the real edge client, sail on one virtual event loop (`loop`); their disks forget what was not synced
(`tests.support.forgetful_disk`), their network (`network`) and their bus (`bus`) lose, delay and cut, their clocks drift,
and they die at any callback and at any step of a disk. All chance is one seed's, so a seed is a film that can be played
again, frame by frame.

Who judges: `Ledger` compares everything that any node ever applied, acknowledged, voted or led; `judge.Truth` is the
history that the ledger saw committed; `judge.Judge` compares the intervals in which edges and nodes said *strong*, every
bound, and every promise to a caller with it; the linearizability checker of the testbed, which knows nothing of all this,
gives a second opinion on the same readings. After the faults everybody must be strong at the newest revision in time.

What this can not see: real sockets, TLS, HTTP and its handlers, NATS's and Redis's own faults, threads that really run
side by side (work for threads is done between callbacks), pre-emption inside a callback, disks that lie about `fsync` or
rot later, and whatever the fakes behind the ports have wrong; the conformance suites and chaos on real processes are for
those. It knows no membership changes and no new epochs: `tests/interaction/raft_log` and the core grain do.
"""

from __future__ import annotations

import asyncio
import tempfile
import traceback
from collections.abc import Coroutine, Iterable
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.core.commands import ActivateGeneration, decode_command
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import ServiceError
from consistency_service.testbed.linearizability import Answer, Operation, check
from edge_client.protocol.envelope import Signer, trust_line
from tests.fakes.artifact_store import FakeArtifactStore
from tests.simulation.clock import MS, S, SimClock
from tests.simulation.judge import Era, Judge, Key, Truth
from tests.simulation.result import HEAL_NS, Result
from tests.simulation.shell.bottle import one_world
from tests.simulation.shell.bus import SimHub
from tests.simulation.shell.callers import Callers
from tests.simulation.shell.edge import EdgeBox
from tests.simulation.shell.knobs import Knobs, drawn
from tests.simulation.shell.ledger import Ledger
from tests.simulation.shell.loop import NoTimePassesError, Process, VirtualLoop
from tests.simulation.shell.nemesis import Nemesis
from tests.simulation.shell.network import Network
from tests.simulation.shell.node import AskNode, Machine

LOOK_NS = 100 * MS
CHECK_S = 5.0


@dataclass
class SourceFaults:
    unavailable: float = 0.0
    cut: float = 0.0
    corrupt: float = 0.0


class World:
    """Everything of one run."""

    def __init__(self, knobs: Knobs, *, loop: VirtualLoop, directory: Path, tracing: bool = False) -> None:
        self.knobs = knobs
        self.loop = loop
        self.tracing = tracing
        self.over = False
        self.trace: list[str] = []
        self.chaos = Random(f"chaos {knobs.seed}")
        self.callers_rng = Random(f"callers {knobs.seed}")
        self.network = Network(loop=loop, rng=Random(f"network {knobs.seed}"))
        self.network.delay_ns = knobs.network_delay_ns
        self.hub = SimHub(loop=loop, rng=Random(f"bus {knobs.seed}"))
        key = Ed25519PrivateKey.from_private_bytes(Random(f"key {knobs.seed}").randbytes(32))
        self.signer = Signer(key)
        self.trust = trust_line(key.public_key())
        self.store = FakeArtifactStore(unix_ms=lambda: loop.unix_ms)
        self.source_faults = SourceFaults()
        self.hiccup_chance = 0.0
        self.clock_ids: dict[str, SimClock] = {}
        self.truth = Truth(self.clock_ids)
        self.judge = Judge(self.truth)
        self.ledger = Ledger(self)
        self.network.sent = self.ledger.sent
        self.models = tuple(f"m{number}" for number in range(1, knobs.models + 1))
        self.digests: dict[tuple[str, str], str] = {}
        self.answered: dict[str, str] = {}
        self.activation_began_ns: dict[str, int] = {}
        self.activation_told_ns: dict[str, int] = {}
        self._made: dict[tuple[str, Key], str] = {}
        self._readings: dict[tuple[str, str, Key], list[tuple[int, int]]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self.work_until_ns = self.loop.now_ns + knobs.duration_ns
        self.names = tuple(f"n{number}" for number in range(1, knobs.nodes + 1))
        self.machines = {name: Machine(self, name) for name in self.names}
        self.edges = [
            EdgeBox(
                self,
                f"e{number}",
                site=("north", "south")[number % 2],
                with_tier=number % 2 == 1,
                directory=directory / f"e{number}",
            )
            for number in range(1, knobs.edges + 1)
        ]
        loop.failed = lambda what: self.accuse("uncaught", what)

    # What everything in it needs.

    def new_process(self, name: str) -> Process:
        knobs = self.knobs
        horizon_ns = self.loop.now_ns + knobs.duration_ns + HEAL_NS
        varying = knobs.on("drift") and self.chaos.random() < 0.5
        clock = SimClock(rng=self.chaos, rho_ppm=knobs.rho_ppm, varying=varying, horizon_ns=horizon_ns)
        return Process(name, loop=self.loop, clock=clock)

    def store_of(self, machine: Machine) -> FakeArtifactStore:
        return self.store

    def say(self, line: str) -> None:
        if self.tracing:
            self.trace.append(f"{self.loop.now_ns / 1e9:.6f} {line}")

    def accuse(self, rule: str, what: str) -> None:
        if self.over:
            return
        self.say(f"VIOLATION {rule}: {what}")
        self.judge.accuse(rule, self.loop.now_ns, what)

    def background(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def ask(self, machine: Machine, question: AskNode, *, timeout_s: float, whole: bool = False) -> Any:
        """What the node answered; None if nothing was heard. Raises what the node raised as a `ServiceError`.

        With `whole` an answer comes in a tuple, so that the answer None is not silence.
        """
        loop, answered = self.loop, self.loop.create_future()

        def arrive() -> None:
            if machine.node is not None:
                process = machine.process
                task = process.spawn(question(machine.node), name="request")  # type: ignore[arg-type]
                task.add_done_callback(answer)

        def answer(done: asyncio.Task[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None and not isinstance(error, ServiceError):
                self.accuse("uncaught", f"{machine.name} answers a caller {error!r}")
            if not done.cancelled():
                loop.at_ns(loop.now_ns + self.network.travel_ns(), hear, done, context=Context())

        def hear(done: asyncio.Task[Any]) -> None:
            error = done.exception()
            if answered.done():
                return
            if error is None:
                answered.set_result((done.result(),))
            elif isinstance(error, ServiceError):
                answered.set_exception(error)

        if machine.alive:
            loop.at_ns(loop.now_ns + self.network.travel_ns(), arrive, context=machine.process.context)
        try:
            async with asyncio.timeout(timeout_s):
                heard = await answered
        except TimeoutError:
            return None
        return heard if whole else heard[0]

    # What is true, and what was said.

    def committed(self, command: bytes, outcome: Outcome) -> None:
        decoded = decode_command(command)
        assert decoded is not None
        expected = self.truth.commit(decoded, now_ns=self.loop.now_ns)
        if expected != outcome:
            self.accuse("divergence", f"{decoded!r} gave {outcome}, and on a machine of its own {expected}")
        if isinstance(decoded, ActivateGeneration) and outcome.ok and decoded.request_id not in self._made.values():
            for name, generation in outcome.detail["generations"].items():
                self._made[name, self.truth.key(name, self.truth.position, generation)] = decoded.request_id

    def read_strong(self, who: str, era: Era, since_ns: int, until_ns: int) -> None:
        """Of all equal readings of one reader the first and the last say everything."""
        held = self._readings.setdefault((who, era.model, era.key), [])
        held.append((since_ns, until_ns))
        if len(held) > 2:
            first, last = min(held, key=lambda one: one[1]), max(held, key=lambda one: one[0])
            held[:] = [first, last]

    def history(self) -> list[Operation]:
        """Readings and activations, as the testbed would have recorded them."""
        operations = []
        for (who, model, key), held in self._readings.items():
            for since_ns, until_ns in held:
                instants = [(since_ns, until_ns)] if who.startswith("reader") else [(since_ns,) * 2, (until_ns,) * 2]
                for invoked, returned in instants:
                    operations.append(
                        Operation(
                            process=f"{who} {invoked}",
                            name="read",
                            result=key.generation,
                            key=model,
                            invoked=invoked,
                            returned=returned,
                        )
                    )
        for (model, key), request_id in self._made.items():
            operations.append(
                Operation(
                    process=request_id,
                    name="activate",
                    argument=key.generation,
                    key=model,
                    invoked=self.activation_began_ns[request_id],
                    returned=self.activation_told_ns.get(request_id),
                )
            )
        return operations

    # The run.

    async def play(self) -> int | None:
        """How long after the last fault everybody was current; None: not in time."""
        for machine in self.machines.values():
            machine.start()
        for edge in self.edges:
            edge.start()
        callers, nemesis = Callers(self), Nemesis(self)
        await callers.furnish()
        self.work_until_ns = self.loop.now_ns + self.knobs.duration_ns
        nemesis.steady()
        self._hiccups()
        await asyncio.gather(callers.work(), nemesis.rage())
        nemesis.heal()
        calm_ns = self.loop.now_ns
        healed_ns = None
        while healed_ns is None and self.loop.now_ns < calm_ns + HEAL_NS and not self.judge.violations:
            await asyncio.sleep(LOOK_NS / 1e9)
            for machine in self.machines.values():
                machine.start_again()
            for edge in self.edges:
                edge.start_again()
            if all(edge.is_current() for edge in self.edges) and self._nodes_agree():
                healed_ns = self.loop.now_ns - calm_ns
        if healed_ns is not None:
            await callers.activate(self.models[0], patience_s=10)
        self._judge_the_end(healed_ns)
        return healed_ns

    def _hiccups(self) -> None:
        """A process stands still between any two callbacks."""
        everybody: list[Machine | EdgeBox] = [*self.machines.values(), *self.edges]
        for one in everybody:
            if self.hiccup_chance and one.alive and self.chaos.random() < self.hiccup_chance * 30:
                one.process.pause(self.chaos.choice((5, 80, 700)) * MS)
        self.loop.at_ns(self.loop.now_ns + 17 * MS, self._hiccups)

    def _nodes_agree(self) -> bool:
        return all(
            machine.alive and machine.node is not None and machine.node.metadata.state.position == self.truth.position
            for machine in self.machines.values()
        )

    def _judge_the_end(self, healed_ns: int | None) -> None:
        for edge in self.edges:
            if edge.alive:
                edge._account_all()
                edge.check_invariants()
        if healed_ns is None and not self.judge.violations:
            behind = [edge.name for edge in self.edges if not edge.is_current()]
            behind += [
                f"{m.name} at {m.node.metadata.state.position if m.node else None}"
                for m in self.machines.values()
                if not m.alive or m.node is None or m.node.metadata.state.position != self.truth.position
            ]
            self.accuse("healed", f"{behind} not current at {self.truth.position} {HEAL_NS / S:.0f} s after the faults")
        for (_, request_id), count in self.truth.effects.items():
            if count > 1:
                self.accuse("once", f"{request_id} took effect {count} times")
        for request_id in self.answered:
            if request_id not in self.truth.machine.state.requests:
                self.accuse("acknowledged", f"{request_id} was answered and left no trace")
        if history := self.history():
            answer = check(history, model="assignment", budget_s=CHECK_S, shrink_s=0.0)
            self.judge.seen[f"checked_{answer.answer}"] += 1
            if answer.answer is Answer.NOT_LINEARIZABLE:
                self.accuse("linearizable", str(answer.violation)[:1_000])


def run(seed: int, *, tracing: bool = False, without: Iterable[str] = (), **overrides: Any) -> Result:
    """Play one seed to its end."""
    knobs = drawn(seed, without=without, **overrides)
    loop = VirtualLoop(rng=Random(f"threads {seed}"))
    with one_world(loop, seed), tempfile.TemporaryDirectory(prefix="shell-") as directory:
        try:
            return _result(World(knobs, loop=loop, directory=Path(directory), tracing=tracing))
        finally:
            _bury(loop)


def _result(world: World) -> Result:
    loop, healed_ns = world.loop, None
    try:
        healed_ns = loop.run_until_complete(world.play())
    except NoTimePassesError as error:
        world.accuse("progress", str(error))
    except Exception:
        world.accuse("simulator", traceback.format_exc())
    world.over = True
    return Result(
        seed=world.knobs.seed,
        violations=world.judge.violations,
        virtual_ns=loop.now_ns,
        healed_ns=healed_ns,
        step_count=loop.step_count,
        seen=dict(world.judge.seen + world.ledger.counts) | {"events_stored": world.hub.counters["stored"]},
        digest=f"{loop.digest & (1 << 64) - 1:016x}",
        trace=world.trace,
    )


def _bury(loop: VirtualLoop) -> None:
    """Whoever still waits is forgotten without a word."""
    loop.set_exception_handler(lambda *_: None)
    loop.failed = lambda _: None
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop._ready.clear()
    loop._timers.clear()
    loop._graveyard.clear()
    loop.close()
