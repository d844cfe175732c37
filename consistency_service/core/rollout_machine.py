"""Rollouts in the replicated state: who may move one, where to, and what is assigned by it.

Picture the signal box of the train in `rollout`: levers are interlocked, so that a lever which must not be pulled now does
not move, whoever pulls. The box computes from the timetable what each stage assigns, and what comes next; an order only
says "go on". So a late or mistaken order can be refused, and can never skip a stage or reach too many edges.
"""

from __future__ import annotations

from typing import Any

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.activation_machine import ActivationMachine
from consistency_service.core.ledger import trace_of
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.rollout import (
    ACCRUAL_MS_MAX,
    CALLERS,
    EVIDENCE_BYTES_MAX,
    REASON_CHARS_MAX,
    ROLLOUTS_MAX,
    RUNNING_MAX,
    STEPS,
    TRANSITIONS,
    TRANSITIONS_MAX,
    Freeze,
    Move,
    Origin,
    Phase,
    Rollout,
    Target,
    Transition,
)
from consistency_service.core.state import ModelState
from consistency_service.core.strategy import Gate, OnFailure, Strategy
from consistency_service.core.strategy_faults import strategy_faults
from edge_client.protocol.models import NAME_PATTERN, Assignment
from edge_client.protocol.traces import same_trace


