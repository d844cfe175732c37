"""Alive? Able to answer strongly? And the snapshot that readers start from."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Response

from consistency_service.api.access import needs
from consistency_service.api.depends import NodeDep
from consistency_service.api.problems import ProblemError, documented
from consistency_service.core.access import Models, Role

READY_TIMEOUT_MS: Final = 1_000
router = APIRouter(tags=["health"])
_Number = Annotated[int, Query(ge=0, le=2**53)]


@router.get("/livez")
@needs(None)
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses=documented("not_ready"))
@needs(None)
async def ready(node: NodeDep) -> dict[str, str]:
    """This node can answer strongly within a second, by lease or through the log."""
    reason = await node.reads.ready(timeout_ms=READY_TIMEOUT_MS)
    if reason is not None and node.metadata.log.status().standing == "removed":
        reason = "it was removed from the cluster"
    if reason is not None:
        raise ProblemError("not_ready", reason=reason)
    return {"status": "ready"}


@router.get(
    "/v1/snapshot",
    tags=["readers"],
    response_class=Response,
    responses={
        **documented("not_strong"),
        200: {"description": "A msgpack list of signed frames", "content": {"application/msgpack": {}}},
    },
)
@needs(Role.VIEWER, also=(Role.EDGE,), models=Models.ALL)
async def snapshot(node: NodeDep, epoch_min: _Number = 0, revision_min: _Number = 0) -> Response:
    """A snapshot for readers at or after a position, in signed chunks. A node that lags says so; ask another."""
    frames = await node.snapshot_frames(epoch_min=epoch_min, revision_min=revision_min)
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.msgpack.encode(frames), media_type="application/msgpack", headers=headers)
