"""What the authority decides about a rollout, for every situation it may find."""

from __future__ import annotations

import msgspec
import pytest

from consistency_service.core.rollout import CALLERS, STEPS, Move, Phase, Rollout
from consistency_service.core.rollout_steps import ACCRUE_MS_MAX, Accrue, Decision, Facts, StageResult, Take, next_step
from consistency_service.core.strategy import Gate, Prefetch, Stage, Stragglers, Strategy
from tests.support.rollouts import RolloutRegion

STRATEGY = Strategy(
    stages=(
        Stage(share_bp=1_000, bake_ms=5_000, gate=Gate.MANUAL),
        Stage(share_bp=5_000, bake_ms=5_000),
        Stage(share_bp=10_000),
    ),
    prefetch=Prefetch(ready_min_bp=9_000, deadline_ms=60_000),
    progress_deadline_ms=20_000,
)


def rollout(phase: Phase, *, strategy: Strategy = STRATEGY, **more: object) -> Rollout:
    """In its first stage, unless `more` says otherwise."""
    found = RolloutRegion().bring_to(phase, strategy=strategy) if phase is not Phase.WAITING else _waiting(strategy)
    return msgspec.structs.replace(found, **more)


def _waiting(strategy: Strategy) -> Rollout:
    baking = RolloutRegion().bring_to(Phase.BAKING, strategy=strategy)
    return msgspec.structs.replace(baking, phase=Phase.WAITING)


def move(decision: Decision | None) -> Move | None:
    assert decision is None or isinstance(decision, Take)
    return None if decision is None else decision.move


@pytest.mark.parametrize("phase", [Phase.DRAFT, Phase.PAUSED, Phase.ABORTED])
def test_nothing_is_decided_where_nothing_runs(phase: Phase) -> None:
    facts = Facts(ready_count=9, elapsed_ms=5_000, analysis=StageResult.FAILED)

    assert next_step(rollout(phase), facts) is None


# ---- prefetching


def test_who_hears_of_nobody_waits_and_then_fails() -> None:
    """An empty cohort needs nobody; a node that is cut off from its edges does not know of anybody."""
    preparing = rollout(Phase.PREFETCHING)

    assert move(next_step(preparing, Facts())) is Move.ACTIVATE
    assert next_step(preparing, Facts(deaf=True)) is None
    late = msgspec.structs.replace(preparing, waited_ms=60_000)
    assert move(next_step(late, Facts(deaf=True))) is Move.FAIL


@pytest.mark.parametrize(
    ("ready", "waiting", "failed", "ready_min_bp", "enough"),
    [
        (0, 0, 0, 10_000, True),
        (1, 0, 0, 10_000, True),
        (9, 1, 0, 9_000, True),
        (9, 0, 1, 9_000, True),
        (89, 11, 0, 9_000, False),
        (99, 0, 1, 10_000, False),
        (0, 5, 0, 0, True),
    ],
)
def test_a_stage_is_activated_when_enough_live_edges_are_ready(
    ready: int, waiting: int, failed: int, ready_min_bp: int, enough: bool
) -> None:
    strategy = msgspec.structs.replace(STRATEGY, prefetch=Prefetch(ready_min_bp=ready_min_bp))
    facts = Facts(ready_count=ready, waiting_count=waiting, failed_count=failed)
    waiting_for = rollout(Phase.PREFETCHING, strategy=strategy)

    decision = next_step(waiting_for, facts)

    if not enough:
        assert decision is None
        return
    assert isinstance(decision, Take) and decision.move is Move.ACTIVATE
    assert decision.evidence == {"ready": ready, "waiting": waiting, "failed": failed, "waited_ms": 0}
    assert decision.reason == f"stage 1 of 3: {ready} of {ready + waiting + failed} live edges are ready"
    assert next_step(waiting_for, Facts(ready_count=ready, activation_pending=True)) is None


def test_the_last_readiness_is_everybody_s_and_completes() -> None:
    found = rollout(Phase.PREFETCHING, stage=3, active_stage=2)

    decision = next_step(found, Facts(ready_count=3))

    assert isinstance(decision, Take) and decision.move is Move.COMPLETE
    assert decision.reason == "everybody: 3 of 3 live edges are ready"


