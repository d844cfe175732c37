"""Rollouts as pages: every phase, every button, and charts whose marks lie where the numbers say."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest
from msgspec.structs import replace as structs_replace

from consistency_service.api.dashboard.actions import moves
from consistency_service.api.dashboard.charts import Value, distribution, scale_of
from consistency_service.api.dashboard.rendering import Renderer
from consistency_service.api.dashboard.rollout import rollout_page_of
from consistency_service.api.dashboard.rollouts import card_of
from consistency_service.api.dashboard.routes import AsOf
from consistency_service.api.rollout_views import ExposureShown, FindingShown, LiveShown, rollout_shown
from consistency_service.core.analysis import Finding, Result
from consistency_service.core.commands import CreateRollout, MoveRollout
from consistency_service.core.rollout import TRANSITIONS, Freeze, Move, Phase, Rollout, Target, Transition
from consistency_service.core.strategy import Check, Gate, Metric, Stage, Strategy
from consistency_service.runtime.rollout_facts import Judged, Live, ModelFinding
from edge_client.protocol.models import Assignment
from tests.api.served import Served, three_nodes
from tests.api.test_dashboard import EVIL, Page, foreign, look
from tests.api.test_rollouts import Edges, begin, ready_region, until

STAGES = (Stage(share_bp=100, bake_ms=30_000), Stage(share_bp=5_000, gate=Gate.MANUAL), Stage(share_bp=10_000))
CHECKS = (Check(metric=Metric.ERROR_RATE), Check(metric=Metric.LATENCY), Check(metric=Metric.LABEL_DRIFT))
CALLERS = {Move.START, Move.PAUSE, Move.RESUME, Move.PROMOTE, Move.ABORT, Move.RETRY}
AS_OF = AsOf(region="r", node_id="n1", epoch=1, revision=9, current=True, unix_ms=1_000_000)


def rollout(phase: Phase = Phase.BAKING, **more) -> Rollout:
    begun = {} if phase is Phase.DRAFT else {"stage": 1, "active_stage": 1, "step": 4, "baked_ms": 10_000}
    moved = Transition(
        step=4,
        revision=9,
        move=Move.FAIL,
        phase=phase,
        stage=1,
        at_unix_ms=5,
        author="",
        reason=EVIL,
        evidence={EVIL: EVIL},
    )
    return Rollout(
        rollout_id="r-1",
        targets=(Target(model="m", candidate="2.0.0", base=Assignment(stable="1.0.0")),),
        strategy=Strategy(stages=STAGES, analysis=CHECKS),
        salt="s",
        created_at_unix_ms=1,
        author=EVIL,
        phase=phase,
        resume_to=Phase.BAKING if phase is Phase.PAUSED else None,
        transitions=[moved],
        **begun | more,
    )


def finding(check: Check, result: Result, *, labels=None, **numbers) -> FindingShown:
    found = Finding(check=check, result=result, reason=EVIL, **numbers)
    judged = Judged(result=result, findings=(ModelFinding(model="m", finding=found, labels=labels or {}),), reason="")
    live = rollout_shown(rollout(), live=replace(NOTHING, judged=judged)).live
    assert live is not None
    return live.findings[0]


NOTHING = Live(
    ready_count=0,
    waiting_count=0,
    failed_count=0,
    ready=(),
    waiting=(),
    failed={},
    switched_count=0,
    stragglers={},
    straggler_count=0,
    judged=None,
    exposure={},
)
LIVE = LiveShown(
    ready_count=8_000,
    waiting_count=1_000,
    failed_count=1,
    ready=[f"cam-{number}" for number in range(100)],
    waiting=[f"way-{number}" for number in range(100)],
    failed={EVIL: EVIL},
    switched_count=8_000,
    stragglers={f"cam-{number}": "slow" for number in range(100)},
    straggler_count=1_001,
    analysis="failed",
    analysis_reason="",
    findings=[
        finding(
            CHECKS[0], Result.FAILED, value_candidate=0.09, value_stable=0.02, difference=0.07, low=0.05, high=0.09
        ),
        finding(CHECKS[1], Result.INCONCLUSIVE, value_candidate=14.0, value_stable=12.0, difference=1.1, low=1.02),
        finding(CHECKS[2], Result.INCONCLUSIVE, labels={EVIL: (30, 10), "person": (10, 30)}),
    ],
    exposure={"m": ExposureShown(readings=1_204, edges=3)},
)


async def rendered(shown: Rollout, *, live: LiveShown | None = None, frozen: Freeze | None = None) -> Page:
    view = rollout_page_of(shown, frozen=frozen, live=live)
    renderer = Renderer(now_unix_ms=lambda: 1_000_000)
    response = await renderer.page("rollout.html", as_of=AS_OF, here="rollout", frozen=frozen, view=view)
    return Page(bytes(response.body).decode())


@pytest.mark.parametrize("phase", Phase)
async def test_every_phase_has_a_page_with_the_buttons_that_the_table_allows(phase):
    page = await rendered(rollout(phase), live=LIVE)
    allowed = {str(move) for move in TRANSITIONS[phase] if move in CALLERS}

    assert [] == list(foreign(page))
    assert allowed | ({"promote-to-end"} if "promote" in allowed else set()) == page.buttons()
    assert EVIL in page.text and str(phase) in page.text


@pytest.mark.parametrize("phase", Phase)
def test_a_freeze_leaves_what_is_never_stopped(phase):
    frozen = {action.key for action in moves(rollout(phase), frozen=True)}
    allowed = {str(move) for move in TRANSITIONS[phase] if move in CALLERS}

    assert allowed - {"start", "promote", "retry"} == frozen


@pytest.mark.parametrize(
    ("shown", "key", "path", "body", "says"),
    [
        (rollout(), "promote", "/v1/rollouts/r-1/promote", {"reason": ""}, "stage 3 of 3, 100 % of its cohort"),
        (rollout(), "promote-to-end", "/v1/rollouts/r-1/promote", {"reason": "", "to_end": True}, "1 remaining stage"),
        (rollout(stage=2, active_stage=2), "promote", "/v1/rollouts/r-1/promote", {"reason": ""}, "becomes stable"),
        (rollout(), "abort", "/v1/rollouts/r-1/abort", {"reason": ""}, "returns to m 1.0.0, all from one instant on"),
        (rollout(active_stage=None), "abort", "/v1/rollouts/r-1/abort", {"reason": ""}, "No edge serves the candidate"),
        (rollout(Phase.DRAFT), "start", "/v1/rollouts/r-1/start", {"reason": ""}, "stage 1 of 3, 1 % of its cohort"),
        (
            rollout(Phase.PAUSED),
            "resume",
            "/v1/rollouts/r-1/resume",
            {"reason": ""},
            "stage 2 of 3, 50 % of its cohort",
        ),
        (rollout(Phase.FAILED), "retry", "/v1/rollouts/r-1/retry", {"reason": ""}, "stage 1 of 3, 1 % of its cohort"),
    ],
)
def test_a_button_says_what_will_happen_and_names_the_step(shown, key, path, body, says):
    action = next(action for action in moves(shown, frozen=False) if action.key == key)

    assert ("POST", path, str(shown.step), True) == (action.method, action.path, action.if_match, action.reason)
    assert body == json.loads(action.body)
    assert says in action.says


@pytest.mark.parametrize(
    ("shown", "states"),
    [
        (rollout(Phase.DRAFT), ["ahead", "ahead", "ahead", "ahead"]),
        (rollout(), ["done", "now", "ahead", "ahead"]),
        (rollout(Phase.PAUSED), ["done", "held", "ahead", "ahead"]),
        (rollout(Phase.ABORTED), ["done", "failed", "ahead", "ahead"]),
        (rollout(Phase.PREFETCHING, stage=3), ["done", "done", "done", "now"]),
        (rollout(Phase.COMPLETED, stage=3), ["done", "done", "done", "done"]),
    ],
)
def test_the_stepper_stands_where_the_rollout_does(shown, states):
    assert states == [step.state for step in card_of(shown).steps]


async def test_what_the_authority_sees_is_shown_and_bounded():
    page = await rendered(rollout(), live=LIVE)

    assert "8 000 of 9 001 edges ready" in page.text and "1 000 on the way" in page.text and "1 failed" in page.text
    assert "1 204 readings by the candidate of m, at 3 edges" in page.text
    assert (99, 0) == (page.text.count(" slow"), page.text.count("is getting ready")), "a hundred names at most"
    assert "and 901 others" in page.text
    assert "worse by 7 % limit 2 %" in page.text and "worse by ×1.1 limit ×1.25" in page.text
    assert "could not be asked" not in page.text
    assert "could not be asked" in (await rendered(rollout())).text


async def test_a_bound_is_one_chart_with_the_candidate_and_the_bound():
    check = Check(metric=Metric.SCORE, bound=0.5)
    found = finding(check, Result.SUCCESSFUL, value_candidate=0.8, low=0.79, high=0.81, samples_candidate=700)
    page = await rendered(rollout(), live=LIVE.model_copy(update={"findings": [found]}))

    assert "score at least 0.5" in page.text and "candidate 0.8 700 readings limit 0.5" in page.text
    assert 1 == page.text.count("700 readings") == page.text.count("candidate 0.8")


async def test_a_check_that_another_release_states_is_left_out():
    strange = LIVE.findings[1].model_copy(update={"check": {"metric": "mood"}})
    page = await rendered(rollout(), live=LIVE.model_copy(update={"findings": [strange, LIVE.findings[0]]}))

    assert "worse by 7 %" in page.text and "×1.1" not in page.text


FOUND = {"model": "m", "metric": "error_rate", "result": "failed", "candidate": 0.09, "stable": 0.02} | {
    "difference": 0.07,
    "low": 0.05,
    "high": 0.09,
    "samples": [300, 900],
}


@pytest.mark.parametrize("phase", [Phase.ABORTING, Phase.FAILED])
async def test_what_a_stage_failed_on_stays_to_be_seen(phase):
    """The readings of the return's generation are others: what decided is on record."""
    failed = rollout(phase)
    evidence = {"exposed": {"m": {"readings": 1_500, "edges": 4}}, "findings": [FOUND, FOUND | {"metric": "mood"}]}
    failed.transitions[0] = structs_replace(failed.transitions[0], evidence=evidence)
    page = await rendered(failed, live=LIVE if phase is Phase.ABORTING else None)

    assert "on record with “fail”" in page.text
    assert "worse by 7 % limit 2 %" in page.text and "×1.1" not in page.text
    assert "1 500 readings by the candidate of m, at 4 edges" in page.text, "as many as were ever reported"
    assert "m readings 1500, edges 4" in page.text and "result failed, candidate 0.09" in page.text


