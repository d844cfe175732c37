"""Artifacts: bytes in, bytes out, never a whole one in memory.

An upload is stored by the node that receives it; nodes share one object store. What leaves is announced with its length,
so that an answer which must be cut short cannot be taken for a whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from consistency_service.api.access import caller_now, needs
from consistency_service.api.depends import NodeDep
from consistency_service.api.problems import ProblemError, documented
from consistency_service.api.ranges import span_of
from consistency_service.api.schemas import ArtifactShown, DigestText
from consistency_service.core.access import Models, Role
from consistency_service.core.state import State
from consistency_service.errors import ArtifactCorruptError, ArtifactTooLargeError
from consistency_service.runtime.node import Node

_log = logging.getLogger(__name__)
CHUNK_TIMEOUT_S: Final = 60
MEDIA_TYPE: Final = "application/octet-stream"
BYTES: Final = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
UPLOADS_MAX: Final = 16
"""Under way at once; each holds up to 32 MiB in memory."""
DOWNLOADS_MAX: Final = 64
"""Under way at once; each holds up to 16 MiB in memory."""
TURN_TIMEOUT_S: Final = 10
"""How long a transfer waits until another one ends."""
router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

DigestPath = Annotated[str, Path(max_length=128, description="`sha256:` and 64 lower-case hexadecimal digits.")]
RangeHeader = Annotated[str | None, Header(alias="Range", description="One `bytes=` range is honoured.")]
NoneMatch = Annotated[str | None, Header(alias="If-None-Match")]
IfRange = Annotated[str | None, Header(alias="If-Range")]


class Transfers:
    """How many uploads and downloads go on at once, so that few bytes of them are in memory whoever asks."""

    def __init__(self) -> None:
        self.uploads = asyncio.Semaphore(UPLOADS_MAX)
        self.downloads = asyncio.Semaphore(DOWNLOADS_MAX)


async def _turn(places: asyncio.Semaphore) -> None:
    """One place is ours. Raises `ProblemError` when none becomes free in time."""
    try:
        async with asyncio.timeout(TURN_TIMEOUT_S):
            await places.acquire()
    except TimeoutError:
        raise ProblemError(
            "overloaded", detail="this node has as many transfers under way as it may; ask again, or ask another node"
        ) from None


class _Leaving(StreamingResponse):
    """A download; its place is free when it has ended, however it ends."""

    places: asyncio.Semaphore

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.places.release()


@router.post(
    "",
    status_code=201,
    responses=documented(
        "too_large", "digest_mismatch", "invalid", "slow_request", "overloaded", "store_unavailable", "store_full"
    ),
    openapi_extra={"requestBody": {"required": True, "content": BYTES}},
)
@needs(Role.PUBLISHER)
async def upload_artifact(
    request: Request,
    node: NodeDep,
    response: Response,
    digest: Annotated[DigestText | None, Query(description="Store only if the bytes have this digest.")] = None,
) -> ArtifactShown:
    """Store the request body, any bytes. Nothing is left behind by an upload that does not end well."""
    limit_bytes = node.config.artifact_bytes_max
    announced = request.headers.get("content-length", "0")
    too_large = ProblemError("too_large", limit_bytes=limit_bytes)
    if announced.isdigit() and int(announced) > limit_bytes:
        raise too_large
    places: asyncio.Semaphore = request.app.state.transfers.uploads
    await _turn(places)
    try:
        found, size_bytes = await node.artifacts.put(_arriving(request), size_max_bytes=limit_bytes, digest=digest)
    except ArtifactTooLargeError:
        raise too_large from None
    finally:
        places.release()
    author = caller_now().name
    _log.info("change command=UploadArtifact subject=%s size_bytes=%d author=%r", found, size_bytes, author)
    response.headers["Location"] = f"/v1/artifacts/{found}"
    response.headers["ETag"] = f'"{found}"'
    return ArtifactShown(digest=found, size_bytes=size_bytes)


def require_artifact(state: State, digest: str) -> None:
    """The caller may have to do with these bytes: a model that they see has them, or no model has. Raises `ProblemError`."""
    caller = caller_now()
    if caller.limited:
        having = [
            name for name, model in state.models.items() if any(v.digest == digest for v in model.versions.values())
        ]
        if having and not any(map(caller.sees, having)):
            caller.require(having)


async def _arriving(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises `ClientDisconnect`, and `ProblemError` when the caller falls silent."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(CHUNK_TIMEOUT_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ProblemError("slow_request", headers={"Connection": "close"}) from None
        if chunk:
            yield chunk


@router.head(
    "/{digest}", responses={**documented("unknown_artifact", "store_unavailable"), 200: {"description": "It is stored"}}
)
@needs(Role.VIEWER, also=(Role.EDGE,), models=Models.CHECKED)
async def look_at_artifact(digest: DigestPath, node: NodeDep) -> Response:
    """Its size, without its bytes."""
    require_artifact(node.metadata.state, digest)
    size_bytes = await node.artifacts.size(digest)
    return Response(media_type=MEDIA_TYPE, headers=_headers(digest) | {"Content-Length": str(size_bytes)})


@router.get(
    "/{digest}",
    response_class=StreamingResponse,
    responses={
        **documented(
            "unknown_artifact", "range_not_satisfiable", "artifact_corrupt", "overloaded", "store_unavailable"
        ),
        200: {"description": "The bytes", "content": BYTES},
        206: {"description": "The range asked for", "content": BYTES},
        304: {"description": "The caller has it"},
    },
)
@needs(Role.VIEWER, also=(Role.EDGE,), models=Models.CHECKED)
async def download_artifact(
    digest: DigestPath,
    request: Request,
    node: NodeDep,
    range_header: RangeHeader = None,
    if_none_match: NoneMatch = None,
    if_range: IfRange = None,
) -> Response:
    """The bytes, or a range of them. Bytes that do not match their digest any more are never given as a whole."""
    require_artifact(node.metadata.state, digest)
    size_bytes = await node.artifacts.size(digest)
    headers = _headers(digest)
    if if_none_match is not None and (if_none_match.strip() == "*" or headers["ETag"] in if_none_match):
        return Response(status_code=304, headers=headers)
    span = span_of(range_header, size_bytes=size_bytes) if if_range in {None, headers["ETag"]} else None
    offset, length = span or (0, size_bytes)
    counters: Counter[str] = request.app.state.counters
    chunks = _leaving(node, digest=digest, offset=offset, length=length, counters=counters)
    places: asyncio.Semaphore = request.app.state.transfers.downloads
    await _turn(places)
    try:
        first = await anext(chunks, b"")
    except BaseException:
        places.release()
        raise
    headers["Content-Length"] = str(length)
    if span is not None:
        headers["Content-Range"] = span.content_range(size_bytes=size_bytes)
    leaving = _Leaving(_joined(first, chunks), status_code=206 if span else 200, headers=headers, media_type=MEDIA_TYPE)
    leaving.places = places
    return leaving


async def _leaving(
    node: Node, *, digest: str, offset: int, length: int, counters: Counter[str]
) -> AsyncIterator[bytes]:
    try:
        async for chunk in node.artifacts.read(digest, offset=offset, length=length):
            yield chunk
    except ArtifactCorruptError:
        counters["artifacts_corrupt"] += 1
        _log.error("artifact_corrupt digest=%s", digest)
        raise


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _headers(digest: str) -> dict[str, str]:
    return {
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
