"""Who the caller is, as this node sees them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from consistency_service.api.access import Access, caller_now, needs
from consistency_service.core.access import Role

router = APIRouter(prefix="/v1", tags=["region"])


class CallerShown(BaseModel):
    authenticated: bool
    """False where nobody has to say who they are: then everybody may do everything."""
    name: str | None
    role: str | None
    kind: str | None
    """`token`, `jwt` or `certificate`."""
    models: list[str] | None
    """Prefixes of model names; null: every model."""
    expires_at_unix_ms: int | None


@router.get("/whoami")
@needs(Role.VIEWER, also=(Role.EDGE, Role.NODE))
async def who_am_i(request: Request) -> CallerShown:
    """Who the caller is, and what they may do."""
    access: Access = request.app.state.access
    identity = caller_now().identity
    if identity is None:
        return CallerShown(
            authenticated=not access.open, name=None, role=None, kind=None, models=None, expires_at_unix_ms=None
        )
    expires = identity.expires_at_unix_s
    return CallerShown(
        authenticated=True,
        name=identity.name,
        role=identity.role.value,
        kind=identity.kind,
        models=None if identity.models is None else list(identity.models),
        expires_at_unix_ms=None if expires is None else expires * 1_000,
    )
