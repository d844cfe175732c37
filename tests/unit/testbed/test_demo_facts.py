"""The demo's own judgement: one fact out of place, and it does not claim success."""

from __future__ import annotations

import msgspec
import pytest

from consistency_service.testbed.demo_facts import Facts, RolloutFacts, expected_correct, served_by
from consistency_service.testbed.demo_region import Accepted, RolloutSeen, TransitionSeen
from consistency_service.testbed.demo_rollouts import cohort_of, rollout_id_for
from consistency_service.testbed.demo_summary import summarize
from consistency_service.testbed.demo_view import promises_table, rollout_text, sentences
from consistency_service.testbed.edge_status import EdgeStatus, SwitchSeen, VersionTally
from consistency_service.testbed.history import Operation, check
from edge_client.protocol.models import Assignment

MS = 1_000_000
EDGES = ["edge-1", "edge-2"]


BAD, GOOD = "3.0.0", "4.0.0"
CHANGES = {"swap": 2, "bad 3": 3, "return": 4, "good 5": 5, "good 6": 6, "completion": 7, "rollback": 8}
"""Name to generation; activation and time follow from it."""


def switch(generation: int, *, late_ms: float) -> SwitchSeen:
    return SwitchSeen(
        generation=generation,
        activation=10 * generation,
        late_ns=int(late_ms * MS),
        uncertainty_ns=2 * MS,
        at_local_ns=int((generation * 10_000 + 2_000 + late_ms) * MS),
    )


def status(edge: str, *, late_ms: float) -> EdgeStatus:
    tried = {BAD: VersionTally(classified=7, correct=7)} if edge == "edge-2" else {}
    return EdgeStatus(
        pid=1,
        at_ns=90_000 * MS,
        edge_id=edge,
        model="digits",
        version="2.0.0",
        generation=8,
        guarantee="strong",
        staleness_bound_ms=0,
        reads={"strong": 50, "bounded": 1},
        versions={
            "1.0.0": VersionTally(classified=6, correct=3),
            "2.0.0": VersionTally(classified=45, correct=45),
            **tried,
        },
        switches=[switch(generation, late_ms=late_ms) for generation in CHANGES.values()],
    )


def accepted(generation: int) -> Accepted:
    return Accepted(at_ns=generation * 10_000 * MS, generation=generation, activation=10 * generation)


def rollout(name: str, *, phase: str, moves: list[str], generations: list[int]) -> RolloutFacts:
    transitions = [
        TransitionSeen(step=step, revision=step, move=move, phase=phase, stage=0, reason=f"because of {move}")
        for step, move in enumerate(moves)
    ]
    seen = RolloutSeen(
        rollout_id=name, phase=phase, stage=0, active_stage=0, baked_ms=3_000, transitions=transitions, live=None
    )
    return RolloutFacts(
        rollout_id=name,
        version={"bad": BAD, "good": GOOD}[name],
        stages=["20 %", "100 %"],
        cohort=["edge-2"],
        seen=seen,
        decided=[accepted(generation) for generation in generations],
        failed_at_ns=33_500 * MS if phase == "failed" else None,
        exposed=7 if phase == "failed" else None,
    )


