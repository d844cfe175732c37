"""Webhooks, delivered over real sockets: in order, signed, given up, replayed, and gone on with by another authority."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response

from consistency_service.adapters.web_caller import HttpWebCaller
from consistency_service.core.commands import CreateWebhook
from consistency_service.core.state import encode_state
from consistency_service.errors import WebUnavailableError
from consistency_service.runtime.webhooks import ATTEMPTS_MAX
from tests.api.served import Served, decides, eventually, one_node, serving, three_nodes
from tests.api.test_models import code_of
from tests.api.test_rollouts import Edges, begin, order, ready_region, until

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """What an application that is told of rollouts does: looks at the signature, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.refusing: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.url = ""
        self.app = FastAPI()
        self.app.state.closing = asyncio.Event()
        self.app.state.counters = Counter()
        self.app.add_api_route("/hook", self.receive, methods=["POST"])
        self.app.add_api_route("/check", self.check, methods=["POST"])
        self.app.add_api_route("/away", self.away, methods=["POST"])
        self.app.add_api_route("/long", self.long, methods=["POST"])
        self.checked: list[dict[str, Any]] = []
        self.verdict: dict[str, Any] = {}

    async def receive(self, request: Request) -> Response:
        body, headers = await request.body(), request.headers
        name, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        self.attempts[name] = self.attempts.get(name, 0) + 1
        digest = hmac.new(KEY, f"{name}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        told = json.loads(body)
        if told["data"]["move"] in self.refusing:
            return Response(status_code=500)
        self.ids.append(name)
        self.told.append(told)
        return Response(status_code=204)

    async def check(self, request: Request) -> dict[str, Any]:
        self.checked.append(await request.json())
        return self.verdict

    async def away(self) -> Response:
        return Response(status_code=307, headers={"location": "/hook"})

    async def long(self) -> Response:
        return Response(b"x" * 10_000)

    @property
    def moves(self) -> list[str]:
        return [told["data"]["move"] for told in self.told]


@asynccontextmanager
async def receiving():
    receiver = Receiver()
    async with serving(receiver.app) as url:
        receiver.url = url
        yield receiver


@pytest.fixture
async def receiver():
    async with receiving() as one:
        yield one


@pytest.fixture
async def calling(tmp_path):
    async with one_node(tmp_path, web=HttpWebCaller()) as one:
        one.node._webhooks._backoff_min_ms = 5
        yield one


async def subscribe(served: Served, receiver: Receiver, **more: Any) -> str:
    body = {"url": receiver.url + "/hook", "secret": SECRET} | more
    created = await served.http.post("/v1/webhooks", json=body, headers={"X-CCS-Author": "ann"})
    assert 201 == created.status_code, created.text
    return str(created.json()["webhook_id"])


async def webhook(served: Served, webhook_id: str) -> dict[str, Any]:
    items = (await served.http.get("/v1/webhooks")).json()["items"]
    return next(item for item in items if item["webhook_id"] == webhook_id)


async def test_every_move_is_told_in_order_and_signed(calling: Served, receiver: Receiver):
    await ready_region(calling)
    everything = await subscribe(calling, receiver)
    await begin(calling, rollout_id="r-one", start=False)
    for move in ("start", "abort"):
        await order(calling, "r-one", move, reason="because")
    await eventually(lambda: "return" in receiver.moves or receiver.moves[-1:] == ["abort"])
    await eventually(lambda: len(receiver.told) == calling.node.metadata.state.rollouts["r-one"].step)
    steps = [told["data"]["step"] for told in receiver.told]

    assert (sorted(steps), [f"r-one-{step}" for step in steps]) == (steps, receiver.ids)
    assert {"type": "rollout.start"}.items() <= receiver.told[0].items()
    assert {"reason": "because", "author": "bob", "phase": "prefetching"}.items() <= receiver.told[0]["data"].items()
    await eventually(lambda: calling.node.metadata.state.webhooks[everything].delivered_count == len(steps))
    assert 0 == (await webhook(calling, everything))["pending_count"]


async def test_only_what_was_asked_for_is_told(calling: Served, receiver: Receiver):
    await ready_region(calling)
    await subscribe(calling, receiver, events=["complete"])
    async with Edges(calling, count=4).reporting():
        await begin(calling, {"stages": [{"share": "100%"}]}, rollout_id="r-one")
        await until(calling, "r-one", "completed")
    await eventually(lambda: receiver.told)

    assert ["complete"] == receiver.moves


async def test_what_cannot_be_told_is_given_up_and_told_again_on_demand(calling: Served, receiver: Receiver):
    await ready_region(calling)
    receiver.refusing = {"abort"}
    name = await subscribe(calling, receiver, events=["start", "abort", "retry"])
    edges = Edges(calling, count=2)
    edges.unready = dict.fromkeys(edges.names, "")
    async with edges.reporting():
        await begin(calling, {"stages": [{"share": "100%"}]}, rollout_id="r-one")
        for move in ("abort", "retry"):
            await order(calling, "r-one", move)
        await eventually(lambda: receiver.moves == ["start", "retry"])
        dead = (await calling.http.get(f"/v1/webhooks/{name}/deliveries")).json()["items"]
        receiver.refusing = set()
        replayed = await calling.http.post(f"/v1/webhooks/{name}/replay")
        await eventually(lambda: receiver.moves == ["start", "retry", "abort"])
        await eventually(lambda: not calling.node.metadata.state.webhooks[name].again)
    nothing = await calling.http.post(f"/v1/webhooks/{name}/replay")

    assert (ATTEMPTS_MAX + 1, 1) == (receiver.attempts["r-one-2"], receiver.attempts["r-one-1"])
    assert [("r-one-2", "dead", ATTEMPTS_MAX, "answered with status 500")] == [
        (item["delivery_id"], item["state"], item["attempts"], item["reason"]) for item in dead
    ]
    assert ({"replayed": 1}, {"replayed": 0}) == (replayed.json(), nothing.json())
    assert {"dead_count": 0, "pending_count": 0}.items() <= (await webhook(calling, name)).items()


async def test_the_secret_is_shown_nowhere(calling: Served, receiver: Receiver, caplog):
    caplog.set_level("DEBUG")
    await ready_region(calling)
    await subscribe(calling, receiver)
    refused = await calling.http.post("/v1/webhooks", json={"url": "ftp://x", "secret": SECRET})
    await begin(calling)
    await eventually(lambda: receiver.told)
    paths = ("/v1/webhooks", "/v1/audit", "/v1/cluster/self", "/v1/cluster", "/openapi.json")
    answers = [(await calling.http.get(path)).text for path in paths]
    state = calling.node.metadata.state
    events = repr(calling.node.metadata.events_kept()) + repr(state.outbox)
    command = CreateWebhook(webhook_id="w", url="u", secret=SECRET)

    assert SECRET.encode() in encode_state(state)
    for text in (*answers, refused.text, events, repr(state), repr(command), str(command), caplog.text):
        assert SECRET not in text and SECRET.removeprefix("whsec_") not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://x/"},
        {"url": "http://"},
        {"url": "http://ann:pass@x/"},
        {"url": "http://x y/"},
        {"url": "http://x:port/"},
        {"secret": "abc"},
        {"secret": "whsec_abc"},
        {"secret": "whsec_" + base64.b64encode(b"short").decode()},
        {"events": ["explode"]},
        {"more": 1},
    ],
)
async def test_nonsense_is_refused(served: Served, wrong):
    body = {"url": "http://x/", "secret": SECRET} | wrong

    assert (422, "invalid") == code_of(await served.http.post("/v1/webhooks", json=body))