class RolloutMachine(ActivationMachine):
    """The handlers of everything that concerns rollouts."""

    # ---- callers

    def _create_rollout(self, command: c.CreateRollout) -> Outcome:
        rollout_id, state = command.rollout_id, self.state
        if NAME_PATTERN.fullmatch(rollout_id) is None:
            raise RefusalError("invalid", field="rollout_id")
        self._require_reason(command.reason)
        if rollout_id in state.rollouts:
            raise RefusalError("rollout_exists", rollout_id=rollout_id)
        rollout = Rollout(
            rollout_id=rollout_id,
            targets=self._targets(command.models, strategy=command.strategy),
            strategy=command.strategy,
            salt=rollout_id,
            created_at_unix_ms=command.proposed_at_unix_ms,
            author=command.author,
            trace=trace_of(command),
        )
        if command.start:
            self._require_startable(rollout)
        self._make_room()
        state.rollouts[rollout_id] = rollout
        models = self._move(rollout, Move.START, Phase.PREFETCHING, command=command) if command.start else []
        return self._rollout_changed("RolloutCreated", rollout, command, models=models)

    def _move_rollout(self, command: c.MoveRollout) -> Outcome:
        rollout, move = self._rollout(command.rollout_id), command.move
        if move not in CALLERS or (command.to_end and move is not Move.PROMOTE):
            raise RefusalError("invalid", field="move")
        self._require_reason(command.reason)
        if command.step_expected not in (None, rollout.step):
            raise RefusalError("step_mismatch", rollout_id=rollout.rollout_id, step=rollout.step)
        self._require_move(rollout, move)
        if move in {Move.START, Move.RETRY}:
            models = {target.model: target.candidate for target in rollout.targets}
            targets = self._targets(models, strategy=rollout.strategy)
            self._require_startable(rollout)
            rollout.targets = targets
        elif move is Move.PROMOTE:
            self._require_thawed()
        to = {Move.PAUSE: Phase.PAUSED, Move.RESUME: rollout.resume_to, Move.ABORT: self._back(rollout, Phase.ABORTED)}
        changed = self._move(rollout, move, to.get(move) or Phase.PREFETCHING, command=command)
        if move is Move.PROMOTE:
            rollout.to_end = command.to_end
        return self._rollout_changed("RolloutMoved", rollout, command, models=changed)

    def _set_freeze(self, command: c.SetFreeze) -> Outcome:
        self._require_reason(command.reason)
        state = self.state
        if not command.frozen and state.freeze is None:
            return Outcome(revision=state.revision)
        state.freeze = None
        if command.frozen:
            state.freeze = Freeze(
                author=command.author, reason=command.reason, since_unix_ms=command.proposed_at_unix_ms
            )
        name = "RegionFrozen" if command.frozen else "RegionUnfrozen"
        return self._changed(name, command, detail={"reason": command.reason})

    # ---- the authority

    def _step_rollout(self, command: c.StepRollout) -> Outcome:
        rollout, move = self._rollout(command.rollout_id), command.move
        if move not in STEPS:
            raise RefusalError("invalid", field="move")
        self._require_step(rollout, command.step)
        self._require_move(rollout, move)
        to = Phase.PAUSED
        if move is Move.PASS:
            self._require_baked(rollout)
            by_hand = rollout.strategy.stages[rollout.stage].gate is Gate.MANUAL and not rollout.to_end
            to = Phase.WAITING if by_hand else Phase.PREFETCHING
        elif move is Move.FAIL and rollout.strategy.on_failure is OnFailure.ABORT:
            to = self._back(rollout, Phase.FAILED)
        changed = self._move(rollout, move, to, command=command, evidence=command.evidence)
        return self._rollout_changed("RolloutMoved", rollout, command, models=changed)

    def _accrue_rollout(self, command: c.AccrueRollout) -> Outcome:
        rollout = self._rollout(command.rollout_id)
        self._require_step(rollout, command.step)
        if not (0 <= command.baked_ms <= ACCRUAL_MS_MAX and 0 <= command.waited_ms <= ACCRUAL_MS_MAX):
            raise RefusalError("invalid", field="baked_ms or waited_ms")
        if rollout.phase not in {Phase.PREFETCHING, Phase.BAKING} or (
            command.baked_ms and rollout.phase is not Phase.BAKING
        ):
            raise RefusalError("invalid", field="phase")
        if command.baked_ms:
            self._require_effective(rollout)
        rollout.baked_ms += command.baked_ms
        rollout.waited_ms += command.waited_ms
        return Outcome(revision=self.state.revision)

    def _activate_rollout(self, command: c.ActivateRollout) -> Outcome:
        """Its stage, or the candidate for everybody, or the return: pending for all targets, or for none."""
        rollout = self._rollout(command.rollout_id)
        self._require_step(rollout, command.step)
        self._require_lead(command.lead_ns)
        move, to = Move.ACTIVATE, Phase.BAKING
        if rollout.phase is Phase.ABORTING:
            move, to = Move.RETURN, rollout.ends_as or Phase.ABORTED
        elif rollout.stage == len(rollout.strategy.stages):
            move, to = Move.COMPLETE, Phase.COMPLETED
        self._require_move(rollout, move)
        if move is not Move.RETURN:
            self._require_thawed()
        self._require_effective(rollout)
        revision = self.state.revision + 1
        asked_by = rollout.transitions[-1].author if move is Move.RETURN else rollout.author
        changes: list[tuple[ModelState, Assignment, Origin]] = []
        for target in rollout.targets:
            origin = Origin(
                activation=revision,
                rollout_id=rollout.rollout_id,
                previous=target.base,
                previous_generation=target.base_generation,
            )
            assignment = rollout.assignment_of(target, stage=rollout.stage)
            if move is Move.RETURN:
                assignment, origin = target.base, target.origin
            changes.append((self._model(target.model), assignment, origin))
        self._move(rollout, move, to, command=command, evidence=command.evidence)
        rollout.activation = revision
        trace = _traced(rollout, command)
        detail = self._schedule(changes, command, author=asked_by, rollout_id=rollout.rollout_id, trace=trace)
        models = [model for model, _, _ in changes]
        return self._rollout_changed("RolloutMoved", rollout, command, models=models, more=detail)

    # ---- the one way in which a rollout moves

    def _move(
        self,
        rollout: Rollout,
        move: Move,
        to: Phase,
        *,
        command: c.CreateRollout | c.MoveRollout | c.StepRollout | c.ActivateRollout,
        evidence: dict[str, Any] | None = None,
    ) -> list[ModelState]:
        """It is in phase `to`, one step further, on record; the models whose prefetch changed. Refused if the table has
        no such move; nothing has changed then.
        """
        self._require_move(rollout, move, to)
        held = rollout.running
        self._enter(rollout, move, to)
        rollout.step += 1
        rollout.transitions.append(
            Transition(
                step=rollout.step,
                revision=self.state.revision + 1,
                move=move,
                phase=to,
                stage=rollout.stage,
                at_unix_ms=command.proposed_at_unix_ms,
                author=command.author,
                reason=command.reason[:REASON_CHARS_MAX],
                evidence=self._bounded(evidence or {}),
            )
        )
        if len(rollout.transitions) > TRANSITIONS_MAX:
            del rollout.transitions[0]
            self._count("transitions_forgotten")
        return self._announce(rollout) if held or rollout.running else []

    def _enter(self, rollout: Rollout, move: Move, to: Phase) -> None:
        """What a phase begins with."""
        came_from, rollout.phase = rollout.phase, to
        if move is Move.PAUSE:
            rollout.resume_to = came_from
            return
        if move is Move.RESUME:
            rollout.resume_to = None
            return
        rollout.resume_to = came_from if to is Phase.PAUSED else None
        rollout.waited_ms = 0
        if to is Phase.PAUSED:
            rollout.to_end = False
        elif move in {Move.START, Move.RETRY}:
            rollout.active_stage, rollout.ends_as, rollout.to_end = None, None, False
            rollout.baked_ms = 0
        elif move is Move.ACTIVATE:
            rollout.active_stage, rollout.baked_ms = rollout.stage, 0
        elif to is Phase.ABORTING:
            rollout.ends_as = Phase.FAILED if move is Move.FAIL else Phase.ABORTED
        if to is Phase.PREFETCHING:
            rollout.stage = rollout.coming_stage

    def _announce(self, rollout: Rollout) -> list[ModelState]:
        """The targets' prefetch is what the rollout activates next; the models of which it was not."""
        changed = []
        for target in rollout.targets:
            model = self._model(target.model)
            prefetch = model.prefetch if rollout.phase is Phase.PAUSED else None
            if rollout.phase is Phase.PREFETCHING:
                prefetch = rollout.assignment_of(target, stage=rollout.stage)
            if model.prefetch != prefetch:
                model.prefetch = prefetch
                changed.append(model)
        return changed

    def _rollout_changed(
        self,
        name: str,
        rollout: Rollout,
        command: c.Command,
        *,
        models: list[ModelState],
        more: dict[str, Any] | None = None,
    ) -> Outcome:
        last = rollout.transitions[-1] if rollout.transitions else None
        detail = {
            "rollout_id": rollout.rollout_id,
            "move": last.move.value if last else "",
            "phase": rollout.phase.value,
            "stage": rollout.stage,
            "step": rollout.step,
            "reason": last.reason if last else "",
            "models": {target.model: target.candidate for target in rollout.targets},
        }
        return self._changed(
            name, command, models=models, detail=detail | (more or {}), trace=_traced(rollout, command)
        )

    # ---- what must hold

    def _rollout(self, rollout_id: str) -> Rollout:
        rollout = self.state.rollouts.get(rollout_id)
        if rollout is None:
            raise RefusalError("unknown_rollout", rollout_id=rollout_id)
        return rollout

    def _require_move(self, rollout: Rollout, move: Move, to: Phase | None = None) -> None:
        moves = TRANSITIONS[rollout.phase]
        if move not in moves or (to is not None and to not in moves[move]):
            raise RefusalError(
                "move_refused",
                rollout_id=rollout.rollout_id,
                phase=rollout.phase.value,
                move=move.value,
                allowed=[allowed.value for allowed in moves],
            )

    def _require_step(self, rollout: Rollout, step: int) -> None:
        if step != rollout.step:
            raise RefusalError("step_passed", rollout_id=rollout.rollout_id, step=rollout.step)

    def _require_thawed(self) -> None:
        freeze = self.state.freeze
        if freeze is not None:
            raise RefusalError("frozen", author=freeze.author, reason=freeze.reason)

    def _require_effective(self, rollout: Rollout) -> None:
        for target in rollout.targets:
            self._require_settled(self._model(target.model))

    def _require_baked(self, rollout: Rollout) -> None:
        self._require_effective(rollout)
        bake_ms = rollout.strategy.stages[rollout.stage].bake_ms
        if rollout.baked_ms < bake_ms and not rollout.to_end:
            raise RefusalError("not_baked", rollout_id=rollout.rollout_id, baked_ms=rollout.baked_ms, bake_ms=bake_ms)

    def _require_startable(self, rollout: Rollout) -> None:
        self._require_thawed()
        self._require_free(rollout)
        if sum(other.running for other in self.state.rollouts.values()) >= RUNNING_MAX:
            raise RefusalError("limit_reached", limit="running rollouts", value=RUNNING_MAX)

    def _require_free(self, rollout: Rollout) -> None:
        for target in rollout.targets:
            self._require_no_rollout(self._model(target.model))

    def _require_reason(self, reason: str) -> None:
        if len(reason) > REASON_CHARS_MAX:
            raise RefusalError("invalid", field="reason")

    # ---- pieces

    def _targets(self, models: dict[str, str], *, strategy: Strategy) -> tuple[Target, ...]:
        """What the rollout moves from and to, by what is decided at present. Refused with all faults of the strategy."""
        faults = strategy_faults(strategy, models=models, state=self.state)
        if faults:
            raise RefusalError("strategy_invalid", faults=[msgspec.to_builtins(fault) for fault in faults])
        targets = []
        for name, candidate in models.items():
            model = self.state.models[name]
            decided = model.decided()
            assert decided is not None
            generation = model.pending.generation if model.pending else model.generation
            targets.append(
                Target(model=name, candidate=candidate, base=decided[0], base_generation=generation, origin=decided[1])
            )
        return tuple(targets)

    def _back(self, rollout: Rollout, ended: Phase) -> Phase:
        """Where giving up leads: to the return, or to the end at once if nothing was activated."""
        return ended if rollout.active_stage is None else Phase.ABORTING

    def _make_room(self) -> None:
        rollouts = self.state.rollouts
        if len(rollouts) < ROLLOUTS_MAX:
            return
        oldest = next((rollout_id for rollout_id, rollout in rollouts.items() if rollout.phase.ended), None)
        if oldest is None:
            raise RefusalError("limit_reached", limit="rollouts", value=ROLLOUTS_MAX)
        del rollouts[oldest]
        self._count("rollouts_forgotten")

    def _bounded(self, evidence: dict[str, Any]) -> dict[str, Any]:
        if len(msgspec.msgpack.encode(evidence)) <= EVIDENCE_BYTES_MAX:
            return evidence
        self._count("evidence_dropped")
        return {}

    def _check_rollouts(self) -> None:
        state = self.state
        running = [rollout for rollout in state.rollouts.values() if rollout.running]
        held = [target.model for rollout in running for target in rollout.targets]
        assert len(state.rollouts) <= ROLLOUTS_MAX and len(running) <= RUNNING_MAX
        assert len(held) == len(set(held)), "two rollouts hold one model"
        for rollout in running:
            _check_running(rollout, state.models)
        for rollout in state.rollouts.values():
            last = rollout.transitions[-1] if rollout.transitions else None
            assert len(rollout.transitions) <= TRANSITIONS_MAX
            assert (rollout.step, rollout.phase) == ((last.step, last.phase) if last else (0, Phase.DRAFT))
            assert (rollout.phase is Phase.PAUSED) == (rollout.resume_to is not None)


