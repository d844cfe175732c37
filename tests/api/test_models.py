"""Models and versions: each row of the table, and each way to be refused."""

from __future__ import annotations

import pytest

from tests.api.served import PROBLEM, Served

DIGEST = "sha256:" + "0" * 64


def code_of(response) -> tuple[int, str]:
    assert PROBLEM == response.headers["content-type"], response.text
    document = response.json()
    assert response.status_code == document["status"]
    return response.status_code, document["type"].removeprefix("urn:ccs:problem:")


async def test_create_and_show(served: Served):
    created = await served.http.post("/v1/models", json={"name": "m", "policy": {"versions_kept": 3}})
    shown = await served.http.get("/v1/models/m")

    assert (201, '"0"', "/v1/models/m") == (created.status_code, created.headers["etag"], created.headers["location"])
    assert created.json() == shown.json()
    assert {
        "staleness_max_ms": None,
        "fallback_allowed": True,
        "versions_kept": 3,
        "prefetch_ms": 30000,
    } == shown.json()["policy"]
    assert (0, None, []) == (shown.json()["generation"], shown.json()["assignment"], shown.json()["versions"])


async def test_a_model_exists_once(served: Served):
    await served.model()

    assert (409, "model_exists") == code_of(await served.http.post("/v1/models", json={"name": "m"}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "Upper"},
        {"name": "a" * 129},
        {"name": "a/b"},
        {"name": "m\n"},
        {"name": 5},
        {"name": None},
        {"name": "m", "extra": 1},
        {"name": "m", "policy": {"versions_kept": 0}},
        {"name": "m", "policy": {"versions_kept": "3"}},
        {"name": "m", "policy": {"prefetch_ms": 600_001}},
        {"name": "m", "policy": {"staleness_max_ms": -1}},
        {"name": "m", "policy": {"stalenes_max_ms": 1}},
        {"name": "m", "policy": {"fallback_allowed": 1}},
        [],
        "m",
        None,
    ],
)
async def test_a_body_that_makes_no_sense(served: Served, body):
    response = await served.http.post("/v1/models", json=body)

    assert (422, "invalid") == code_of(response)
    assert response.json()["errors"]
    assert {} == served.node.metadata.state.models


async def test_lists_in_pages(served: Served):
    for name in ("c", "a", "b"):
        await served.model(name)
    first = (await served.http.get("/v1/models?limit=2")).json()
    second = (await served.http.get("/v1/models", params={"limit": 2, "cursor": first["next_cursor"]})).json()

    assert ["a", "b"] == [model["name"] for model in first["items"]]
    assert (["c"], None) == ([model["name"] for model in second["items"]], second["next_cursor"])


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=???", "cursor=" + "a" * 2000, "consistency=maybe"]
)
async def test_a_query_that_makes_no_sense(served: Served, query):
    assert (422, "invalid") == code_of(await served.http.get(f"/v1/models?{query}"))


@pytest.mark.parametrize(
    "method,path",
    [
        ("GET", ""),
        ("DELETE", ""),
        ("PATCH", "/policy"),
        ("GET", "/versions"),
        ("GET", "/active"),
        ("GET", "/active?consistency=local"),
        ("GET", "/history"),
        ("GET", "/readiness?version=1.0.0"),
        ("POST", "/rollback"),
        ("POST", "/activations"),
        ("DELETE", "/versions/1.0.0"),
    ],
)
async def test_an_unknown_model(served: Served, method, path):
    body = {"version": "1.0.0"} if path == "/activations" else {}
    json = None if method in {"GET", "DELETE"} else body
    response = await served.http.request(method, f"/v1/models/nope{path}", json=json)

    assert (404, "unknown_model") == code_of(response)
    assert "nope" in response.json()["detail"]


async def test_policy_fields_change_one_by_one(served: Served):
    await served.model("m", staleness_max_ms=5)
    kept = await served.http.patch("/v1/models/m/policy", json={"versions_kept": 2})
    unset = await served.http.patch("/v1/models/m/policy", json={"staleness_max_ms": None})

    assert (5, 2) == (kept.json()["policy"]["staleness_max_ms"], kept.json()["policy"]["versions_kept"])
    assert (None, 2) == (unset.json()["policy"]["staleness_max_ms"], unset.json()["policy"]["versions_kept"])


async def test_policy_changes_keep_their_condition(served: Served):
    await served.model()
    wrong = await served.http.patch("/v1/models/m/policy", json={"versions_kept": 2}, headers={"If-Match": '"7"'})
    right = await served.http.patch("/v1/models/m/policy", json={"versions_kept": 2}, headers={"If-Match": '"0"'})

    assert (412, "generation_mismatch") == code_of(wrong)
    assert 0 == wrong.json()["generation"]
    assert 200 == right.status_code


async def test_register_a_version(served: Served):
    await served.model()
    digest = (await served.http.post("/v1/artifacts", content=b"weights")).json()["digest"]
    body = {"version": "1.0.0", "digest": digest, "metadata": {"trained": "today"}}
    first = await served.http.post("/v1/models/m/versions", json=body)
    again = await served.http.post("/v1/models/m/versions", json=body)

    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert (7, {"trained": "today"}, False) == tuple(first.json()[k] for k in ("size_bytes", "metadata", "in_use"))


async def test_a_version_never_names_other_bytes(served: Served):
    await served.model("m", "1.0.0")
    other = (await served.http.post("/v1/artifacts", content=b"other")).json()["digest"]
    response = await served.http.post("/v1/models/m/versions", json={"version": "1.0.0", "digest": other})

    assert (409, "version_conflict") == code_of(response)
    assert other != response.json()["digest"]


