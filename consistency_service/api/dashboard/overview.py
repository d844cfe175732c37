"""What is live where, on one page: every model, the rollouts that run, and whether the region is well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consistency_service.api.dashboard import actions
from consistency_service.api.dashboard.actions import Action
from consistency_service.api.dashboard.fleet import FleetShare, Tally, share_of
from consistency_service.api.dashboard.pager import Pager, cut
from consistency_service.api.dashboard.rollouts import RolloutCard, card_of, rollouts_of
from consistency_service.core.rollout import Freeze
from consistency_service.core.state import HistoryEntry, ModelState, State

MODELS_ON_PAGE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """An activation that is decided and not settled."""

    generation: int
    version: str
    candidate: str
    share_bp: int
    effective_at_unix_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model: what is live, since when, by whom, and who serves it."""

    name: str
    version: str
    """`""` before the first activation."""
    candidate: str
    share_bp: int
    generation: int
    since_unix_ms: int | None
    author: str
    coming: Coming | None
    prefetch: str
    edges: FleetShare
    rollout_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The cluster in one line."""

    well: bool
    node_count: int
    answering_count: int
    leader_id: str
    authority_id: str
    faults: tuple[str, ...]
    live_count: int
    silent_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewPage:
    models: tuple[ModelRow, ...]
    pager: Pager
    query: str
    rollouts: tuple[RolloutCard, ...]
    freeze: Action
    frozen: Freeze | None
    health: Health


def overview_of(state: State, tally: Tally, health: Health, *, query: str, page: int) -> OverviewPage:
    """The page; `query` is a part of a model's name."""
    names = sorted(name for name in state.models if query.lower() in name)
    shown, pager = cut(names, page=page, size=MODELS_ON_PAGE, params={"q": query})
    running = {t.model: r.rollout_id for r in rollouts_of(state) if r.running for t in r.targets}
    frozen = state.freeze
    return OverviewPage(
        models=tuple(row_of(state.models[name], tally, rollout_id=running.get(name, "")) for name in shown),
        pager=pager,
        query=query,
        rollouts=tuple(card_of(rollout) for rollout in rollouts_of(state) if rollout.running)[:20],
        freeze=actions.freeze(frozen),
        frozen=frozen,
        health=health,
    )


def row_of(model: ModelState, tally: Tally, *, rollout_id: str = "") -> ModelRow:
    """The line of one model."""
    live = entry_of(model)
    assignment = model.assignment
    return ModelRow(
        name=model.name,
        version=assignment.stable if assignment else "",
        candidate=(assignment.candidate if assignment else None) or "",
        share_bp=assignment.share_bp if assignment else 0,
        generation=model.generation,
        since_unix_ms=live.effective_at_unix_ms if live else None,
        author=live.author if live else "",
        coming=coming_of(model),
        prefetch=", ".join(model.prefetch.versions()) if model.prefetch else "",
        edges=share_of(tally, model.name),
        rollout_id=rollout_id,
    )


def entry_of(model: ModelState) -> HistoryEntry | None:
    """The history's entry of the present generation."""
    return next((entry for entry in reversed(model.history) if entry.generation == model.generation), None)


def coming_of(model: ModelState) -> Coming | None:
    pending = model.pending
    if pending is None:
        return None
    told = (entry.effective_at_unix_ms for entry in reversed(model.history) if entry.activation == pending.revision)
    return Coming(
        generation=pending.generation,
        version=pending.assignment.stable,
        candidate=pending.assignment.candidate or "",
        share_bp=pending.assignment.share_bp,
        effective_at_unix_ms=next(told, None),
    )