def _traced(rollout: Rollout, command: c.Command) -> str:
    """The command's span if it belongs to the rollout's trace; a caller's order has a trace of its own, and its event none of it."""
    return trace_of(command) if same_trace(command.trace, rollout.trace) else rollout.trace


def _check_running(rollout: Rollout, models: dict[str, ModelState]) -> None:
    active, stage = rollout.active_stage, rollout.stage
    reached = range(0 if active is None else active + 1)
    phase = rollout.resume_to or rollout.phase
    if phase is Phase.PREFETCHING:
        assert stage == rollout.coming_stage, "a stage was skipped"
    else:
        assert active is not None and (stage == active or phase is Phase.ABORTING)
    for earlier, later in zip(rollout.transitions, rollout.transitions[1:], strict=False):
        assert later.step == earlier.step + 1 and later.phase in TRANSITIONS[earlier.phase].get(later.move, ())
    for target in rollout.targets:
        model = models[target.model]
        decided = model.decided()
        passed = [rollout.assignment_of(target, stage=n) for n in reached]
        assert decided is not None and decided[0] == (passed[-1] if passed else target.base)
        assert model.assignment == target.base or model.assignment in passed or (not passed and model.pending)
        assert all(assignment.share_bp <= passed[-1].share_bp for assignment in passed), "shares shrink"
        assert set(rollout.versions_held(target.model)) <= model.versions.keys()
        if phase is Phase.PREFETCHING:
            assert model.prefetch == rollout.assignment_of(target, stage=stage)
