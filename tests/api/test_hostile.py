"""What nobody sends by accident: each is refused with a document, costs little, and breaks nothing."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from consistency_service.api import guard
from tests.api.served import PROBLEM, Served, serving
from tests.api.test_artifacts import exchange
from tests.api.test_models import code_of

JSON = {"Content-Type": "application/json"}
CALLS = [
    ("POST", "/v1/models"),
    ("PATCH", "/v1/models/m/policy"),
    ("POST", "/v1/models/m/versions"),
    ("POST", "/v1/models/m/activations"),
    ("POST", "/v1/models/m/rollback"),
]
BODIES = {
    "nothing": b"",
    "half": b'{"name": "m"',
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"name":' * 100_000,
    "no utf-8": b'{"name": "\xff\xfe"}',
    "surrogate": b'{"name": "\\ud800", "version": "\\ud800"}',
    "nan": b'{"name": NaN, "versions_kept": NaN}',
    "long number": b'{"versions_kept": ' + b"9" * 10_000 + b"}",
    "huge float": b'{"versions_kept": 1e999}',
    "zero bytes": b"\x00" * 1000,
    "utf-16": '{"name": "m"}'.encode("utf-16"),
    "msgpack": b"\x81\xa4name\xa1m",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "many keys": json.dumps({f"k{i}": i for i in range(60_000)}).encode(),
    "twice": b'{"name": "a", "name": "B"}',
}


@pytest.mark.parametrize("body", BODIES)
async def test_a_hostile_body(served: Served, body):
    await served.model("m", "1.0.0")
    before = served.node.metadata.state.revision
    for method, path in CALLS:
        response = await served.http.request(method, path, content=BODIES[body], headers=JSON)

        assert response.status_code in {400, 404, 409, 422}, response.text
        assert PROBLEM == response.headers["content-type"]
        assert len(response.content) < 20_000
    assert before == served.node.metadata.state.revision


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_json_is_said_to_be_json(served: Served, content_type):
    """So that no web page can make a browser change anything here."""
    headers = {"Content-Type": content_type} if content_type else {}
    response = await served.http.post("/v1/models", content=b'{"name": "m"}', headers=headers)

    assert (422, "invalid") == code_of(response)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_above_the_limit(served: Served, announced):
    async def unannounced():
        for _ in range(1_100):
            yield b" " * 1_000

    content = b" " * 1_100_000 if announced else unannounced()
    response = await served.http.post("/v1/models", content=content, headers=JSON)

    assert (413, "too_large") == code_of(response)


async def test_more_bodies_than_the_node_can_hold(served: Served, monkeypatch):
    monkeypatch.setattr(guard, "BUFFERED_BYTES_MAX", 1_000)
    big = await served.http.post("/v1/models", content=b" " * 2_000, headers=JSON)
    small = await served.http.post("/v1/models", json={"name": "m"})

    assert (503, "overloaded") == code_of(big)
    assert 201 == small.status_code


async def test_a_body_that_never_ends_is_given_up(served: Served, monkeypatch):
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.1)
    head = b"POST /v1/models HTTP/1.1\r\nHost: n1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    async with serving(served.app) as url:
        answer = await exchange(url, head)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:ccs:problem:slow_request" in answer


async def test_an_error_of_ours_shows_nothing_of_the_inside(served: Served, monkeypatch, caplog):
    async def broken(*args, **kwargs):
        raise ZeroDivisionError("secret path and password")

    monkeypatch.setattr(served.node.metadata, "barrier", broken)
    response = await served.http.get("/v1/models")

    assert (500, "internal") == code_of(response)
    assert "secret" not in response.text
    assert response.json()["incident"] in caplog.text
    assert "secret path and password" in caplog.text


async def test_a_caller_who_does_not_read_is_cut_off(served: Served, monkeypatch):
    monkeypatch.setattr(guard, "SEND_TIMEOUT_S", 0.2)
    stuck = asyncio.Event()

    async def send(message):
        await stuck.wait()

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/livez",
        "raw_path": b"/livez",
        "query_string": b"",
        "headers": [],
    }
    async with asyncio.timeout(5):
        await guard.Guard(_begins, node=served.node, counters=served.app.state.counters)(scope, receive, send)

    # What cannot be sent cannot be followed by a problem either: the server closes an answer that was left unfinished.
    assert 1 == served.app.state.counters["answers_cut"]


async def _begins(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def test_no_path_is_an_error_of_ours(served: Served):
    rng = random.Random(7)
    parts = [
        "v1",
        "models",
        "artifacts",
        "m",
        "versions",
        "active",
        "..",
        "%2e%2e",
        "%00",
        "%ff",
        "é",
        "a" * 300,
        "{}",
        " ",
        "sha256:0",
    ]
    for _ in range(300):
        path = "/" + "/".join(rng.choices(parts, k=rng.randint(1, 6)))
        response = await served.http.request(rng.choice(["GET", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"]), path)

        assert response.status_code in {404, 405, 422}, path


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
        b"GET /livez HTTP/1.1\r\nHost: n1\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET http://evil/v1/models HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n",
        b"GET //evil/v1/models HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n",
        b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n",
        b"GET /v1/models/%ff%fe?consistency=local HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: n1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: n1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /v1/models HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_bytes_that_are_no_request_of_anybody(served: Served, request_bytes):
    async with serving(served.app) as url:
        answer = await exchange(url, request_bytes)
        alive = await exchange(url, b"GET /livez HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n")

    assert answer == b"" or int(answer.split(b" ")[1]) in {400, 404, 422, 431}, answer[:200]
    assert b"alive" in alive