def test_promoted_to_the_end_passes_no_readiness_over() -> None:
    found = rollout(Phase.PREFETCHING, to_end=True)

    assert next_step(found, Facts(waiting_count=5)) is None
    assert move(next_step(found, Facts(ready_count=5))) is Move.ACTIVATE


@pytest.mark.parametrize(
    ("stragglers", "ready", "decided"),
    [
        (Stragglers.PROCEED, 5, Move.ACTIVATE),
        (Stragglers.PROCEED, 0, Move.FAIL),
        (Stragglers.FAIL, 5, Move.FAIL),
    ],
)
def test_at_the_deadline_the_stragglers_policy_decides(stragglers: Stragglers, ready: int, decided: Move) -> None:
    strategy = msgspec.structs.replace(STRATEGY, stragglers=stragglers)
    found = rollout(Phase.PREFETCHING, strategy=strategy, waited_ms=59_000)
    facts = Facts(ready_count=ready, waiting_count=4, failed_count=1, elapsed_ms=999)

    assert next_step(found, facts) is None
    decision = next_step(found, Facts(ready_count=ready, waiting_count=4, failed_count=1, elapsed_ms=1_000))
    assert isinstance(decision, Take) and decision.move is decided
    assert f"{ready} of {ready + 5} live edges are ready at the deadline" in decision.reason
    assert decision.evidence["waited_ms"] == 60_000


def test_at_the_deadline_what_is_pending_is_waited_for() -> None:
    found = rollout(Phase.PREFETCHING, waited_ms=60_000)

    assert next_step(found, Facts(ready_count=1, waiting_count=9, activation_pending=True)) is None


def test_a_freeze_stops_activations_and_their_deadline_and_no_failure() -> None:
    found = rollout(Phase.PREFETCHING, waited_ms=60_000, active_stage=0, stage=1)

    assert next_step(found, Facts(ready_count=1, frozen=True, elapsed_ms=5_000)) is None
    failing = Facts(ready_count=1, frozen=True, analysis=StageResult.FAILED, analysis_reason="12 % wrong")
    assert next_step(found, failing) == Take(move=Move.FAIL, reason="12 % wrong")


# ---- baking


def test_a_stage_passes_when_baked_and_successful() -> None:
    young, baked = rollout(Phase.BAKING, baked_ms=4_000), rollout(Phase.BAKING, baked_ms=5_000)

    assert next_step(young, Facts(analysis=StageResult.SUCCESSFUL, elapsed_ms=900)) is None
    for analysis in (StageResult.SUCCESSFUL, StageResult.NONE):
        decision = next_step(baked, Facts(analysis=analysis, analysis_reason="fine", analysis_evidence={"n": 60}))
        assert decision == Take(move=Move.PASS, reason="fine", evidence={"baked_ms": 5_000, "n": 60})
    assert move(next_step(baked, Facts())) is Move.PASS
    assert next_step(baked, Facts(activation_pending=True)) is None
    assert next_step(baked, Facts(analysis=StageResult.INCONCLUSIVE)) is None


def test_what_is_missing_to_the_bake_time_is_accrued_at_once() -> None:
    found = rollout(Phase.BAKING, baked_ms=4_800)

    assert next_step(found, Facts(elapsed_ms=199)) is None
    assert next_step(found, Facts(elapsed_ms=200)) == Accrue(baked_ms=200, waited_ms=200)


@pytest.mark.parametrize("phase", [Phase.PREFETCHING, Phase.BAKING, Phase.WAITING])
def test_a_failed_analysis_fails_at_once_wherever_a_stage_is_active(phase: Phase) -> None:
    found = rollout(phase, active_stage=0)
    facts = Facts(
        analysis=StageResult.FAILED,
        analysis_reason="12 % wrong",
        analysis_evidence={"wrong": 12},
        activation_pending=True,
    )

    assert next_step(found, facts) == Take(move=Move.FAIL, reason="12 % wrong", evidence={"wrong": 12})


