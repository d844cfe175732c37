"""Activations and reads: the decision, the instant, the way back, and what was live when."""

from __future__ import annotations

import asyncio

import pytest

from consistency_service.errors import UnknownOutcomeError
from edge_client.protocol.models import Assignment
from tests.api.served import LEASE_MS, Served, eventually, one_node
from tests.api.test_models import code_of


async def active(served: Served, query: str = "") -> dict:
    return dict((await served.http.get(f"/v1/models/m/active{query}")).json())


async def test_activate_and_read(served: Served):
    await served.model("m", "1.0.0")
    before = await active(served)
    began_ns = served.node.clock.now_ns()
    response = await served.activate("1.0.0")
    took_ms = (served.node.clock.now_ns() - began_ns) // 1_000_000
    after = await active(served)

    assert (0, None, None) == (before["generation"], before["assignment"], before["version"])
    assert (200, '"1"') == (response.status_code, response.headers["etag"])
    assert took_ms >= LEASE_MS
    assert {
        "model": "m",
        "version": "1.0.0",
        "generation": 1,
        "effective": True,
        "not_ready": {},
    }.items() <= response.json().items()
    assert (1, "1.0.0", "lease") == (after["generation"], after["version"], after["consistency"])
    assert {"stable": "1.0.0", "candidate": None, "share_bp": 0}.items() <= after["assignment"].items()


async def test_accepted_is_answered_before_the_instant(served: Served):
    await served.model("m", "1.0.0")
    response = await served.activate("1.0.0", wait="accepted")
    pending = (await served.http.get("/v1/models/m?consistency=local")).json()["pending"]

    assert (202, False) == (response.status_code, response.json()["effective"])
    assert 0 == (await active(served))["generation"]
    assert (1, "1.0.0", 206) == (pending["generation"], pending["assignment"]["stable"], pending["lead_ms"])
    assert response.json()["effective_at_unix_ms"] == pending["effective_at_unix_ms"]
    assert response.json()["activation"] == pending["activation"]


async def test_one_after_the_other_with_the_etag_of_the_one_before(served: Served):
    """Right after the instant the state still calls it pending; a caller who goes by the answer must be right."""
    await served.model("m", "1.0.0", "2.0.0")
    first = await served.activate("1.0.0")
    second = await served.http.post(
        "/v1/models/m/activations", json={"version": "2.0.0"}, headers={"If-Match": first.headers["etag"]}
    )
    shown = await served.http.get("/v1/models/m")

    assert (200, 2) == (second.status_code, second.json()["generation"])
    assert ('"2"', None) == (shown.headers["etag"], shown.json()["pending"])
    assert ("2.0.0", "1.0.0") == (shown.json()["assignment"]["stable"], shown.json()["previous"]["stable"])