async def test_a_retry_begins_without_the_record_of_what_failed_before():
    again = rollout(Phase.PREFETCHING)
    failed = structs_replace(again.transitions[0], evidence={"findings": [FOUND]})
    again.transitions = [failed, structs_replace(failed, step=5, move=Move.RETRY, evidence={})]

    assert "on record" not in (await rendered(again)).text


@pytest.mark.parametrize("checks", [(), (CHECKS[0], CHECKS[0])])
async def test_a_recorded_number_is_not_held_against_a_limit_that_may_not_be_its_own(checks):
    failed = rollout(Phase.FAILED)
    failed.strategy = Strategy(stages=STAGES, analysis=checks)
    failed.transitions[0] = structs_replace(failed.transitions[0], evidence={"findings": [FOUND]})

    assert "limit" not in (await rendered(failed)).text


async def test_any_node_shows_what_the_authority_sees(tmp_path):
    async with three_nodes(tmp_path) as region:
        leader = region.nodes[region.leader]
        served = Served(node=leader, app=None, http=region.callers[region.follower], store=leader.artifacts)
        await ready_region(served)
        async with Edges(served, count=6).reporting() as edges:
            edges.unready["e01"] = "out of memory"
            strategy = {"stages": [{"share": "100%", "gate": "manual"}], "prefetch": {"ready_min": "50%"}}
            await begin(served, strategy, rollout_id="r-1")
            await until(served, "r-1", "waiting")
            async with asyncio.timeout(15):
                for caller in region.callers.values():
                    # A page does without what does not come within a second; the next one has it.
                    while not {"5 of 6 edges ready", "out of memory"} <= await _told(caller):
                        await asyncio.sleep(0.2)


