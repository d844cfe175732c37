"""The outcome of the demo, for people and programs: every promise with its limit and value, and what went wrong.

Pure: no file is read, nothing is printed.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from consistency_service.testbed.demo_facts import MS, Facts, RolloutFacts, accuracies, expected_correct
from consistency_service.testbed.demo_promises import Promise, promises_of


class EdgeSummary(msgspec.Struct, frozen=True, kw_only=True):
    edge_id: str
    version: str | None
    guarantee: str | None
    switch_late_ms: float | None
    switch_uncertainty_ms: float | None
    accuracy: dict[str, float]
    reads: dict[str, int]
    not_strong_since_kill: int | None
    failed_reads: int
    wrong_reads: int
    bare_read_ns_p50: float | None


class RolloutSummary(msgspec.Struct, frozen=True, kw_only=True):
    rollout_id: str
    version: str
    phase: str
    reason: str
    """Of its last move."""
    cohort: list[str]
    """The edges of the first stage."""
    classified: dict[str, int]
    """Edge to how many images it classified with the candidate."""
    exposed: int | None
    """How many of these the region knew of some time after a return."""
    noticed_ms: float | None
    """From the first reading of the candidate until the demo saw that the rollout had failed."""
    returned_ms: float | None
    """From the same moment until the last edge's first reading under the return."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. `ok` exactly when every promise was held and there are no problems."""

    ok: bool
    promises: list[Promise]
    problems: list[str]
    duration_s: float
    swap_ms: float | None
    """From when the activation was known to be decided until the last edge's first reading of the new version."""
    told_ms: float | None
    """From the same moment until its caller was told."""
    spread_ms: float | None
    uncertainty_ms: float | None
    """The widest uncertainty of any edge's instant."""
    rollback_ms: float | None
    """As `swap_ms`, of the rollback after completion."""
    rollback_told_ms: float | None
    """As `told_ms`, of the same."""
    accuracy: dict[str, float]
    reads: dict[str, int]
    bare_read_ns_p50: float | None
    killed: str | None
    leader_after: str | None
    commit_after_ms: float | None
    rollouts: list[RolloutSummary]
    edges: list[EdgeSummary]
    history: str
    directory: str


def summarize(
    facts: Facts,
    *,
    edges: list[str],
    trouble: str | None,
    duration_s: float,
    duration_s_max: float,
    directory: str,
    failover: bool,
    rollouts: bool,
) -> Summary:
    """The outcome of what was seen. `trouble` is why the demo ended early, if it did;
    without `failover` nobody was to be killed, without `rollouts` acts 2 and 3 were left out.
    """
    promises = promises_of(
        facts,
        edges=edges,
        duration_s=duration_s,
        duration_s_max=duration_s_max,
        failover=failover,
        rollouts=rollouts,
    )
    problems = [problem for edge in edges for problem in _problems_of(facts, edge)]
    if facts.verdict is not None and not facts.verdict.ok:
        problems.append(f"the history says: {facts.verdict.words()}")
    if trouble is not None:  # what is missing then follows from it
        problems = [trouble, *problems]
    statuses = list(facts.statuses.values())
    switches = [switch for edge in edges if (switch := facts.switch("swap", edge)) is not None]
    costs = sorted(status.bare_read_ns_p50 for status in statuses if status.bare_read_ns_p50 is not None)
    reads: Counter[str] = Counter()
    for status in statuses:
        reads.update(status.reads)
    return Summary(
        ok=not problems and all(promise.held for promise in promises),
        promises=promises,
        problems=problems,
        duration_s=round(duration_s, 1),
        swap_ms=_rounded(facts.took_ms("swap")),
        told_ms=_rounded(facts.told_ms("swap")),
        spread_ms=_rounded(facts.spread_ms("swap")),
        uncertainty_ms=_ms(max(switch.uncertainty_ns for switch in switches)) if switches else None,
        rollback_ms=_rounded(facts.took_ms("rollback")),
        rollback_told_ms=_rounded(facts.told_ms("rollback")),
        accuracy=accuracies([status.versions for status in statuses]),
        reads=dict(reads.most_common()),
        bare_read_ns_p50=costs[len(costs) // 2] if costs else None,
        killed=facts.killed,
        leader_after=facts.leader_after,
        commit_after_ms=_rounded(facts.commit_after_ms),
        rollouts=[_rollout_summary(facts, rollout) for rollout in facts.rollouts.values()],
        edges=[_edge_summary(facts, edge) for edge in edges if edge in facts.statuses],
        history="not checked" if facts.verdict is None else facts.verdict.words(),
        directory=directory,
    )


def _problems_of(facts: Facts, edge: str) -> list[str]:
    """What this edge did, but should not have."""
    status = facts.statuses.get(edge)
    if status is None:
        return []
    problems = []
    if status.wrong_reads:
        problems.append(f"{edge} had {status.wrong_reads} wrong readings; the last: {status.last_wrong}")
    if status.failed_reads:
        problems.append(f"{edge} had {status.failed_reads} failed reads; the last: {status.last_error}")
    if facts.not_strong_since_kill(edge):
        problems.append(f"{edge} lost strong: {facts.not_strong_since_kill(edge)} readings since the kill were not")
    for version, tally in status.versions.items():
        expected = expected_correct(facts.predicted.get(version, []), classified=tally.classified)
        if expected is None:
            problems.append(f"{edge} classified with version {version}, which nobody pushed")
        elif expected != tally.correct:
            problems.append(
                f"{edge}: version {version} got {tally.correct} of {tally.classified} images right, not {expected}"
            )
    return problems


def _edge_summary(facts: Facts, edge: str) -> EdgeSummary:
    status, switch = facts.statuses[edge], facts.switch("swap", edge)
    return EdgeSummary(
        edge_id=edge,
        version=status.version,
        guarantee=status.guarantee,
        switch_late_ms=_ms(switch.late_ns) if switch else None,
        switch_uncertainty_ms=_ms(switch.uncertainty_ns) if switch else None,
        accuracy=accuracies([status.versions]),
        reads=status.reads,
        not_strong_since_kill=facts.not_strong_since_kill(edge),
        failed_reads=status.failed_reads,
        wrong_reads=status.wrong_reads,
        bare_read_ns_p50=status.bare_read_ns_p50,
    )


def _rollout_summary(facts: Facts, rollout: RolloutFacts) -> RolloutSummary:
    seen = rollout.seen
    return RolloutSummary(
        rollout_id=rollout.rollout_id,
        version=rollout.version,
        phase="unknown" if seen is None else seen.phase,
        reason=seen.transitions[-1].reason if seen is not None and seen.transitions else "",
        cohort=rollout.cohort,
        classified=facts.classified(rollout.version),
        exposed=rollout.exposed,
        noticed_ms=_rounded(facts.noticed_ms(rollout)),
        returned_ms=_rounded(facts.returned_ms(rollout)),
    )


def _ms(duration_ns: int) -> float:
    return round(duration_ns / MS, 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
