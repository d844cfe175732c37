"""The rules of rollouts, each switched off: an order of another step, a stage too many, an abort that is overtaken."""

# ruff: noqa: ARG005 -- what stands in for a method has its arguments

from __future__ import annotations

from typing import Any

import msgspec

from consistency_service.core import rollout_steps
from consistency_service.core.rollout import TRANSITIONS, Move, Phase, Rollout
from consistency_service.core.rollout_machine import RolloutMachine
from consistency_service.core.rollout_steps import Accrue
from consistency_service.core.strategy import Gate
from edge_client.core.served import Served
from tests.simulation import rollouts
from tests.simulation.clock import MS
from tests.simulation.mutant import Mutant, Patch
from tests.simulation.rollouts import Dispatcher

replace = msgspec.structs.replace


def _steps_not_checked(patch: Patch) -> None:
    patch.setattr(RolloutMachine, "_require_step", lambda self, rollout, step: None)


def _told_twice(patch: Patch) -> None:
    """The driver orders again while an order is under way, and nobody compares the step."""
    _steps_not_checked(patch)
    patch.setattr(Dispatcher, "under_way", lambda self, seen, *, now_ns: False)


def _abort_not_final(patch: Patch) -> None:
    """Somebody who promotes overtakes an abort."""
    for phase in (Phase.ABORTING, Phase.ABORTED):
        patch.setitem(TRANSITIONS, phase, TRANSITIONS[phase] | {Move.PROMOTE: (Phase.PREFETCHING,)})


def _return_goes_on(patch: Patch) -> None:
    """The activation that ends an abort is of the stage."""
    unpatched = RolloutMachine._schedule

    def schedule(self: RolloutMachine, changes, command, **more: Any):
        rollout = self.state.rollouts.get(more.get("rollout_id", ""))
        if rollout is not None and rollout.transitions[-1].move is Move.RETURN:
            stages = [rollout.assignment_of(target, stage=rollout.stage) for target in rollout.targets]
            changes = [(model, stage, origin) for (model, _, origin), stage in zip(changes, stages, strict=True)]
        return unpatched(self, changes, command, **more)

    patch.setattr(RolloutMachine, "_schedule", schedule)


def _share_of_the_next_stage(patch: Patch) -> None:
    unpatched = Rollout.assignment_of

    def assignment_of(self: Rollout, target, *, stage: int):
        wider = min(stage + 1, len(self.strategy.stages) - 1)
        found = unpatched(self, target, stage=stage)
        if found.candidate is None:
            return found
        return replace(found, share_bp=self.strategy.stages[wider].share_bp)

    patch.setattr(Rollout, "assignment_of", assignment_of)


def _cohort_forgotten(patch: Patch) -> None:
    unpatched = Rollout.assignment_of

    def assignment_of(self: Rollout, target, *, stage: int):
        return replace(unpatched(self, target, stage=stage), cohort=type(self.strategy.cohort)())

    patch.setattr(Rollout, "assignment_of", assignment_of)


def _stage_skipped(patch: Patch) -> None:
    patch.setattr(
        Rollout,
        "coming_stage",
        property(
            lambda self: 0 if self.active_stage is None else min(self.active_stage + 2, len(self.strategy.stages))
        ),
    )


def _bake_time_ignored(patch: Patch) -> None:
    """By who decides, and by who checks."""
    patch.setattr(RolloutMachine, "_require_baked", lambda self, rollout: self._require_effective(rollout))
    unpatched = rollout_steps.next_step

    def decide(rollout: Rollout, facts):
        if rollout.phase is Phase.BAKING:
            stages = tuple(replace(stage, bake_ms=0) for stage in rollout.strategy.stages)
            rollout = replace(rollout, strategy=replace(rollout.strategy, stages=stages))
        return unpatched(rollout, facts)

    patch.setattr(rollouts, "next_step", decide)


def _gates_ignored(patch: Patch) -> None:
    unpatched = RolloutMachine._step_rollout

    def step(self: RolloutMachine, command):
        rollout = self.state.rollouts[command.rollout_id]
        strategy = rollout.strategy
        rollout.strategy = replace(strategy, stages=tuple(replace(s, gate=Gate.AUTO) for s in strategy.stages))
        try:
            return unpatched(self, command)
        finally:
            rollout.strategy = strategy

    patch.setattr(RolloutMachine, "_step_rollout", step)


