"""`ccs cluster drain`: a node may be stopped when the others can do without it, and not before."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from consistency_service.cli import cluster as cluster_commands
from consistency_service.cli.cluster import LEADS, obstacles
from consistency_service.cli.commands import app
from consistency_service.cli.errors import LocalError
from consistency_service.cli.session import Shared

VOTERS = ["n1", "n2", "n3"]


def node(node_id: str, **more: Any) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "url": f"http://{node_id}",
        "reachable": True,
        "voters": VOTERS,
        "standing": "member",
        "storage_fault": None,
        "bus_connected": True,
        "commit_index": 2_000,
        "applied_index": 2_000,
        "lease_remaining_ms": 1_900,
    } | more


def cluster(*, leader: str | None = "n1", authority: str = "n1", **changed: dict[str, Any]) -> dict[str, Any]:
    nodes = [node(name, **changed.get(name, {})) for name in VOTERS]
    return {"leader_id": leader, "authority": {"node_id": authority}, "nodes": nodes}


@pytest.mark.parametrize(
    ("said", "reasons"),
    [
        (cluster(), []),
        (cluster(leader="n2"), [LEADS]),
        (cluster(authority="n2"), [LEADS]),
        (cluster(leader=None), ["nobody leads just now"]),
        (cluster(n3={"reachable": False}), ["n3 does not answer"]),
        (cluster(n3={"bus_connected": False}), ["n3 has lost the bus"]),
        (cluster(n3={"lease_remaining_ms": None}), ["n3 has no lease"]),
        (cluster(n3={"applied_index": 1_000}), ["n3 is 1000 entries behind"]),
        (cluster(n3={"standing": "joining"}), ["n3 is no sound member: joining"]),
        (cluster(n3={"storage_fault": "full"}), ["n3 is no sound member: full"]),
        (cluster(n2={"bus_connected": False}), []),
    ],
)
def test_who_can_be_done_without(said: dict[str, Any], reasons: list[str]) -> None:
    assert reasons == obstacles(said, "n2")


def test_nobody_stands_in_for_the_only_voter_and_strangers_are_named() -> None:
    alone = {"leader_id": "n1", "authority": {"node_id": "n1"}, "nodes": [node("n1", voters=["n1"])]}

    with pytest.raises(LocalError, match="only node with a vote"):
        obstacles(alone, "n1")
    with pytest.raises(LocalError, match="no node n9"):
        obstacles(cluster(), "n9")


def run(*looks: dict[str, Any], words: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    """What the command says, looking at one cluster after the other, and which changes it asked for."""
    left, asked = list(looks), []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            asked.append(request.url.path)
            return httpx.Response(200, json={"heir": "n1"})
        return httpx.Response(200, json=left.pop(0) if len(left) > 1 and request.url.path == "/v1/cluster" else left[0])

    shared = Shared(transport=httpx.MockTransport(answer))
    arguments = ["--json", "cluster", "drain", "n2", "--url", "http://n1", *words]
    return CliRunner().invoke(app, arguments, obj=shared), asked


def test_who_leads_lets_another_lead_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_commands, "DRAIN_POLL_S", 0.0)
    result, asked = run(cluster(leader="n2", authority="n2"), cluster(authority="n2"), cluster())

    assert 0 == result.exit_code and {"node_id": "n2", "leader_id": "n1"} == json.loads(result.stdout)
    assert asked and set(asked) == {"/v1/cluster/transfer"}


def test_what_stands_in_the_way_is_said_in_the_end() -> None:
    result, asked = run(cluster(n3={"reachable": False}), words=("--wait", "0"))

    assert 3 == result.exit_code and "n3 does not answer" in result.stdout and asked == []