def facts(**changes) -> Facts:
    statuses = {edge: status(edge, late_ms=late_ms) for edge, late_ms in zip(EDGES, (1, 3.5), strict=True)}
    found = Facts(
        versions=("2.0.0", GOOD),
        predicted={version: [True, True, True] for version in ("2.0.0", BAD, GOOD)} | {"1.0.0": [True, False]},
        statuses=statuses,
        changes={name: accepted(generation) for name, generation in CHANGES.items()},
        told_ns={"swap": 22_010 * MS, "rollback": 82_020 * MS},
        rollouts={
            "bad": rollout("bad", phase="failed", moves=["start", "activate", "fail", "return"], generations=[3, 4]),
            "good": rollout(
                "good",
                phase="completed",
                moves=["start", "activate", "pass", "activate", "pass", "complete"],
                generations=[5, 6, 7],
            ),
        },
        killed="node-1",
        statuses_at_kill=msgspec.convert(msgspec.to_builtins(statuses), dict[str, EdgeStatus]),
        commit_after_ms=450.0,
        leader_after="node-2",
        verdict=check([]),
        served={BAD: {"edge-2": 7}},
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def summary_of(found: Facts, *, trouble=None, failover=True, rollouts=True, duration_s=30.0):
    return summarize(
        found,
        edges=EDGES,
        trouble=trouble,
        duration_s=duration_s,
        duration_s_max=240.0,
        directory="here",
        failover=failover,
        rollouts=rollouts,
    )


def changed(**changes) -> Facts:
    """The facts, with changes to the first edge's last status."""
    found = facts()
    for name, value in changes.items():
        setattr(found.statuses["edge-1"], name, value)
    return found


def without(change: str) -> Facts:
    """The first edge never made this change."""
    kept = [generation for name, generation in CHANGES.items() if name != change]
    return changed(switches=[switch(generation, late_ms=1) for generation in kept])


def late(change: str, *, late_ms: float) -> Facts:
    """The first edge made this change so late."""
    return changed(switches=[switch(g, late_ms=late_ms if g == CHANGES[change] else 1) for g in CHANGES.values()])


def rolled(which: str, **changes) -> Facts:
    found = facts()
    for name, value in changes.items():
        setattr(found.rollouts[which], name, value)
    return found


def test_all_is_well():
    summary = summary_of(facts())

    assert ([], True) == (summary.problems, summary.ok), summary.promises
    assert all(promise.held and promise.limit and promise.value for promise in summary.promises)
    assert (2003.5, 2010.0, 2.5, 2.0) == (summary.swap_ms, summary.told_ms, summary.spread_ms, summary.uncertainty_ms)
    assert (2003.5, 2020.0) == (summary.rollback_ms, summary.rollback_told_ms)
    assert {"1.0.0": 0.5, "2.0.0": 1.0, BAD: 1.0} == summary.accuracy
    assert {"strong": 100, "bounded": 2} == summary.reads
    assert [0, 0] == [edge.not_strong_since_kill for edge in summary.edges]
    assert "everything was as promised (30 s)" == sentences(summary)[-1]

    bad, good = summary.rollouts
    assert ("failed", {"edge-2": 7}, 7) == (bad.phase, bad.classified, bad.exposed)
    assert (1496.5, 10000.0) == (bad.noticed_ms, bad.returned_ms)  # from the first reading, 32,003.5 ms
    assert ("completed", None, None) == (good.phase, good.noticed_ms, good.returned_ms)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (changed(wrong_reads=1, last_wrong="a mix"), "edge-1 had 1 wrong readings; the last: a mix"),
        (changed(failed_reads=2, last_error="TooStaleError"), "edge-1 had 2 failed reads; the last: TooStaleError"),
        (changed(reads={"strong": 50, "bounded": 2}), "edge-1 lost strong: 1 readings"),
        (changed(reads={"strong": 50, "bounded": 1, "fallback": 3}), "edge-1 lost strong: 3 readings"),
        (
            changed(versions={"1.0.0": VersionTally(classified=6, correct=4)}),
            "edge-1: version 1.0.0 got 4 of 6 images right, not 3",
        ),
        (changed(versions={"5.0.0": VersionTally(classified=1)}), "version 5.0.0, which nobody pushed"),
        (facts(verdict=check([Operation(process="a", op="limit")])), "the history says: NOT as promised"),
    ],
)
def test_one_thing_out_of_place_is_enough(found, problem):
    summary = summary_of(found)

    assert not summary.ok
    assert any(problem in one for one in summary.problems), summary.problems
    assert "not as promised" in sentences(summary)[-1]


