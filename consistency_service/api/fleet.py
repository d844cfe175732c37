"""Who is there: edges, nodes, and what was asked of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final, get_args

import msgspec
from fastapi import APIRouter, Request

from consistency_service.api.access import caller_now, needs
from consistency_service.api.depends import NodeDep, StateDep
from consistency_service.api.pages import Cursor, Limit, Page, page_of
from consistency_service.api.peers import Peers
from consistency_service.api.problems import documented
from consistency_service.api.schemas import AuditShown, EdgeShown, edge_shown
from consistency_service.core.access import Models, Role
from consistency_service.core.commands import AnyCommand
from consistency_service.core.state import AuditEntry, State
from consistency_service.runtime.node import Node

_OF_MODELS: Final = {"ActivateGeneration"} | {
    command.__name__ for command in get_args(AnyCommand) if "model" in command.__struct_fields__
}
"""Commands whose subject is a model, or several."""
router = APIRouter(prefix="/v1", tags=["region"])


@router.get("/edges", responses=documented("invalid"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def list_edges(node: NodeDep, limit: Limit = 100, cursor: Cursor = None) -> Page[EdgeShown]:
    """Edges that this node heard within the hour: what they serve, under which guarantee, how old, and their switches."""
    now_ns, caller = node.clock.now_ns(), caller_now()
    seen = [
        view
        for view in node.fleet.view.edges()
        if not caller.limited or any(caller.sees(served.model) for served in view.report.models)
    ]
    views, next_cursor = page_of(seen, key=lambda view: (view.report.edge_id,), limit=limit, cursor=cursor)
    items = [edge_shown(view, now_ns=now_ns) for view in views]
    if caller.limited:
        for item in items:
            item.models = [served for served in item.models if caller.sees(served["model"])]
            item.switches = [switch for switch in item.switches if caller.sees(switch["model"])]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/cluster")
@needs(Role.VIEWER)
async def show_cluster(node: NodeDep, request: Request) -> dict[str, Any]:
    """Every node, as it sees itself, and what this one makes of it."""
    peers: Peers = request.app.state.peers
    others = {node_id: url for node_id, url in node.urls().items() if node_id != node.config.node_id}
    answers = await asyncio.gather(*(peers.self_status(url) for url in others.values()))
    mine = _self_status(node, counters=request.app.state.counters)
    nodes = [mine | {"reachable": True}]
    for (node_id, url), answer in zip(others.items(), answers, strict=True):
        told = answer if answer is not None and answer.get("node_id") == node_id else None
        nodes.append((told or {}) | {"node_id": node_id, "url": url, "reachable": told is not None})
    authority = node.metadata.state.authority
    return {
        "region": mine["region"],
        "epoch": mine["epoch"],
        "revision": mine["revision"],
        "terms": mine["terms"],
        "leader_id": mine["leader_id"],
        "authority": None if authority is None else msgspec.to_builtins(authority),
        "nodes": sorted(nodes, key=lambda one: str(one["node_id"])),
    }


@router.get("/cluster/self")
@needs(Role.VIEWER, also=(Role.NODE,))
async def show_self(node: NodeDep, request: Request) -> dict[str, Any]:
    """What this node believes of itself, and its counters."""
    return _self_status(node, counters=request.app.state.counters)


def _self_status(node: Node, *, counters: Counter[str]) -> dict[str, Any]:
    status = node.self_status()
    api = {f"api.{name}": count for name, count in sorted(counters.items())}
    return status | {"counters": status.get("counters", {}) | api}


@router.get("/audit", responses=documented("invalid", "not_strong", "no_leader"))
@needs(Role.VIEWER, models=Models.CHECKED)
async def audit(state: StateDep, limit: Limit = 100, cursor: Cursor = None) -> Page[AuditShown]:
    """Who asked for what and what came of it, newest first."""
    caller = caller_now()
    seen = [
        item for item in _numbered(state.audit) if not caller.limited or caller.sees_all(_models_of(item[1], state))
    ]
    page, next_cursor = page_of(seen, key=lambda item: item[0], limit=limit, cursor=cursor, newest_first=True)
    return Page(items=[AuditShown(**msgspec.to_builtins(entry)) for _, entry in page], next_cursor=next_cursor)


def _models_of(entry: AuditEntry, state: State) -> list[str]:
    """What an entry concerns; nothing where that is not known, as of a rollout that was forgotten."""
    if entry.command in _OF_MODELS:
        return entry.subject.split(",")
    rollout = state.rollouts.get(entry.subject) if "Rollout" in entry.command else None
    return [] if rollout is None else [target.model for target in rollout.targets]


def _numbered(entries: list[AuditEntry]) -> list[tuple[tuple[int, int], AuditEntry]]:
    """Each entry under its revision and its place among those of that revision: refusals share one."""
    seen: Counter[int] = Counter()
    numbered = []
    for entry in entries:
        numbered.append(((entry.revision, seen[entry.revision]), entry))
        seen[entry.revision] += 1
    return numbered
