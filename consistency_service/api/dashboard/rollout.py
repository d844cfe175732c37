"""One rollout as a page: its stages, where it stands, what was measured, who moved it and why.

What is replicated comes from `core.rollout`; what only the authority knows (readiness, findings, exposure) comes as a
`Live` value, from whoever can ask it, and the page does without where nobody could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from consistency_service.api.dashboard import actions
from consistency_service.api.dashboard.actions import Action
from consistency_service.api.dashboard.charts import Bar, Scale, Unit, Value, distribution, scale_of, text_of
from consistency_service.api.dashboard.rollouts import RolloutCard, card_of
from consistency_service.api.dashboard.words import clip, duration, share
from consistency_service.core.analysis import Finding, limit_of
from consistency_service.core.rollout import Freeze, Phase, Rollout
from consistency_service.core.strategy import Check, Metric, Strategy
from edge_client.protocol.bucketing import CohortSelector

STRAGGLERS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFinding:
    """What one check found so far in one model."""

    model: str
    finding: Finding
    labels: tuple[tuple[str, int, int], ...] = ()
    """Label, count on stable, count on the candidate: of a drift of labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the authority knows of a running rollout at this moment."""

    ready: int
    waiting: int
    failed: int
    switched: int
    stragglers: tuple[tuple[str, str], ...]
    """Edge, and why it is not ready."""
    findings: tuple[ModelFinding, ...]
    exposure: tuple[tuple[str, int], ...]
    """Model, and how many readings the candidate made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRow:
    step: int
    revision: int
    move: str
    phase: str
    stage: int
    at_unix_ms: int
    author: str
    reason: str
    evidence: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingShown:
    model: str
    metric: str
    verdict: str
    says: str
    values: Scale | None
    """Candidate and stable; None: the check compares no values."""
    decides: Scale | None
    """By how much the candidate is worse, beside the limit; None: nothing is known yet."""
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPage:
    card: RolloutCard
    buttons: tuple[Action, ...]
    frozen: Freeze | None
    bake_percent: float | None
    bake_says: str
    live: Live | None
    ready_percents: tuple[float, float, float]
    """Ready, waiting, failed."""
    findings: tuple[FindingShown, ...]
    transitions: tuple[TransitionRow, ...]
    plan: tuple[tuple[str, str], ...]
    stages: tuple[tuple[str, ...], ...]


def rollout_page_of(rollout: Rollout, *, frozen: Freeze | None, live: Live | None = None) -> RolloutPage:
    """The page; without `live` it shows what is replicated."""
    stages = rollout.strategy.stages
    stage = stages[rollout.stage] if rollout.stage < len(stages) else None
    baking = rollout.phase in {Phase.BAKING, Phase.PAUSED} and rollout.active_stage == rollout.stage
    bake_ms = stage.bake_ms if stage is not None and baking else 0
    shown = live if live is None else _bounded(live)
    return RolloutPage(
        card=card_of(rollout),
        buttons=actions.moves(rollout, frozen=frozen is not None),
        frozen=frozen,
        bake_percent=round(min(100.0, 100 * rollout.baked_ms / bake_ms), 2) if bake_ms else None,
        bake_says=f"{duration(min(rollout.baked_ms, bake_ms))} of {duration(bake_ms)} baked" if bake_ms else "",
        live=shown,
        ready_percents=_percents(live),
        findings=tuple(_finding(finding) for finding in (live.findings if live else ())),
        transitions=tuple(
            TransitionRow(
                step=t.step,
                revision=t.revision,
                move=str(t.move),
                phase=str(t.phase),
                stage=t.stage + 1,
                at_unix_ms=t.at_unix_ms,
                author=t.author,
                reason=clip(t.reason, 400),
                evidence=_evidence(t.evidence),
            )
            for t in reversed(rollout.transitions)
        ),
        plan=_plan(rollout.strategy),
        stages=tuple(
            (
                str(index + 1),
                share(s.share_bp),
                _cohort(rollout.strategy.cohort_of(index)),
                duration(s.bake_ms) if s.bake_ms else "none",
                str(s.gate),
                "; ".join(_check(check) for check in rollout.strategy.checks_of(index)) or "none",
            )
            for index, s in enumerate(stages)
        ),
    )


def _bounded(live: Live) -> Live:
    return Live(
        ready=live.ready,
        waiting=live.waiting,
        failed=live.failed,
        switched=live.switched,
        stragglers=tuple((clip(edge), clip(why, 160)) for edge, why in live.stragglers[:STRAGGLERS_SHOWN]),
        findings=live.findings,
        exposure=live.exposure,
    )


def _percents(live: Live | None) -> tuple[float, float, float]:
    total = (live.ready + live.waiting + live.failed) if live else 0
    if live is None or not total:
        return (0.0, 0.0, 0.0)
    return tuple(round(100 * part / total, 3) for part in (live.ready, live.waiting, live.failed))  # type: ignore[return-value]


def _finding(found: ModelFinding) -> FindingShown:
    finding, check = found.finding, found.finding.check
    unit = _unit(check)
    limit = None if check.metric is Metric.EXTERNAL else limit_of(check)
    sides = [Value(name="candidate", value=finding.value_candidate, samples=finding.samples_candidate)]
    if check.bound is None and check.metric is not Metric.EXTERNAL:
        sides.insert(0, Value(name="stable", value=finding.value_stable, samples=finding.samples_stable))
    seen = finding.difference if check.bound is None else finding.value_candidate
    word = "worse by" if check.bound is None else "candidate"
    decides = Value(name=word, value=seen, low=finding.low, high=finding.high, interval=True)
    compared: Unit = "ratio" if check.metric is Metric.LATENCY and check.bound is None else unit
    return FindingShown(
        model=found.model,
        metric=_check(check),
        verdict=str(finding.result),
        says=clip(finding.reason, 300),
        values=None if finding.value_candidate is None else scale_of(sides, limit=None, unit=unit),
        decides=None if seen is None else scale_of([decides], limit=limit, unit=compared),
        bars=distribution(found.labels),
    )


def _unit(check: Check) -> Unit:
    return {Metric.LATENCY: "ms", Metric.ERROR_RATE: "share"}.get(check.metric, "number")  # type: ignore[return-value]


def _evidence(evidence: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of what a transition was decided on; nested values in one line each."""
    return tuple((clip(name.replace("_", " "), 60), clip(value, 300)) for name, value in list(evidence.items())[:40])


def _plan(strategy: Strategy) -> tuple[tuple[str, str], ...]:
    prefetch = strategy.prefetch
    proceed = "goes on without them" if strategy.stragglers == "proceed" else "the stage has failed"
    return (
        ("Cohort", _cohort(strategy.cohort)),
        ("Ready", f"{share(prefetch.ready_min_bp)} of a stage's live edges, within {duration(prefetch.deadline_ms)}"),
        ("Stragglers", f"at that deadline: {proceed}"),
        ("Progress", f"a stage that has not passed within {duration(strategy.progress_deadline_ms)} has failed"),
        ("On failure", "back to stable, at one instant" if strategy.on_failure == "abort" else "pause"),
    )


def _cohort(cohort: CohortSelector) -> str:
    parts = [f"site {clip(site, 40)}" for site in cohort.sites[:8]]
    parts += [f"{clip(name, 40)}={clip(value, 40)}" for name, value in list(cohort.labels.items())[:8]]
    return ", ".join(parts) or "every edge"


def _check(check: Check) -> str:
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
