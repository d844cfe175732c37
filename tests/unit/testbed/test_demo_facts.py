"""The demo's own judgement: one fact out of place, and it does not claim success."""

from __future__ import annotations

import msgspec
import pytest

from consistency_service.testbed.demo_facts import Facts, expected_correct, summarize
from consistency_service.testbed.demo_region import Accepted
from consistency_service.testbed.demo_view import sentences
from consistency_service.testbed.edge_status import EdgeStatus, SwitchSeen, VersionTally
from consistency_service.testbed.history import Operation, check

MS = 1_000_000
EDGES = ["edge-1", "edge-2"]


def status(edge: str, *, late_ms: float) -> EdgeStatus:
    return EdgeStatus(
        pid=1,
        at_ns=9_000 * MS,
        edge_id=edge,
        model="digits",
        version="2.0.0",
        generation=2,
        guarantee="strong",
        staleness_bound_ms=0,
        reads={"strong": 50, "bounded": 1},
        versions={
            "1.0.0": VersionTally(classified=6, correct=3),
            "2.0.0": VersionTally(classified=45, correct=45),
        },
        switches=[
            SwitchSeen(
                generation=2,
                activation=7,
                late_ns=int(late_ms * MS),
                uncertainty_ns=2 * MS,
                at_local_ns=int((3_000 + late_ms) * MS),
            )
        ],
    )


def facts(**changes) -> Facts:
    statuses = {edge: status(edge, late_ms=late_ms) for edge, late_ms in zip(EDGES, (1, 3.5), strict=True)}
    found = Facts(
        versions=("1.0.0", "2.0.0"),
        predicted={"1.0.0": [True, False], "2.0.0": [True, True, True]},
        statuses=statuses,
        accepted=Accepted(at_ns=1_000 * MS, generation=2, activation=7),
        told_ns=3_010 * MS,
        killed="node-1",
        statuses_at_kill=msgspec.convert(msgspec.to_builtins(statuses), dict[str, EdgeStatus]),
        commit_after_ms=450.0,
        leader_after="node-2",
        verdict=check([]),
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def summary_of(found: Facts, *, trouble=None, failover=True):
    return summarize(found, edges=EDGES, trouble=trouble, duration_s=30.0, directory="here", failover=failover)


def changed(**changes) -> Facts:
    """The facts, with changes to the first edge's last status."""
    found = facts()
    for name, value in changes.items():
        setattr(found.statuses["edge-1"], name, value)
    return found


def test_all_is_well():
    summary = summary_of(facts())

    assert ([], True) == (summary.problems, summary.ok)
    assert (2003.5, 2010.0, 2.5, 2.0) == (summary.swap_ms, summary.told_ms, summary.spread_ms, summary.uncertainty_ms)
    assert {"1.0.0": 0.5, "2.0.0": 1.0} == summary.accuracy
    assert {"strong": 100, "bounded": 2} == summary.reads
    assert [0, 0] == [edge.not_strong_since_kill for edge in summary.edges]
    assert "everything was as promised (30 s)" == sentences(summary)[-1]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (changed(version="1.0.0"), "edge-1 did not make the switch: it serves 1.0.0"),
        (changed(generation=1), "edge-1 did not make the switch"),
        (changed(wrong_reads=1, last_wrong="a mix"), "edge-1 had 1 wrong readings; the last: a mix"),
        (changed(failed_reads=2, last_error="TooStaleError"), "edge-1 had 2 failed reads; the last: TooStaleError"),
        (changed(reads={"strong": 50, "bounded": 2}), "edge-1 lost strong: 1 readings"),
        (changed(reads={"strong": 50, "bounded": 1, "fallback": 3}), "edge-1 lost strong: 3 readings"),
        (
            changed(versions={"1.0.0": VersionTally(classified=6, correct=4)}),
            "edge-1: version 1.0.0 got 4 of 6 images right, not 3",
        ),
        (changed(versions={"3.0.0": VersionTally(classified=1)}), "version 3.0.0, which nobody pushed"),
        (facts(statuses={}), "edge-2 never said anything"),
        (facts(accepted=None), "edge-2 did not make the switch"),
        (facts(verdict=None), "no history was checked"),
        (facts(verdict=check([Operation(process="a", op="limit")])), "the history says: NOT as promised"),
        (facts(commit_after_ms=None), "no change was committed after the leader was killed"),
    ],
)
def test_one_thing_out_of_place_is_enough(found, problem):
    summary = summary_of(found)

    assert not summary.ok
    assert any(problem in one for one in summary.problems), summary.problems
    assert "not as promised" in sentences(summary)[-1]


def test_after_an_early_end_only_its_cause_and_misdeeds_are_told():
    found = changed(wrong_reads=1)
    found.accepted = found.verdict = found.commit_after_ms = None

    assert ["time is up", "edge-1 had 1 wrong readings; the last: None"] == summary_of(
        found, trouble="time is up"
    ).problems


def test_where_nobody_can_be_killed_nothing_is_missing():
    assert summary_of(facts(killed=None, commit_after_ms=None, statuses_at_kill={}), failover=False).ok


def test_images_are_counted_in_turn():
    assert [0, 1, 1, 2, 3, 3] == [expected_correct([True, False, True], classified=count) for count in range(6)]
    assert expected_correct([], classified=3) is None
