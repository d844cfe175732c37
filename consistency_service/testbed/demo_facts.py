"""What the demo saw, and whether that is what was promised.

`Facts` is collected while the demo runs; `summarize` turns it into a `Summary`, which is either without problems or says
in sentences what was not as promised. Pure: no file is read, nothing is printed.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from consistency_service.testbed.demo_region import Accepted
from consistency_service.testbed.edge_status import EdgeStatus, SwitchSeen, VersionTally
from consistency_service.testbed.history import Verdict

MS: Final = 1_000_000


class Facts(msgspec.Struct, kw_only=True):
    """Filled in as the demo goes on."""

    versions: tuple[str, str]
    """The one before and the one after."""
    predicted: dict[str, list[bool]] = {}
    """Version to: is it right about held-out image number i?"""
    statuses: dict[str, EdgeStatus] = {}
    """Edge to what it said last."""
    accepted: Accepted | None = None
    """The swap from the first version to the second."""
    told_ns: int | None = None
    """When the caller of the swap was told that it is effective."""
    killed: str | None = None
    statuses_at_kill: dict[str, EdgeStatus] = {}
    commit_after_ms: float | None = None
    leader_after: str | None = None
    verdict: Verdict | None = None

    def switch(self, edge: str) -> SwitchSeen | None:
        """How this edge came to serve the second version."""
        status = self.statuses.get(edge)
        if status is None or self.accepted is None:
            return None
        found = [switch for switch in status.switches if switch.activation == self.accepted.activation]
        return found[0] if found else None

    def switched(self, edge: str) -> bool:
        """Whether this edge serves the second version, under the generation of the swap."""
        status = self.statuses.get(edge)
        if status is None or self.accepted is None:
            return False
        return (status.version, status.generation) == (self.versions[1], self.accepted.generation)

    def spread_ms(self) -> float | None:
        """Between the first and the last computed instant; None before two edges have switched."""
        late_ns = [switch.late_ns for edge in self.statuses if (switch := self.switch(edge)) is not None]
        return (max(late_ns) - min(late_ns)) / MS if len(late_ns) > 1 else None

    def not_strong_since_kill(self, edge: str) -> int | None:
        """Readings of this edge that were not strong, or failed, after the leader was killed; None before."""
        before, now = self.statuses_at_kill.get(edge), self.statuses.get(edge)
        if before is None or now is None:
            return None
        return now.not_strong_count + now.failed_reads - before.not_strong_count - before.failed_reads


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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. `problems` is empty exactly when everything was as promised."""

    ok: bool
    problems: list[str]
    duration_s: float
    swap_ms: float | None
    """From when the activation was known to be decided until the last edge's first reading of the new version."""
    told_ms: float | None
    """From the same moment until its caller was told."""
    spread_ms: float | None
    uncertainty_ms: float | None
    """The widest uncertainty of any edge's instant."""
    accuracy: dict[str, float]
    reads: dict[str, int]
    bare_read_ns_p50: float | None
    killed: str | None
    leader_after: str | None
    commit_after_ms: float | None
    edges: list[EdgeSummary]
    history: str
    directory: str


def summarize(
    facts: Facts, *, edges: list[str], trouble: str | None, duration_s: float, directory: str, failover: bool
) -> Summary:
    """The outcome of what was seen. `trouble` is why the demo ended early, if it did;
    without `failover` nobody was to be killed.
    """
    problems = [problem for edge in edges for problem in _problems_of(facts, edge)]
    if facts.verdict is not None and not facts.verdict.ok:
        problems.append(f"the history says: {facts.verdict.words()}")
    missing = [problem for edge in edges for problem in _missing_of(facts, edge)]
    if facts.verdict is None:
        missing.append("no history was checked")
    if failover and facts.commit_after_ms is None:
        missing.append("no change was committed after the leader was killed")
    problems = (
        [*missing, *problems] if trouble is None else [trouble, *problems]
    )  # what is missing then follows from it
    statuses = list(facts.statuses.values())
    switches = [switch for edge in edges if (switch := facts.switch(edge)) is not None]
    first_ns = [switch.at_local_ns for switch in switches if switch.at_local_ns is not None]
    accepted_ns = facts.accepted.at_ns if facts.accepted else None
    costs = sorted(status.bare_read_ns_p50 for status in statuses if status.bare_read_ns_p50 is not None)
    reads: Counter[str] = Counter()
    for status in statuses:
        reads.update(status.reads)
    return Summary(
        ok=not problems,
        problems=problems,
        duration_s=round(duration_s, 1),
        swap_ms=_ms(max(first_ns) - accepted_ns) if first_ns and accepted_ns is not None else None,
        told_ms=_ms(facts.told_ns - accepted_ns) if facts.told_ns is not None and accepted_ns is not None else None,
        spread_ms=_rounded(facts.spread_ms()),
        uncertainty_ms=_ms(max(switch.uncertainty_ns for switch in switches)) if switches else None,
        accuracy=accuracies([status.versions for status in statuses]),
        reads=dict(reads.most_common()),
        bare_read_ns_p50=costs[len(costs) // 2] if costs else None,
        killed=facts.killed,
        leader_after=facts.leader_after,
        commit_after_ms=_rounded(facts.commit_after_ms),
        edges=[_edge_summary(facts, edge) for edge in edges if edge in facts.statuses],
        history="not checked" if facts.verdict is None else facts.verdict.words(),
        directory=directory,
    )


def accuracies(tallies: list[dict[str, VersionTally]]) -> dict[str, float]:
    """Version to the share of images it got right, over all edges."""
    total: dict[str, VersionTally] = {}
    for tally in tallies:
        for version, counted in tally.items():
            both = total.setdefault(version, VersionTally())
            both.classified += counted.classified
            both.correct += counted.correct
    return {
        version: round(counted.accuracy, 4)
        for version, counted in sorted(total.items())
        if counted.accuracy is not None
    }


def _missing_of(facts: Facts, edge: str) -> list[str]:
    """What this edge did not do, but should have."""
    status = facts.statuses.get(edge)
    if status is None:
        return [f"{edge} never said anything"]
    if not facts.switched(edge):
        return [f"{edge} did not make the switch: it serves {status.version or 'nothing'}"]
    return []


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


def expected_correct(predicted: list[bool], *, classified: int) -> int | None:
    """How many of so many images, taken in turn, a version gets right; None for a version that is not known."""
    if not predicted:
        return None
    rounds, rest = divmod(classified, len(predicted))
    return rounds * sum(predicted) + sum(predicted[:rest])


def _edge_summary(facts: Facts, edge: str) -> EdgeSummary:
    status, switch = facts.statuses[edge], facts.switch(edge)
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


def _ms(duration_ns: int) -> float:
    return round(duration_ns / MS, 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