def test_at_the_progress_deadline_doubt_holds_and_anything_else_fails() -> None:
    doubtful = rollout(Phase.BAKING, baked_ms=9_000, waited_ms=19_500)
    never_healthy = rollout(Phase.BAKING, baked_ms=0, waited_ms=20_000)

    assert next_step(doubtful, Facts(analysis=StageResult.INCONCLUSIVE, elapsed_ms=499)) is None
    held = next_step(doubtful, Facts(analysis=StageResult.INCONCLUSIVE, analysis_reason="12 samples", elapsed_ms=500))
    assert isinstance(held, Take) and held.move is Move.HOLD and held.reason.endswith("deadline: 12 samples")
    assert move(next_step(never_healthy, Facts(activation_pending=True))) is Move.FAIL
    assert move(next_step(doubtful, Facts(analysis=StageResult.SUCCESSFUL, elapsed_ms=500))) is Move.PASS


def test_promoted_to_the_end_asks_neither_for_bake_time_nor_for_analysis() -> None:
    found = rollout(Phase.BAKING, to_end=True)

    assert move(next_step(found, Facts(analysis=StageResult.INCONCLUSIVE))) is Move.PASS
    assert next_step(found, Facts(activation_pending=True)) is None
    assert move(next_step(found, Facts(analysis=StageResult.FAILED))) is Move.FAIL


def test_a_passed_stage_waits_for_somebody() -> None:
    assert next_step(rollout(Phase.WAITING), Facts(analysis=StageResult.SUCCESSFUL, elapsed_ms=9_000)) is None


# ---- time, and the way back


def test_time_is_written_down_in_seconds_and_baking_only_after_the_instant() -> None:
    prefetching, baking = rollout(Phase.PREFETCHING), rollout(Phase.BAKING)
    late = Facts(waiting_count=1, elapsed_ms=1_000)

    assert next_step(prefetching, Facts(waiting_count=1, elapsed_ms=999)) is None
    assert next_step(prefetching, late) == Accrue(baked_ms=0, waited_ms=1_000)
    assert next_step(baking, late) == Accrue(baked_ms=1_000, waited_ms=1_000)
    assert next_step(baking, Facts(elapsed_ms=1_000, activation_pending=True)) == Accrue(baked_ms=0, waited_ms=1_000)


def test_an_authority_that_did_not_look_did_not_watch() -> None:
    assert next_step(rollout(Phase.PREFETCHING), Facts(waiting_count=1, elapsed_ms=1 << 40)) == Accrue(
        baked_ms=0, waited_ms=ACCRUE_MS_MAX
    )


def test_an_abort_returns_as_soon_as_nothing_is_pending() -> None:
    found = rollout(Phase.ABORTING)
    found.transitions[-1] = msgspec.structs.replace(found.transitions[-1], reason="it smells")

    assert next_step(found, Facts(activation_pending=True)) is None
    assert next_step(found, Facts(frozen=True)) == Take(move=Move.RETURN, reason="it smells")


# ---- decisions and the machine agree


def test_what_is_decided_is_what_the_machine_carries_out() -> None:
    """From start to end by the decisions alone, time included; no decision is ever refused."""
    region = RolloutRegion()
    strategy = Strategy(stages=tuple(Stage(share_bp=share, bake_ms=2_500) for share in (100, 2_000, 10_000)))
    region.create(strategy=strategy)
    moves, accrued_ms = [], 0
    for _ in range(200):
        found = region.rollout()
        pending = bool(region.state.pendings())
        decision = next_step(found, Facts(ready_count=5, activation_pending=pending, elapsed_ms=1_000))
        if decision is None:
            region.settle()
        elif isinstance(decision, Accrue):
            accrued_ms += decision.baked_ms
            assert region.accrue(baked_ms=decision.baked_ms, waited_ms=decision.waited_ms).ok
            region.settle()
        else:
            moves.append(decision.move)
            assert decision.move not in CALLERS
            outcome = region.step(decision.move) if decision.move in STEPS else region.advance()
            assert outcome.ok and outcome.detail["move"] == decision.move.value

    assert moves == [Move.ACTIVATE, Move.PASS] * 3 + [Move.COMPLETE]
    assert region.rollout().phase is Phase.COMPLETED and accrued_ms == 3 * 3_000
