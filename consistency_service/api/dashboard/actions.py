"""Buttons as values: one REST call each, and the sentence that says beforehand what it will do.

A button that cannot succeed is not offered; whether it did, the API decides, under the generation or step that the visitor
saw (`If-Match`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from consistency_service.api.dashboard.words import plural, share
from consistency_service.core.rollout import TRANSITIONS, Freeze, Move, Rollout
from consistency_service.core.state import ModelState, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One button."""

    key: str
    """Names it within its page."""
    label: str
    title: str
    says: str
    """What will happen, exactly, to whom and when."""
    method: str
    path: str
    body: str = ""
    """JSON; empty: none."""
    if_match: str = ""
    reason: bool = False
    """The call takes a reason, as member `reason` of its body."""
    danger: bool = False


def _body(**members: Any) -> str:
    return json.dumps(members, sort_keys=True)


def activate(model: ModelState, version: str) -> Action:
    """Make `version` stable for everybody."""
    now = model.assignment.stable if model.assignment else None
    instead = f"instead of {now}" if now else "as its first version"
    return Action(
        key=f"activate-{version}",
        label="Activate",
        title=f"Activate {model.name} {version}?",
        says=(
            f"Every edge that follows {model.name} serves {version} {instead}, all from one instant on. The region first "
            f"waits until the live edges are ready, at most {model.policy.prefetch_ms / 1_000:g} s, then decides; edges that "
            "are not ready by then serve what they have, as fallback."
        ),
        method="POST",
        path=f"/v1/models/{model.name}/activations",
        body=_body(version=version),
        if_match=str(model.generation),
    )


def roll_back(state: State, model: ModelState) -> Action | None:
    """Back to the assignment before; None if there is none."""
    if model.previous is None or model.assignment is None:
        return None
    before, rollout = model.previous.stable, state.rollout_of(model.name)
    others = [other.name for other in state.changed_with(model.name) if other is not model]
    also = f" {' and '.join(others)}, changed together with it, goes back as well." if others else ""
    also += f" Rollout {rollout.rollout_id} is aborted." if rollout is not None else ""
    return Action(
        key="rollback",
        label=f"Roll back to {before}",
        title=f"Roll {model.name} back to {before}?",
        says=(
            f"Every edge that follows {model.name} returns from {model.assignment.stable} to {before}, all from one instant on, "
            f"without waiting for readiness: edges keep the version before for this.{also}"
        ),
        method="POST",
        path=f"/v1/models/{model.name}/rollback",
        if_match=str(model.generation),
        danger=True,
    )


def freeze(present: Freeze | None) -> Action:
    """Freeze the fleet, or lift that."""
    if present is None:
        says = "No rollout starts and no stage is promoted until the freeze is lifted. Aborts and rollbacks are never stopped."
        label, title = "Freeze", "Freeze all starts and promotions?"
    else:
        says = "Rollouts can start and be promoted again; those that were waiting for it go on by themselves."
        label, title = "Lift the freeze", "Lift the freeze?"
    return Action(
        key="freeze",
        label=label,
        title=title,
        says=says,
        method="PUT",
        path="/v1/freeze",
        body=_body(frozen=present is None),
        reason=True,
    )


def moves(rollout: Rollout, *, frozen: bool) -> tuple[Action, ...]:
    """What a caller may order now, by the table of transitions; what a freeze refuses is left out."""
    possible = TRANSITIONS[rollout.phase]
    names = [move for move in _LABELS if move in possible]
    if frozen:
        names = [move for move in names if move not in {Move.START, Move.PROMOTE, Move.RETRY}]
    actions = [_move(rollout, move) for move in names]
    if Move.PROMOTE in names and rollout.coming_stage < len(rollout.strategy.stages) and not rollout.to_end:
        actions.insert(names.index(Move.PROMOTE) + 1, _move(rollout, Move.PROMOTE, to_end=True))
    return tuple(actions)


_LABELS = {
    Move.START: "Start",
    Move.RESUME: "Resume",
    Move.PROMOTE: "Promote",
    Move.PAUSE: "Pause",
    Move.RETRY: "Retry",
    Move.ABORT: "Abort",
}


def _move(rollout: Rollout, move: Move, *, to_end: bool = False) -> Action:
    label = "Promote to the end" if to_end else _LABELS[move]
    body = {"reason": ""} | ({"to_end": True} if to_end else {})
    return Action(
        key=f"{move}-to-end" if to_end else str(move),
        label=label,
        title=f"{label}: {names_of(rollout)}?",
        says=_consequence(rollout, move, to_end=to_end),
        method="POST",
        path=f"/v1/rollouts/{rollout.rollout_id}/{move}",
        body=_body(**body),
        if_match=str(rollout.step),
        reason=True,
        danger=move is Move.ABORT,
    )


def names_of(rollout: Rollout) -> str:
    """`detector 2.0.0, tracker 5.1.0`."""
    return ", ".join(f"{target.model} {target.candidate}" for target in rollout.targets)


def stage_words(rollout: Rollout, stage: int) -> str:
    """What a stage gives to whom."""
    stages = rollout.strategy.stages
    if stage >= len(stages):
        return "everybody: the candidate becomes stable"
    return f"stage {stage + 1} of {len(stages)}, {share(stages[stage].share_bp)} of its cohort"


def _consequence(rollout: Rollout, move: Move, *, to_end: bool) -> str:
    candidate, base = names_of(rollout), ", ".join(f"{t.model} {t.base.stable}" for t in rollout.targets)
    if to_end:
        left = len(rollout.strategy.stages) - rollout.coming_stage
        return (
            f"{candidate} goes through {plural(left, 'remaining stage')}, each as soon as its edges are ready, whatever bake "
            "times, analyses and gates say; then it becomes stable for everybody, at one instant."
        )
    match move:
        case Move.START:
            return f"Edges fetch {candidate}; when enough of them are ready, it goes to {stage_words(rollout, 0)}."
        case Move.PROMOTE:
            return f"What is left to bake and to analyse here is passed over. {candidate} goes on to {stage_words(rollout, rollout.coming_stage)}, as soon as its edges are ready."
        case Move.PAUSE:
            return "It stays where it is: edges go on with what they serve, and no stage follows until somebody resumes it."
        case Move.RESUME:
            return f"It goes on where it was held, at {stage_words(rollout, rollout.stage)}."
        case Move.RETRY:
            return f"It begins again at the first stage, with the same edges first: {candidate} goes to {stage_words(rollout, 0)}."
        case _:
            if rollout.active_stage is None:
                return f"It ends here. No edge serves the candidate; everybody stays on {base}."
            return f"Every edge returns to {base}, all from one instant on. Nothing overtakes an abort."