def _freeze_ignored(patch: Patch) -> None:
    patch.setattr(RolloutMachine, "_require_thawed", lambda self: None)


def _models_not_held(patch: Patch) -> None:
    patch.setattr(RolloutMachine, "_require_no_rollout", lambda self, model: None)


def _nobody_returns(patch: Patch) -> None:
    """The authority leaves what was aborted where it is."""
    unpatched = rollout_steps.next_step
    patch.setattr(
        rollouts, "next_step", lambda rollout, facts: None if rollout.ends_as is not None else unpatched(rollout, facts)
    )


def _no_time_passes(patch: Patch) -> None:
    """Who takes over, or looks again, begins every time anew, and nothing is written down."""
    unpatched = rollout_steps.next_step

    def decide(rollout: Rollout, facts):
        decision = unpatched(rollout, facts)
        return None if isinstance(decision, Accrue) else decision

    patch.setattr(rollouts, "next_step", decide)


def _counts_at_once(patch: Patch) -> None:
    """Who has just started, and has heard of nobody, takes it that nobody is missing."""
    patch.setattr(Dispatcher, "listened", lambda self, now_ns: True)


def _fallback_misnamed(patch: Patch) -> None:
    """What a rollback leads to is taken for the generation before."""
    unpatched = Served.view_applied

    def applied(self: Served, view, **more: Any) -> None:
        unpatched(self, view if view is None else replace(view, previous_generation=0), **more)

    patch.setattr(Served, "view_applied", applied)


_ROLLOUTS = frozenset({"rollouts"})
_BUSY: dict[str, Any] = {
    "lease_ms": 500,
    "beacon_ns": 100 * MS,
    "work_every_ns": 100 * MS,
    "duration_ns": 20_000 * MS,
    "delay_ns": 40 * MS,
    "late_proposal_chance": 0.2,
    "late_ns": 1_000 * MS,
}
"""Much is ordered, and orders are slow."""
_PATIENT: dict[str, Any] = {
    "lease_ms": 500,
    "beacon_ns": 100 * MS,
    "work_every_ns": 500 * MS,
    "duration_ns": 30_000 * MS,
}
"""Callers let rollouts go on for a while."""

_HASTY: dict[str, Any] = {
    "faults": frozenset(),
    "lease_ms": 300,
    "beacon_ns": 50 * MS,
    "models": 1,
    "edges": 5,
    "work_every_ns": 300 * MS,
    "duration_ns": 20_000 * MS,
    "fault_every_ns": 300 * MS,
    "delay_ns": 5 * MS,
}
"""Leaders die and are back before anybody has reported to them; versions take seconds to load."""


def _mutant(name: str, install: Any, breaks: str, *plus: str, **more: Any) -> Mutant:
    return Mutant(name=name, install=install, breaks=frozenset({breaks}), plus=_ROLLOUTS.union(plus), **more)


ROLLOUT_MUTANTS = (
    _mutant("steps of a rollout not checked", _steps_not_checked, "step", directed=_BUSY),
    _mutant("orders given twice", _told_twice, "step", directed=_BUSY),
    _mutant("a promotion overtakes an abort", _abort_not_final, "abort", directed=_BUSY),
    _mutant("the return activates the stage", _return_goes_on, "abort"),
    _mutant("the share of the next stage", _share_of_the_next_stage, "share", directed=_PATIENT),
    _mutant("the cohort forgotten", _cohort_forgotten, "stage", known_seed=1),
    _mutant("a stage skipped", _stage_skipped, "share", directed=_PATIENT),
    _mutant("bake times ignored", _bake_time_ignored, "stage", directed=_PATIENT),
    _mutant("manual gates ignored", _gates_ignored, "stage", directed=_PATIENT),
    _mutant("freeze ignored", _freeze_ignored, "frozen", directed=_BUSY),
    _mutant("models of a rollout not held", _models_not_held, "held"),
    _mutant("nobody returns", _nobody_returns, "stuck"),
    _mutant("no time is written down", _no_time_passes, "stuck", directed=_PATIENT),
    _mutant(
        "a node that has heard of nobody counts",
        _counts_at_once,
        "unready",
        *("murder", "slow_load", "election", "crash"),
        directed=_HASTY,
    ),
    _mutant(
        "what a rollback leads to is the generation before",
        _fallback_misnamed,
        "cohort",
        *("slow_load", "crash"),
        directed=_PATIENT | {"edges": 5},
        known_seed=26,
    ),
)
