"""Edges, nodes, health, the readers' snapshot, and the description of it all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from consistency_service.api.problems import KINDS
from edge_client.protocol.messages import SnapshotChunk, Switch, decode_region, decode_snapshot
from tests.api.served import Served
from tests.api.test_models import code_of


async def test_edges_in_pages(served: Served):
    await served.model()
    for edge_id in ("c", "a", "b"):
        served.report(edge_id, fetched_bytes={"d": 1})
    first = (await served.http.get("/v1/edges?limit=2")).json()
    rest = (await served.http.get("/v1/edges", params={"cursor": first["next_cursor"]})).json()
    edge = first["items"][0]

    assert ["a", "b", "c"] == [e["edge_id"] for e in first["items"] + rest["items"]]
    assert (True, False, "bounded", "m") == (
        edge["live"],
        edge["leaving"],
        edge["models"][0]["guarantee"],
        edge["models"][0]["model"],
    )
    assert 0 <= edge["heard_ms_ago"] < 10_000


async def test_switches_of_an_edge(served: Served):
    await served.model()
    served.report("a")
    view = served.node.fleet.view.edges()[0]
    view.switches[("m", 1)] = Switch(model="m", generation=1, activation=7, clock_id="c", late_ns=5, uncertainty_ns=9)
    edge = (await served.http.get("/v1/edges")).json()["items"][0]

    assert [
        {"model": "m", "generation": 1, "activation": 7, "clock_id": "c", "late_ns": 5, "uncertainty_ns": 9}
    ] == edge["switches"]


async def test_the_cluster(served: Served):
    cluster = (await served.http.get("/v1/cluster")).json()
    alone = (await served.http.get("/v1/cluster/self")).json()

    assert ("n1", "n1", 200) == (cluster["leader_id"], cluster["authority"]["node_id"], cluster["terms"]["lease_ms"])
    assert [("n1", True, True)] == [(n["node_id"], n["reachable"], n["leading"]) for n in cluster["nodes"]]
    assert ("n1", True) == (alone["node_id"], alone["is_authority"])


async def test_refusals_are_counted(served: Served):
    await served.http.get("/v1/models/nope")
    counters = (await served.http.get("/v1/cluster/self")).json()["counters"]

    assert 1 == counters["api.refused_unknown_model"]


async def test_health(served: Served):
    assert [200, 200] == [(await served.http.get(path)).status_code for path in ("/livez", "/readyz")]


async def test_every_answer_says_how_far_this_node_is(served: Served):
    await served.model()
    for path in ("/livez", "/v1/models", "/nope"):
        assert "1-3" == (await served.http.get(path)).headers["x-ccs-position"]


async def test_a_snapshot_for_readers(served: Served):
    await served.model("m", "1.0.0")
    response = await served.http.get("/v1/snapshot?epoch_min=1&revision_min=4")
    verifier = served.node._snapshots._signer.verifier()
    chunks = [decode_region(frame, verifier=verifier) for frame in msgspec.msgpack.decode(response.content)]
    assert all(isinstance(chunk, SnapshotChunk) for chunk in chunks)
    snapshot = decode_snapshot(b"".join(chunk.data for chunk in chunks if isinstance(chunk, SnapshotChunk)))

    assert "application/msgpack" == response.headers["content-type"]
    assert (1, 4, ["m"]) == (snapshot.epoch, snapshot.revision, [model.name for model in snapshot.models])
    assert (503, "not_strong") == code_of(await served.http.get("/v1/snapshot?epoch_min=1&revision_min=5"))
    assert (503, "not_strong") == code_of(await served.http.get("/v1/snapshot?epoch_min=2"))
    assert (422, "invalid") == code_of(await served.http.get("/v1/snapshot?epoch_min=-1"))


ROWS = [
    "POST /v1/models",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "PATCH /v1/models/{model}/policy",
    "DELETE /v1/models/{model}",
    "POST /v1/artifacts",
    "GET /v1/artifacts/{digest}",
    "HEAD /v1/artifacts/{digest}",
    "POST /v1/models/{model}/versions",
    "GET /v1/models/{model}/versions",
    "DELETE /v1/models/{model}/versions/{version}",
    "POST /v1/models/{model}/activations",
    "POST /v1/models/{model}/rollback",
    "GET /v1/models/{model}/readiness",
    "GET /v1/models/{model}/active",
    "GET /v1/models/{model}/history",
    "POST /v1/rollouts",
    "GET /v1/rollouts",
    "GET /v1/rollouts/{rollout_id}",
    "POST /v1/rollouts/{rollout_id}/start",
    "POST /v1/rollouts/{rollout_id}/pause",
    "POST /v1/rollouts/{rollout_id}/resume",
    "POST /v1/rollouts/{rollout_id}/promote",
    "POST /v1/rollouts/{rollout_id}/abort",
    "POST /v1/rollouts/{rollout_id}/retry",
    "POST /v1/rollouts/plan",
    "POST /v1/rollouts/lint",
    "GET /v1/rollouts/strategy-schema",
    "GET /v1/freeze",
    "PUT /v1/freeze",
    "POST /v1/webhooks",
    "GET /v1/webhooks",
    "DELETE /v1/webhooks/{webhook_id}",
    "GET /v1/webhooks/{webhook_id}/deliveries",
    "POST /v1/webhooks/{webhook_id}/replay",
    "GET /v1/features/classes",
    "GET /v1/features/classes/{name}",
    "PATCH /v1/features/classes/{name}",
    "DELETE /v1/features/classes/{name}",
    "GET /v1/edges",
    "GET /v1/cluster",
    "GET /v1/cluster/self",
    "GET /v1/whoami",
    "GET /v1/backup",
    "GET /v1/publishers/revoked",
    "PUT /v1/publishers/revoked/{key_id}",
    "POST /v1/cluster/members",
    "DELETE /v1/cluster/members/{node_id}",
    "POST /v1/cluster/transfer",
    "GET /v1/audit",
    "GET /v1/events",
    "GET /v1/snapshot",
    "GET /livez",
    "GET /readyz",
    "GET /metrics",
]


async def test_the_description_has_every_call_and_nothing_else(served: Served):
    schema = (await served.http.get("/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, calls in schema["paths"].items() for method in calls}

    assert set(ROWS) == described


async def test_the_description_shows_problems_with_examples(served: Served):
    schema = (await served.http.get("/openapi.json")).json()
    create = schema["paths"]["/v1/models"]["post"]
    example = create["responses"]["409"]["content"]["application/problem+json"]["examples"]["model_exists"]["value"]

    assert ("urn:ccs:problem:model_exists", 409) == (example["type"], example["status"])
    assert len(KINDS) == len(schema["components"]["schemas"]["Problem"]["properties"]["type"]["enum"])
    assert "HTTPValidationError" not in json.dumps(schema)
    for call in (call for calls in schema["paths"].values() for call in calls.values()):
        assert call["description"]


async def test_every_reference_in_the_description_leads_somewhere(served: Served):
    schema = (await served.http.get("/openapi.json")).json()

    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(schema)}

    assert set() == names - schema["components"]["schemas"].keys()


async def test_the_page_for_people(served: Served):
    response = await served.http.get("/docs")

    assert (200, "text/html; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert "/v1/models/{model}/activations" in response.text
    assert "http://" not in response.text
    assert "https://" not in response.text


@pytest.mark.parametrize("method,path", [("GET", "/v"), ("GET", "/v1"), ("GET", "/v1/models/"), ("POST", "/v2/models")])
async def test_no_such_path(served: Served, method, path):
    assert (404, "not_found") == code_of(await served.http.request(method, path))


@pytest.mark.parametrize(
    "method,path,allow", [("PUT", "/v1/models", "GET"), ("POST", "/livez", "GET"), ("TRACE", "/v1/edges", "GET")]
)
async def test_no_such_method(served: Served, method, path, allow):
    response = await served.http.request(method, path)

    assert (405, "method_not_allowed") == code_of(response)
    assert allow in response.headers["allow"]


def test_the_reference_has_every_call_and_every_problem():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "rest.md").read_text(encoding="utf-8")
    table = {
        row.split("|")[1].strip(): set(re.findall(r"`(\w+)`", row))
        for row in re.findall(r"^\| \d{3} .*", page, re.MULTILINE)
    }
    by_status: dict[str, set[str]] = {}
    for code, kind in KINDS.items():
        by_status.setdefault(str(kind.status), set()).add(code)

    assert by_status == table
    for method, path in (row.split(" ") for row in ROWS):
        assert re.search(rf"^\| .*`[^`]*{method}\b[^|]*{re.escape(path)}[`?]", page, re.MULTILINE), f"{method} {path}"
