"""Rollouts on a real region of three processes with real edges: through all stages, back, and on after the leader died."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from edge_client.protocol.bucketing import bucket_of
from tests.support.bed import MODEL, Bed, eventually, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EDGES = 3


def call(bed: Bed, method: str, path: str, **more: Any) -> dict[str, Any]:
    """The answer of whichever node answers; asked again, under the same key, while none can."""
    more.setdefault("headers", {"X-CCS-Author": "ann", "Idempotency-Key": f"{method} {path} {time.monotonic_ns()}"})
    deadline_s = time.monotonic() + 30
    while True:
        for url in bed.testbed.state.urls("node-"):
            try:
                answer = httpx.request(method, f"{url}{path}", timeout=15, trust_env=False, **more)
            except httpx.HTTPError:
                continue
            if answer.status_code < 500:
                assert answer.status_code < 300, answer.text
                return dict(answer.json())
        assert time.monotonic() < deadline_s, f"nobody answers {method} {path}"
        time.sleep(0.2)


def begin(bed: Bed, version: str, *, name: str, stages: list[dict[str, Any]]) -> None:
    body = {"models": {MODEL: version}, "strategy": {"stages": stages}, "rollout_id": name}
    call(bed, "POST", "/v1/rollouts", json=body)


def rollout(bed: Bed, name: str) -> dict[str, Any]:
    return call(bed, "GET", f"/v1/rollouts/{name}")


def until(bed: Bed, name: str, *phases: str) -> dict[str, Any]:
    return eventually(lambda: one if (one := rollout(bed, name))["phase"] in phases else None, within_s=60)


def moves(one: dict[str, Any]) -> list[str]:
    return [transition["move"] for transition in one["transitions"]]


def split(bed: Bed) -> str:
    """A rollout id under which half of the share has some of the edges, and not all."""
    for number in range(1_000):
        name = f"r-{number}"
        if 0 < sum(bucket_of(edge_id, salt=name) < 5_000 for edge_id in bed.edge_ids) < EDGES:
            return name
    raise AssertionError("all edges fall together")


def test_stages_an_abort_and_a_leader_that_dies_in_the_middle(tmp_path):
    with running(tmp_path, edges=EDGES) as bed:
        name = split(bed)
        first = {edge_id for edge_id in bed.edge_ids if bucket_of(edge_id, salt=name) < 5_000}

        begin(bed, "2.0.0", name=name, stages=[{"share": "50%", "gate": "manual"}, {"share": "100%"}])
        until(bed, name, "waiting")
        eventually(lambda: {i for i in bed.edge_ids if bed.edge(i).version == "2.0.0"} == first, within_s=10)
        call(bed, "POST", f"/v1/rollouts/{name}/abort", json={"reason": "enough"})
        aborted = until(bed, name, "aborted")
        bed.all_strong("1.0.0")
        assert ["start", "activate", "pass", "abort", "return"] == moves(aborted)

        call(bed, "POST", f"/v1/rollouts/{name}/retry")
        until(bed, name, "baking", "waiting")
        leader = str(call(bed, "GET", "/v1/cluster")["leader_id"])
        bed.testbed.kill(leader)
        eventually(lambda: call(bed, "GET", "/v1/cluster")["leader_id"] not in {None, leader}, within_s=30)
        until(bed, name, "waiting")
        call(bed, "POST", f"/v1/rollouts/{name}/promote")
        completed = until(bed, name, "completed")
        bed.all_strong("2.0.0")

        steps = [transition["step"] for transition in completed["transitions"]]
        assert list(range(1, len(steps) + 1)) == steps
        assert [
            *("start", "activate", "pass", "abort", "return"),
            *("retry", "activate", "pass", "promote", "activate", "pass", "complete"),
        ] == moves(completed)

        call(bed, "POST", f"/v1/models/{MODEL}/rollback")
        bed.all_strong("1.0.0")
