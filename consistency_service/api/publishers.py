"""Keys of publishers that count no more: said here, told to every edge, never taken back."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from consistency_service.api.access import needs
from consistency_service.api.depends import NodeDep, StateDep, UnconditionalDep
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import documented
from consistency_service.api.schemas import Asked
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import RevokePublisher
from consistency_service.core.publisher_machine import REASON_CHARS_MAX
from consistency_service.core.state import RevokedPublisher
from edge_client.protocol.signatures import KEY_ID_PATTERN

UNCERTAIN: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
KeyId = Annotated[str, Path(pattern=f"^{KEY_ID_PATTERN.pattern}$", description="As in the line of the public key.")]
router = APIRouter(prefix="/v1/publishers/revoked", tags=["publishers"])


class RevocationAsked(Asked):
    reason: Annotated[str, Field(max_length=REASON_CHARS_MAX)] = ""


class RevokedShown(BaseModel):
    """A key by which nothing is loaded any more."""

    key_id: str
    author: str
    reason: str
    revoked_at_unix_ms: int


@router.get("", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.ALL)
async def list_revoked(state: StateDep, limit: Limit = 100, cursor: Cursor = None) -> Page[RevokedShown]:
    """Every key that was revoked in the region, by id. Edges may have revoked more by their own files."""
    page, next_cursor = page_of(
        state.publishers_revoked.values(), key=lambda known: (known.key_id,), limit=limit, cursor=cursor
    )
    return Page(items=[_shown(known) for known in page], next_cursor=next_cursor)


@router.put("/{key_id}", responses=documented("limit_reached", *UNCERTAIN))
@needs(Role.ADMIN, models=Models.ALL)
async def revoke(key_id: KeyId, body: RevocationAsked, node: NodeDep, asked: UnconditionalDep) -> RevokedShown:
    """From now on no edge loads what only this key signed. What edges serve already they serve on, and say so. For good."""
    await node.propose(
        RevokePublisher(
            key_id=key_id,
            reason=body.reason,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    return _shown(node.metadata.state.publishers_revoked[key_id])


def _shown(known: RevokedPublisher) -> RevokedShown:
    return RevokedShown(
        key_id=known.key_id,
        author=known.author,
        reason=known.reason,
        revoked_at_unix_ms=known.revoked_at_unix_ms,
    )
