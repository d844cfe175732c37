"""`ccs cluster …`: change who the nodes are, let another lead, and bring back a node whose disk was damaged."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consistency_service.adapters import raft_log
from consistency_service.cli.doctor_region import LAG_MAX
from consistency_service.cli.errors import LocalError, RefusedError, UnavailableError
from consistency_service.cli.region import cluster_app
from consistency_service.cli.session import Session, command
from consistency_service.config import load_config

app: Final = cluster_app
CHANGE_S: Final = 90.0
DRAIN_POLL_S: Final = 0.3
LEADS: Final = "it leads, or has authority"

NodeArgument = Annotated[str, typer.Argument(metavar="NODE_ID", help="As in the node's settings.", show_default=False)]
RaftOption = Annotated[
    str, typer.Option("--raft", metavar="HOST:PORT", help="Where its raft listens.", show_default=False)
]
RestOption = Annotated[str, typer.Option("--rest", metavar="URL", help="Base URL of its REST API.", show_default=False)]


@command(
    app,
    "add",
    changes=True,
    examples=("ccs cluster add node-4 --raft node-4.example.org:8701 --rest https://node-4.example.org:8700",),
)
def add(session: Session, node_id: NodeArgument, raft: RaftOption, rest: RestOption) -> None:
    """Add a node to the running region; returns when it holds the log and has its vote.

    Start the node first, with join = true, an empty data_dir, and the others among its peers. If it takes longer than a
    minute, or the command is interrupted, the same command goes on.
    """
    with session.client() as client:
        _show(session, _add(client, node_id, raft=raft, rest=rest))


@command(app, "remove", changes=True, examples=("ccs cluster remove node-2",))
def remove(session: Session, node_id: NodeArgument) -> None:
    """Remove a node for good: it has no vote any more and hears nothing, and its id cannot be used again.

    A leader lets another one lead first. Stop the node afterwards. Refused while the voters that can be heard would be no
    majority without it.
    """
    with session.client() as client:
        _show(session, client.change("DELETE", f"/v1/cluster/members/{node_id}", wait_s=CHANGE_S, step="remove"))


@command(
    app,
    "replace",
    changes=True,
    examples=(
        "ccs cluster replace node-2 node-4 --raft node-4.example.org:8701 --rest https://node-4.example.org:8700",
    ),
)
def replace(
    session: Session,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The node that leaves, dead or alive.", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The node that comes.", show_default=False)],
    raft: RaftOption,
    rest: RestOption,
) -> None:
    """Add one node, then remove another: what add and remove do, in the order that keeps a majority."""
    with session.client() as client:
        _add(client, new, raft=raft, rest=rest)
        _show(session, client.change("DELETE", f"/v1/cluster/members/{old}", wait_s=CHANGE_S, step="remove"))


@command(app, "transfer", changes=True, examples=("ccs cluster transfer", "ccs cluster transfer node-2"))
def transfer(
    session: Session,
    node_id: Annotated[
        str | None,
        typer.Argument(metavar="NODE_ID", help="[dim]Default: who holds most of the log[/dim]", show_default=False),
    ] = None,
) -> None:
    """Let another node lead. Writes wait for some milliseconds; edges notice nothing."""
    with session.client() as client:
        answer = client.change("POST", "/v1/cluster/transfer", body={"node_id": node_id}, wait_s=10.0)
    if session.json:
        session.screen.document(answer)
        return
    session.screen.fields([("heir", answer["heir"])])


@command(app, "drain", changes=True, examples=("ccs cluster drain node-2", "ccs cluster drain node-2 --wait 300"))
def drain(
    session: Session,
    node_id: NodeArgument,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0.0, help="How long to wait until it may be stopped.")
    ] = 60.0,
) -> None:
    """Return when a node may be stopped for maintenance without anybody noticing, and not before.

    That is when the others are a majority by themselves, hold the log, hear the bus and have a lease, and one of them leads.
    Where this node leads, another is told to. Ends with exit code 3, and the reasons, if it takes too long.

    Stop and start one node after the other, each behind a drain of its own: the drain of the next waits for the one before.
    """
    deadline_s = time.monotonic() + wait
    with session.client() as client:
        said: list[str] = []
        while True:
            cluster = client.get("/v1/cluster")
            reasons = obstacles(cluster, node_id)
            if not reasons:
                break
            if reasons != said:
                session.screen.note("; ".join(reasons))
                said = reasons
            if time.monotonic() >= deadline_s:
                raise UnavailableError("; ".join(reasons), code="not_drained", title=f"{node_id} is needed")
            if reasons == [LEADS]:
                with contextlib.suppress(RefusedError):  # the next look says why
                    client.change("POST", "/v1/cluster/transfer", body={"node_id": None}, wait_s=10.0)
            time.sleep(DRAIN_POLL_S)
    if session.json:
        session.screen.document({"node_id": node_id, "leader_id": cluster["leader_id"]})
        return
    session.screen.text(f"{node_id} may be stopped; {cluster['leader_id']} leads")


def obstacles(cluster: dict[str, Any], node_id: str) -> list[str]:
    """Why the node must not be stopped now, of what `GET /v1/cluster` says; `[LEADS]` if another one must lead first.

    Raises `LocalError` if there is no such node, or no other.
    """
    nodes = {node["node_id"]: node for node in cluster["nodes"]}
    if node_id not in nodes:
        raise LocalError(f"there is no node {node_id}; `ccs cluster status` shows which there are")
    voters: list[str] = next((node["voters"] for node in cluster["nodes"] if node["reachable"]), [])
    if voters == [node_id]:
        raise LocalError(f"{node_id} is the only node with a vote: nobody can stand in for it")
    commit = max((node["commit_index"] for node in cluster["nodes"] if node["reachable"]), default=0)
    faults = {other: _fault(nodes.get(other, {}), commit=commit) for other in voters if other != node_id}
    sound = [other for other, fault in faults.items() if fault is None]
    if len(sound) <= len(voters) // 2:
        return [f"{other} {fault}" for other, fault in faults.items() if fault is not None]
    authority = (cluster["authority"] or {}).get("node_id")
    if node_id in {cluster["leader_id"], authority}:
        return [LEADS]
    return [] if cluster["leader_id"] in sound and authority in sound else ["nobody leads just now"]


def _fault(node: dict[str, Any], *, commit: int) -> str | None:
    """Why a node cannot stand in for another; None if it can."""
    if not node.get("reachable"):
        return "does not answer"
    if node["standing"] != "member" or node.get("storage_fault") is not None:
        return f"is no sound member: {node.get('storage_fault') or node['standing']}"
    if not node["bus_connected"]:
        return "has lost the bus"
    if node["applied_index"] + LAG_MAX < commit:
        return f"is {commit - node['applied_index']} entries behind"
    return None if (node["lease_remaining_ms"] or 0) > 0 else "has no lease"


@command(
    app,
    "recover",
    remote=False,
    examples=(
        "ccs cluster recover --config node-2.toml",
        "ccs cluster recover --config node-2.toml --others-hold-quorum",
    ),
)
def recover(
    session: Session,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The node's settings.", exists=True, dir_okay=False)
    ],
    others_hold_quorum: Annotated[
        bool,
        typer.Option(
            "--others-hold-quorum", help="You vouch that a majority of all voters, this one not counted, is intact."
        ),
    ] = False,
) -> None:
    """Look at the log of a stopped node; if its disk damaged it, set it aside so that the node learns it anew.

    Nothing is changed if nothing is damaged. Otherwise the node comes back without memory, and has its vote again once it
    holds what the others hold. Its settings must name nodes that are members now: its log did, and is set aside.
    """
    settings = load_config(config)
    if settings.log != "raft":
        raise LocalError("a log in memory leaves nothing to recover", title="Not possible here")
    done = raft_log.recover(settings.data_dir / "raft", node_id=settings.node_id, others_hold_quorum=others_hold_quorum)
    if session.json:
        session.screen.document(
            {
                "files": [_finding(finding) for finding in done.findings],
                "moved_to": None if done.moved_to is None else str(done.moved_to),
            }
        )
        return
    rows: list[tuple[str, ...]] = [
        (finding.path.name, "-" if finding.size_bytes is None else str(finding.size_bytes), finding.damage or "intact")
        for finding in done.findings
    ]
    session.screen.table(("FILE", ">BYTES", "STATE"), rows, empty="no files")
    session.screen.text()
    session.screen.fields([("set aside in", str(done.moved_to) if done.moved_to else "nothing was damaged")])


def _add(client: Any, node_id: str, *, raft: str, rest: str) -> Any:
    body = {"node_id": node_id, "raft": raft, "url": rest}
    return client.change("POST", "/v1/cluster/members", body=body, wait_s=CHANGE_S, step="add")


def _show(session: Session, answer: dict[str, Any]) -> None:
    if session.json:
        session.screen.document(answer)
        return
    rows: list[tuple[str, ...]] = [
        (member["node_id"], "votes" if member["votes"] else "catches up", member["raft"], member["url"])
        for member in answer["members"]
    ]
    session.screen.table(("NODE", "STATE", "RAFT", "URL"), rows, empty="no members")


def _finding(finding: raft_log.Finding) -> dict[str, Any]:
    return {"path": str(finding.path), "size_bytes": finding.size_bytes, "damage": finding.damage}
