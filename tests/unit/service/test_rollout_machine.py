"""Rollouts in the replicated state: what stages assign, where a rollback leads, what is refused, and what is bounded."""

from __future__ import annotations

import pytest

from consistency_service.core import commands as c
from consistency_service.core import rollout_machine
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.rollout import EVIDENCE_BYTES_MAX, Move, Phase
from consistency_service.core.strategy import Gate, Stage, Strategy
from edge_client.protocol.bucketing import CohortSelector
from edge_client.protocol.models import Assignment, Policy
from tests.support.rollouts import STRATEGY, RolloutRegion

STABLE = Assignment(stable="1.0.0")
DONE = Assignment(stable="2.0.0")
BUNDLE = {"m": "2.0.0", "n": "3.0.0"}


def candidate(share_bp: int, *, cohort: CohortSelector | None = None) -> Assignment:
    cohort = cohort or CohortSelector()
    return Assignment(stable="1.0.0", candidate="2.0.0", share_bp=share_bp, salt="r", cohort=cohort)


def test_the_way_of_a_rollout_from_its_start_to_the_rollback_after_it() -> None:
    region = RolloutRegion()
    model = region.state.models["m"]
    generation = model.generation

    def line(outcome) -> str:
        rollout = region.rollout()
        assignments = [
            "-" if a is None else f"{a.stable}/{a.candidate or '-'}@{a.share_bp}"
            for a in (model.assignment, model.previous, model.prefetch)
        ]
        return f"{outcome.code:8} {rollout!r} now={assignments[0]} before={assignments[1]} next={assignments[2]}"

    seen = [line(region.create())]
    for _ in STRATEGY.stages:
        seen += [line(region.advance()), line(region.settle()), line(region.step(Move.PASS))]
    seen += [line(region.advance()), line(region.settle())]

    assert seen == [
        "ok       <Rollout r prefetching stage=1/3 step=1> now=1.0.0/-@0 before=- next=1.0.0/2.0.0@100",
        "ok       <Rollout r baking stage=1/3 step=2> now=1.0.0/-@0 before=- next=-",
        "ok       <Rollout r baking stage=1/3 step=2> now=1.0.0/2.0.0@100 before=1.0.0/-@0 next=-",
        "ok       <Rollout r prefetching stage=2/3 step=3> now=1.0.0/2.0.0@100 before=1.0.0/-@0 next=1.0.0/2.0.0@1000",
        "ok       <Rollout r baking stage=2/3 step=4> now=1.0.0/2.0.0@100 before=1.0.0/-@0 next=-",
        "ok       <Rollout r baking stage=2/3 step=4> now=1.0.0/2.0.0@1000 before=1.0.0/-@0 next=-",
        "ok       <Rollout r prefetching stage=3/3 step=5> now=1.0.0/2.0.0@1000 before=1.0.0/-@0 next=1.0.0/2.0.0@10000",
        "ok       <Rollout r baking stage=3/3 step=6> now=1.0.0/2.0.0@1000 before=1.0.0/-@0 next=-",
        "ok       <Rollout r baking stage=3/3 step=6> now=1.0.0/2.0.0@10000 before=1.0.0/-@0 next=-",
        "ok       <Rollout r prefetching stage=4/3 step=7> now=1.0.0/2.0.0@10000 before=1.0.0/-@0 next=2.0.0/-@0",
        "ok       <Rollout r completed stage=4/3 step=8> now=1.0.0/2.0.0@10000 before=1.0.0/-@0 next=-",
        "ok       <Rollout r completed stage=4/3 step=8> now=2.0.0/-@0 before=1.0.0/-@0 next=-",
    ]
    assert (model.generation, set(model.view().versions)) == (generation + 4, {"1.0.0", "2.0.0"})
    region.activate("1.0.0")
    region.settle()
    assert (model.assignment, model.previous) == (STABLE, DONE)


def test_an_abort_restores_the_base_and_what_was_before_it() -> None:
    region = RolloutRegion()
    region.activate("3.0.0")
    region.settle()
    model, base, origin = region.state.models["m"], Assignment(stable="3.0.0"), region.state.models["m"].origin

    region.bring_to(Phase.ABORTING)
    assert (model.assignment, model.previous) == (
        Assignment(stable="3.0.0", candidate="2.0.0", share_bp=100, salt="r"),
        base,
    )
    region.advance()
    assert region.rollout().phase is Phase.ABORTED and model.assignment != base
    assert region.apply(c.DeleteVersion(model="m", version="1.0.0")).code == "version_in_use"
    region.settle()

    assert (model.assignment, model.previous, model.origin) == (base, STABLE, origin)


