"""Rollouts in a list: where each stands, as a stepper of its stages and one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consistency_service.api.dashboard import actions
from consistency_service.api.dashboard.actions import Action
from consistency_service.api.dashboard.pager import Pager, cut
from consistency_service.api.dashboard.words import clip, duration, share
from consistency_service.core.rollout import Freeze, Phase, Rollout
from consistency_service.core.state import State

ROLLOUTS_ON_PAGE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """One station of the stepper."""

    number: int
    label: str
    note: str
    state: str
    """`done`, `now`, `held`, `failed` or `ahead`."""
    says: str
    """The same for those who hear it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCard:
    """A rollout in a few lines, for lists."""

    rollout_id: str
    models: tuple[tuple[str, str, str], ...]
    """Model, from, to."""
    phase: str
    running: bool
    steps: tuple[StageStep, ...]
    says: str
    author: str
    created_at_unix_ms: int
    moved_at_unix_ms: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutsPage:
    cards: tuple[RolloutCard, ...]
    pager: Pager
    frozen: Freeze | None
    freeze: Action
    only: str


def rollouts_of(state: State) -> tuple[Rollout, ...]:
    """Every rollout that is kept, newest first."""
    return tuple(sorted(state.rollouts.values(), key=lambda r: (r.created_at_unix_ms, r.rollout_id), reverse=True))


def rollouts_page_of(state: State, *, only: str, page: int) -> RolloutsPage:
    """The list; `only` is `running`, `ended` or empty."""
    found = [r for r in rollouts_of(state) if not only or (only == "ended") == r.phase.ended]
    shown, pager = cut(found, page=page, size=ROLLOUTS_ON_PAGE, params={"only": only})
    frozen = state.freeze
    return RolloutsPage(
        cards=tuple(card_of(rollout) for rollout in shown),
        pager=pager,
        frozen=frozen,
        freeze=actions.freeze(frozen),
        only=only,
    )


def card_of(rollout: Rollout) -> RolloutCard:
    """The rollout in a few lines."""
    last = rollout.transitions[-1] if rollout.transitions else None
    return RolloutCard(
        rollout_id=rollout.rollout_id,
        models=tuple((t.model, t.base.stable, t.candidate) for t in rollout.targets),
        phase=str(rollout.phase),
        running=rollout.running,
        steps=_steps(rollout),
        says=_says(rollout),
        author=rollout.author,
        created_at_unix_ms=rollout.created_at_unix_ms,
        moved_at_unix_ms=last.at_unix_ms if last else rollout.created_at_unix_ms,
        reason=clip(last.reason, 240) if last else "",
    )


def _says(rollout: Rollout) -> str:
    """Where it stands, in a sentence."""
    where = actions.stage_words(rollout, rollout.stage)
    match rollout.phase:
        case Phase.DRAFT:
            return "Written down; nothing has begun."
        case Phase.PREFETCHING:
            return f"Edges get ready for {where}."
        case Phase.BAKING:
            return f"Live for {where}, and watched."
        case Phase.WAITING:
            return f"{where.capitalize()} has passed. Somebody must promote it."
        case Phase.PAUSED:
            return f"Held at {where}."
        case Phase.ABORTING:
            return "The return to stable is decided."
        case Phase.COMPLETED:
            return "The candidate is stable, for everybody."
        case _:
            return "Everybody is on stable."


def _steps(rollout: Rollout) -> tuple[StageStep, ...]:
    stages = rollout.strategy.stages
    return tuple(
        StageStep(
            number=index + 1,
            label=share(stages[index].share_bp) if index < len(stages) else "stable",
            note=_note(rollout, index),
            state=(state := _state(rollout, index)),
            says={"done": "passed", "now": "now", "held": "held here", "failed": "ended here", "ahead": "ahead"}[state],
        )
        for index in range(len(stages) + 1)
    )


def _state(rollout: Rollout, index: int) -> str:
    if rollout.phase is Phase.COMPLETED:
        return "done"
    if rollout.phase is Phase.DRAFT or index > rollout.stage:
        return "ahead"
    if index < rollout.stage:
        return "done"
    if rollout.phase in {Phase.ABORTING, Phase.ABORTED, Phase.FAILED}:
        return "failed"
    return "held" if rollout.phase is Phase.PAUSED else "now"


def _note(rollout: Rollout, index: int) -> str:
    stages = rollout.strategy.stages
    if index >= len(stages):
        return ""
    stage = stages[index]
    bake = f"bake {duration(stage.bake_ms)}" if stage.bake_ms else "no bake"
    return bake if stage.gate == "auto" else f"{bake}, then by hand"
