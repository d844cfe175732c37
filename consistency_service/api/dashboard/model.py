"""One model: its versions, its history, what was live when, and the two buttons that change it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from consistency_service.api.dashboard import actions
from consistency_service.api.dashboard.actions import Action
from consistency_service.api.dashboard.fleet import Tally
from consistency_service.api.dashboard.overview import ModelRow, row_of
from consistency_service.api.dashboard.rollouts import RolloutCard, card_of, rollouts_of
from consistency_service.api.dashboard.words import clip, unix_ms_of
from consistency_service.core.state import HistoryEntry, ModelState, State
from edge_client.protocol.models import Policy

ROWS: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    version: str
    digest: str
    size_bytes: int
    registered_at_unix_ms: int
    metadata: tuple[tuple[str, str], ...]
    signed_by: tuple[tuple[str, bool], ...]
    """Ids of the keys whose signatures it carries, and whether each was revoked; what they are worth edges know."""
    roles: tuple[str, ...]
    """`stable`, `candidate`, `coming`, `before`, `prefetch`."""
    activate: Action | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    generation: int
    version: str
    candidate: str
    share_bp: int
    from_unix_ms: int
    through_unix_ms: int | None
    """None: it goes on."""
    author: str
    rollout_id: str
    mark: str
    """`live`, `coming` or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """The answer to "what was live at"."""

    asked: str
    at_unix_ms: int | None
    """None: nothing was asked, or not an instant."""
    row: HistoryRow | None
    forgotten: bool
    """The history that is kept begins later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    row: ModelRow
    policy: Policy
    versions: tuple[VersionRow, ...]
    version_count: int
    history: tuple[HistoryRow, ...]
    history_count: int
    at: At
    rollback: Action | None
    blocked: str
    """Why nothing can be activated just now; empty: it can."""
    rollouts: tuple[RolloutCard, ...]


def model_page_of(state: State, model: ModelState, tally: Tally, *, at: str, everything: bool) -> ModelPage:
    """The page; versions and history are cut to the newest 25 unless `everything` is asked for."""
    mine = [rollout for rollout in rollouts_of(state) if any(t.model == model.name for t in rollout.targets)]
    running = state.rollout_of(model.name)
    blocked = ""
    if running is not None:
        blocked = f"rollout {running.rollout_id} is running; abort it first"
    elif model.pending is not None:
        blocked = "an activation is decided and not settled yet"
    rows = history_rows(model)
    newest = sorted(model.versions, key=lambda v: (model.registered_at_unix_ms.get(v, 0), v), reverse=True)
    return ModelPage(
        row=row_of(model, tally, rollout_id=running.rollout_id if running else ""),
        policy=model.policy,
        versions=tuple(
            _version_row(model, version, blocked=bool(blocked), revoked=state.publishers_revoked)
            for version in (newest if everything else newest[:ROWS])
        ),
        version_count=len(newest),
        history=tuple(rows if everything else rows[:ROWS]),
        history_count=len(rows),
        at=at_of(model, at),
        rollback=None if model.pending is not None else actions.roll_back(state, model),
        blocked=blocked,
        rollouts=tuple(card_of(rollout) for rollout in mine[:5]),
    )


def _version_row(model: ModelState, name: str, *, blocked: bool, revoked: Container[str]) -> VersionRow:
    version, now = model.versions[name], model.assignment
    roles = []
    if now is not None and now.stable == name:
        roles.append("stable")
    if now is not None and now.candidate == name:
        roles.append("candidate")
    if model.pending is not None and name in model.pending.assignment.versions() and name not in _named(model):
        roles.append("coming")
    if model.previous is not None and name in model.previous.versions() and "stable" not in roles:
        roles.append("before")
    if model.prefetch is not None and name in model.prefetch.versions() and not roles:
        roles.append("prefetch")
    whole = now is not None and now.stable == name and now.candidate is None
    return VersionRow(
        version=name,
        digest=version.digest,
        size_bytes=version.size_bytes,
        registered_at_unix_ms=model.registered_at_unix_ms.get(name, 0),
        metadata=tuple((clip(k, 40), clip(v, 200)) for k, v in sorted(version.metadata.items())),
        signed_by=tuple((line.split()[1], line.split()[1] in revoked) for line in version.signatures),
        roles=tuple(roles),
        activate=None if blocked or whole else actions.activate(model, name),
    )


def _named(model: ModelState) -> tuple[str, ...]:
    return model.assignment.versions() if model.assignment else ()


def history_rows(model: ModelState) -> list[HistoryRow]:
    """Every generation that is kept, newest first."""
    rows: list[HistoryRow] = []
    for entry in reversed(model.history):
        rows.append(_history_row(model, entry, through_unix_ms=rows[-1].from_unix_ms if rows else None))
    return rows


def _history_row(model: ModelState, entry: HistoryEntry, *, through_unix_ms: int | None) -> HistoryRow:
    mark = "live" if entry.generation == model.generation else "coming" if entry.generation > model.generation else ""
    return HistoryRow(
        generation=entry.generation,
        version=entry.assignment.stable,
        candidate=entry.assignment.candidate or "",
        share_bp=entry.assignment.share_bp,
        from_unix_ms=entry.effective_at_unix_ms,
        through_unix_ms=through_unix_ms,
        author=entry.author,
        rollout_id=entry.rollout_id,
        mark=mark,
    )


def at_of(model: ModelState, asked: str) -> At:
    """What was live at the instant that `asked` names, by wall time."""
    at_unix_ms = unix_ms_of(asked) if asked else None
    rows = history_rows(model) if at_unix_ms is not None else []
    row = next((row for row in rows if at_unix_ms is not None and row.from_unix_ms <= at_unix_ms), None)
    forgotten = row is None and bool(rows) and rows[-1].generation > 1
    return At(asked=clip(asked, 40), at_unix_ms=at_unix_ms, row=row, forgotten=forgotten)
