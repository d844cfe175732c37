"""Models and their versions: create, look at, change, delete."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Request, Response

from consistency_service.api.access import caller_now, needs
from consistency_service.api.artifacts import require_artifact
from consistency_service.api.depends import (
    AskedDep,
    ModelName,
    NodeDep,
    OverdueSettled,
    StateDep,
    UnconditionalDep,
    model_of,
)
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.problems import documented
from consistency_service.api.schemas import (
    ModelAsked,
    ModelShown,
    PolicyAsked,
    VersionAsked,
    VersionShown,
    model_shown,
    version_shown,
)
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import ChangePolicy, CreateModel, DeleteVersion, RegisterVersion
from edge_client.protocol.models import Policy, Version

COMMON: Final = ("invalid", "request_id_reused", "no_leader", "unknown_outcome")
router = APIRouter(prefix="/v1/models", tags=["models"])


def _tag(response: Response, *, generation: int) -> None:
    response.headers["ETag"] = f'"{generation}"'


@router.post("", status_code=201, responses=documented("model_exists", "limit_reached", *COMMON))
@needs(Role.PUBLISHER, models=Models.CHECKED)
async def create_model(body: ModelAsked, node: NodeDep, asked: UnconditionalDep, response: Response) -> ModelShown:
    """Create a model; it has no version yet."""
    caller_now().require((body.name,))
    await node.propose(
        CreateModel(
            model=body.name,
            policy=body.policy.over(Policy()),
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    model = model_of(node.metadata.state, body.name)
    _tag(response, generation=model.generation)
    response.headers["Location"] = f"/v1/models/{model.name}"
    return model_shown(model)


@router.get("", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def list_models(state: StateDep, limit: Limit = 100, cursor: Cursor = None) -> Page[ModelShown]:
    """Every model, by name."""
    seen = (model for model in state.models.values() if caller_now().sees(model.name))
    models, next_cursor = page_of(seen, key=lambda m: (m.name,), limit=limit, cursor=cursor)
    return Page(items=[model_shown(model) for model in models], next_cursor=next_cursor)


@router.get("/{model}", responses=documented("unknown_model", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.PATH)
async def show_model(model: ModelName, state: StateDep, response: Response) -> ModelShown:
    """One model. Its `ETag` is what `If-Match` takes."""
    found = model_of(state, model)
    _tag(response, generation=found.generation)
    return model_shown(found)


@router.patch(
    "/{model}/policy",
    dependencies=[OverdueSettled],
    responses=documented("unknown_model", "generation_mismatch", *COMMON),
)
@needs(Role.OPERATOR, models=Models.PATH)
async def change_policy(
    model: ModelName, body: PolicyAsked, request: Request, node: NodeDep, asked: AskedDep, response: Response
) -> ModelShown:
    """Change the given fields of the policy; the others stay as they are."""
    # All changes come through the leader: the lock keeps one of two callers from undoing the other's field.
    lock: asyncio.Lock = request.app.state.policy_lock
    async with lock:
        found = node.metadata.state.models.get(model)
        await node.propose(
            ChangePolicy(
                model=model,
                policy=body.over(found.policy if found else Policy()),
                generation_expected=asked.generation_expected,
                request_id=asked.request_id,
                fingerprint=asked.fingerprint(body.model_dump(mode="json", exclude_unset=True)),
                author=asked.author,
                proposed_at_unix_ms=node.clock.unix_ms(),
            )
        )
    changed = model_of(node.metadata.state, model)
    _tag(response, generation=changed.generation)
    return model_shown(changed)


@router.delete(
    "/{model}",
    status_code=204,
    dependencies=[OverdueSettled],
    responses=documented("unknown_model", "model_in_use", "activation_pending", "generation_mismatch", *COMMON),
)
@needs(Role.OPERATOR, models=Models.PATH)
async def delete_model(model: ModelName, node: NodeDep, asked: AskedDep) -> None:
    """Delete it once no live edge follows it; answers when no lease can name it any more."""
    await node.activations.delete_model(
        model,
        author=asked.author,
        request_id=asked.request_id,
        fingerprint=asked.fingerprint(),
        generation_expected=asked.generation_expected,
    )


@router.post(
    "/{model}/versions",
    status_code=201,
    responses={
        **documented(
            "unknown_model", "unknown_artifact", "version_conflict", "signature_refused", "limit_reached", *COMMON
        ),
        200: {"description": "It was registered already", "model": VersionShown},
    },
)
@needs(Role.PUBLISHER, models=Models.PATH)
async def register_version(
    model: ModelName, body: VersionAsked, node: NodeDep, asked: UnconditionalDep, response: Response
) -> VersionShown:
    """Name stored bytes. A version never changes; the same name for the same bytes again is no error.

    Bytes that only models outside a caller's prefixes have are refused: otherwise this would be a way to read them.
    """
    require_artifact(node.metadata.state, body.digest)
    size_bytes = await node.artifacts.size(body.digest)
    version = Version(
        version=body.version,
        digest=body.digest,
        size_bytes=size_bytes,
        metadata=body.metadata,
        signatures=tuple(body.signatures),
    )
    node.keys.require_signed(model, version, revoked=node.metadata.state.publishers_revoked)
    outcome = await node.propose(
        RegisterVersion(
            model=model,
            version=version,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(body.model_dump(mode="json")),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
    if outcome.detail.get("existed"):
        response.status_code = 200
    found = model_of(node.metadata.state, model)
    if body.version in found.versions:
        return version_shown(found, body.version)
    # The key was used before, and the version has been deleted since.
    return VersionShown(
        version=body.version,
        digest=body.digest,
        size_bytes=size_bytes,
        metadata=body.metadata,
        signatures=body.signatures,
        registered_at_unix_ms=0,
        in_use=False,
    )


@router.get("/{model}/versions", responses=documented("unknown_model", "invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.PATH)
async def list_versions(
    model: ModelName, state: StateDep, limit: Limit = 100, cursor: Cursor = None
) -> Page[VersionShown]:
    """The versions of a model, newest first."""
    found = model_of(state, model)
    versions, next_cursor = page_of(
        found.versions,
        key=lambda name: (found.registered_at_unix_ms.get(name, 0), name),
        limit=limit,
        cursor=cursor,
        newest_first=True,
    )
    return Page(items=[version_shown(found, name) for name in versions], next_cursor=next_cursor)


@router.delete(
    "/{model}/versions/{version}",
    status_code=204,
    responses=documented("unknown_model", "unknown_version", "version_in_use", *COMMON),
)
@needs(Role.PUBLISHER, models=Models.PATH)
async def delete_version(model: ModelName, version: str, node: NodeDep, asked: UnconditionalDep) -> None:
    """Delete a version that nothing needs. Its bytes go when no other version names them."""
    await node.propose(
        DeleteVersion(
            model=model,
            version=version,
            request_id=asked.request_id,
            fingerprint=asked.fingerprint(),
            author=asked.author,
            proposed_at_unix_ms=node.clock.unix_ms(),
        )
    )
