"""What is active, and what was."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from consistency_service.api.access import needs
from consistency_service.api.depends import TIMEOUT_MS, Consistency, ModelName, NodeDep, StateDep, TimeoutMs, model_of
from consistency_service.api.forwarding import FORWARDED_HEADER
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.schemas import ActiveShown, HistoryShown, assignment_shown, history_shown
from consistency_service.core.access import Models, Role
from consistency_service.core.state import HistoryEntry
from consistency_service.errors import NotLeaderError, UnknownModelError

router = APIRouter(prefix="/v1/models/{model}", tags=["reads"])


@router.get("/active", responses=documented("unknown_model", "invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.PATH)
async def read_active(
    model: ModelName,
    node: NodeDep,
    request: Request,
    response: Response,
    consistency: Consistency = "strong",
    timeout_ms: TimeoutMs = TIMEOUT_MS,
) -> ActiveShown:
    """The active version. `strong` is linearizable: by this node's lease, else through the log."""
    try:
        active = await node.reads.active(model, consistency=consistency, timeout_ms=timeout_ms)
    except UnknownModelError:
        # A lease vouches for generations; that a model exists may be news which has not arrived here.
        if consistency == "strong" and node.leader_url() is not None and FORWARDED_HEADER not in request.headers:
            raise NotLeaderError(leader_id=None) from None
        raise
    response.headers["ETag"] = f'"{active.generation}"'
    return ActiveShown(
        model=active.model,
        generation=active.generation,
        assignment=assignment_shown(active.assignment),
        version=active.assignment.stable if active.assignment else None,
        consistency=active.consistency,
        epoch=active.position.epoch,
        revision=active.position.revision,
    )


@router.get("/history", responses=documented("unknown_model", "invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.PATH)
async def history(
    model: ModelName,
    state: StateDep,
    at: Annotated[str | None, Query(max_length=64, description="Unix ms or RFC 3339: only what was live then.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[HistoryShown]:
    """The generations of a model, newest first; by wall time, which is for people."""
    entries: list[HistoryEntry] = model_of(state, model).history
    if at is not None:
        at_unix_ms = unix_ms_of(at)
        entries = [entry for entry in entries if entry.effective_at_unix_ms <= at_unix_ms][-1:]
    page, next_cursor = page_of(
        entries, key=lambda entry: (entry.generation,), limit=limit, cursor=cursor, newest_first=True
    )
    return Page(items=[history_shown(entry) for entry in page], next_cursor=next_cursor)


def unix_ms_of(text: str) -> int:
    """The instant that `text` names: Unix milliseconds, or RFC 3339 with its offset. Raises `ProblemError`."""
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError("no offset")
        return int(instant.timestamp() * 1_000)
    except (ValueError, OverflowError):
        detail = "at takes Unix milliseconds or RFC 3339 with an offset, such as 2026-11-20T14:00:00Z"
        raise ProblemError("invalid", field="at", detail=detail) from None