async def test_nobody_is_told_after_deletion(calling: Served, receiver: Receiver):
    await ready_region(calling)
    name = await subscribe(calling, receiver)
    gone = await calling.http.delete(f"/v1/webhooks/{name}")
    await begin(calling, start=False, rollout_id="r-one")
    await order(calling, "r-one", "abort")
    await asyncio.sleep(0.3)

    assert (204, []) == (gone.status_code, receiver.told)
    for call in ("GET deliveries", "POST replay"):
        method, path = call.split()
        assert (404, "unknown_webhook") == code_of(await calling.http.request(method, f"/v1/webhooks/{name}/{path}"))
    assert (404, "unknown_webhook") == code_of(await calling.http.delete(f"/v1/webhooks/{name}"))


async def test_another_authority_goes_on_with_what_is_left(tmp_path, receiver: Receiver):
    async with three_nodes(tmp_path, web=HttpWebCaller) as region:
        first = region.leader
        follower = region.callers[region.follower]
        served = Served(node=region.nodes[first], app=None, http=follower, store=region.nodes[first].artifacts)
        await ready_region(served)
        edges = Edges(served, count=1)
        edges.unready = {"e00": ""}  # so that nothing happens between the two orders
        edges.report("e00")
        name = await subscribe(served, receiver)
        await begin(served, {"stages": [{"share": "100%"}]}, rollout_id="r-one")
        await eventually(lambda: region.nodes[first].metadata.state.webhooks[name].delivered_count == 1)
        receiver.refusing = {"abort"}
        await order(served, "r-one", "abort")
        await eventually(lambda: receiver.attempts.get("r-one-2", 0))
        await region.kill(first)
        receiver.refusing = set()
        await eventually(lambda: any(map(decides, region.nodes.values())), within_s=20)
        await eventually(lambda: "abort" in receiver.moves, within_s=20)
        await asyncio.sleep(0.6)

    assert ["start", "abort"] == receiver.moves


