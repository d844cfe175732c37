"""Rollouts as callers see them: what is replicated, as numbers, and what the authority's node sees of edges beside it."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel

from consistency_service.api.schemas import AssignmentShown
from consistency_service.core.rollout import CALLERS, TRANSITIONS, Rollout
from consistency_service.runtime.rollout_facts import Live, ModelFinding


class FreezeShown(BaseModel):
    frozen: bool
    author: str = ""
    reason: str = ""
    since_unix_ms: int | None = None


class FaultShown(BaseModel):
    place: str
    message: str


class LintShown(BaseModel):
    faults: list[FaultShown]


class TargetShown(BaseModel):
    model: str
    candidate: str
    base: AssignmentShown
    """What an abort returns to."""


class TransitionShown(BaseModel):
    step: int
    revision: int
    move: str
    phase: str
    stage: int
    at_unix_ms: int
    author: str
    """Empty: the authority, by itself."""
    reason: str
    evidence: dict[str, Any]


class FindingShown(BaseModel):
    """What one check came to; see `docs/explanation/analysis.md`."""

    model: str
    metric: str
    result: str
    reason: str
    check: dict[str, Any]
    value_candidate: float | None
    value_stable: float | None
    difference: float | None
    low: float | None
    high: float | None
    samples_candidate: int
    samples_stable: int
    labels: dict[str, tuple[int, int]]
    """Of a drift of labels: counts of stable and of the candidate."""


class ExposureShown(BaseModel):
    readings: int
    edges: int


class LiveShown(BaseModel):
    """What the authority's node sees at this moment. Lists name at most 100 edges."""

    ready_count: int
    waiting_count: int
    failed_count: int
    ready: list[str]
    waiting: list[str]
    failed: dict[str, str]
    switched_count: int
    stragglers: dict[str, str]
    straggler_count: int
    analysis: str | None
    """`successful`, `failed` or `inconclusive`; null: nothing is analysed."""
    analysis_reason: str
    findings: list[FindingShown]
    exposure: dict[str, ExposureShown]


class RolloutShown(BaseModel):
    """A rollout as it is replicated: shares in basis points, times in milliseconds. `ETag` is its step."""

    rollout_id: str
    targets: list[TargetShown]
    strategy: dict[str, Any]
    salt: str
    created_at_unix_ms: int
    author: str
    phase: str
    running: bool
    stage: int
    """Index of the stage being prepared or active; the number of stages when the candidate is made stable."""
    stage_count: int
    active_stage: int | None
    step: int
    to_end: bool
    resume_to: str | None
    ends_as: str | None
    baked_ms: int
    waited_ms: int
    activation: int | None
    moves: list[str]
    """What callers may order now."""
    transitions: list[TransitionShown]
    live: LiveShown | None = None
    """Null in lists, with `consistency=local`, and while there is no authority."""


def rollout_shown(rollout: Rollout, *, live: Live | None = None) -> RolloutShown:
    plain = msgspec.to_builtins(rollout)
    return RolloutShown(
        **plain | {"strategy": _complete(rollout.strategy), "transitions": plain["transitions"]},
        running=rollout.running,
        stage_count=len(rollout.strategy.stages),
        moves=[move.value for move in TRANSITIONS[rollout.phase] if move in CALLERS],
        live=None if live is None else _live_shown(live),
    )


def _complete(value: Any) -> Any:
    """Plain values with every field, also those that are at their defaults."""
    if isinstance(value, msgspec.Struct):
        return {name: _complete(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_complete(item) for item in value]
    return msgspec.to_builtins(value)


def _live_shown(live: Live) -> LiveShown:
    found = live.judged
    return LiveShown(
        ready_count=live.ready_count,
        waiting_count=live.waiting_count,
        failed_count=live.failed_count,
        ready=list(live.ready),
        waiting=list(live.waiting),
        failed=live.failed,
        switched_count=live.switched_count,
        stragglers=live.stragglers,
        straggler_count=live.straggler_count,
        analysis=None if found is None else found.result.value,
        analysis_reason="" if found is None else found.reason,
        findings=[] if found is None else [_finding_shown(one) for one in found.findings],
        exposure={name: ExposureShown(readings=e.readings, edges=e.edges) for name, e in live.exposure.items()},
    )


def _finding_shown(one: ModelFinding) -> FindingShown:
    finding = one.finding
    numbers = ("value_candidate", "value_stable", "difference", "low", "high", "samples_candidate", "samples_stable")
    return FindingShown(
        model=one.model,
        metric=finding.check.metric.value,
        result=finding.result.value,
        reason=finding.reason,
        check=_complete(finding.check),
        labels=one.labels,
        **{name: getattr(finding, name) for name in numbers},
    )
