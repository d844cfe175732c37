"""What REST tells of itself: the scrape, requests by template, and whose trace a change belongs to."""

from __future__ import annotations

import asyncio

import pytest

from consistency_service.api.telemetry import _templates_of
from tests.api.served import Served

CALLER = "00-" + "c" * 32 + "-" + "d" * 16 + "-01"


@pytest.fixture
def recorder(served: Served, monkeypatch):
    seen: list[tuple[str, str, str]] = []

    def record(name: str, value: float, **labels: str) -> None:
        if name == "http_request_seconds":
            seen.append((labels["method"], labels["route"], labels["code"]))

    monkeypatch.setattr(type(served.node.telemetry), "record", staticmethod(record))
    return seen


async def test_requests_are_known_by_template_and_strangers_as_other(served: Served, recorder):
    await served.http.get("/v1/models/no-such-model")
    await served.http.get("/v1/models/another/history")
    await served.http.get("/no/such/path")
    await served.http.request("BREW", "/v1/models")
    await served.http.post("/v1/models", json={"name": "m"})

    assert [
        ("GET", "/v1/models/{model}", "404"),
        ("GET", "/v1/models/{model}/history", "404"),
        ("GET", "other", "404"),
        ("other", "/v1/models", "405"),
        ("POST", "/v1/models", "201"),
    ] == recorder


async def test_there_are_few_templates(served: Served):
    templates = [name for found in _templates_of(served.app).values() for _, name in found]

    assert 40 < len(templates) == len(set(templates)) < 150


@pytest.mark.parametrize(("sent", "kept"), [(CALLER, True), ("nonsense", False), (None, False), ("x" * 5_000, False)])
async def test_a_change_says_which_trace_it_belongs_to(served: Served, sent, kept):
    headers = {} if sent is None else {"traceparent": sent}
    answer = await served.http.post("/v1/models", json={"name": "m"}, headers=headers)
    trace = answer.headers["traceresponse"].split("-")[1]

    assert 201 == answer.status_code
    assert kept is (trace == "c" * 32)
    assert trace == served.node.metadata.events_kept()[-1].trace.split("-")[1]
    assert (0 if kept or sent is None else 1) == served.app.state.counters["traceparents_ignored"]


async def test_reads_belong_to_no_trace(served: Served):
    assert "traceresponse" not in (await served.http.get("/v1/models", headers={"traceparent": CALLER})).headers


async def test_the_tasks_of_the_loop_are_told(served: Served):
    async def told() -> float:
        await asyncio.sleep(0.25)  # one sheet is good for 0.2 s
        return served.node.measuring.sheet()["asyncio_tasks"][0][1]

    before = await told()
    more = [asyncio.create_task(asyncio.sleep(10)) for _ in range(50)]

    assert 50 <= await told() - before <= 55
    for task in more:
        task.cancel()