async def test_an_external_check_fails_a_stage(calling: Served, receiver: Receiver):
    await ready_region(calling)
    receiver.verdict = {"result": "failed", "reason": "the shop is empty"}
    strategy = {
        "stages": [{"share": "100%", "bake": "1m"}],
        "analysis": [{"metric": "external", "url": receiver.url + "/check", "interval": "1s"}],
    }
    async with Edges(calling, count=2).reporting():
        await begin(calling, strategy, rollout_id="r-one")
        rollout = await until(calling, "r-one", "failed")
    failed = next(one for one in rollout["transitions"] if one["move"] == "fail")

    assert "the shop is empty" == failed["reason"]
    assert {"rollout_id": "r-one", "stage": 0, "check": 0}.items() <= receiver.checked[0].items()
    assert {"m": {"candidate": "2.0.0", "stable": "1.0.0"}} == receiver.checked[0]["models"]


async def test_calls_are_small_and_go_nowhere_else(receiver: Receiver):
    web = HttpWebCaller()
    small: dict[str, Any] = {"body": b"{}", "headers": {}, "timeout_ms": 2_000, "answer_bytes_max": 100}
    try:
        away = await web.post(receiver.url + "/away", **small)
        long = await web.post(receiver.url + "/long", **small)
        assert (307, [], 101) == (away.status, receiver.told, len(long.body))
        for url in (
            "http://169.254.169.254/",
            "http://[fe80::1]/",
            "http://0.0.0.0/",
            "file:///x",
            "http://",
            "gopher://x/",
        ):
            with pytest.raises(WebUnavailableError):
                await web.post(url, **small)
    finally:
        await web.close()


async def test_a_call_without_an_answer_ends_in_time():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    web = HttpWebCaller()
    try:
        with pytest.raises(WebUnavailableError, match="within 200 ms"):
            await web.post(f"http://127.0.0.1:{port}/", body=b"", headers={}, timeout_ms=200, answer_bytes_max=100)
    finally:
        await web.close()
        server.close()