@pytest.mark.parametrize(
    "version,digest,metadata,expected",
    [
        ("1.0.0", DIGEST, {}, (404, "unknown_artifact")),
        ("1.0", DIGEST, {}, (422, "invalid")),
        ("v1.0.0", DIGEST, {}, (422, "invalid")),
        ("1.0.0\n", DIGEST, {}, (422, "invalid")),
        ("1.0.0+" + "b" * 128, DIGEST, {}, (422, "invalid")),
        ("1.0.0", DIGEST.upper(), {}, (422, "invalid")),
        ("1.0.0", "md5:00", {}, (422, "invalid")),
        ("1.0.0", DIGEST, {"a": "x" * 5000}, (422, "invalid")),
        ("1.0.0", DIGEST, {"a": 1}, (422, "invalid")),
    ],
)
async def test_a_version_that_cannot_be_registered(served: Served, version, digest, metadata, expected):
    await served.model()
    body = {"version": version, "digest": digest, "metadata": metadata}

    assert expected == code_of(await served.http.post("/v1/models/m/versions", json=body))


async def test_versions_newest_first_in_pages(served: Served):
    await served.model("m", "2.0.0", "1.0.0", "1.5.0-rc.1+b7")
    first = (await served.http.get("/v1/models/m/versions?limit=1")).json()
    rest = (await served.http.get("/v1/models/m/versions", params={"cursor": first["next_cursor"]})).json()
    versions = [item["version"] for item in first["items"] + rest["items"]]

    assert {"2.0.0", "1.0.0", "1.5.0-rc.1+b7"} == set(versions)
    assert 3 == len(versions)


async def test_delete_a_version(served: Served):
    await served.model("m", "1.0.0", "2.0.0+x")
    await served.activate("1.0.0")
    in_use = await served.http.delete("/v1/models/m/versions/1.0.0")
    deleted = await served.http.delete("/v1/models/m/versions/2.0.0+x")
    again = await served.http.delete("/v1/models/m/versions/2.0.0+x")

    assert (409, "version_in_use") == code_of(in_use)
    assert (204, b"") == (deleted.status_code, deleted.content)
    assert (404, "unknown_version") == code_of(again)


async def test_a_condition_that_would_be_ignored_is_refused(served: Served):
    await served.model("m", "1.0.0")
    response = await served.http.delete("/v1/models/m/versions/1.0.0", headers={"If-Match": '"0"'})

    assert (422, "invalid") == code_of(response)


async def test_delete_a_model(served: Served):
    await served.model()
    served.report("edge-1")
    followed = await served.http.delete("/v1/models/m")
    served.node.fleet.view._edges.clear()
    mismatch = await served.http.delete("/v1/models/m", headers={"If-Match": '"3"'})
    began_ns = served.node.clock.now_ns()
    deleted = await served.http.delete("/v1/models/m")
    took_ms = (served.node.clock.now_ns() - began_ns) // 1_000_000

    assert (409, "model_in_use") == code_of(followed)
    assert ["edge-1"] == followed.json()["edges"]
    assert (412, "generation_mismatch") == code_of(mismatch)
    assert 204 == deleted.status_code
    assert took_ms >= 206
    assert (404, "unknown_model") == code_of(await served.http.get("/v1/models/m"))


# ---- asking again


async def test_the_same_key_does_it_once(served: Served):
    headers = {"Idempotency-Key": "k1"}
    first = await served.http.post("/v1/models", json={"name": "m"}, headers=headers)
    again = await served.http.post("/v1/models", json={"name": "m"}, headers=headers)

    assert (201, 201) == (first.status_code, again.status_code)
    assert first.json() == again.json()


async def test_the_same_key_for_something_else(served: Served):
    headers = {"Idempotency-Key": "k1"}
    await served.http.post("/v1/models", json={"name": "m"}, headers=headers)
    for request in (
        served.http.post("/v1/models", json={"name": "other"}, headers=headers),
        served.http.patch("/v1/models/m/policy", json={}, headers=headers),
        served.http.delete("/v1/models/m", headers=headers),
    ):
        assert (422, "request_id_reused") == code_of(await request)


async def test_the_spelling_of_a_body_is_not_its_meaning(served: Served):
    headers = {"Idempotency-Key": "k1", "Content-Type": "application/json"}
    first = await served.http.post("/v1/models", content=b'{"name":"m","policy":{}}', headers=headers)
    again = await served.http.post("/v1/models", content=b'{ "policy": { }, "name": "\\u006d" }', headers=headers)

    assert (201, 201) == (first.status_code, again.status_code)


@pytest.mark.parametrize(
    "headers",
    [
        {"Idempotency-Key": "x" * 201},
        {"Idempotency-Key": ""},
        {"Idempotency-Key": b"\xc3\xa9"},
        {"X-CCS-Author": "x" * 129},
        {"X-CCS-Author": ""},
        {"If-Match": "3"},
    ],
)
async def test_headers_that_make_no_sense(served: Served, headers):
    await served.model()
    response = await served.http.patch("/v1/models/m/policy", json={}, headers=headers)

    assert (422, "invalid") == code_of(response)


async def test_the_audit_knows_who_asked_and_what_came_of_it(served: Served):
    await served.http.post("/v1/models", json={"name": "m"}, headers={"X-CCS-Author": "ada"})
    for _ in range(3):
        await served.http.post("/v1/models", json={"name": "m"}, headers={"X-CCS-Author": "bob"})
    items, cursor = [], None
    while True:
        page = (await served.http.get("/v1/audit", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        items += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break

    assert [("bob", "model_exists")] * 3 + [("ada", "ok"), ("bootstrap", "ok")] == [
        (i["author"], i["code"]) for i in items
    ]
    assert ("CreateModel", "m") == (items[0]["command"], items[0]["subject"])
