"""What the demo saw: filled in while it runs, judged by `demo_promises`, told by `demo_summary`. Pure values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from consistency_service.testbed.demo_region import Accepted, FindingSeen, RolloutSeen
from consistency_service.testbed.edge_status import EdgeStatus, SwitchSeen, VersionTally
from consistency_service.testbed.history import Operation, Verdict

MS: Final = 1_000_000


class RolloutFacts(msgspec.Struct, kw_only=True):
    """One rollout, as the demo followed it."""

    rollout_id: str
    version: str
    stages: list[str]
    """The share of each, as written."""
    cohort: list[str]
    """The edges of the first stage."""
    seen: RolloutSeen | None = None
    """What the region said last."""
    finding: FindingSeen | None = None
    """The last comparison of candidate and stable."""
    decided: list[Accepted] = []
    """Its activations in turn, the return among them."""
    failed_at_ns: int | None = None
    """When the demo saw that it had failed."""
    exposed: int | None = None
    """How many readings of the candidate the region knew of some time after the end."""

    def change(self, decided: Accepted) -> str:
        """The name of one of its activations among all changes."""
        return f"{self.rollout_id} {decided.generation}"


class Facts(msgspec.Struct, kw_only=True):
    """Filled in as the demo goes on."""

    versions: tuple[str, str] = ("", "")
    """The one before and the one after, of this act."""
    predicted: dict[str, list[bool]] = {}
    """Version to: is it right about held-out image number i?"""
    statuses: dict[str, EdgeStatus] = {}
    """Edge to what it said last."""
    changes: dict[str, Accepted] = {}
    """What all edges were to do at one instant, by name, in the order in which it was decided: `swap`, `return`,
    `completion`, `rollback`, and each activation of a rollout."""
    told_ns: dict[str, int] = {}
    """When the caller of a change was told that it is effective."""
    rollouts: dict[str, RolloutFacts] = {}
    """`bad` and `good`."""
    killed: str | None = None
    statuses_at_kill: dict[str, EdgeStatus] = {}
    statuses_after_kill: dict[str, EdgeStatus] = {}
    """At the end of what was watched; until then the last statuses count."""
    commit_after_ms: float | None = None
    leader_after: str | None = None
    verdict: Verdict | None = None
    served: dict[str, dict[str, int]] = {}
    """By the recorded histories: version to edge to how often that edge read it."""

    def switch(self, change: str, edge: str) -> SwitchSeen | None:
        """How this edge made the change."""
        status, decided = self.statuses.get(edge), self.changes.get(change)
        if status is None or decided is None:
            return None
        return next((switch for switch in status.switches if switch.activation == decided.activation), None)

    def made(self, change: str, edge: str) -> bool:
        """Whether this edge has read the generation of the change."""
        switch = self.switch(change, edge)
        return switch is not None and switch.at_local_ns is not None

    def seen_ns(self, change: str, edges: Iterable[str]) -> list[int]:
        """When each of these edges that did first read the generation of the change."""
        found = [self.switch(change, edge) for edge in edges]
        return [switch.at_local_ns for switch in found if switch is not None and switch.at_local_ns is not None]

    def spread_ms(self, change: str) -> float | None:
        """Between the first and the last computed instant; None before two edges have switched."""
        found = [self.switch(change, edge) for edge in self.statuses]
        late_ns = [switch.late_ns for switch in found if switch is not None]
        return (max(late_ns) - min(late_ns)) / MS if len(late_ns) > 1 else None

    def took_ms(self, change: str) -> float | None:
        """From when the change was known to be decided until the last edge's first reading of it; None before."""
        at_ns = self.seen_ns(change, self.statuses)
        return (max(at_ns) - self.changes[change].at_ns) / MS if at_ns else None

    def told_ms(self, change: str) -> float | None:
        """From the same moment until its caller was told that it is effective."""
        told_ns, decided = self.told_ns.get(change), self.changes.get(change)
        return None if told_ns is None or decided is None else (told_ns - decided.at_ns) / MS

    def not_strong_since_kill(self, edge: str) -> int | None:
        """Readings of this edge that were not strong, or failed, while the leader's death was watched; None before."""
        before = self.statuses_at_kill.get(edge)
        after = self.statuses_after_kill.get(edge) or self.statuses.get(edge)
        if before is None or after is None:
            return None
        return after.not_strong_count + after.failed_reads - before.not_strong_count - before.failed_reads

    def noticed_ms(self, rollout: RolloutFacts) -> float | None:
        """From the first reading of the candidate until the demo saw that the rollout had failed."""
        began_ns = self._began_ns(rollout)
        return None if began_ns is None or rollout.failed_at_ns is None else (rollout.failed_at_ns - began_ns) / MS

    def returned_ms(self, rollout: RolloutFacts) -> float | None:
        """From the first reading of the candidate until the last edge's first reading after the return."""
        began_ns, at_ns = self._began_ns(rollout), self.seen_ns("return", self.statuses)
        return None if began_ns is None or rollout.failed_at_ns is None or not at_ns else (max(at_ns) - began_ns) / MS

    def _began_ns(self, rollout: RolloutFacts) -> int | None:
        first = rollout.decided[:1]
        return min(self.seen_ns(rollout.change(first[0]), rollout.cohort), default=None) if first else None

    def classified(self, version: str) -> dict[str, int]:
        """Edge to how many images it says it classified with this version, if any."""
        counts = {edge: status.versions.get(version) for edge, status in self.statuses.items()}
        return {edge: tally.classified for edge, tally in counts.items() if tally is not None and tally.classified}


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


def expected_correct(predicted: list[bool], *, classified: int) -> int | None:
    """How many of so many images, taken in turn, a version gets right; None for a version that is not known."""
    if not predicted:
        return None
    rounds, rest = divmod(classified, len(predicted))
    return rounds * sum(predicted) + sum(predicted[:rest])


def served_by(operations: Iterable[Operation]) -> dict[str, dict[str, int]]:
    """Version to process to how often it read that version, of what edges recorded."""
    served: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for operation in operations:
        if operation.op == "read" and operation.version is not None and operation.assignment is None:
            served[operation.version][operation.process] += operation.reads
    return {version: dict(counts) for version, counts in served.items()}