async def _told(caller: httpx.AsyncClient) -> set[str]:
    text = Page((await caller.get("/rollouts/r-1")).text).text
    return {words for words in ("5 of 6 edges ready", "out of memory") if words in text}


async def test_a_rollout_of_the_region(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    await served.activate("1.0.0")
    create = CreateRollout(
        rollout_id="r-1",
        models={"m": "2.0.0"},
        strategy=Strategy(stages=STAGES),
        start=False,
        author="mia",
        reason="new",
    )
    await served.node.propose(create)
    await served.node.propose(MoveRollout(rollout_id="r-1", move=Move.START, author="mia", reason="go"))

    assert "m 1.0.0 → 2.0.0" in (await look(served, "/")).text
    assert "m 1.0.0 → 2.0.0" in (await look(served, "/rollouts?only=running")).text
    assert "No rollout like that" in (await look(served, "/rollouts?only=ended")).text
    page = await look(served, "/rollouts/r-1")
    assert {"pause", "abort"} <= page.buttons() and "mia go" in page.text
    model = await look(served, "/models/m")
    assert "rollout r-1 is running; abort it first" in model.text and model.buttons() <= {"rollback"}
    assert "RolloutMoved m mia" in (await look(served, "/timeline?kind=RolloutMoved")).text
    assert "There is no rollout r-2" in (await look(served, "/rollouts/r-2", status=404)).text


@pytest.mark.parametrize("unit", ["share", "ms", "ratio", "number"])
@pytest.mark.parametrize(
    ("value", "low", "high", "limit"),
    [
        (0.5, 0.4, 0.6, 0.45),
        (-0.5, -3.0, None, 2.0),
        (1e-9, None, None, 1e9),
        (0.0, 0.0, 0.0, 0.0),
        (float("inf"), float("nan"), 3.0, None),
        (None, None, None, None),
    ],
)
def test_marks_lie_on_the_scale(unit, value, low, high, limit):
    chart = scale_of([Value(name="candidate", value=value, low=low, high=high, interval=True)], limit=limit, unit=unit)
    mark = chart.marks[0]
    places = [mark.x, mark.low_x, mark.high_x, chart.limit_x, *(x for x, _ in chart.ticks)]

    assert all(x is None or 0 <= x <= 100 for x in places)
    assert (mark.low_x or 0) <= (mark.high_x or 0) and 2 <= len(chart.ticks) <= 7


def test_marks_lie_where_the_numbers_say():
    sides = [Value(name="stable", value=0.02), Value(name="candidate", value=0.08)]
    chart = scale_of(sides, limit=0.04, unit="share")

    assert ([25.0, 100.0], 50.0) == ([mark.x for mark in chart.marks], chart.limit_x)
    assert [(0.0, "0 %"), (25.0, "2 %"), (50.0, "4 %"), (75.0, "6 %"), (100.0, "8 %")] == list(chart.ticks)
    assert "stable 2 %, candidate 8 %, limit 4 %" == chart.says


def test_labels_are_shares_of_their_side():
    bars = distribution([("a", 30, 1), ("b", 10, 3), *((f"rare-{n}", 0, 0) for n in range(100))])

    assert 12 == len(bars)
    assert ("a", 100.0, "75 %", "25 %") == (
        bars[0].label,
        bars[0].stable_width,
        bars[0].stable_text,
        bars[0].candidate_text,
    )
    assert ("b", 100.0) == (bars[1].label, bars[1].candidate_width)
