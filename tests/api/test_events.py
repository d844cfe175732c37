"""Server-sent events on a real socket: in order, resumable, bounded, ended cleanly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from consistency_service.api import events
from consistency_service.core.commands import Bootstrap
from consistency_service.core.machine import MetadataMachine
from edge_client.protocol.models import Terms
from tests.api.served import Served, eventually, serving
from tests.api.test_models import code_of


@asynccontextmanager
async def caller(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(served.app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield http


async def take(lines: AsyncIterator[str], count: int) -> list[tuple[str, dict]]:
    """The next `count` events: id and data."""
    found, position = [], ""
    async with asyncio.timeout(10):
        async for line in lines:
            name, _, value = line.partition(": ")
            if name == "id":
                position = value
            elif name == "data":
                found.append((position, json.loads(value)))
                if len(found) == count:
                    return found
    raise AssertionError(f"the stream ended after {found}")


async def test_everything_behind_a_position_and_then_what_comes(served: Served):
    await served.model("a")
    async with caller(served) as http, http.stream("GET", "/v1/events?after=1-0") as response:
        lines = response.aiter_lines()
        past = await take(lines, 3)
        await served.model("b")
        to_come = await take(lines, 1)

    assert (200, "text/event-stream; charset=utf-8") == (response.status_code, response.headers["content-type"])
    assert ["1-1", "1-2", "1-3"] == [position for position, _ in past]
    assert ["RegionBootstrapped", "AuthorityAssumed", "ModelCreated"] == [event["name"] for _, event in past]
    assert ("1-4", "ModelCreated", "b") == (to_come[0][0], to_come[0][1]["name"], to_come[0][1]["models"][0]["name"])


async def test_from_now_on_without_a_position(served: Served):
    await served.model("a")
    async with caller(served) as http, http.stream("GET", "/v1/events") as response:
        await served.model("b")

        assert "1-4" == (await take(response.aiter_lines(), 1))[0][0]


async def test_the_last_event_id_goes_before_the_query(served: Served):
    await served.model("a")
    headers = {"Last-Event-ID": "1-2"}
    async with caller(served) as http, http.stream("GET", "/v1/events?after=1-0", headers=headers) as response:
        assert "1-3" == (await take(response.aiter_lines(), 1))[0][0]


@pytest.mark.parametrize("after", ["1", "1-", "a-b", "-1-2", "1-2-3", "\u0661-\u0662", "1" * 30 + "-1"])
async def test_a_position_that_makes_no_sense(served: Served, after):
    assert (422, "invalid") == code_of(await served.http.get("/v1/events", params={"after": after}))


async def test_what_is_not_kept_is_gone(served: Served):
    served.node.metadata._events_after = 2

    gone = await served.http.get("/v1/events?after=1-1")

    assert (410, "events_gone") == code_of(gone)
    assert "1-2" == gone.json()["position"]
    assert (410, "events_gone") == code_of(await served.http.get("/v1/events?after=0-9"))
    assert (503, "not_strong") == code_of(await served.http.get("/v1/events?after=2-0"))


async def test_a_heartbeat_and_subscribers_are_counted(served: Served, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(events, "SUBSCRIBERS_MAX", 1)
    async with caller(served) as http:
        async with http.stream("GET", "/v1/events") as response:
            lines = response.aiter_lines()
            async with asyncio.timeout(5):
                while await anext(lines) != ": alive":
                    pass
            full = await http.get("/v1/events")
        await eventually(lambda: served.app.state.subscribers.count == 0)
        async with http.stream("GET", "/v1/events?after=1-0") as response:
            again = await take(response.aiter_lines(), 1)

    assert (503, "too_many_subscribers") == code_of(full)
    assert "1-1" == again[0][0]


async def test_the_server_ends_streams_when_it_closes(served: Served):
    began = asyncio.get_running_loop().time()
    async with caller(served) as http, http.stream("GET", "/v1/events") as response:
        served.app.state.closing.set()
        async with asyncio.timeout(5):
            rest = await response.aread()

    assert rest.startswith(b"retry: 1000\n")
    assert asyncio.get_running_loop().time() - began < 3


async def test_a_new_epoch_ends_the_stream(served: Served):
    other = MetadataMachine()
    other.apply(Bootstrap(region="default", region_epoch=7, terms=Terms()))
    async with caller(served) as http, http.stream("GET", "/v1/events?after=1-0") as response:
        lines = response.aiter_lines()
        await take(lines, 2)
        served.node.metadata.restore(state=other.snapshot(), index=10**6)
        async with asyncio.timeout(5):
            async for line in lines:
                assert not line.startswith("id: 7-")


async def test_a_subscriber_who_falls_behind_what_is_kept_is_sent_away(served: Served):
    stream = events.EventStream(
        served.node.metadata,
        position=events.position_of("1-0"),
        subscribers=served.app.state.subscribers,
        closing=asyncio.Event(),
    )
    sent: list[bytes] = []
    served.node.metadata._events_after = 2

    async def send(message):
        sent.append(message.get("body", b""))

    await stream({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]

    assert b": events in between are not kept any more\n\n" == sent[-2]
    assert b"" == sent[-1]
