"""Whatever is ordered, in whatever sequence: no stage skipped, no share overshot, no promotion after an abort."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.core.activation_machine import ActivationMachine
from consistency_service.core.ledger import Ledger
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.rollout import TRANSITIONS, Move, Phase, Rollout
from consistency_service.core.rollout_machine import RolloutMachine
from tests.support.rollout_judge import ROLLOUTS, WORDS, Action, Judge

ACTIONS = st.builds(
    Action,
    word=st.sampled_from(WORDS),
    rollout_id=st.sampled_from(sorted(ROLLOUTS)),
    lag=st.sampled_from((0, 0, 0, 1, 2)),
    flag=st.booleans(),
)


@settings(max_examples=150)
@given(st.lists(ACTIONS, min_size=10, max_size=80))
def test_orders_in_any_sequence_do_no_wrong(actions: list[Action]) -> None:
    Judge().play([Action("create", flag=True), *actions])


@pytest.mark.parametrize("seed", range(20))
def test_long_plays_do_no_wrong(seed: int) -> None:
    Judge().play(drawn(seed))


def test_long_plays_reach_every_phase_and_every_refusal_that_matters() -> None:
    reached = set()
    for seed in range(40):
        judge = Judge()
        judge.play(drawn(seed))
        reached |= judge.reached

    refusals = {"step_passed", "move_refused", "frozen", "rollout_running", "activation_pending", "not_baked"}
    assert {phase.value for phase in Phase} | refusals | {"version_in_use"} <= reached


def test_a_snapshot_in_the_middle_changes_nothing() -> None:
    """Half a play, a restart from the snapshot, the other half: the same state as without the restart."""
    actions = drawn(3)
    judge, restarted = Judge(), Judge()
    judge.play(actions)
    restarted.play(actions[:200])
    machine = MetadataMachine()
    machine.restore(restarted.region.machine.snapshot())
    restarted.region.machine = machine
    restarted.play(actions[200:])

    assert restarted.region.state == judge.region.state


def drawn(seed: int, *, count: int = 400) -> list[Action]:
    """A play in which most orders make sense, so that rollouts get far."""
    rng = random.Random(seed)
    actions = [Action("plain", flag=True), Action("settle")] if rng.random() < 0.5 else []
    actions.append(Action("create", flag=True))
    while len(actions) < count:
        rollout_id = rng.choice("rrrs")
        if rng.random() < 0.5:
            way = ("advance", "settle", "accrue", "accrue", "pass", "promote")
            actions += [Action(word, rollout_id, flag=word == "accrue") for word in way if rng.random() < 0.9]
        else:
            lag = rng.choice((0, 0, 1, 2))
            actions.append(Action(rng.choice(WORDS), rollout_id, lag=lag, flag=rng.random() < 0.5))
    return actions


# ---- each rule switched off is noticed


def _off(owner: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, lambda *_, **__: None)


def _abort_not_final(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(TRANSITIONS, Phase.ABORTING, {**TRANSITIONS[Phase.ABORTING], Move.PROMOTE: (Phase.PREFETCHING,)})


def _stage_skipped(patch: pytest.MonkeyPatch) -> None:
    real = vars(Rollout)["coming_stage"].fget
    patch.setattr(Rollout, "coming_stage", property(lambda self: min(real(self) + (self.stage == 1), 4)))


def _share_overshot(patch: pytest.MonkeyPatch) -> None:
    real = Rollout.assignment_of
    patch.setattr(
        Rollout, "assignment_of", lambda self, target, *, stage: real(self, target, stage=stage + (stage == 2))
    )


def _previous_is_the_stage_before(patch: pytest.MonkeyPatch) -> None:
    real = ActivationMachine._schedule

    def schedule(self, changes, command, **more):
        changes = [
            (model, assignment, msgspec.structs.replace(origin, previous=model.assignment))
            for model, assignment, origin in changes
        ]
        return real(self, changes, command, **more)

    patch.setattr(ActivationMachine, "_schedule", schedule)


def _promote_through_pauses(patch: pytest.MonkeyPatch) -> None:
    """A promotion goes on from the stage that is being prepared, in place of the one that is active."""
    real = RolloutMachine._enter

    def enter(self, rollout, move, to):
        prepared = rollout.stage
        real(self, rollout, move, to)
        if move is Move.PROMOTE:
            rollout.stage = min(prepared + 1, len(rollout.strategy.stages))

    patch.setattr(RolloutMachine, "_enter", enter)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "step check off": _off(RolloutMachine, "_require_step"),
    "abort not final": _abort_not_final,
    "freeze ignored": _off(RolloutMachine, "_require_thawed"),
    "one per model off": _off(Ledger, "_require_no_rollout"),
    "pending ignored": _off(RolloutMachine, "_require_effective"),
    "bake time ignored": _off(RolloutMachine, "_require_baked"),
    "table ignored": _off(RolloutMachine, "_require_move"),
    "stage skipped": _stage_skipped,
    "share overshot": _share_overshot,
    "previous is the stage before": _previous_is_the_stage_before,
    "promoted past a stage being prepared": _promote_through_pauses,
    "versions not held": lambda patch: patch.setattr(Rollout, "versions_held", lambda *_: ()),
    "base not taken anew": lambda patch: patch.setattr(
        RolloutMachine, "_targets", _targets_of_the_first_time(RolloutMachine._targets)
    ),
}


def _targets_of_the_first_time(real):
    first: dict[object, object] = {}

    def targets(self, models, *, strategy):
        return first.setdefault((id(self), tuple(models)), real(self, models, strategy=strategy))

    return targets


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_rule_switched_off_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the judge, or by the machine's own invariants."""
    MUTANTS[mutant](monkeypatch)

    with pytest.raises((AssertionError, KeyError)):
        _play_many()


def _play_many() -> None:
    for seed in range(60):
        Judge().play(drawn(seed))
