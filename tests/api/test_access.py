"""Tokens, limits, models, sessions and streams of a node that asks who comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from consistency_service.api import access as access_layer
from consistency_service.api import events
from consistency_service.core.access import Identity, Role
from tests.api.secured import Secured, secured_node
from tests.api.served import serving
from tests.api.test_models import code_of


@pytest.fixture
async def secured(tmp_path, monkeypatch) -> AsyncIterator[Secured]:
    # No test is so slow that it would be let in, or logged, again.
    monkeypatch.setattr(access_layer, "FAILURES_PER_S", 0.001)
    monkeypatch.setattr(access_layer, "LOGGED_PER_S", 0.001)
    async with secured_node(tmp_path) as node:
        yield node


async def test_a_file_that_changes_is_believed_and_a_broken_one_is_not(secured: Secured, caplog):
    first = await secured.call("viewer", "GET", "/v1/whoami")
    before = secured.table.path.read_text()
    secured.table.write(before + "\n[[token]\n")
    broken = await secured.call("viewer", "GET", "/v1/whoami")
    secured.table.path.unlink()
    missing = await secured.call("viewer", "GET", "/v1/whoami")
    secured.table.write("")
    secured.table.add("new", "publisher")
    gone, new = await secured.call("viewer", "GET", "/v1/whoami"), await secured.call("new", "GET", "/v1/whoami")

    assert (200, 200, 200, 401, 200) == tuple(a.status_code for a in (first, broken, missing, gone, new))
    assert "publisher" == new.json()["role"]
    assert 2 == secured.counters["access_files_refused"]
    assert "access_file_refused" in caplog.text
    assert not any(token in caplog.text for token in secured.table.tokens.values())


@pytest.mark.parametrize("mode", [0o620, 0o602])
async def test_a_file_that_others_may_write_is_not_believed(secured: Secured, mode):
    fresh = secured.table.path.with_suffix(".loose")
    fresh.write_text("")
    fresh.chmod(mode)
    fresh.replace(secured.table.path)

    assert 200 == (await secured.call("viewer", "GET", "/v1/whoami")).status_code
    assert 1 == secured.counters["access_files_refused"]


async def test_what_the_refusals_say(secured: Secured):
    nothing, wrong = (
        await secured.http.get("/v1/models"),
        await secured.http.get("/v1/models", headers={"Authorization": "Bearer x"}),
    )
    low = await secured.call("viewer", "POST", "/v1/models", json={"name": "m"})
    other = await secured.call("limited", "GET", "/v1/models/m")

    assert (401, "unauthenticated") == code_of(nothing)
    assert 'Bearer realm="ccs"' == nothing.headers["www-authenticate"]
    assert 'Bearer realm="ccs", error="invalid_token"' == wrong.headers["www-authenticate"]
    assert (403, "forbidden") == code_of(low)
    assert ("publisher", "'viewer' is viewer; this needs publisher") == (low.json()["role"], low.json()["detail"])
    assert "mine-" in other.json()["detail"]
    assert 1 == secured.counters["refused_unauthenticated"] - 1 == secured.counters["refused_forbidden"] - 1


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer",
        b"Bearer ",
        b"Basic YWRhOmFkYQ==",
        b"bearer \xff\xfe",
        b"Bearer a b c",
        b"Bearer " + b"x" * 20_000,
        b"Bearer ccs_\x00",
        b"Negotiate \x80",
        b"Bearer ..",
        b"Bearer e30.e30.e30",
        b"Bearer " + b"." * 5_000,
        b"\xf0\x9f\x91\xbb",
    ],
)
async def test_headers_of_any_bytes_let_nobody_in(secured: Secured, header):
    answer = await secured.http.get("/v1/models", headers=[(b"authorization", header)])

    assert (401, "unauthenticated") == code_of(answer)
    assert 1 == sum(count for name, count in secured.counters.items() if name.startswith("credentials_"))


async def test_two_tokens_are_none(secured: Secured):
    token = secured.table.bearer("viewer")["Authorization"]
    answer = await secured.http.get("/v1/models", headers=[("authorization", token), ("authorization", token)])

    assert 401 == answer.status_code


async def test_the_author_is_whoever_it_is(secured: Secured):
    await secured.call("publisher", "POST", "/v1/models", json={"name": "m"}, headers={"X-CCS-Author": "somebody else"})
    audit = await secured.call("viewer", "GET", "/v1/audit")

    assert ["publisher", "bootstrap"] == [entry["author"] for entry in audit.json()["items"]]


async def test_a_stranger_vouches_for_nobody(secured: Secured):
    vouched = access_layer._vouch(Identity(name="eve", role=Role.ADMIN, kind="certificate")).decode()
    alone = await secured.http.get("/v1/models", headers={"X-CCS-On-Behalf": vouched})
    with_token = await secured.call("admin", "GET", "/v1/models", headers={"X-CCS-On-Behalf": vouched})

    assert [(403, "forbidden")] * 2 == [code_of(alone), code_of(with_token)]
    assert 2 == secured.counters["on_behalf_of_strangers"]


# ---- limits


async def test_whoever_asks_too_often_waits(tmp_path):
    async with secured_node(tmp_path, requests_per_s=1, requests_burst=3) as secured:
        began_s = time.monotonic()
        answers = [await secured.call("viewer", "GET", "/v1/whoami") for _ in range(20)]
        passed_s = time.monotonic() - began_s
        other = await secured.call("admin", "GET", "/v1/whoami")
        lives = [(await secured.http.get("/livez")).status_code for _ in range(10)]
    refused = [answer for answer in answers if answer.status_code == 429]

    assert [200, 200, 200] == [answer.status_code for answer in answers[:3]]
    assert 20 - 3 - math.ceil(passed_s) <= len(refused) <= 17
    assert (429, "rate_limited") == code_of(refused[0])
    assert 1 <= int(refused[0].headers["retry-after"]) <= 2
    assert 200 == other.status_code, "each caller for themselves"
    assert {200} == set(lives)
    assert len(refused) == secured.counters["refused_rate_limited"]


async def test_guessing_is_limited_by_address_and_those_who_know_are_let_in(secured: Secured):
    wrong = [await secured.http.get("/v1/models", headers={"Authorization": f"Bearer {n}"}) for n in range(40)]
    right = await secured.call("viewer", "GET", "/v1/models")

    assert [401] * 30 == [answer.status_code for answer in wrong[:30]]
    assert 429 == wrong[-1].status_code
    assert 200 == right.status_code
    assert secured.counters["credentials_guessed"] >= 9


async def test_refusals_fill_no_log(secured: Secured, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(80):
            await secured.call("viewer", "DELETE", "/v1/models/x%0Aforged=line")
    lines = [record.getMessage() for record in caplog.records if "access_refused" in record.getMessage()]

    assert 50 == len(lines)
    assert secured.counters["refusals_not_logged"] == 80 - len(lines)
    assert not any("\n" in line for line in lines)


# ---- models


async def test_callers_see_and_change_their_own_models_alone(secured: Secured):
    secured.table.add("mine", "operator", models=("mine-", "ours-"))
    for name in ("mine-a", "m"):
        assert 201 == (await secured.call("admin", "POST", "/v1/models", json={"name": name})).status_code
    digests = {}
    for name, content in (("mine-a", b"a"), ("m", b"b")):
        stored = await secured.call("admin", "POST", "/v1/artifacts", content=content)
        digests[name] = stored.json()["digest"]
        for version in ("1.0.0", "2.0.0"):
            body = {"version": version, "digest": digests[name]}
            registered = await secured.call("admin", "POST", f"/v1/models/{name}/versions", json=body)
            assert 201 == registered.status_code
        activated = await secured.call("admin", "POST", f"/v1/models/{name}/activations", json={"version": "1.0.0"})
        assert 200 == activated.status_code
    strategy = {"stages": [{"share": "100%"}]}

    async def mine(method: str, path: str, **more) -> tuple[int, str]:
        answer = await secured.call("mine", method, path, **more)
        return answer.status_code, answer.json().get("type", "").rpartition(":")[2] if answer.content else ""

    async def rollout(**models: str) -> tuple[int, str]:
        return await mine("POST", "/v1/rollouts", json={"models": models, "strategy": strategy, "start": False})

    forbidden = (403, "forbidden")
    assert forbidden == await mine("POST", "/v1/models", json={"name": "theirs"})
    assert (201, "") == await mine("POST", "/v1/models", json={"name": "mine-b"})
    assert ["mine-a", "mine-b"] == [
        m["name"] for m in (await secured.call("mine", "GET", "/v1/models")).json()["items"]
    ]
    assert forbidden == await rollout(m="2.0.0")
    assert forbidden == await rollout(**{"m": "2.0.0", "mine-a": "2.0.0"})
    for path in ("lint", "plan"):
        body = {"models": {"m": "2.0.0", "mine-a": "2.0.0"}, "strategy": strategy}
        assert forbidden == await mine("POST", f"/v1/rollouts/{path}", json=body)
    both = {"models": {"m": "2.0.0", "mine-a": "2.0.0"}, "strategy": strategy, "start": False}
    theirs = (await secured.call("admin", "POST", "/v1/rollouts", json=both)).json()
    assert "rollout_id" in theirs, theirs
    assert forbidden == await mine("GET", f"/v1/rollouts/{theirs['rollout_id']}")
    for move in ("start", "pause", "resume", "promote", "abort", "retry"):
        assert forbidden == await mine("POST", f"/v1/rollouts/{theirs['rollout_id']}/{move}")
    assert [] == (await secured.call("mine", "GET", "/v1/rollouts")).json()["items"]
    assert {"mine-a", "mine-b"} == {
        e["subject"] for e in (await secured.call("mine", "GET", "/v1/audit")).json()["items"]
    }

    # bytes
    own = await secured.call("mine", "GET", f"/v1/artifacts/{digests['mine-a']}")
    assert (200, b"a") == (own.status_code, own.content)
    assert forbidden == await mine("GET", f"/v1/artifacts/{digests['m']}")
    assert 403 == (await secured.call("mine", "HEAD", f"/v1/artifacts/{digests['m']}")).status_code
    body = {"version": "3.0.0", "digest": digests["m"]}
    assert forbidden == await mine("POST", "/v1/models/mine-a/versions", json=body)


async def test_a_rollback_that_would_take_others_along(secured: Secured):
    secured.table.add("mine", "operator", models=("mine-",))
    stored = await secured.call("admin", "POST", "/v1/artifacts", content=b"a")
    for name in ("mine-a", "m"):
        await secured.call("admin", "POST", "/v1/models", json={"name": name, "policy": {"prefetch_ms": 0}})
        for version in ("1.0.0", "2.0.0"):
            body = {"version": version, "digest": stored.json()["digest"]}
            await secured.call("admin", "POST", f"/v1/models/{name}/versions", json=body)
        await secured.call("admin", "POST", f"/v1/models/{name}/activations", json={"version": "1.0.0"})
    both = {"models": {"mine-a": "2.0.0", "m": "2.0.0"}, "strategy": {"stages": [{"share": "100%"}]}}
    started = await secured.call("admin", "POST", "/v1/rollouts", json=both)
    assert 201 == started.status_code, started.text
    running = await secured.call("mine", "POST", "/v1/models/mine-a/rollback")
    alone = await secured.call("admin", "POST", "/v1/models/mine-a/rollback")

    assert (403, "forbidden") == code_of(running)
    assert alone.status_code in {200, 202, 409}


async def test_edges_are_shown_with_the_models_one_sees(secured: Secured):
    secured.table.add("mine", "viewer", models=("mine-",))
    secured.report("e1", model="m")
    secured.report("e2", model="mine-a")
    shown = (await secured.call("mine", "GET", "/v1/edges")).json()["items"]

    assert [("e2", ["mine-a"])] == [(edge["edge_id"], [m["model"] for m in edge["models"]]) for edge in shown]
    assert 2 == len((await secured.call("viewer", "GET", "/v1/edges")).json()["items"])


# ---- streams


@pytest.mark.parametrize("how", ["revoked", "expired", "logged out"])
async def test_a_stream_ends_with_what_began_it(secured: Secured, monkeypatch, how):
    monkeypatch.setattr(events, "STILL_S", 0.05)
    secured.table.add("short", "viewer", expires_in_s=1.5 if how == "expired" else 60)
    async with serving(secured.app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        headers = secured.table.bearer("short")
        if how == "logged out":
            logged_in = await http.post("/login", data={"token": secured.table.tokens["short"]})
            headers = {"Cookie": logged_in.headers["set-cookie"].partition(";")[0]}
        async with http.stream("GET", "/v1/events", headers=headers) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            if how == "revoked":
                secured.table.write("")
            elif how == "logged out":
                await http.post("/logout", headers=headers)
            async with asyncio.timeout(5):
                async for _ in lines:
                    pass
        again = await http.get("/v1/whoami", headers=headers)

    assert 401 == again.status_code


async def test_a_stream_tells_of_the_models_one_sees(secured: Secured):
    secured.table.add("mine", "viewer", models=("mine-",))
    position = (await secured.call("viewer", "GET", "/livez")).headers["x-ccs-position"]
    for name in ("m", "mine-a"):
        await secured.call("admin", "POST", "/v1/models", json={"name": name})
    await secured.call("admin", "PUT", "/v1/freeze", json={"frozen": True, "reason": "r"})
    async with serving(secured.app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        told: dict[str, list[str]] = {}
        for name in ("mine", "viewer"):
            headers = secured.table.bearer(name)
            async with http.stream("GET", f"/v1/events?after={position}", headers=headers) as stream:
                found = told[name] = []
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        async for line in stream.aiter_lines():
                            found += [line] if line.startswith("data:") else []

    assert (1, 3) == (len(told["mine"]), len(told["viewer"]))
    assert "mine-a" in told["mine"][0]


# ---- browsers


async def test_a_browser_logs_in_and_out(secured: Secured):
    html = {"Accept": "text/html"}
    away = await secured.http.get("/models/m?at=x", headers=html)
    page = await secured.http.get(away.headers["location"], headers=html)
    form = {"token": secured.table.tokens["viewer"], "next": "/cluster"}
    logged_in = await secured.http.post("/login", data=form)
    cookie = {"Cookie": logged_in.headers["set-cookie"].partition(";")[0]}
    inside = await secured.http.get("/cluster", headers=cookie | html)
    change = await secured.http.post("/v1/models", json={"name": "m"}, headers=cookie)
    elsewhere = await secured.http.post(
        "/v1/models", json={"name": "m"}, headers=cookie | {"Sec-Fetch-Site": "cross-site"}
    )
    out = await secured.http.post("/logout", headers=cookie)
    after = await secured.http.get("/cluster", headers=cookie | html)

    assert (303, "/login?next=/models/m%3Fat%3Dx") == (away.status_code, away.headers["location"])
    assert (200, True) == (page.status_code, "/models/m?at=x" in page.text)
    assert (303, "/cluster") == (logged_in.status_code, logged_in.headers["location"])
    for attribute in ("__Host-ccs_session=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
        assert attribute in logged_in.headers["set-cookie"]
    assert secured.table.tokens["viewer"] not in logged_in.headers["set-cookie"]
    assert (200, True, True) == (inside.status_code, "Log out" in inside.text, "reads-only" in inside.text)
    assert [(403, "forbidden"), (403, "cross_site")] == [code_of(change), code_of(elsewhere)]
    assert (303, "/login") == (out.status_code, out.headers["location"])
    assert 303 == after.status_code


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:x", ""])
async def test_a_login_leads_nowhere_else(secured: Secured, wanted):
    form = {"token": secured.table.tokens["viewer"], "next": wanted}

    assert "/" == (await secured.http.post("/login", data=form)).headers["location"]
    assert "evil" not in (await secured.http.get("/login", params={"next": wanted})).text


@pytest.mark.parametrize(("who", "status"), [("wrong", 401), ("expired", 401), ("edge", 403), ("limited", 403)])
async def test_who_gets_no_session(secured: Secured, who, status):
    answer = await secured.http.post("/login", data={"token": secured.table.tokens.get(who, "ccs_wrong")})

    assert (status, None) == (answer.status_code, answer.headers.get("set-cookie"))
    assert 0 == len(secured.app.state.access.sessions)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe=%%%", b"&" * 1_000, b"a=1&" * 1_000, b"token=" + b"%00" * 9_000, b"token=\xe9"]
)
async def test_a_login_of_any_bytes(secured: Secured, body):
    assert 401 == (await secured.http.post("/login", content=body)).status_code


async def test_whoever_shows_nothing_is_limited_by_address(tmp_path):
    async with secured_node(tmp_path, requests_per_s=1, requests_burst=5) as secured:
        found = {(await secured.http.get("/v1/models")).status_code for _ in range(40)}
        known = await secured.call("viewer", "GET", "/v1/models")

    assert {401, 429} == found
    assert 200 == known.status_code


async def test_a_session_ends_with_its_token(secured: Secured):
    logged_in = await secured.http.post("/login", data={"token": secured.table.tokens["viewer"]})
    cookie = {"Cookie": logged_in.headers["set-cookie"].partition(";")[0]}
    before = await secured.http.get("/v1/whoami", headers=cookie)
    secured.table.write("")

    assert (200, 401) == (before.status_code, (await secured.http.get("/v1/whoami", headers=cookie)).status_code)
    assert "ccs_" not in repr(secured.app.state.access.sessions)
