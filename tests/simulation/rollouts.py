"""Rollouts in the world: who wants one, what the authority's node sees of it, and its orders.

Picture a works train that is sent out again and again while bridges fall. `Dispatcher` mirrors `RolloutDriver` of
`consistency_service.runtime`, step by step, on the real decision (`next_step`), the real fleet view and the real walk over
it; edges report to every node over the bus. What an analysis would find is drawn for each rollout when it is written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from consistency_service.core import commands as c
from consistency_service.core.fleet import Fleet
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import RUNNING, STEPS, TRANSITIONS, Move, Phase, Rollout
from consistency_service.core.rollout_steps import Accrue, Decision, Facts, StageResult, next_step
from consistency_service.core.state import State
from consistency_service.core.strategy import Check, Gate, Metric, OnFailure, Prefetch, Stage, Stragglers, Strategy
from consistency_service.runtime.rollout_facts import Buckets, Tally, readiness_of
from consistency_service.runtime.rollouts import time_outlives_refusal
from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector
from edge_client.protocol.messages import EdgeReport, ServedModel
from tests.simulation.clock import MS, S, on_grain
from tests.simulation.workload import VERSIONS, Request, version

if TYPE_CHECKING:
    from tests.simulation.edge import SimEdge
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

TICK_NS: Final = 250 * MS
PROPOSAL_TIMEOUT_NS: Final = 5 * S
REPORT_NS: Final = 1 * S
LISTEN_NS: Final = 3 * S
BEFORE: Final = "before"
STEP_NS: Final = 20 * S
"""After the last fault a rollout that can go on takes a step within this time, until it cannot."""
ORDERS: Final = c.MoveRollout | c.StepRollout | c.ActivateRollout


@dataclass(frozen=True, kw_only=True)
class Fortune:
    """What the analysis of a rollout would say, and when."""

    bad_from_ns: int | None
    sure_from_ns: int
    bad_late: bool
    """It shows only while a stage that has passed waits for somebody to promote it."""

    def result(self, phase: Phase, *, now_ns: int) -> StageResult:
        if self.bad_from_ns is not None and now_ns >= self.bad_from_ns:
            return StageResult.FAILED
        if self.bad_late and phase is Phase.WAITING:
            return StageResult.FAILED
        return StageResult.SUCCESSFUL if now_ns >= self.sure_from_ns else StageResult.INCONCLUSIVE


class Rollouts:
    """What the world knows of rollouts: who calls, and how they will fare. Its chance is its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rng = Random(f"rollouts {world.knobs.seed}")
        self.fortunes: dict[str, Fortune] = {}
        self.told: dict[str, dict[str, int]] = {}
        """When each edge last sent a report, and when it last reported each digest ready: both in one, `""` for the first, and
        `BEFORE` for the report before it."""

    def start(self) -> None:
        self._work()
        for edge in self._world.edges:
            self._report(edge)

    # ---- edges

    def _report(self, edge: SimEdge) -> None:
        world = self._world
        if edge.alive:
            report = self._report_of(edge)
            ready = (digest for served in report.models for digest in served.ready)
            told = self.told.setdefault(edge.name, {})
            told[BEFORE] = told.get("", -LISTEN_NS)
            told.update(dict.fromkeys(("", *ready), world.now_ns))
            for node in world.nodes:
                world.bus.send(edge, node, node.report_received, report)
        world.at(world.now_ns + on_grain(self.rng.randrange(REPORT_NS // 2, REPORT_NS)), self._report, edge)

    def _report_of(self, edge: SimEdge) -> EdgeReport:
        models = []
        for name in self._world.models:
            ready = edge.state._windows[name].served.ready()
            told = tuple(digest for digest in ready if not self._is_broken(edge.name, digest))
            failed = {digest: "does not start" for digest in ready if digest not in told}
            models.append(
                ServedModel(
                    model=name,
                    version=None,
                    generation=0,
                    guarantee="",
                    staleness_bound_ms=None,
                    ready=told,
                    failed=failed,
                )
            )
        position = edge.state.position
        return EdgeReport(
            edge_id=edge.name,
            life_id=f"{edge.life}",
            site=edge.config.site,
            labels=dict(edge.config.labels),
            epoch=position.epoch,
            revision=position.revision,
            models=tuple(models),
        )

    def _is_broken(self, edge_id: str, digest: str) -> bool:
        """One in twelve never gets this version to work."""
        return Random(f"{self._world.knobs.seed} {edge_id} {digest}").random() < 1 / 12

    # ---- callers

    def _work(self) -> None:
        world = self._world
        if world.now_ns < world.work_until_ns:
            self._call()
            world.at(world.now_ns + on_grain(self.rng.randrange(1, 2 * world.knobs.work_every_ns)), self._work)

    def _call(self) -> None:
        """One more caller."""
        rng, world, chance = self.rng, self._world, self.rng.random()
        state = world.truth.machine.state
        known = list(state.rollouts.values())
        if chance < 0.06 or (state.freeze is not None and chance < 0.3):
            frozen = state.freeze is None or rng.random() < 0.2
            Request(world, c.SetFreeze(frozen=frozen, author="sim")).ask()
        elif not any(rollout.running for rollout in known) and chance < 0.7:
            ended = [rollout for rollout in known if TRANSITIONS[rollout.phase]]
            if ended and rng.random() < 0.4:
                self._order(rng.choice(ended))
            else:
                self._create(state)
        elif known and chance < 0.8:
            self._order(next((r for r in known if r.running), rng.choice(known)))
        elif known and chance < 0.85:
            self._order(rng.choice(known))
        elif chance < 0.9:
            self._create(state)

    def _create(self, state: State) -> None:
        rng, world = self.rng, self._world
        names = world.models if rng.random() < 0.3 else (rng.choice(world.models),)
        models: dict[str, str] = {}
        for name in names:
            held = state.models.get(name)
            decided = held.decided() if held else None
            if decided is not None:
                models[name] = rng.choice([v for v in VERSIONS if v != decided[0].stable])
                Request(world, c.RegisterVersion(model=name, version=version(name, models[name]))).ask()
        if not models:
            return
        rollout_id = f"r{len(self.fortunes)}"
        bad_ns = rng.randrange(10 * S) if rng.random() < 0.35 else None
        self.fortunes[rollout_id] = Fortune(
            bad_from_ns=None if bad_ns is None else world.now_ns + bad_ns,
            sure_from_ns=world.now_ns + rng.choice((0, 0, 3 * S, 60 * S)),
            bad_late=rng.random() < 0.2,
        )
        command = c.CreateRollout(
            rollout_id=rollout_id,
            models=models,
            strategy=self._strategy(),
            start=rng.random() < 0.8,
            author="sim",
            reason="because",
        )
        Request(world, command).ask()

    def _strategy(self) -> Strategy:
        rng = self.rng
        shares = sorted(rng.sample((1_000, 2_500, 5_000, 7_500, 10_000), rng.choice((1, 2, 2, 3))))
        cohorts = (CohortSelector(), CohortSelector(), CohortSelector(sites=("north",)))
        return Strategy(
            stages=tuple(
                Stage(
                    share_bp=share_bp,
                    bake_ms=rng.choice((0, 200, 1_000)),
                    gate=rng.choice((Gate.AUTO, Gate.MANUAL)),
                )
                for share_bp in shares
            ),
            cohort=rng.choice(cohorts),
            prefetch=Prefetch(ready_min_bp=rng.choice((5_000, SHARE_BP_MAX)), deadline_ms=rng.choice((500, 2_000))),
            stragglers=rng.choice((Stragglers.PROCEED, Stragglers.PROCEED, Stragglers.FAIL)),
            progress_deadline_ms=rng.choice((1_000, 3_000, 10_000)),
            on_failure=rng.choice((OnFailure.ABORT, OnFailure.ABORT, OnFailure.PAUSE)),
            analysis=(Check(metric=Metric.ERROR_RATE, bound=0.1),) if rng.random() < 0.7 else (),
        )

    def _order(self, rollout: Rollout) -> None:
        """Mostly something that makes sense; with a phase that goes by itself, mostly nothing."""
        rng, world = self.rng, self._world
        sensible = [move for move in TRANSITIONS[rollout.phase] if move in _WEIGHTS]
        if rng.random() < 0.1:
            sensible = list(_WEIGHTS)
        if not sensible or (rollout.phase in RUNNING and rng.random() < 0.6):
            return
        move = rng.choices(sensible, [_WEIGHTS[move] for move in sensible])[0]
        command = c.MoveRollout(
            rollout_id=rollout.rollout_id,
            move=move,
            to_end=move is Move.PROMOTE and rng.random() < 0.2,
            step_expected=rollout.step if rng.random() < 0.3 else None,
            author="sim",
        )
        Request(world, command).ask()

    # ---- the end

    def restless(self) -> list[tuple[str, int]]:
        """The rollouts that can go on by themselves, each with its step."""
        state = self._world.truth.machine.state
        frozen = state.freeze is not None
        resting = {Phase.PAUSED, Phase.WAITING} | ({Phase.PREFETCHING} if frozen else set())
        return [(r.rollout_id, r.step) for r in state.rollouts.values() if r.running and r.phase not in resting]


_WEIGHTS: Final = {
    Move.START: 3,
    Move.PAUSE: 2,
    Move.RESUME: 4,
    Move.PROMOTE: 3,
    Move.ABORT: 1,
    Move.RETRY: 2,
}


@dataclass(slots=True)
class _Seen:
    """As `_Seen` of the driver."""

    step: int
    since_ns: int
    busy_until_ns: int = 0
    """An order is under way: nobody has said what became of it, and the time to wait for that is not over."""

    def not_written(self, *, since_ns: int, until_ns: int) -> None:
        if self.since_ns == until_ns:
            self.since_ns = since_ns


class Dispatcher:
    """What one life of a node keeps and does about rollouts."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._seen: dict[str, _Seen] = {}
        self._buckets = Buckets()
        self._fleet = Fleet()
        self._listening_since_ns = node.local_ns

    def report_received(self, report: EdgeReport, now_ns: int) -> None:
        self._fleet.report_received(report, unix_ms=now_ns // MS, now_ns=now_ns)

    def applied(self, command: c.AnyCommand, outcome: Outcome) -> None:
        """As `RolloutDriver._applied`."""
        if outcome.ok and isinstance(command, c.CreateRollout | ORDERS):
            self._node.after_ns(0, self.tick)

    def loop(self, now_ns: int) -> None:
        self.tick(now_ns)
        self._node.at_local_ns(now_ns + TICK_NS, self.loop)

    def tick(self, now_ns: int) -> None:
        """As `RolloutDriver.tick`."""
        authority, state = self._node.authority, self._node.machine.state
        if not authority.is_authority or authority.silent(now_ns=now_ns):
            self._seen = {i: seen for i, seen in self._seen.items() if seen.busy_until_ns > now_ns}
            for seen in self._seen.values():
                seen.step = -1
            return
        running = [rollout for rollout in state.rollouts.values() if rollout.running]
        preparing = [rollout for rollout in running if rollout.phase is Phase.PREFETCHING]
        tallies = readiness_of(preparing, state=state, views=self._fleet.views(), buckets=self._buckets, now_ns=now_ns)
        for rollout in running:
            seen = self._seen.setdefault(rollout.rollout_id, _Seen(step=rollout.step, since_ns=now_ns))
            if seen.step != rollout.step:
                seen.step, seen.since_ns = rollout.step, now_ns
            if self.under_way(seen, now_ns=now_ns) or (
                rollout.phase is Phase.PREFETCHING and not self.listened(now_ns)
            ):
                continue
            facts = self._facts(rollout, seen, tallies.get(rollout.rollout_id, Tally()), now_ns=now_ns)
            decision = next_step(rollout, facts)
            command = None if decision is None else self._command(rollout, decision, now_ns=now_ns)
            if command is not None:
                since_ns, refused = seen.since_ns, None
                if isinstance(command, c.AccrueRollout):
                    seen.since_ns = now_ns
                    if time_outlives_refusal(command, rollout):
                        refused = partial(seen.not_written, since_ns=since_ns, until_ns=now_ns)
                seen.busy_until_ns = now_ns + PROPOSAL_TIMEOUT_NS
                self._node.propose(command, partial(self._answered, seen, refused))

    def under_way(self, seen: _Seen, *, now_ns: int) -> bool:
        return seen.busy_until_ns > now_ns

    def listened(self, now_ns: int) -> bool:
        """For long enough to know who lives."""
        return now_ns - self._listening_since_ns >= LISTEN_NS

    def _answered(self, seen: _Seen, refused: Callable[[], None] | None, outcome: Outcome, now_ns: int) -> None:
        """As `RolloutDriver._propose`, which hears nothing any more after its time."""
        if refused is not None and not outcome.ok and self.under_way(seen, now_ns=now_ns):
            refused()
        seen.busy_until_ns = 0
        self._node.world.judge.seen[f"order_{outcome.code}"] += 1

    def _facts(self, rollout: Rollout, seen: _Seen, tally: Tally, *, now_ns: int) -> Facts:
        state, world = self._node.machine.state, self._node.world
        analysis = StageResult.NONE
        active = rollout.active_stage
        if active is not None and rollout.strategy.checks_of(active):
            assert world.rollouts is not None
            analysis = world.rollouts.fortunes[rollout.rollout_id].result(rollout.phase, now_ns=world.now_ns)
        return Facts(
            ready_count=tally.ready,
            waiting_count=tally.waiting,
            failed_count=tally.failed,
            deaf=self._fleet.deaf(now_ns=now_ns),
            activation_pending=any(state.models[target.model].pending is not None for target in rollout.targets),
            elapsed_ms=(now_ns - seen.since_ns) // MS,
            analysis=analysis,
            analysis_reason="simulated",
            frozen=state.freeze is not None,
        )

    def _command(self, rollout: Rollout, decision: Decision, *, now_ns: int) -> c.AnyCommand | None:
        """As `RolloutDriver._command`."""
        instant = self._node.authority.choose_instant(now_ns=now_ns)
        if instant is None:
            return None
        common: dict[str, Any] = {
            "clock_id": instant.clock_id,
            "assumption": instant.assumption,
            "number": instant.number,
            "rollout_id": rollout.rollout_id,
            "step": rollout.step,
        }
        if isinstance(decision, Accrue):
            return c.AccrueRollout(**common, baked_ms=decision.baked_ms, waited_ms=decision.waited_ms)
        if decision.move in STEPS:
            return c.StepRollout(**common, move=decision.move, reason=decision.reason, evidence=decision.evidence)
        return c.ActivateRollout(
            **common,
            effective_at_ns=instant.effective_at_ns,
            lead_ns=instant.lead_ns,
            reason=decision.reason,
            evidence=decision.evidence,
        )


# ---- the leader dies


class Murder:
    """Kills whoever has authority at a transition: before it proposes it, while nobody knows what becomes of it, or as
    soon as it has applied. Each kind of transition and moment at most once in a run.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.rng = Random(f"murder {world.knobs.seed}")
        wanted = world.knobs.murders
        self._wanted = set(ALL_MURDERS if wanted is None else wanted)
        self._chance = 0.2 if wanted is None else 0.7

    def strikes_before(self, node: SimNode, command: c.AnyCommand) -> bool:
        """True if the proposal is not made any more."""
        return self._strikes(node, transition_of(command, node.machine.state), "before")

    def proposed(self, node: SimNode, command: c.AnyCommand) -> None:
        self._strikes(node, transition_of(command, node.machine.state), "proposed")

    def applied(self, node: SimNode, command: c.AnyCommand, outcome: Outcome) -> None:
        if outcome.ok and isinstance(command, ORDERS):
            made = node.machine.state.rollouts[command.rollout_id].transitions
            if made and made[-1].revision == outcome.revision:
                came_from = made[-2].phase if len(made) > 1 else Phase.DRAFT
                self._strikes(node, (came_from, made[-1].move), "applied")

    def _strikes(self, node: SimNode, transition: tuple[Phase, Move] | None, moment: str) -> bool:
        world = self._world
        if transition is None or "murder" not in world.active or not node.authority.is_authority:
            return False
        kind = (transition[0].value, transition[1].value, moment)
        if kind not in self._wanted or sum(n.alive for n in world.nodes) < 2 or self.rng.random() >= self._chance:
            return False
        self._wanted.discard(kind)
        world.at(world.now_ns, self._kill, node, node.life, kind)
        return True

    def _kill(self, node: SimNode, life: int, kind: tuple[str, str, str]) -> None:
        world = self._world
        if node.alive and node.life == life and sum(n.alive for n in world.nodes) > 1:
            node.crash()
            world.judge.seen[" ".join(("murder", *kind))] += 1
            later_ns = on_grain(self.rng.randrange(1, 2 * world.knobs.lease_ms * MS))
            world.at(world.now_ns + later_ns, world.nemesis.revive, node)


MOMENTS: Final = ("before", "proposed", "applied")
ALL_MURDERS: Final = frozenset(
    (phase.value, move.value, moment) for phase, moves in TRANSITIONS.items() for move in moves for moment in MOMENTS
)
"""Every kind of transition there is, at every moment of it."""


def transition_of(command: c.AnyCommand, state: State) -> tuple[Phase, Move] | None:
    """The move that `command` would make by this state, from which phase; None if it makes none."""
    if not isinstance(command, ORDERS):
        return None
    rollout = state.rollouts.get(command.rollout_id)
    if rollout is None:
        return None
    move = Move.ACTIVATE
    if not isinstance(command, c.ActivateRollout):
        move = command.move
    elif rollout.phase is Phase.ABORTING:
        move = Move.RETURN
    elif rollout.stage == len(rollout.strategy.stages):
        move = Move.COMPLETE
    return (rollout.phase, move) if move in TRANSITIONS[rollout.phase] else None


def counted(seen: Counter[str]) -> frozenset[tuple[str, str, str]]:
    """The murders among what runs have seen."""
    murders = (name.split() for name in seen if name.startswith("murder "))
    return frozenset((phase, move, moment) for _, phase, move, moment in murders)
