"""Who the nodes are: add one, remove one, let another lead. Passed on to the leader like every change."""

from __future__ import annotations

import logging
from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from consistency_service.api.access import caller_now, needs
from consistency_service.api.depends import NodeDep
from consistency_service.api.problems import documented
from consistency_service.core.access import Models, Role
from consistency_service.runtime.node import Node
from consistency_service.runtime.ports import AddMember, RemoveMember
from edge_client.protocol.models import NAME_PATTERN

UNCERTAIN: Final = ("invalid", "no_leader", "unknown_outcome")
NodeId = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$", max_length=64, examples=["node-4"])]
_log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/cluster", tags=["region"])


class MemberAsked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    node_id: NodeId
    raft: Annotated[str, Field(max_length=261, examples=["node-4.example.org:8701"])]
    url: Annotated[str, Field(pattern="^https?://.", max_length=2_000, examples=["https://node-4.example.org:8700"])]


class MemberShown(BaseModel):
    node_id: str
    raft: str
    url: str
    votes: bool


class MembersShown(BaseModel):
    members: list[MemberShown]


class HeirAsked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    node_id: NodeId | None = None


class HeirShown(BaseModel):
    heir: str


@router.post(
    "/members",
    responses=documented(
        "member_exists",
        "member_removed",
        "too_many_members",
        "quorum_at_risk",
        "change_pending",
        "catching_up",
        "fixed_membership",
        "invalid_member",
        *UNCERTAIN,
    ),
)
@needs(Role.ADMIN, models=Models.ALL)
async def add_member(body: MemberAsked, node: NodeDep) -> MembersShown:
    """Add a running node that was started to join. Answers when it has its vote; asking again goes on where it stopped."""
    await node.change_membership(AddMember(node_id=body.node_id, raft=body.raft, url=body.url))
    _told("AddMember", body.node_id)
    return _shown(node)


@router.delete(
    "/members/{node_id}",
    responses=documented(
        "unknown_member", "last_voter", "quorum_at_risk", "change_pending", "fixed_membership", *UNCERTAIN
    ),
)
@needs(Role.ADMIN, models=Models.ALL)
async def remove_member(node_id: Annotated[str, Path(max_length=64)], node: NodeDep) -> MembersShown:
    """Remove a node for good: its id stays taken. A leader lets another lead first. The process is not stopped."""
    await node.change_membership(RemoveMember(node_id=node_id))
    _told("RemoveMember", node_id)
    return _shown(node)


@router.post("/transfer", responses=documented("unknown_member", "last_voter", "quorum_at_risk", *UNCERTAIN))
@needs(Role.ADMIN, models=Models.ALL)
async def transfer(body: HeirAsked, node: NodeDep) -> HeirShown:
    """Let another node lead: the one named, or the one that holds most of the log. It usually does within milliseconds."""
    heir = node.transfer(body.node_id)
    _told("Transfer", heir)
    return HeirShown(heir=heir)


def _told(command: str, subject: str) -> None:
    """Members are the log's own business and not in the state: this line is their audit."""
    _log.warning("change command=%s subject=%s author=%r", command, subject, caller_now().name)


def _shown(node: Node) -> MembersShown:
    members = node.metadata.log.status().members
    return MembersShown(
        members=[MemberShown(node_id=m.node_id, raft=m.raft, url=m.url, votes=m.votes) for m in members]
    )
