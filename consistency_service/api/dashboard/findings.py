"""What checks came to, as cards with charts: of this moment as the authority sees it, or as it went on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from consistency_service.api.dashboard.charts import Bar, Scale, Unit, Value, distribution, scale_of, text_of
from consistency_service.api.dashboard.words import clip
from consistency_service.api.rollout_views import FindingShown
from consistency_service.core.analysis import Finding, Result, limit_of
from consistency_service.core.rollout import Move, Rollout, Transition
from consistency_service.core.strategy import Check, Metric

FINDINGS_MAX: Final = 64
_NUMBERS: Final = (
    "value_candidate",
    "value_stable",
    "difference",
    "low",
    "high",
    "samples_candidate",
    "samples_stable",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingCard:
    """One check of one model."""

    model: str
    metric: str
    verdict: str
    says: str
    values: Scale | None
    """Candidate and stable; None: the check compares no two values."""
    decides: Scale | None
    """By how much the candidate is worse, beside the limit; None: nothing is known yet."""
    bars: tuple[Bar, ...]


class _Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A finding among the evidence of a transition."""

    model: str
    metric: Metric
    result: Result
    candidate: float | None = None
    stable: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    samples: tuple[int, int] = (0, 0)


def cards_of(findings: list[FindingShown]) -> tuple[FindingCard, ...]:
    """Of what the authority finds now. What a node of another release says and we cannot read is left out."""
    cards = []
    for found in findings[:FINDINGS_MAX]:
        try:
            check = msgspec.convert(found.check, Check)
            result = Result(found.result)
        except (msgspec.ValidationError, ValueError):
            continue
        numbers = {name: getattr(found, name) for name in _NUMBERS}
        labels = tuple((label, stable, candidate) for label, (stable, candidate) in found.labels.items())
        cards.append(
            _card(found.model, Finding(check=check, result=result, reason=found.reason, **numbers), labels=labels)
        )
    return tuple(cards)


def recorded(rollout: Rollout) -> tuple[Transition, tuple[FindingCard, ...]] | None:
    """The newest move since the last retry that was decided on findings, and those whose check is known without doubt."""
    for moved in reversed(rollout.transitions):
        if moved.move is Move.RETRY:
            return None
        if moved.evidence.get("findings"):
            found = [_finding(rollout, moved, one) for one in moved.evidence["findings"][:FINDINGS_MAX]]
            return moved, tuple(_card(one[0], one[1]) for one in found if one is not None)
    return None


def _finding(rollout: Rollout, moved: Transition, evidence: Any) -> tuple[str, Finding] | None:
    try:
        said = msgspec.convert(evidence, _Recorded)
    except msgspec.ValidationError:
        return None
    strategy = rollout.strategy
    stages = [stage for stage in (moved.stage, moved.stage - 1) if 0 <= stage < len(strategy.stages)]
    possible = (tuple(c for c in strategy.checks_of(stage) if c.metric is said.metric) for stage in stages)
    checks = next((checks for checks in possible if checks), ())
    if len(checks) != 1:
        return None
    finding = Finding(
        check=checks[0],
        result=said.result,
        reason=moved.reason if said.candidate is None else "",
        value_candidate=said.candidate,
        value_stable=said.stable,
        difference=said.difference,
        low=said.low,
        high=said.high,
        samples_candidate=said.samples[0],
        samples_stable=said.samples[1],
    )
    return said.model, finding


def _card(model: str, finding: Finding, *, labels: tuple[tuple[str, int, int], ...] = ()) -> FindingCard:
    check = finding.check
    unit = _unit(check)
    limit = None if check.metric is Metric.EXTERNAL else limit_of(check)
    bounded = check.bound is not None
    sides = [
        Value(name="stable", value=finding.value_stable, samples=finding.samples_stable),
        Value(name="candidate", value=finding.value_candidate, samples=finding.samples_candidate),
    ]
    seen = finding.value_candidate if bounded else finding.difference
    decides = Value(
        name="candidate" if bounded else "worse by",
        value=seen,
        samples=finding.samples_candidate if bounded else 0,
        low=finding.low,
        high=finding.high,
        interval=True,
    )
    compared: Unit = "ratio" if check.metric is Metric.LATENCY and not bounded else unit
    return FindingCard(
        model=clip(model),
        metric=words_of(check),
        verdict=str(finding.result),
        says=clip(finding.reason, 300),
        values=None if bounded or finding.value_candidate is None else scale_of(sides, limit=None, unit=unit),
        decides=None if seen is None else scale_of([decides], limit=limit, unit=compared),
        bars=distribution(labels),
    )


def words_of(check: Check) -> str:
    """The check in words: `error rate worse by at most 2 %`."""
    name = check.metric.replace("_", " ")
    if check.metric is Metric.EXTERNAL:
        return "external check"
    if check.metric is Metric.LATENCY:
        name = f"latency p{check.quantile * 100:g}"
    if check.bound is not None:
        return (
            f"{name} {'at least' if check.metric is Metric.SCORE else 'at most'} {text_of(check.bound, _unit(check))}"
        )
    compared: Unit = "ratio" if check.metric is Metric.LATENCY else _unit(check)
    return f"{name} worse by at most {text_of(limit_of(check), compared)}"


def _unit(check: Check) -> Unit:
    return {Metric.LATENCY: "ms", Metric.ERROR_RATE: "share"}.get(check.metric, "number")  # type: ignore[return-value]