def test_an_abort_wins_over_everything_that_was_decided_before_it() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.BAKING)
    step = region.rollout().step
    region.step(Move.PASS)

    assert region.order(Move.ABORT, reason="it smells").ok
    late = [
        region.advance(step=step + 1),
        region.step(Move.PASS, step=step),
        region.accrue(step=step + 1),
        region.order(Move.PROMOTE),
        region.order(Move.RESUME),
        region.order(Move.RETRY),
    ]
    assert [outcome.code for outcome in late] == ["step_passed"] * 3 + ["move_refused"] * 3
    assert late[3].detail == {"rollout_id": "r", "phase": "aborting", "move": "promote", "allowed": ["return"]}
    region.advance()
    region.settle()
    assert region.state.models["m"].assignment == STABLE
    assert region.state.models["m"].history[-1].author == "ann"
    assert region.state.models["m"].history[-1].rollout_id == "r"


def test_an_abort_while_the_stage_is_pending_returns_after_it_is_settled() -> None:
    region = RolloutRegion()
    region.create()
    region.advance()

    region.order(Move.ABORT)
    assert region.advance().code == "activation_pending"
    region.settle()
    assert region.advance().ok
    assert region.rollout().phase is Phase.ABORTED


def test_a_retry_begins_again_from_what_is_assigned_by_then() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.ABORTED)
    assert region.activate("3.0.0").ok
    assert region.order(Move.RETRY).ok  # the base is what is decided, settled or not

    rollout = region.rollout()
    assert (rollout.stage, rollout.active_stage, rollout.salt) == (0, None, "r")
    assert rollout.targets[0].base == Assignment(stable="3.0.0") and rollout.targets[0].before == STABLE
    assert region.advance().code == "activation_pending"
    region.settle()
    region.advance()
    region.settle()
    assert region.state.models["m"].previous == Assignment(stable="3.0.0")


def test_a_retry_of_what_is_stable_by_now_is_refused_with_its_fault() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.ABORTED)
    region.activate("2.0.0")

    refused = region.order(Move.RETRY)

    assert refused.code == "strategy_invalid"
    assert refused.detail["faults"] == [{"place": "models.m", "message": "version 2.0.0 is stable already"}]


def test_a_bundle_changes_at_one_instant_and_is_rolled_back_together() -> None:
    region = RolloutRegion()
    region.create(models=BUNDLE)
    decided = region.advance()
    assert decided.detail["generations"] == {"m": 2, "n": 2}
    assert len(region.state.pendings()) == 1

    region.settle()
    for _ in range(3):
        region.step(Move.PASS)
        region.advance()
        region.settle()
    assert [model.name for model in region.state.changed_with("m")] == ["m", "n"]
    origin = region.state.models["n"].origin
    assert origin is not None and origin.rollout_id == "r"
    region.activate("3.0.0", model="n")
    region.activate("1.0.0", model="m")
    region.settle()
    assert [model.name for model in region.state.changed_with("m")] == ["m"]


def test_an_aborted_rollout_of_one_model_leaves_its_older_bundle_together() -> None:
    region = RolloutRegion()
    region.create("s", models=BUNDLE, strategy=Strategy(stages=(Stage(share_bp=10_000),)))
    region.advance("s")
    region.settle()
    region.step(Move.PASS, "s")
    region.advance("s")
    region.settle()

    region.create(models={"m": "3.0.0"})
    region.advance()
    region.settle()
    assert [model.name for model in region.state.changed_with("m")] == ["m"]
    region.order(Move.ABORT)
    region.advance()
    region.settle()

    assert [model.name for model in region.state.changed_with("m")] == ["m", "n"]
    assert region.state.models["m"].previous == STABLE


def test_a_running_rollout_holds_its_models() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.PAUSED)

    second = region.create("s", models=BUNDLE)
    assert (second.code, second.detail) == ("rollout_running", {"model": "m", "rollout_id": "r"})
    assert region.activate("3.0.0").code == "rollout_running"
    assert region.apply(c.RequestPrefetch(model="m", assignment=None)).code == "rollout_running"
    assert region.apply(c.DeleteModel(model="m")).code == "rollout_running"
    for version in ("1.0.0", "2.0.0"):
        assert region.apply(c.DeleteVersion(model="m", version=version)).code == "version_in_use"
    assert region.apply(c.ChangePolicy(model="m", policy=Policy(versions_kept=3))).ok
    assert region.create("s", models=BUNDLE, start=False).ok
    assert region.order(Move.START, "s").code == "rollout_running"
    assert region.create("t", models={"n": "2.0.0"}).ok