@pytest.mark.parametrize(
    ("found", "promise", "value"),
    [
        (without("swap"), "edges that changed to the better model", "1 of 2"),
        (facts(statuses={}), "edges that changed to the better model", "0 of 2"),
        (late("swap", late_ms=2_001), "from decided to the last edge", "4,001 ms"),
        (late("swap", late_ms=60), "between the first and the last edge's instant", "56.5 ms"),
        (facts(commit_after_ms=None), "leader killed: the next change is committed", "not measured"),
        (facts(commit_after_ms=5_001.0), "leader killed: the next change is committed", "5,001 ms"),
        (changed(reads={"strong": 50, "bounded": 2}), "leader killed: readings that were not strong", "1"),
        (facts(statuses_at_kill={}), "leader killed: readings that were not strong", "not measured"),
        (facts(served={BAD: {"edge-2": 7, "edge-1": 1}}), "outside its cohort (edge-2)", "1"),
        (facts(served={BAD: {"edge-2": 8}}), "classifications by 3.0.0", "8 = 7"),
        (facts(served={}), "classifications by 3.0.0", "0 = 7"),
        (rolled("bad", exposed=6), "classifications by 3.0.0", "7 = 6"),
        (facts(verdict=None), "outside its cohort", "not measured"),
        (rolled("bad", failed_at_ns=45_000 * MS), "from 3.0.0's first answer to the verdict", "12,996 ms"),
        (late("return", late_ms=8_000), "from 3.0.0's first answer to the last return", "17,996 ms"),
        (without("return"), "edges that returned to stable", "1 of 2"),
        (late("return", late_ms=60), "between the first and the last edge's return", "56.5 ms"),
        (
            facts(rollouts={"bad": facts().rollouts["bad"]}),
            "stages that a good version went through",
            "not measured",
        ),
        (
            rolled(
                "good", seen=rollout("good", phase="completed", moves=["activate", "complete"], generations=[]).seen
            ),
            "stages that a good version went through",
            "1 of 2",
        ),
        (without("completion"), "edges that it became stable for", "1 of 2"),
        (without("rollback"), "edges that a later rollback took back", "1 of 2"),
        (late("rollback", late_ms=2_001), "rollback: from decided to the last edge", "4,001 ms"),
        (late("rollback", late_ms=60), "rollback: between the first and the last edge", "56.5 ms"),
        (changed(wrong_reads=1), "readings that were not what they said", "1"),
        (changed(failed_reads=1), "reads that failed", "1"),
        (facts(verdict=None), "violations in the history (exact check)", "not measured"),
    ],
)
def test_a_promise_beyond_its_limit_or_never_measured_is_not_held(found, promise, value):
    summary = summary_of(found)
    broken = {one.promise: one.value for one in summary.promises if not one.held}

    assert not summary.ok
    assert any(promise in name and value == told for name, told in broken.items()), broken
    assert any(f"not held: {name}" in line for name in broken for line in sentences(summary))


def test_a_demo_that_took_too_long_broke_its_promise():
    assert not summary_of(facts(), duration_s=241.0).ok


def test_after_an_early_end_its_cause_and_misdeeds_are_the_problems():
    found = changed(wrong_reads=1)
    found.changes, found.verdict, found.commit_after_ms = {}, None, None
    summary = summary_of(found, trouble="time is up")

    assert ["time is up", "edge-1 had 1 wrong readings; the last: None"] == summary.problems
    assert not summary_of(facts(), trouble="time is up").ok


def test_where_nobody_can_be_killed_or_compared_nothing_is_missing():
    assert summary_of(facts(killed=None, commit_after_ms=None, statuses_at_kill={}), failover=False).ok
    assert summary_of(facts(rollouts={}), rollouts=False).ok
    assert not summary_of(facts(rollouts={})).ok


def test_a_fifth_of_few_edges_is_as_many_as_it_should_be():
    for count in range(2, 13):
        edges = [f"edge-{number}" for number in range(1, count + 1)]
        assert max(1, round(count / 5)) == len(cohort_of(rollout_id_for(BAD, edges), edges))
    five = [f"edge-{number}" for number in range(1, 6)]
    assert "digits-3.0.0" == rollout_id_for(BAD, five)


def test_who_served_what_is_counted_from_what_edges_recorded():
    def read(process, version, reads, **more):
        return Operation(
            process=process,
            op="read",
            model="m",
            generation=1,
            guarantee="strong",
            version=version,
            reads=reads,
            **more,
        )

    told = read("demo", "1.0.0", 1, assignment=Assignment(stable="1.0.0"))  # through REST: nothing was served
    counted = served_by([read("a", "1.0.0", 3), read("b", "1.0.0", 1), read("a", "1.0.0", 2), read("a", BAD, 4), told])

    assert {"1.0.0": {"a": 5, "b": 1}, BAD: {"a": 4}} == counted


def test_a_failed_rollout_shows_where_and_why():
    found = facts().rollouts["bad"]

    assert "rollout bad   ✗ 20 %   · 100 %   failed\nbecause of fail" == rollout_text(found).plain
    assert len(summary_of(facts()).promises) == promises_table(summary_of(facts()).promises).row_count


def test_images_are_counted_in_turn():
    assert [0, 1, 1, 2, 3, 3] == [expected_correct([True, False, True], classified=count) for count in range(6)]
    assert expected_correct([], classified=3) is None
