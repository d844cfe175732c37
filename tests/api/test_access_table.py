"""Who may do what: every call as everybody, on a real node, against the table in docs/reference/access.md."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi.routing import APIRoute

from consistency_service.api import access as access_layer
from consistency_service.api.access import routes_of, rule_of
from consistency_service.api.server import CERTIFICATE
from consistency_service.core.access import LADDER, Denial, Role, Rule, denial, may
from tests.api.secured import Secured, authority, secured_node

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "access.md"
ROW = re.compile(r"^\| `([A-Z]+) ([^`]+)` \| (\w+) \| ([\w, ]*) \| ([\w ]*) \|$", re.MULTILINE)
TABLE = {
    f"{method} {path}": (role, frozenset(filter(None, also.split(", "))), models)
    for method, path, role, also, models in ROW.findall(PAGE.read_text(encoding="utf-8"))
}
CALLERS = ("anonymous", "wrong", "expired", "viewer", "publisher", "operator", "admin", "edge", "node")
WORDS = {"none": "", "path": "the one in the path", "checked": "looked up", "all": "refused"}


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture
async def secured(tmp_path, certs, monkeypatch) -> AsyncIterator[Secured]:
    monkeypatch.setattr(access_layer, "FAILURES_BURST", 10_000)
    raft = {"raft_ca": certs / "ca.crt", "raft_certificate": certs / "n1.crt", "raft_key": certs / "n1.key"}
    async with secured_node(tmp_path, **raft) as node:
        yield node


def der_of(certs: Path, name: str) -> bytes:
    return x509.load_pem_x509_certificate((certs / f"{name}.crt").read_bytes()).public_bytes(Encoding.DER)


async def called(secured: Secured, certs: Path, caller: str, call: str, *, model: str = "m") -> httpx.Response:
    """One call, with what it needs to get as far as it may, and no further."""
    method, _, path = call.partition(" ")
    path = re.sub(r"\{(\w+)\}", lambda found: {"model": model, "digest": "sha256:" + "0" * 64}.get(found[1], "x"), path)
    headers, app = {}, secured.app
    if caller == "node":

        async def app(scope, receive, send):
            await secured.app({**scope, "state": {CERTIFICATE: der_of(certs, "n2")}}, receive, send)

    elif caller == "wrong":
        headers["Authorization"] = "Bearer ccs_wrong"
    elif caller != "anonymous":
        headers |= secured.table.bearer(caller)
    if path == "/v1/events":
        headers["Last-Event-ID"] = "999-1"  # not an epoch yet: the stream would not end
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://n1", timeout=30) as http:
        return await http.request(method, path, headers=headers, json={} if method != "GET" else None)


def expected(call: str, caller: str) -> int | None:
    """The status that keeps a caller out; None if they are let in."""
    role, also, _ = TABLE[call]
    if role == "everybody":
        return None
    if caller in {"anonymous", "wrong", "expired"}:
        return 401
    ladder = [known.value for known in LADDER]
    stands = caller in ladder and ladder.index(caller) >= ladder.index(role)
    return None if stands or caller in also else 403


async def deviations(secured: Secured, certs: Path, calls) -> list[str]:
    found = []
    for call in calls:
        for caller in CALLERS:
            answer = await called(secured, certs, caller, call)
            refused = answer.status_code if answer.status_code in {401, 403} and "/login" not in call else None
            if answer.status_code == 429 or refused != expected(call, caller):
                found.append(f"{caller}: {call}: {answer.status_code}")
    return found


@pytest.mark.timeout(180)
async def test_every_call_as_everybody(secured, certs):
    assert [] == await deviations(secured, certs, TABLE)


async def test_every_route_is_in_the_table_and_declares_what_it_says(secured):
    declared: dict[str, tuple[str, frozenset[str], str]] = {}
    for route in routes_of(secured.app):
        assert isinstance(route, APIRoute) and route.methods, route
        rule = rule_of(route.endpoint)
        assert rule is not None, f"{route.path} declares no role"
        role = "everybody" if rule.role is None else rule.role.value
        also = frozenset(one.value for one in rule.also)
        declared |= {f"{method} {route.path}": (role, also, WORDS[rule.models.value]) for method in route.methods}

    assert TABLE == declared
    assert len(TABLE) > 60


@pytest.mark.timeout(180)
async def test_the_table_would_notice_each_route_that_says_something_else(secured, certs):
    """One route after the other lets in the next role up or down; the check of that route has to see it."""
    unnoticed = []
    for route in routes_of(secured.app):
        assert isinstance(route, APIRoute) and route.methods, route
        endpoint: Any = route.endpoint
        rule = rule_of(endpoint)
        assert rule is not None, f"{route.path} declares no role"
        call = f"{next(iter(route.methods))} {route.path}"
        if rule.role is None:
            continue
        position = LADDER.index(rule.role)
        other = LADDER[position + 1] if position == 0 else LADDER[position - 1]
        endpoint.__ccs_rule__ = replace(rule, role=other)
        try:
            if not await deviations(secured, certs, [call]):
                unnoticed.append(call)
        finally:
            endpoint.__ccs_rule__ = rule

    assert [] == unnoticed


@pytest.mark.parametrize("broken", ["denial", "bearer", "undeclared"])
async def test_the_table_would_notice_a_rule_that_is_off(secured, certs, monkeypatch, broken):
    call = "POST /v1/cluster/transfer"
    if broken == "denial":
        monkeypatch.setattr(access_layer, "denial", lambda *_args, **_given: None)
    elif broken == "bearer":
        known = await secured.app.state.access._authentication.bearer(secured.table.tokens["admin"])

        async def bearer(_token):
            return known

        monkeypatch.setattr(secured.app.state.access._authentication, "bearer", bearer)
    else:
        monkeypatch.setattr(access_layer, "rule_of", lambda _endpoint: Rule(role=None))

    assert [] != await deviations(secured, certs, [call])


async def test_a_route_without_a_role_is_closed(secured, certs):
    @secured.app.get("/undeclared")
    async def undeclared() -> dict[str, Any]:
        return {}

    for caller in ("viewer", "admin", "node"):
        assert 403 == (await called(secured, certs, caller, "GET /undeclared")).status_code
    assert 401 == (await called(secured, certs, "anonymous", "GET /undeclared")).status_code


async def test_what_is_not_there_is_told_to_those_who_are_known(secured, certs):
    assert 401 == (await called(secured, certs, "anonymous", "GET /v1/none")).status_code
    assert 404 == (await called(secured, certs, "viewer", "GET /v1/none")).status_code
    assert 405 == (await called(secured, certs, "viewer", "DELETE /v1/audit")).status_code


async def test_callers_limited_to_some_models(secured, certs):
    """By the column `models`: `limited` is admin of models that begin with `mine-`."""
    wrong = []
    for call, (role, _, models) in TABLE.items():
        if role == "everybody" or models == "looked up":
            continue
        for model in ("m", "mine-a"):
            answer = await called(secured, certs, "limited", call, model=model)
            refused = models == "refused" or (models == "the one in the path" and model == "m")
            if refused != (answer.status_code == 403):
                wrong.append(f"{call} of {model}: {answer.status_code}")

    assert [] == wrong


def test_the_ladder():
    for index, role in enumerate(LADDER):
        assert [place <= index for place in range(4)] == [may(role, Rule(role=needed)) for needed in LADDER]
    for role in (Role.EDGE, Role.NODE):
        assert not may(role, Rule(role=Role.VIEWER))
        assert may(role, Rule(role=Role.ADMIN, also=(role,)))
        assert may(role, Rule(role=None))


def test_no_rule_no_way():
    from consistency_service.core.access import Identity

    admin = Identity(name="a", role=Role.ADMIN, kind="token")
    assert Denial.UNDECLARED is denial(admin, None, model=None)
    assert None is denial(admin, Rule(role=Role.ADMIN), model=None)