def test_a_freeze_stops_what_goes_forward_and_nothing_that_goes_back() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.BAKING)
    region.create("s", models={"n": "2.0.0"}, start=False)
    region.freeze()
    revision = region.state.revision

    refused = region.order(Move.PROMOTE)
    assert (refused.code, refused.detail) == ("frozen", {"author": "eve", "reason": "holidays"})
    assert region.order(Move.START, "s").code == region.create("t", models={"n": "2.0.0"}).code == "frozen"
    assert region.state.revision == revision
    assert region.step(Move.PASS).ok and region.advance().code == "frozen"
    assert region.order(Move.PAUSE).ok and region.order(Move.RESUME).ok and region.order(Move.ABORT).ok
    assert region.advance().ok and region.order(Move.RETRY).code == "frozen"
    assert region.freeze(frozen=False).ok and region.state.freeze is None
    assert region.order(Move.RETRY).ok
    revision = region.state.revision
    assert region.freeze(frozen=False).revision == revision
    assert [event.name for event in region.state.outbox if "rozen" in event.name] == ["RegionFrozen", "RegionUnfrozen"]


def test_a_promotion_goes_on_after_the_active_stage_and_never_past_the_next() -> None:
    region = RolloutRegion()
    region.create()
    region.order(Move.PAUSE)
    region.order(Move.PROMOTE)
    assert region.rollout().stage == 0  # nothing was active: the first stage is still to come

    region.advance()
    region.settle()
    region.order(Move.PROMOTE)
    region.order(Move.PAUSE)
    region.order(Move.PROMOTE)
    assert (region.rollout().stage, region.rollout().phase) == (1, Phase.PREFETCHING)


def test_a_promotion_to_the_end_passes_gates_and_bake_times_and_no_stage() -> None:
    stages = tuple(Stage(share_bp=share, bake_ms=60_000, gate=Gate.MANUAL) for share in (100, 1_000, 10_000))
    region = RolloutRegion()
    region.bring_to(Phase.BAKING, strategy=Strategy(stages=stages))
    assert region.step(Move.PASS).detail["bake_ms"] == 60_000
    region.order(Move.PROMOTE, to_end=True)

    for stage in (1, 2):
        assert region.advance().detail["stage"] == stage
        region.settle()
        assert region.step(Move.PASS).detail["phase"] == "prefetching"
    assert region.advance().detail["phase"] == "completed"


def test_a_failure_ends_a_promotion_to_the_end() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.BAKING)
    region.order(Move.PROMOTE, to_end=True)
    region.advance()
    region.settle()
    region.step(Move.HOLD)

    assert not region.rollout().to_end and region.rollout().waited_ms == 0


def test_a_stage_passes_when_it_was_healthy_for_long_enough_after_its_instant() -> None:
    region = RolloutRegion()
    region.create(strategy=Strategy(stages=(Stage(share_bp=10_000, bake_ms=1_500),)))
    assert region.accrue(baked_ms=1).code == "invalid"
    region.advance()
    assert region.accrue(baked_ms=1_000).code == "activation_pending"
    assert region.step(Move.PASS).code == "activation_pending"
    region.settle()

    revision = region.state.revision
    assert region.accrue(baked_ms=1_000).revision == revision
    refused = region.step(Move.PASS)
    assert (refused.code, refused.detail["baked_ms"], refused.detail["bake_ms"]) == ("not_baked", 1_000, 1_500)
    for wrong in (-1, 60_001):
        assert region.accrue(baked_ms=wrong).code == region.accrue(waited_ms=wrong).code == "invalid"
    region.accrue(baked_ms=500)
    assert region.step(Move.PASS).ok


def test_orders_may_name_the_step_they_were_given_for() -> None:
    region = RolloutRegion()
    region.create()

    refused = region.order(Move.PAUSE, step_expected=7)
    assert (refused.code, refused.detail["step"]) == ("step_mismatch", 1)
    assert region.order(Move.PAUSE, step_expected=1).ok
    assert region.advance(step=1).code == "step_passed"


