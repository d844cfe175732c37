"""One rollout as a page: its stages, where it stands, what was measured, who moved it and why.

What is replicated comes from `core.rollout`; what only the authority sees (readiness, findings, exposure) comes from
whoever could ask it, and the page does with what went on record where nobody could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from consistency_service.api.dashboard import actions
from consistency_service.api.dashboard.actions import Action
from consistency_service.api.dashboard.findings import FINDINGS_MAX, FindingCard, cards_of, recorded, words_of
from consistency_service.api.dashboard.rollouts import RolloutCard, card_of
from consistency_service.api.dashboard.words import clip, duration, share
from consistency_service.api.rollout_views import LiveShown
from consistency_service.core.rollout import Freeze, Phase, Rollout, Transition
from consistency_service.core.state import State
from consistency_service.core.strategy import Strategy
from consistency_service.runtime.rollout_facts import NAMES_MAX
from edge_client.protocol.bucketing import CohortSelector

NAMES_SHOWN: Final = 5
"""Without a click."""
_EDGES: Final = {
    Phase.PREFETCHING: "Edges that get ready",
    Phase.ABORTING: "Edges that return to stable",
    Phase.ABORTED: "Edges that returned to stable",
    Phase.FAILED: "Edges that returned to stable",
    Phase.COMPLETED: "Edges on the new stable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgesCount:
    """How far the edges of a stage are, as the authority sees it at this moment; widths in percent."""

    title: str
    total: int
    ready: int
    waiting: int
    failed: int
    ready_widths: tuple[float, float, float]
    """Ready, waiting, failed."""
    switched: int
    switched_width: float
    behind: tuple[tuple[str, str], ...]
    """Edge, and why: first those that said why not, then those that do not serve what is assigned, then those on the way."""
    behind_more: tuple[tuple[str, str], ...]
    """The next ones, up to a hundred in all."""
    behind_unnamed: int
    """How many there are beyond."""


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
class RolloutPage:
    card: RolloutCard
    buttons: tuple[Action, ...]
    frozen: Freeze | None
    bake_percent: float | None
    bake_says: str
    edges: EdgesCount | None
    unasked: bool
    """The authority should see its edges, and could not be asked."""
    exposure: tuple[tuple[str, int, int], ...]
    """Model, how many readings its candidate made, at how many edges, as far as they were reported."""
    findings: tuple[FindingCard, ...]
    judged: Transition | None
    """The move that `findings` are the record of; None: they are of this moment."""
    transitions: tuple[TransitionRow, ...]
    plan: tuple[tuple[str, str], ...]
    stages: tuple[tuple[str, ...], ...]


def followed(rollout: Rollout, state: State) -> bool:
    """What edges do now is this rollout's doing: it runs, or it is what last happened to its models."""
    models = (state.models.get(target.model) for target in rollout.targets)
    return rollout.running or all(
        model is not None and model.history and model.history[-1].activation == rollout.activation for model in models
    )


def rollout_page_of(rollout: Rollout, *, frozen: Freeze | None, live: LiveShown | None = None) -> RolloutPage:
    """The page; without `live` it shows what is replicated."""
    stages = rollout.strategy.stages
    stage = stages[rollout.stage] if rollout.stage < len(stages) else None
    baking = rollout.phase in {Phase.BAKING, Phase.PAUSED} and rollout.active_stage == rollout.stage
    bake_ms = stage.bake_ms if stage is not None and baking else 0
    findings, judged = cards_of(live.findings if live else []), None
    record = recorded(rollout) if not findings or rollout.phase is Phase.ABORTING else None
    if record is not None:
        judged, findings = record
    return RolloutPage(
        card=card_of(rollout),
        buttons=actions.moves(rollout, frozen=frozen is not None),
        frozen=frozen,
        bake_percent=round(min(100.0, 100 * rollout.baked_ms / bake_ms), 2) if bake_ms else None,
        bake_says=f"{duration(min(rollout.baked_ms, bake_ms))} of {duration(bake_ms)} baked" if bake_ms else "",
        edges=None if live is None else _edges(rollout, live),
        unasked=live is None and rollout.running,
        exposure=_exposure(rollout, live),
        findings=findings,
        judged=judged,
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
                "; ".join(words_of(check) for check in rollout.strategy.checks_of(index)) or "none",
            )
            for index, s in enumerate(stages)
        ),
    )


def _edges(rollout: Rollout, live: LiveShown) -> EdgesCount:
    total = live.ready_count + live.waiting_count + live.failed_count
    on_the_way = {edge: "is getting ready" for edge in live.waiting if edge not in live.stragglers}
    behind = [(clip(edge), clip(why, 160)) for edge, why in (live.failed | live.stragglers | on_the_way).items()]
    return EdgesCount(
        title=_EDGES.get(rollout.phase, "Edges of this stage"),
        total=total,
        ready=live.ready_count,
        waiting=live.waiting_count,
        failed=live.failed_count,
        ready_widths=(
            _percent(live.ready_count, total),
            _percent(live.waiting_count, total),
            _percent(live.failed_count, total),
        ),
        switched=live.switched_count,
        switched_width=_percent(live.switched_count, total),
        behind=tuple(behind[:NAMES_SHOWN]),
        behind_more=tuple(behind[NAMES_SHOWN:NAMES_MAX]),
        behind_unnamed=max(0, max(live.straggler_count, live.waiting_count + live.failed_count) - NAMES_MAX),
    )


def _percent(part: int, total: int) -> float:
    """Of nothing: nothing."""
    return round(100 * part / total, 3) if total else 0.0


def _exposure(rollout: Rollout, live: LiveShown | None) -> tuple[tuple[str, int, int], ...]:
    """What was reported at any time: as seen now, or as it went on record, whichever is more."""
    most: dict[str, tuple[int, int]] = {}
    seen = {name: (one.readings, one.edges) for name, one in live.exposure.items()} if live else {}
    records = [moved.evidence["exposed"] for moved in rollout.transitions if moved.evidence.get("exposed")]
    told = [{name: (one["readings"], one["edges"]) for name, one in record.items()} for record in records]
    for source in (seen, *told):
        for name, (readings, edges) in source.items():
            before = most.get(name, (0, 0))
            most[name] = (max(before[0], readings), max(before[1], edges))
    return tuple((clip(name), readings, edges) for name, (readings, edges) in sorted(most.items()))


def _evidence(evidence: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values of what a transition was decided on; nested values in one line each."""
    rows: list[tuple[str, Any]] = []
    for name, value in evidence.items():
        if name == "findings" and isinstance(value, list):
            rows += [
                (f"{one.pop('metric', '')} of {one.pop('model', '')}", one) for one in map(dict, value[:FINDINGS_MAX])
            ]
        else:
            rows.append((name, value))
    return tuple((clip(name.replace("_", " "), 60), clip(_plain(value), 300)) for name, value in rows[:40])


def _plain(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{str(name).replace('_', ' ')} {_plain(one)}" for name, one in value.items())
        case list() | tuple():
            return " and ".join(map(_plain, value))
        case float():
            return f"{value:.4g}"
    return str(value)


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
