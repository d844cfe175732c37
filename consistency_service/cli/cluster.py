"""`ccs cluster …`: change who the nodes are, let another lead, and bring back a node whose disk was damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from consistency_service.adapters import raft_log
from consistency_service.cli.errors import LocalError
from consistency_service.cli.region import cluster_app
from consistency_service.cli.session import Session, command
from consistency_service.config import load_config

app: Final = cluster_app
CHANGE_S: Final = 90.0

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