def test_every_transition_says_who_why_when_and_with_which_numbers() -> None:
    region = RolloutRegion()
    region.create(proposed_at_unix_ms=5, reason="new camera")
    region.advance(reason="all ready", evidence={"ready": 3}, proposed_at_unix_ms=9)

    first, second = region.rollout().transitions
    assert (first.author, first.reason, first.at_unix_ms, first.step) == ("ann", "new camera", 5, 1)
    assert (second.author, second.reason, second.evidence) == ("", "all ready", {"ready": 3})
    created, moved = region.state.outbox[-2:]
    assert [created.name, moved.name] == ["RolloutCreated", "RolloutMoved"]
    assert [first.revision, second.revision] == [created.revision, moved.revision]
    assert created.models[0].prefetch == candidate(100)
    assert {"r", "activate", "baking", "all ready"} < {str(value) for value in moved.detail.values()}
    assert moved.detail["generations"] == {"m": 2} and moved.models[0].pending is not None
    assert region.state.audit[-1].command == "CreateRollout" and region.state.audit[-1].subject == "r"


def test_what_comes_from_outside_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    region = RolloutRegion()
    assert region.create("No").code == region.create(reason="x" * 1_001).code == "invalid"
    assert region.apply(c.SetFreeze(frozen=True, reason="x" * 1_001)).code == "invalid"
    region.create()
    assert region.create().code == "rollout_exists"
    assert region.order(Move.ABORT, reason="x" * 1_001).code == "invalid"
    assert region.order(Move.ABORT, "s").code == "unknown_rollout"

    region.step(Move.FAIL, reason="y" * 2_000, evidence={"k": "v" * EVIDENCE_BYTES_MAX})
    last = region.rollout().transitions[-1]
    assert (len(last.reason), last.evidence) == (1_000, {})
    assert region.state.counters["evidence_dropped"] == 1

    monkeypatch.setattr(rollout_machine, "TRANSITIONS_MAX", 3)
    for _ in range(4):
        region.order(Move.RETRY)
        region.order(Move.ABORT)
    assert [transition.step for transition in region.rollout().transitions] == [8, 9, 10]
    assert region.state.counters["transitions_forgotten"] == 7

    monkeypatch.setattr(rollout_machine, "ROLLOUTS_MAX", 2)
    assert region.create("s", start=False).ok and region.create("t", start=False).ok
    assert list(region.state.rollouts) == ["s", "t"] and region.state.counters["rollouts_forgotten"] == 1
    assert region.create("u", start=False).detail == {"limit": "rollouts", "value": 2}

    monkeypatch.setattr(rollout_machine, "RUNNING_MAX", 0)
    assert region.order(Move.START, "s").detail == {"limit": "running rollouts", "value": 0}


def test_a_draft_leaves_its_models_alone() -> None:
    region = RolloutRegion()
    wanted = Assignment(stable="3.0.0")
    region.create(start=False)
    region.apply(c.RequestPrefetch(model="m", assignment=wanted))

    assert region.order(Move.ABORT).ok
    assert region.state.models["m"].prefetch == wanted and region.rollout().phase is Phase.ABORTED


def test_a_plain_activation_that_settles_late_does_not_take_the_prefetch_away() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.ABORTED)
    model, change = region.state.models["m"], c.Change(model="m", assignment=candidate(100))
    region.apply(c.ActivateGeneration(changes=(change,), effective_at_ns=1, lead_ns=1, **region.fence()))

    region.order(Move.RETRY)
    assert model.prefetch == candidate(100)
    region.settle()
    assert model.prefetch == candidate(100)


def test_a_stage_has_its_own_cohort_or_that_of_the_strategy() -> None:
    lab = CohortSelector(labels={"room": "lab"})
    region = RolloutRegion()
    region.create(strategy=Strategy(stages=(Stage(share_bp=10_000, cohort=lab), Stage(share_bp=10_000))))

    assert region.state.models["m"].prefetch == candidate(10_000, cohort=lab)
    region.advance()
    region.settle()
    region.step(Move.PASS)
    assert region.state.models["m"].prefetch == candidate(10_000)


def test_a_repeated_request_creates_and_moves_once() -> None:
    region = RolloutRegion()
    first = region.create(request_id="q", fingerprint="f")
    assert region.create(request_id="q", fingerprint="f") == first
    assert region.order(Move.ABORT, request_id="p").ok and region.order(Move.ABORT, request_id="p").ok
    assert region.rollout().step == 2


def test_rollouts_survive_the_snapshot() -> None:
    region = RolloutRegion()
    region.bring_to(Phase.BAKING)
    region.freeze()
    copy = MetadataMachine()

    copy.restore(region.machine.snapshot())

    copy.check_invariants()
    assert copy.state == region.state
