"""What does this node see of rollouts? One walk over the fleet answers for all of them, whatever their number.

Picture a steward who walks once through the train with the lists of all travel groups, and ticks off who is on board. Each
passenger costs the same, however long the train is; where an edge falls in a rollout's shares is computed once and kept.
Nothing is changed here, and nothing that must be true hangs on it: it decides how long a stage waits, not who gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from consistency_service.core.analysis import Analysis, ExternalAnswer, Finding, Result, Sheet, judge
from consistency_service.core.fleet import LIVE_NS, EdgeView
from consistency_service.core.observed_totals import ObservedTotals, Total
from consistency_service.core.rollout import EVIDENCE_BYTES_MAX, Phase, Rollout
from consistency_service.core.state import State
from consistency_service.core.strategy import Metric
from edge_client.protocol.bucketing import SHARE_BP_MAX, bucket_of
from edge_client.protocol.messages import EdgeReport, ServedModel
from edge_client.protocol.models import Assignment, Version

NAMES_MAX: Final = 100
"""Edges that are named in an answer; all are counted."""
SALTS_MAX: Final = 200
BUCKETS_MAX: Final = 1_000_000
"""Of all rollouts together; some 150 bytes each."""
_READY, _WAITING, _FAILED = 0, 1, 2


class Buckets:
    """The bucket of each edge under each salt, computed once. Bounded: when it is full, all are computed again."""

    def __init__(self) -> None:
        self._by_salt: dict[str, dict[str, int]] = {}
        self._count = 0

    def of(self, salt: str) -> dict[str, int]:
        """Known buckets by edge id, to be looked up; `compute` adds to them."""
        known = self._by_salt.get(salt)
        if known is None:
            if len(self._by_salt) >= SALTS_MAX:
                self._count -= len(self._by_salt.pop(next(iter(self._by_salt))))
            known = self._by_salt[salt] = {}
        return known

    def compute(self, edge_id: str, *, salt: str) -> int:
        """The bucket of an edge that `of` did not know."""
        if self._count >= BUCKETS_MAX:
            for known in self._by_salt.values():
                known.clear()  # not the dict itself: who looks things up holds it
            self._count = 0
        bucket = self.of(salt)[edge_id] = bucket_of(edge_id, salt=salt)
        self._count += 1
        return bucket


class Share:
    """Who gets the candidate by one assignment; answers as `Assignment.version_for` does."""

    def __init__(self, assignment: Assignment, *, buckets: Buckets) -> None:
        self._assignment = assignment
        self._everybody = assignment.candidate is None or assignment.share_bp == SHARE_BP_MAX
        self._selects = bool(assignment.cohort.sites or assignment.cohort.labels) and assignment.candidate is not None
        self._buckets = buckets
        self._known = buckets.of(assignment.salt)

    def includes(self, report: EdgeReport) -> bool:
        """Whether this edge gets the candidate, or what is stable where there is none."""
        if self._selects and not self._assignment.cohort.matches(site=report.site, labels=report.labels):
            return False
        if self._everybody:
            return True
        bucket = self._known.get(report.edge_id)
        if bucket is None:
            bucket = self._buckets.compute(report.edge_id, salt=self._assignment.salt)
        return bucket < self._assignment.share_bp


@dataclass(slots=True)
class Tally:
    """How many live edges of a coming stage are ready, are not yet, or said why not."""

    ready: int = 0
    waiting: int = 0
    failed: int = 0


def readiness_of(
    rollouts: Iterable[Rollout], *, state: State, views: Iterable[EdgeView], buckets: Buckets, now_ns: int
) -> dict[str, Tally]:
    """By rollout id, how far the edges of the stage are that each prepares. An edge with several of its models is as far as
    the last of them.
    """
    watched: dict[str, tuple[str, str, Share]] = {}
    counts: dict[str, list[int]] = {}
    for rollout in rollouts:
        counts[rollout.rollout_id] = [0, 0, 0]
        for target in rollout.targets:
            share = Share(rollout.assignment_of(target, stage=rollout.stage), buckets=buckets)
            digest = state.models[target.model].versions[target.candidate].digest
            watched[target.model] = (rollout.rollout_id, digest, share)
    for view in views if watched else ():
        report = view.report
        if now_ns - view.heard_at_ns > LIVE_NS or report.leaving:
            continue
        found: dict[str, int] | None = None
        for served in report.models:
            watch = watched.get(served.model)
            if watch is None or not watch[2].includes(report):
                continue
            rollout_id, digest, _ = watch
            standing = _READY if digest in served.ready else _FAILED if digest in served.failed else _WAITING
            if found is None:
                found = {rollout_id: standing}
            elif standing > found.get(rollout_id, -1):
                found[rollout_id] = standing
        if found is not None:
            for rollout_id, standing in found.items():
                counts[rollout_id][standing] += 1
    return {rollout_id: Tally(ready=n[0], waiting=n[1], failed=n[2]) for rollout_id, n in counts.items()}


# ---- what came of readings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFinding:
    """What one check came to in one model of a rollout."""

    model: str
    finding: Finding
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of a drift of labels: counts of stable and of the candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The analysis of the active stage, over all models of the rollout."""

    result: Result
    findings: tuple[ModelFinding, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How many readings the candidate made in this rollout, and at how many edges, as far as they reported."""

    readings: int
    edges: int


def judged(
    rollout: Rollout, *, state: State, observed: ObservedTotals, answers: Mapping[int, ExternalAnswer]
) -> Judged | None:
    """The verdict on the active stage by what was reported under its generation; None if nothing is analysed.

    The stated probability to fail a good candidate is divided among the models, as it is among the checks of one.
    """
    if rollout.active_stage is None:
        return None
    checks = rollout.strategy.checks_of(rollout.active_stage)
    if not checks:
        return None
    analyses: list[tuple[str, Analysis, Sheet, Sheet]] = []
    for number, target in enumerate(rollout.targets):
        asked = [
            msgspec.structs.replace(check, error_probability=check.error_probability / len(rollout.targets))
            for check in checks
            if number == 0 or check.metric is not Metric.EXTERNAL
        ]
        model = state.models[target.model]
        generation = model.pending.generation if model.pending else model.generation
        candidate = _sheet(observed.total(target.model, target.candidate, generation))
        stable = _sheet(observed.total(target.model, target.base.stable, generation))
        analysis = judge(asked, candidate=candidate, stable=stable, external=answers)
        analyses.append((target.model, analysis, candidate, stable))
    results = {analysis.result for _, analysis, _, _ in analyses}
    result = next(r for r in (Result.FAILED, Result.INCONCLUSIVE, Result.SUCCESSFUL) if r in results)
    several = len(analyses) > 1
    return Judged(
        result=result,
        findings=tuple(
            ModelFinding(
                model=name,
                finding=finding,
                labels=_labels(candidate, stable) if finding.check.metric is Metric.LABEL_DRIFT else {},
            )
            for name, analysis, candidate, stable in analyses
            for finding in analysis.findings
        ),
        reason="; ".join(
            f"{name}: {analysis.reason}" if several else analysis.reason
            for name, analysis, _, _ in analyses
            if analysis.result is result and analysis.reason
        ),
    )


def exposure_of(rollout: Rollout, *, state: State, observed: ObservedTotals) -> dict[str, Exposure]:
    """By model, what the candidate did since this rollout first activated it."""
    found = {}
    for target in rollout.targets:
        model = state.models.get(target.model)
        history = model.history if model else []
        generations = {entry.generation for entry in history if entry.rollout_id == rollout.rollout_id}
        totals = [observed.total(target.model, target.candidate, generation) for generation in sorted(generations)]
        told = [total for total in totals if total is not None]
        found[target.model] = Exposure(
            readings=sum(total.observations.count for total in told),
            edges=max((total.edge_count for total in told), default=0),
        )
    return found


def evidence_of(judged: Judged | None, exposure: Mapping[str, Exposure]) -> dict[str, Any]:
    """The numbers that go on record with a move, as many as there is room for; those that decided first."""
    evidence: dict[str, Any] = {
        "exposed": {name: {"readings": e.readings, "edges": e.edges} for name, e in exposure.items()}
    }
    deciding = [] if judged is None else [f for f in judged.findings if f.finding.result is judged.result]
    findings: list[dict[str, Any]] = []
    for one in deciding:
        numbers = {
            "candidate": one.finding.value_candidate,
            "stable": one.finding.value_stable,
            "difference": one.finding.difference,
            "low": one.finding.low,
            "high": one.finding.high,
        }
        shown = {name: round(value, 6) for name, value in numbers.items() if value is not None}
        findings.append(
            {"model": one.model, "metric": one.finding.check.metric.value, "result": one.finding.result.value}
            | shown
            | {"samples": [one.finding.samples_candidate, one.finding.samples_stable]}
        )
        if len(msgspec.msgpack.encode(evidence | {"findings": findings})) > EVIDENCE_BYTES_MAX - 256:
            findings.pop()
            break
    return evidence | ({"findings": findings} if findings else {})


def _sheet(total: Total | None) -> Sheet:
    if total is None:
        return Sheet()
    told = total.observations
    return Sheet(**{name: getattr(told, name) for name in Sheet.__struct_fields__})


def _labels(candidate: Sheet, stable: Sheet) -> dict[str, tuple[int, int]]:
    """The most frequent labels of both."""
    names = sorted(
        {**candidate.labels, **stable.labels},
        key=lambda name: (-candidate.labels.get(name, 0) - stable.labels.get(name, 0), name),
    )
    return {name: (stable.labels.get(name, 0), candidate.labels.get(name, 0)) for name in names[:20]}


# ---- what people see of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the authority's node knows of a rollout at this moment, beside what is replicated."""

    ready_count: int
    waiting_count: int
    failed_count: int
    ready: tuple[str, ...]
    waiting: tuple[str, ...]
    failed: dict[str, str]
    """Of the edges that the stage is for; the first `NAMES_MAX` of each kind."""
    switched_count: int
    """Edges that serve what the newest activation assigns to them."""
    stragglers: dict[str, str]
    """Edges that do not, and why; the first `NAMES_MAX`."""
    straggler_count: int
    judged: Judged | None
    exposure: dict[str, Exposure]


def live_of(
    rollout: Rollout,
    *,
    state: State,
    views: Iterable[EdgeView],
    observed: ObservedTotals,
    judged: Judged | None,
    buckets: Buckets,
    now_ns: int,
) -> Live:
    """Who is ready for the stage that is prepared or active, and who serves what is assigned."""
    returning = rollout.phase in {Phase.ABORTING, Phase.ABORTED, Phase.FAILED}
    coming = [t.base if returning else rollout.assignment_of(t, stage=rollout.stage) for t in rollout.targets]
    looked_at = {
        target.model: (state.models[target.model], assignment, target.candidate, Share(assignment, buckets=buckets))
        for target, assignment in zip(rollout.targets, coming, strict=True)
        if target.model in state.models
    }
    ready: list[str] = []
    waiting: list[str] = []
    failed: dict[str, str] = {}
    switched: list[str] = []
    stragglers: dict[str, str] = {}
    for view in sorted(views, key=lambda v: v.report.edge_id):
        report = view.report
        if not view.live(now_ns=now_ns):
            continue
        standings: list[tuple[int, str]] = []
        behind = ""
        for served in report.models:
            if served.model not in looked_at:
                continue
            model, assignment, candidate, share = looked_at[served.model]
            if returning or share.includes(report):
                wanted = assignment.stable if returning else candidate
                standings.append(_standing(served, model.versions.get(wanted)))
                behind = behind or _behind(served, model.assignment, report)
        if not standings:
            continue
        edge_id = report.edge_id
        standing, why = max(standings)
        if standing == _READY:
            ready.append(edge_id)
        elif standing == _FAILED:
            failed[edge_id] = why
        else:
            waiting.append(edge_id)
        if behind:
            stragglers[edge_id] = f"{behind}; {why}" if why else behind
        else:
            switched.append(edge_id)
    return Live(
        ready_count=len(ready),
        waiting_count=len(waiting),
        failed_count=len(failed),
        ready=tuple(ready[:NAMES_MAX]),
        waiting=tuple(waiting[:NAMES_MAX]),
        failed=dict(list(failed.items())[:NAMES_MAX]),
        switched_count=len(switched),
        stragglers=dict(list(stragglers.items())[:NAMES_MAX]),
        straggler_count=len(stragglers),
        judged=judged,
        exposure=exposure_of(rollout, state=state, observed=observed),
    )


def _standing(served: ServedModel, version: Version | None) -> tuple[int, str]:
    """How far the edge is with this version, and why no farther."""
    if version is None or version.digest in served.ready:
        return _READY, ""
    if version.digest in served.failed:
        return _FAILED, served.failed[version.digest]
    fetched = served.fetched_bytes.get(version.digest, 0)
    if fetched < version.size_bytes:
        return _WAITING, f"has fetched {fetched} of {version.size_bytes} bytes"
    return _WAITING, "has fetched it, and is loading"


def _behind(served: ServedModel, present: Assignment | None, report: EdgeReport) -> str:
    """Why the edge does not serve what is active for it; empty if it does."""
    if present is None:
        return ""
    wanted = present.version_for(edge_id=report.edge_id, site=report.site, labels=report.labels)
    if served.version == wanted:
        return ""
    return f"serves {served.version or 'nothing'}, generation {served.generation}, not {wanted}"
