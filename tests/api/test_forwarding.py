"""Three nodes on raft: any of them takes any call, also while the leader dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.api.served import Region, Served, decides, eventually, three_nodes
from tests.api.test_models import code_of

pytestmark = pytest.mark.xdist_group("raft")


@pytest.fixture
async def region(tmp_path) -> AsyncIterator[Region]:
    async with three_nodes(tmp_path) as three:
        yield three


async def test_a_follower_takes_every_call(region: Region):
    http = region.callers[region.follower]
    headers = {b"X-CCS-Author": "Jürgen".encode()}
    created = await http.post("/v1/models", json={"name": "m"}, headers=headers)
    shown = await http.get("/v1/models/m?consistency=local")
    digest = (await http.post("/v1/artifacts", content=b"weights")).json()["digest"]
    registered = await http.post("/v1/models/m/versions", json={"version": "1.0.0", "digest": digest})
    activated = await http.post("/v1/models/m/activations", json={"version": "1.0.0"}, headers={"If-Match": '"0"'})
    other = await region.callers[region.leader].get("/v1/models/m/active")
    active = await http.get("/v1/models/m/active")
    mismatch = await http.patch("/v1/models/m/policy", json={}, headers={"If-Match": '"7"'})
    audit = await http.get("/v1/audit")
    removed = await http.delete("/v1/models/m/versions/1.0.0")

    assert (201, "/v1/models/m") == (created.status_code, created.headers["location"])
    assert 200 == shown.status_code, "what was written here is read here"
    assert 201 == registered.status_code
    assert (200, '"1"', 1) == (activated.status_code, activated.headers["etag"], activated.json()["generation"])
    assert (1, 1) == (other.json()["generation"], active.json()["generation"])
    assert (412, "generation_mismatch") == code_of(mismatch)
    assert "Jürgen" in {entry["author"] for entry in audit.json()["items"]}
    assert (409, "version_in_use") == code_of(removed)


async def test_what_was_acknowledged_anywhere_is_seen_everywhere(region: Region):
    names = [*region.nodes]
    for number in range(12):
        writer, reader = names[number % 3], names[(number + 1) % 3]
        created = await region.callers[writer].post("/v1/models", json={"name": f"m{number}"})
        shown = await region.callers[reader].get(f"/v1/models/m{number}")
        active = await region.callers[reader].get(f"/v1/models/m{number}/active")

        assert (201, 200, 200) == (created.status_code, shown.status_code, active.status_code)


async def test_one_key_means_one_thing_at_all_nodes(region: Region):
    headers = {"Idempotency-Key": "k"}
    answers = [await http.post("/v1/models", json={"name": "m"}, headers=headers) for http in region.callers.values()]
    other = await region.callers[region.follower].post("/v1/models", json={"name": "x"}, headers=headers)

    assert [201] * 3 == [answer.status_code for answer in answers]
    assert (422, "request_id_reused") == code_of(other)


async def test_a_call_is_passed_on_once(region: Region):
    response = await region.callers[region.follower].post(
        "/v1/models", json={"name": "m"}, headers={"X-CCS-Forwarded": "1"}
    )

    assert (503, "no_leader") == code_of(response)


async def test_the_leader_dies_and_nobody_has_to_ask_twice(region: Region):
    follower = region.callers[region.follower]
    await follower.post("/v1/models", json={"name": "m"})
    calls: list[asyncio.Task] = []
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            calls.append(group.create_task(follower.post("/v1/models", json={"name": f"m{number}"})))
            if number == 2:
                await region.kill(region.leader)
    await eventually(lambda: any(map(decides, region.nodes.values())))
    listed = (await follower.get("/v1/models")).json()["items"]

    assert [201] * 6 == [call.result().status_code for call in calls], [call.result().text for call in calls]
    assert 7 == len(listed)


async def test_an_activation_whose_leader_dies_is_told_by_the_next(region: Region):
    follower = region.callers[region.follower]
    await follower.post("/v1/models", json={"name": "m"})
    digest = (await follower.post("/v1/artifacts", content=b"weights")).json()["digest"]
    await follower.post("/v1/models/m/versions", json={"version": "1.0.0", "digest": digest})
    node = region.nodes[region.follower]
    call = asyncio.create_task(follower.post("/v1/models/m/activations", json={"version": "1.0.0"}))
    await eventually(lambda: node.metadata.state.models["m"].pending is not None)
    await region.kill(region.leader)
    response = await call
    active = await follower.get("/v1/models/m/active")

    assert (200, 1) == (response.status_code, response.json()["generation"]), response.text
    assert 1 == active.json()["generation"]


async def test_without_a_majority_changes_end_in_time_and_local_reads_go_on(region: Region):
    follower = region.follower
    http = region.callers[follower]
    await http.post("/v1/models", json={"name": "m"})
    for name in [name for name in region.nodes if name != follower]:
        await region.kill(name)
    async with asyncio.timeout(20):
        change = await http.post("/v1/models", json={"name": "x"})
        read = await http.get("/v1/models/m/active?timeout_ms=300")
        local = await http.get("/v1/models/m/active?consistency=local")
        ready = await http.get("/readyz")
        cluster = (await http.get("/v1/cluster")).json()

    assert 503 == change.status_code
    assert code_of(change)[1] in {"no_leader", "unknown_outcome"}
    assert (503, "not_ready") == code_of(ready)
    assert code_of(read)[1] in {"not_strong", "no_leader"}
    assert (200, "local") == (local.status_code, local.json()["consistency"])
    assert {follower: True}.items() <= {n["node_id"]: n["reachable"] for n in cluster["nodes"]}.items()
    assert 1 == sum(n["reachable"] for n in cluster["nodes"])


async def test_a_leader_that_hangs_is_given_up_when_another_leads(served: Served, monkeypatch):
    """Paused, it holds the call and says nothing; the call is asked again where the leader is by then."""
    heard = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        await reader.read()
        writer.close()

    hole = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}"
    monkeypatch.setattr(served.node, "leader_url", lambda: url)
    call = asyncio.create_task(served.http.post("/v1/models", json={"name": "m"}))
    await heard.wait()
    monkeypatch.setattr(served.node, "leader_url", lambda: None)
    async with asyncio.timeout(5):
        created = await call
    hole.close()

    assert 201 == created.status_code
    assert 1 == served.app.state.counters["forwards_broken"]


async def test_a_leader_that_answers_nonsense_is_not_believed(served: Served, monkeypatch):
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-nonsense\r\n")
        writer.close()

    hole = await asyncio.start_server(babble, "127.0.0.1", 0)
    monkeypatch.setattr(served.node, "leader_url", lambda: f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}")
    change = await served.http.post("/v1/models", json={"name": "m"})
    hole.close()

    assert (503, "unknown_outcome") == code_of(change)
