"""A backup's first part: all that the region has decided, as of one position, and a description of it.

The state is encoded in one step of the event loop, between two commands, so it is whole at its position; nothing stops
for it. Artifacts are not in here: they never change, and are fetched by their digests. No key and no token is, either;
the secrets of webhooks are, for they are part of what the region decided.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from fastapi import APIRouter
from starlette.responses import StreamingResponse

from consistency_service import __version__
from consistency_service.api.access import needs
from consistency_service.api.depends import NodeDep, StateDep
from consistency_service.api.problems import documented
from consistency_service.core.access import Models, Role
from consistency_service.core.state import State, encode_state
from consistency_service.runtime.node import Node

FORMAT: Final = 1
MEDIA_TYPE: Final = "application/msgpack"
CHUNK_BYTES: Final = 256 * 1024
SETTINGS: Final = (
    *("region", "stream_replicas", "beacon_interval_ms", "lease_ms", "margin_ms", "clock_drift_max_ppm"),
    *("artifact_bytes_max", "election_ms_min", "election_ms_max", "compaction_entries", "garbage_interval_ms"),
)
"""What one would have to remember to set a node up again, and no path: keys and certificates lie elsewhere."""
router = APIRouter(prefix="/v1/backup", tags=["region"])


@router.get(
    "",
    response_class=StreamingResponse,
    responses={
        **documented("not_strong", "no_leader"),
        200: {"description": "A msgpack map of `about` and `state`", "content": {MEDIA_TYPE: {}}},
    },
)
@needs(Role.ADMIN, models=Models.ALL)
async def back_up(node: NodeDep, state: StateDep) -> StreamingResponse:
    """Everything acknowledged before the call, for `ccs backup create`. With `consistency=local` what this node knows: for
    a region that has lost its majority.
    """
    payload = msgspec.msgpack.encode(_backup(node, state))
    return StreamingResponse(
        _pieces(payload),
        media_type=MEDIA_TYPE,
        headers={"Content-Length": str(len(payload)), "Cache-Control": "no-store"},
    )


def _pieces(payload: bytes) -> Iterator[bytes]:
    view = memoryview(payload)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def _backup(node: Node, state: State) -> dict[str, Any]:
    encoded = encode_state(state)
    artifacts = {v.digest: v.size_bytes for model in state.models.values() for v in model.versions.values()}
    about = {
        "format": FORMAT,
        "region": state.region,
        "epoch": state.epoch,
        "revision": state.revision,
        "terms": msgspec.to_builtins(state.terms),
        "made_at_unix_ms": node.clock.unix_ms(),
        "made_by_node": node.config.node_id,
        "made_by_version": __version__,
        "members": [asdict(member) for member in node.metadata.log.status().members],
        "settings": {name: getattr(node.config, name) for name in SETTINGS}
        | {"artifacts": _without_user(node.config.artifacts), "nats": [_without_user(url) for url in node.config.nats]},
        "models": {name: len(model.versions) for name, model in state.models.items()},
        "artifacts": [{"digest": digest, "size_bytes": size} for digest, size in sorted(artifacts.items())],
        "state": {"sha256": hashlib.sha256(encoded).hexdigest(), "size_bytes": len(encoded)},
    }
    return {"about": about, "state": encoded}


def _without_user(url: str) -> str:
    """A URL without what may be a name and a password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