async def test_a_second_one_meanwhile_waits_for_the_first(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    first = await served.activate("1.0.0", wait="accepted")
    second = await served.activate("2.0.0")

    assert (202, 200) == (first.status_code, second.status_code)
    assert (1, 2) == (first.json()["generation"], second.json()["generation"])
    assert second.json()["effective_at_unix_ms"] >= first.json()["effective_at_unix_ms"] + LEASE_MS


async def test_what_is_pending_stands_in_the_way_of_deletion(served: Served):
    await served.model("m", "1.0.0")
    await served.activate("1.0.0", wait="accepted")

    assert (409, "activation_pending") == code_of(await served.http.delete("/v1/models/m"))


async def test_refusals(served: Served):
    await served.model("m", "1.0.0")
    await served.activate("1.0.0")
    condition = {"If-Match": '"9"'}

    assert (409, "unchanged") == code_of(await served.activate("1.0.0"))
    assert (404, "unknown_version") == code_of(await served.activate("3.0.0"))
    assert (422, "invalid") == code_of(await served.activate("three"))
    assert (422, "invalid") == code_of(await served.activate("1.0.0", wait="never"))
    assert (422, "invalid") == code_of(await served.activate("1.0.0", force="yes"))
    assert (412, "generation_mismatch") == code_of(
        await served.http.post("/v1/models/m/activations", json={"version": "1.0.0"}, headers=condition)
    )
    assert (409, "nothing_before") == code_of(await served.http.post("/v1/models/m/rollback"))


async def test_roll_back_and_forth(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    await served.activate("1.0.0")
    await served.activate("2.0.0")
    back = await served.http.post("/v1/models/m/rollback", json={})
    mismatch = await served.http.post("/v1/models/m/rollback", headers={"If-Match": '"2"'})
    body = await served.http.post("/v1/models/m/rollback", json={"version": "1.0.0"})
    forth = await served.http.post("/v1/models/m/rollback?wait=accepted")

    assert (200, "1.0.0", 3) == (back.status_code, back.json()["version"], back.json()["generation"])
    assert (412, "generation_mismatch") == code_of(mismatch)
    assert (422, "invalid") == code_of(body)
    assert (202, "2.0.0", 4) == (forth.status_code, forth.json()["version"], forth.json()["generation"])


async def test_the_same_key_activates_once(served: Served):
    await served.model("m", "1.0.0")
    headers = {"Idempotency-Key": "go"}
    call = ("/v1/models/m/activations", {"version": "1.0.0"})
    first = await served.http.post(call[0], json=call[1], headers=headers)
    again = await served.http.post(call[0], json=call[1], headers=headers)
    other_wait = await served.http.post(call[0] + "?wait=accepted", json=call[1], headers=headers)
    other = await served.http.post(call[0], json={"version": "1.0.0", "force": True}, headers=headers)

    assert (200, 200, 202) == (first.status_code, again.status_code, other_wait.status_code)
    assert first.json() == again.json()
    assert (422, "request_id_reused") == code_of(other)


async def test_it_waits_for_edges_as_long_as_the_policy_says(served: Served):
    await served.model("m", "1.0.0", prefetch_ms=300)
    served.report("edge-1")
    began_ns = served.node.clock.now_ns()
    response = await served.activate("1.0.0")
    took_ms = (served.node.clock.now_ns() - began_ns) // 1_000_000

    assert {"edge-1": "still fetching or loading"} == response.json()["not_ready"]
    assert took_ms >= 300 + LEASE_MS


async def test_a_version_that_goes_while_edges_get_ready_is_unknown(served: Served):
    """Another prefetch takes the place of ours, so that nothing keeps our version any more."""
    await served.model("m", "1.0.0", "2.0.0", prefetch_ms=5_000)
    served.report("edge-1")
    first = asyncio.create_task(served.activate("1.0.0"))
    await eventually(lambda: served.node.metadata.state.models["m"].prefetch is not None)
    second = asyncio.create_task(served.activate("2.0.0"))
    await eventually(lambda: served.node.metadata.state.models["m"].prefetch == Assignment(stable="2.0.0"))
    assert 204 == (await served.http.delete("/v1/models/m/versions/1.0.0")).status_code
    served.report("edge-1")

    assert (404, "unknown_version") == code_of(await first)
    second.cancel()


async def test_it_goes_on_as_soon_as_edges_are_ready_or_at_once_by_force(served: Served):
    await served.model("m", "1.0.0", "2.0.0", prefetch_ms=600_000)
    digest = served.node.metadata.state.models["m"].versions["1.0.0"].digest
    served.report("edge-1")
    waiting = asyncio.create_task(served.activate("1.0.0"))
    await asyncio.sleep(0.1)
    readiness = (await served.http.get("/v1/models/m/readiness?version=1.0.0")).json()
    served.report("edge-1", ready=(digest,))

    assert {"ready": [], "waiting": ["edge-1"], "failed": {}, "size_bytes": 12}.items() <= readiness.items()
    assert {} == (await waiting).json()["not_ready"]
    assert 200 == (await served.activate("2.0.0", force=True)).status_code


async def test_readiness(served: Served):
    await served.model("m", "1.0.0")
    digest = served.node.metadata.state.models["m"].versions["1.0.0"].digest
    served.report("a", ready=(digest,))
    served.report("b", failed={digest: "no GPU"})
    served.report("c", fetched_bytes={digest: 5})
    served.report("d", model="other")
    readiness = (await served.http.get("/v1/models/m/readiness?version=1.0.0")).json()

    assert (["a"], ["c"], {"b": "no GPU"}) == (readiness["ready"], readiness["waiting"], readiness["failed"])
    assert {"a": 0, "b": 0, "c": 5} == readiness["fetched_bytes"]
    assert (404, "unknown_version") == code_of(await served.http.get("/v1/models/m/readiness?version=9.0.0"))
    assert (422, "invalid") == code_of(await served.http.get("/v1/models/m/readiness"))


# ---- reads


async def test_local_reads_never_wait_and_say_so(served: Served):
    await served.model("m", "1.0.0")
    await served.activate("1.0.0")
    await served.http.get("/v1/models")  # settled

    assert ("local", 1) == ((a := await active(served, "?consistency=local"))["consistency"], a["generation"])


@pytest.mark.parametrize("query", ["consistency=weak", "timeout_ms=0", "timeout_ms=30001", "timeout_ms=x"])
async def test_a_read_that_makes_no_sense(served: Served, query):
    assert (422, "invalid") == code_of(await served.http.get(f"/v1/models/m/active?{query}"))


async def test_a_node_outside_any_region_says_so_in_time(tmp_path):
    async with one_node(tmp_path, run=False) as served:
        began = asyncio.get_running_loop().time()

        assert (503, "not_strong") == code_of(await served.http.get("/v1/models/m/active?timeout_ms=50"))
        assert (404, "unknown_model") == code_of(await served.http.get("/v1/models/m/active?consistency=local"))
        assert {"items": [], "next_cursor": None} == (await served.http.get("/v1/models?consistency=local")).json()
        assert (503, "not_ready") == code_of(ready := await served.http.get("/readyz"))
        assert "bootstrapped" in ready.json()["reason"]
        assert 200 == (await served.http.get("/livez")).status_code
        assert asyncio.get_running_loop().time() - began < 2
        leaderless = await served.http.post("/v1/models", json={"name": "m"})
        assert (503, "no_leader") == code_of(leaderless)
        assert "1" == leaderless.headers["retry-after"]
        assert 3 <= asyncio.get_running_loop().time() - began < 6


async def test_history(served: Served):
    await served.model("m", "1.0.0", "2.0.0")
    first = (await served.activate("1.0.0")).json()
    second = (await served.activate("2.0.0")).json()
    whole = (await served.http.get("/v1/models/m/history")).json()["items"]
    page = (await served.http.get("/v1/models/m/history?limit=1")).json()
    rest = (await served.http.get("/v1/models/m/history", params={"cursor": page["next_cursor"]})).json()

    async def live_at(at: object) -> list[str]:
        answer = await served.http.get("/v1/models/m/history", params={"at": str(at)})
        return [entry["version"] for entry in answer.json()["items"]]

    assert [(2, "2.0.0", second["activation"]), (1, "1.0.0", first["activation"])] == [
        (entry["generation"], entry["version"], entry["activation"]) for entry in whole
    ]
    assert (whole, None) == (page["items"] + rest["items"], rest["next_cursor"])
    assert ["1.0.0"] == await live_at(second["effective_at_unix_ms"] - 1)
    assert ["2.0.0"] == await live_at(second["effective_at_unix_ms"])
    assert ["2.0.0"] == await live_at("2999-01-01T00:00:00Z")
    assert [] == await live_at("1999-01-01T00:00:00Z")
    assert (422, "invalid") == code_of(await served.http.get("/v1/models/m/history?at=then"))


# ---- uncertainty


async def test_an_unknown_outcome_is_asked_again_under_the_same_request_id(served: Served):
    """The log lost the answer, not the command: the second attempt finds the first one's outcome."""
    log, proposals = served.node.metadata.log, 0
    propose = log.propose

    async def forgetful(command: bytes, *, timeout_ms: int):
        nonlocal proposals
        answer = await propose(command, timeout_ms=timeout_ms)
        if b"CreateModel" in command and (proposals := proposals + 1) == 1:
            raise UnknownOutcomeError("the answer was lost")
        return answer

    log.propose = forgetful  # type: ignore[method-assign]
    created = await served.http.post("/v1/models", json={"name": "m"})

    assert (201, 2) == (created.status_code, proposals)


async def test_an_outcome_that_stays_unknown_names_the_key_to_ask_again_with(served: Served):
    async def lost(command: bytes, *, timeout_ms: int):
        raise UnknownOutcomeError("the answer was lost")

    served.node.metadata.log.propose = lost  # type: ignore[method-assign]
    response = await served.http.post("/v1/models", json={"name": "m"})

    assert (503, "unknown_outcome") == code_of(response)
    assert 32 == len(response.json()["idempotency_key"])
