"""Whether rollouts go as they were ordered to: an account of their own, kept beside the state machine and from less.

Picture a second signal box that only listens. It hears each command that is committed and what became pending by it, and
knows the strategy as the caller wrote it. What the machine says of phases it does not look at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import Move, Phase
from consistency_service.core.state import State
from consistency_service.core.strategy import Gate, OnFailure, Strategy
from edge_client.protocol.models import Assignment
from tests.simulation.clock import S
from tests.simulation.judge import FAR_NS
from tests.simulation.rollouts import BEFORE

if TYPE_CHECKING:
    from tests.simulation.world import World

DEAFENING = frozenset({"bus_partition", "loss", "late_messages"})
"""Faults under which nobody can know who is ready."""
AUTHORITYS = c.StepRollout | c.AccrueRollout | c.ActivateRollout


@dataclass(kw_only=True)
class Account:
    """One rollout, as far as listening tells."""

    strategy: Strategy
    models: dict[str, str]
    step: int = 0
    running: bool = False
    base: dict[str, Assignment] = field(default_factory=dict)
    active: int | None = None
    passed: bool = False
    """The active stage has passed its gate."""
    to_end: bool = False
    given_up: bool = False
    """Aborted or failed, and not tried again."""
    baked_ms: int = 0

    @property
    def coming(self) -> int:
        return 0 if self.active is None else self.active + 1


class RolloutJudge:
    """Hears every committed command. Rules: `step`, `stage`, `share`, `abort`, `frozen`, `held`, `unready`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._accounts: dict[str, Account] = {}
        self._frozen = False

    def restored(self, state: State) -> None:
        """A new epoch begins: what counts is what the backup says."""
        self._frozen = state.freeze is not None
        self._accounts = {
            rollout.rollout_id: Account(
                strategy=rollout.strategy,
                models={target.model: target.candidate for target in rollout.targets},
                step=rollout.step,
                running=rollout.running,
                base={target.model: target.base for target in rollout.targets},
                active=rollout.active_stage,
                passed=rollout.active_stage is not None and rollout.stage > rollout.active_stage,
                to_end=rollout.to_end,
                given_up=rollout.phase in {Phase.ABORTING, Phase.ABORTED, Phase.FAILED},
                baked_ms=rollout.baked_ms,
            )
            for rollout in state.rollouts.values()
        }

    def committed(self, command: c.AnyCommand, outcome: Outcome, *, changed: bool) -> None:
        """`changed`: the revision is another than before. What is repeated changes nothing."""
        if not outcome.ok or not (changed or isinstance(command, c.AccrueRollout)):
            return
        state = self._world.truth.machine.state
        match command:
            case c.SetFreeze(frozen=frozen):
                self._frozen = frozen
            case c.ActivateGeneration(changes=changes):
                self._stays_held({change.model for change in changes})
            case c.CreateRollout():
                account = Account(strategy=command.strategy, models=command.models)
                self._accounts[command.rollout_id] = account
                if command.start:
                    self._ordered(account, Move.START, command, state)
            case c.MoveRollout():
                account = self._accounts[command.rollout_id]
                self._ordered(account, command.move, command, state)
            case c.StepRollout() | c.AccrueRollout() | c.ActivateRollout():
                self._decided(self._accounts[command.rollout_id], command, state)

    # ---- callers

    def _ordered(self, account: Account, move: Move, command: c.CreateRollout | c.MoveRollout, state: State) -> None:
        account.step += 1
        self._see(move.value)
        if move in {Move.START, Move.RETRY, Move.PROMOTE} and self._frozen:
            self._accuse("frozen", f"{command} was accepted")
        if move in {Move.START, Move.RETRY}:
            self._stays_held(set(account.models))
            account.running, account.active, account.passed, account.to_end = True, None, False, False
            account.given_up, account.baked_ms = False, 0
            account.base = {name: _decided(state, name) for name in account.models}
        elif move is Move.PROMOTE:
            assert isinstance(command, c.MoveRollout)
            if account.given_up:
                self._accuse("abort", f"{command} was accepted after it was given up")
            account.passed, account.to_end = account.active is not None, command.to_end
        elif move is Move.ABORT:
            self._give_up(account)

    def _give_up(self, account: Account) -> None:
        account.given_up = True
        if account.active is None:
            account.running = False

    # ---- the authority

    def _decided(self, account: Account, command: AUTHORITYS, state: State) -> None:
        if command.step != account.step:
            self._accuse("step", f"{command} took effect at step {account.step}")
        if isinstance(command, c.AccrueRollout):
            account.baked_ms += command.baked_ms
            return
        account.step += 1
        if isinstance(command, c.ActivateRollout):
            self._activated(account, command, state)
            return
        self._see(command.move.value)
        if account.given_up:
            self._accuse("abort", f"{command} took effect after it was given up")
        if command.move is Move.FAIL and account.strategy.on_failure is OnFailure.ABORT:
            self._give_up(account)
        elif command.move is Move.PASS:
            self._pass(account, command)
        else:
            account.to_end = False

    def _pass(self, account: Account, command: c.StepRollout) -> None:
        active = account.active
        if active is None:
            self._accuse("stage", f"{command}: no stage was active")
            return
        stage = account.strategy.stages[active]
        if account.baked_ms < stage.bake_ms and not account.to_end:
            self._accuse("stage", f"{command}: baked {account.baked_ms} of {stage.bake_ms} ms")
        account.passed = stage.gate is Gate.AUTO or account.to_end

    def _activated(self, account: Account, command: c.ActivateRollout, state: State) -> None:
        """What became pending must be the next stage, or the return of what was given up."""
        pending = {name: _decided(state, name) for name in account.models}
        if account.given_up:
            self._see("return")
            account.running = False
            if pending != account.base:
                self._accuse("abort", f"{command} activated {pending} after it was given up")
            return
        coming, stages = account.coming, account.strategy.stages
        last = coming == len(stages)
        self._see("complete" if last else "activate")
        if self._frozen:
            self._accuse("frozen", f"{command} activated {pending}")
        if coming > len(stages) or (account.active is not None and not account.passed):
            self._accuse("stage", f"{command}: stage {account.active} has not passed")
            return
        if not self._world.knobs.faults & DEAFENING:
            self._somebody_ready(account, command, state)
        for name, candidate in account.models.items():
            share_bp = 10_000 if last else stages[coming].share_bp
            if not last and (pending[name].stable != account.base[name].stable or pending[name].share_bp > share_bp):
                self._accuse("share", f"{command} assigned {pending[name]}, {share_bp} bp are due")
            due = Assignment(stable=candidate)
            if not last:
                due = Assignment(
                    stable=account.base[name].stable,
                    candidate=candidate,
                    share_bp=share_bp,
                    salt=pending[name].salt,
                    cohort=stages[coming].cohort or account.strategy.cohort,
                )
            if pending[name] != due:
                self._accuse("stage", f"{command} assigned {pending[name]}, {due} is due")
        account.active, account.passed, account.baked_ms = coming, False, 0
        account.running = not last

    def _somebody_ready(self, account: Account, command: c.ActivateRollout, state: State) -> None:
        """Before the deadline nothing is activated for which some edges live and none has said that it is ready.

        Who lives has said so twice: one that has come back just now can have spoken after the order was given.
        """
        world, ready, asked = self._world, False, False
        assert world.rollouts is not None
        for edge in world.edges:
            told = world.rollouts.told.get(edge.name, {})
            for name, candidate in account.models.items():
                assignment = _decided(state, name)
                own = assignment.version_for(edge_id=edge.name, site=edge.config.site, labels=dict(edge.config.labels))
                digest = state.models[name].versions[candidate].digest
                if own == candidate:
                    ready |= world.now_ns - told.get(digest, -FAR_NS) <= 12 * S
                    twice_ns = world.now_ns - told.get(BEFORE, -FAR_NS)
                    asked |= edge.alive and world.now_ns - told.get("", -FAR_NS) <= 2 * S and twice_ns <= 3 * S
        late = command.evidence["waited_ms"] >= account.strategy.prefetch.deadline_ms
        if asked and not ready and not late:
            self._accuse("unready", f"{command}: nobody is ready")

    # ---- pieces

    def _stays_held(self, models: set[str]) -> None:
        """Nobody else changes what a rollout holds."""
        held = {name for account in self._accounts.values() if account.running for name in account.models}
        if models & held:
            self._accuse("held", f"{models & held} changed while a rollout held them")

    def check(self, state: State) -> None:
        """Each transition was counted once."""
        for rollout_id, account in self._accounts.items():
            step = state.rollouts[rollout_id].step
            if step != account.step:
                self._accuse("step", f"{rollout_id} is at step {step}, and took {account.step}")

    def _see(self, move: str) -> None:
        self._world.judge.seen[f"rollout_{move}"] += 1

    def _accuse(self, rule: str, what: str) -> None:
        self._world.judge.accuse(rule, self._world.now_ns, what)


def _decided(state: State, name: str) -> Assignment:
    """What is pending of a model, or else active."""
    model = state.models[name]
    assignment = model.pending.assignment if model.pending else model.assignment
    assert assignment is not None
    return assignment
