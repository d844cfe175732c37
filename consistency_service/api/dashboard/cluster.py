"""The nodes, as each sees itself, asked by this one; and the whole of it in one line for the overview.

Peers are asked at most every two seconds, however many visitors look. What they answer is read as what it should be, or
left out: a node of another release is no reason for a page not to be there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from consistency_service.api.dashboard.fleet import Tally
from consistency_service.api.dashboard.overview import Health
from consistency_service.api.dashboard.words import clip, duration
from consistency_service.api.fleet import show_cluster
from consistency_service.runtime.node import Node
from consistency_service.runtime.ports import Member

ASKED_NS: Final = 2_000_000_000
COUNTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    node_id: str
    url: str
    """Where its own dashboard is; empty if unknown."""
    raft: str
    reachable: bool
    this: bool
    leading: bool
    authority: bool
    votes: bool | None
    term: int | None
    commit_index: int | None
    applied_index: int | None
    position: str
    behind: int
    lease_remaining_ms: int | None
    bus_connected: bool | None
    storage_fault: str
    outbox_depth: int | None
    edges_live: int | None
    counters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPage:
    region: str
    leader_id: str
    authority_id: str
    clock_id: str
    assumption: int | None
    lease_ms: int
    margin_ms: int
    rho_ppm: int
    nodes: tuple[NodeRow, ...]
    health: Health
    members: tuple[Member, ...]


class ClusterLook:
    """What all nodes answered last."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answer: dict[str, Any] = {}
        self._due_ns = 0
        self._asking = asyncio.Lock()

    async def look(self, request: Request) -> dict[str, Any]:
        """As `GET /v1/cluster`, at most two seconds old."""
        async with self._asking:
            if self._node.clock.now_ns() >= self._due_ns:
                self._answer = await show_cluster(self._node, request)
                self._due_ns = self._node.clock.now_ns() + ASKED_NS
            return self._answer


def cluster_page_of(node: Node, answer: dict[str, Any], tally: Tally) -> ClusterPage:
    """The page, of what the nodes answered."""
    state, status = node.metadata.state, node.metadata.log.status()
    nodes = _rows(node, answer)
    authority = state.authority
    return ClusterPage(
        region=state.region,
        leader_id=status.leader_id or "",
        authority_id=authority.node_id if authority else "",
        clock_id=authority.clock_id if authority else "",
        assumption=authority.assumption if authority else None,
        lease_ms=state.terms.lease_ms,
        margin_ms=state.terms.margin_ms,
        rho_ppm=state.terms.rho_ppm,
        nodes=nodes,
        health=_health(node, nodes, tally),
        members=status.members,
    )


def health_of(node: Node, answer: dict[str, Any], tally: Tally) -> Health:
    """The line for the overview."""
    return _health(node, _rows(node, answer), tally)


def _rows(node: Node, answer: dict[str, Any]) -> tuple[NodeRow, ...]:
    urls = node.urls()
    members = {member.node_id: member for member in node.metadata.log.status().members}
    revision_max = max((_number(told.get("revision")) or 0 for told in answer["nodes"]), default=0)
    return tuple(
        _row(
            told,
            url=urls.get(str(told["node_id"]), ""),
            member=members.get(str(told["node_id"])),
            this=told["node_id"] == node.config.node_id,
            revision_max=revision_max,
        )
        for told in answer["nodes"]
    )


def _row(told: dict[str, Any], *, url: str, member: Member | None, this: bool, revision_max: int) -> NodeRow:
    epoch, revision = _number(told.get("epoch")), _number(told.get("revision"))
    counters = told.get("counters")
    bus = told.get("bus_connected")
    return NodeRow(
        node_id=clip(told["node_id"]),
        url=url if url.startswith(("http://", "https://")) else "",
        raft=clip(member.raft) if member else "",
        reachable=told.get("reachable") is True,
        this=this,
        leading=told.get("leading") is True,
        authority=told.get("is_authority") is True,
        votes=member.votes if member else None,
        term=_number(told.get("term")),
        commit_index=_number(told.get("commit_index")),
        applied_index=_number(told.get("applied_index")),
        position="" if revision is None else f"e{epoch} r{revision}",
        behind=0 if revision is None else revision_max - revision,
        lease_remaining_ms=_number(told.get("lease_remaining_ms")),
        bus_connected=bus if isinstance(bus, bool) else None,
        storage_fault=clip(told.get("storage_fault") or "", 200),
        outbox_depth=_number(told.get("outbox_depth")),
        edges_live=_number(told.get("edges_live")),
        counters=_counters(counters) if isinstance(counters, dict) else (),
    )


def _counters(counters: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    named = ((clip(name, 60), count) for name, count in counters.items() if isinstance(count, int) and count)
    return tuple(sorted(named))[:COUNTERS_MAX]


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _health(node: Node, nodes: tuple[NodeRow, ...], tally: Tally) -> Health:
    leader_id, authority = node.metadata.log.status().leader_id, node.metadata.state.authority
    faults = []
    if leader_id is None:
        faults.append("no leader: nothing can be decided just now")
    silent = [row.node_id for row in nodes if not row.reachable]
    if silent:
        faults.append(f"no answer from {', '.join(silent)}")
    faults += [f"{row.node_id}: {row.storage_fault}" for row in nodes if row.storage_fault]
    unplugged = [row.node_id for row in nodes if row.bus_connected is False]
    if unplugged:
        faults.append(f"no bus at {', '.join(unplugged)}")
    if node.metadata.state.epoch and node.reads.lease_remaining_ms() == 0:
        faults.append(f"{node.config.node_id} holds no lease; it should have one of {duration(node.config.lease_ms)}")
    return Health(
        well=not faults,
        node_count=len(nodes),
        answering_count=len(nodes) - len(silent),
        leader_id=leader_id or "",
        authority_id=authority.node_id if authority else "",
        faults=tuple(faults),
        live_count=tally.live_count,
        silent_count=tally.silent_count,
    )
