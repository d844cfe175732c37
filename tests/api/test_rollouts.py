"""Rollouts through the API: a whole one, orders, refusals, plans, and the way back; edges are reports made by hand."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_client.protocol.bucketing import bucket_of
from edge_client.protocol.messages import EdgeReport, ServedModel
from edge_client.protocol.observations import Observations
from tests.api.served import Served, eventually, three_nodes
from tests.api.test_models import code_of

ROOT = Path(__file__).resolve().parents[2]
FAST = {"stages": [{"share": "50%", "bake": "300ms"}, {"share": "100%"}]}


class Edges:
    """Edges that follow `models`, have everything ready that they are asked to have, and serve what is assigned."""

    def __init__(self, served: Served, *, count: int = 20, models: tuple[str, ...] = ("m",)) -> None:
        self.served, self.models = served, models
        self.names = [f"e{number:02}" for number in range(count)]
        self.unready: dict[str, str] = {}
        self.failing: frozenset[str] = frozenset()
        self.versions_served: dict[str, set[str]] = {name: set() for name in self.names}
        self._counts: dict[tuple[str, str, str, int], int] = {}

    def report(self, edge_id: str) -> None:
        state = self.served.node.metadata.state
        models, observations = [], []
        site = "north" if int(edge_id[1:]) % 2 else "south"
        for name in self.models:
            model = state.models[name]
            version = None
            if model.assignment:
                version = model.assignment.version_for(edge_id=edge_id, site=site, labels={})
                self.versions_served[edge_id].add(version)
                key = (edge_id, name, version, model.generation)
                count = self._counts[key] = self._counts.get(key, 0) + 40
                observations.append(
                    Observations(
                        model=name,
                        version=version,
                        generation=model.generation,
                        count=count,
                        judged_count=count,
                        failed_count=count // 2 if version in self.failing else count // 40,
                    )
                )
            ready = tuple(v.digest for v in model.versions.values())
            failed = dict.fromkeys(ready, self.unready.get(edge_id, ""))
            models.append(
                ServedModel(
                    model=name,
                    version=version,
                    generation=model.generation,
                    guarantee="strong",
                    staleness_bound_ms=None,
                    ready=() if edge_id in self.unready else ready,
                    failed=failed if self.unready.get(edge_id) else {},
                )
            )
        self.served.node.fleet.report_received(
            EdgeReport(
                edge_id=edge_id,
                life_id="1",
                site=site,
                epoch=1,
                revision=1,
                models=tuple(models),
                observations=tuple(observations),
            )
        )

    @asynccontextmanager
    async def reporting(self):
        async def speak() -> None:
            while True:
                for name in self.names:
                    self.report(name)
                await asyncio.sleep(0.05)

        task = asyncio.create_task(speak())
        try:
            yield self
        finally:
            task.cancel()


async def ready_region(served: Served, *models: str) -> None:
    for model in models or ("m",):
        await served.model(model, "1.0.0", "2.0.0", "3.0.0")
        assert 200 == (await served.activate("1.0.0", model=model)).status_code


async def begin(served: Served, strategy: dict[str, Any] = FAST, **more: Any) -> httpx.Response:
    body = {"models": {"m": "2.0.0"}, "strategy": strategy} | more
    return await served.http.post("/v1/rollouts", json=body, headers={"X-CCS-Author": "ann"})


async def shown(served: Served, rollout_id: str, query: str = "") -> dict[str, Any]:
    response = await served.http.get(f"/v1/rollouts/{rollout_id}{query}")
    assert 200 == response.status_code, response.text
    return dict(response.json())


async def until(served: Served, rollout_id: str, *phases: str, within_s: float = 15) -> dict[str, Any]:
    await eventually(lambda: served.node.metadata.state.rollouts[rollout_id].phase in phases, within_s=within_s)
    return await shown(served, rollout_id)


async def order(served: Served, rollout_id: str, move: str, *, step: int | None = None, **body: Any) -> httpx.Response:
    headers = {"X-CCS-Author": "bob"} | ({"If-Match": f'"{step}"'} if step is not None else {})
    return await served.http.post(f"/v1/rollouts/{rollout_id}/{move}", json=body, headers=headers)


def moves(rollout: dict[str, Any]) -> list[str]:
    return [transition["move"] for transition in rollout["transitions"]]


async def test_a_rollout_goes_through_its_stages_by_itself(served: Served):
    await ready_region(served)
    async with Edges(served).reporting() as edges:
        created = await begin(served, rollout_id="r-one")
        rollout = await until(served, "r-one", "completed")
        await eventually(lambda: served.node.metadata.state.models["m"].generation == 4)
    model = (await served.http.get("/v1/models/m")).json()
    history = (await served.http.get("/v1/models/m/history")).json()["items"]

    assert (201, "/v1/rollouts/r-one", '"1"') == (
        created.status_code,
        created.headers["location"],
        created.headers["etag"],
    )
    assert ["start", "activate", "pass", "activate", "pass", "complete"] == moves(rollout)
    assert [1, 2, 3, 4, 5, 6] == [transition["step"] for transition in rollout["transitions"]]
    assert ("ann", "") == (rollout["transitions"][0]["author"], rollout["transitions"][1]["author"])
    assert "20 of 20" in rollout["transitions"][3]["reason"]
    assert ("2.0.0", "1.0.0", None) == (model["assignment"]["stable"], model["previous"]["stable"], model["prefetch"])
    assert ["r-one", "r-one", "r-one", ""] == [entry["rollout_id"] for entry in history]
    assert all(versions == {"1.0.0", "2.0.0"} for versions in edges.versions_served.values())
    assert rollout["baked_ms"] >= 0 and rollout["live"]["exposure"]["m"]["readings"] > 0


async def test_live_tells_who_is_ready_who_switched_and_who_lags_behind(served: Served):
    await ready_region(served)
    edges = Edges(served)
    first = [name for name in edges.names if bucket_of(name, salt="r-one") < 5_000]
    edges.unready = {first[0]: "out of memory", first[1]: ""}
    strategy = {"stages": [{"share": "50%", "gate": "manual"}], "prefetch": {"ready_min": "1%"}}
    async with edges.reporting():
        await begin(served, strategy, rollout_id="r-one")
        await until(served, "r-one", "waiting")
        live: dict[str, Any] = {}
        for _ in range(100):
            live = (await shown(served, "r-one"))["live"]
            if live["switched_count"] == len(first):
                break
            await asyncio.sleep(0.02)

    assert (len(first) - 2, 1, 1) == (live["ready_count"], live["waiting_count"], live["failed_count"])
    assert ({first[0]: "out of memory"}, [first[1]]) == (live["failed"], live["waiting"])
    assert (len(first), 0) == (live["switched_count"], live["straggler_count"])
    assert (await shown(served, "r-one", "?consistency=local"))["live"] is None


async def test_a_bad_candidate_is_returned_and_the_numbers_are_on_record(served: Served):
    await ready_region(served)
    edges = Edges(served)
    edges.failing = frozenset({"2.0.0"})
    first = {name for name in edges.names if bucket_of(name, salt="r-bad") < 5_000}
    strategy = {
        "stages": [{"share": "50%", "bake": "30s"}, {"share": "100%"}],
        "analysis": [{"metric": "error_rate", "worse_max": "5%"}],
    }
    async with edges.reporting():
        await begin(served, strategy, rollout_id="r-bad")
        await until(served, "r-bad", "failed")
        await eventually(lambda: served.node.metadata.state.models["m"].pending is None)
        rollout = await shown(served, "r-bad")
    failed = next(one for one in rollout["transitions"] if one["move"] == "fail")
    returned = rollout["transitions"][-1]

    assert ["start", "activate", "fail", "return"] == moves(rollout)
    assert "error rate" in failed["reason"] and failed["reason"] == returned["reason"]
    assert "failed" == failed["evidence"]["findings"][0]["result"]
    assert returned["evidence"]["exposed"]["m"]["readings"] >= 40
    assert (len(first), "1.0.0") == (
        returned["evidence"]["exposed"]["m"]["edges"],
        (await served.http.get("/v1/models/m")).json()["assignment"]["stable"],
    )
    assert first == {name for name, versions in edges.versions_served.items() if "2.0.0" in versions}


async def test_orders_name_their_author_reason_and_step(served: Served):
    await ready_region(served)
    edges = Edges(served, count=1)
    edges.unready = {"e00": ""}
    edges.report("e00")
    draft = (await begin(served, {"stages": [{"share": "100%"}]}, start=False)).json()
    name = draft["rollout_id"]
    stale = await order(served, name, "start", step=9)
    started = await order(served, name, "start", step=0, reason="now")
    paused = await order(served, name, "pause", reason="lunch")
    refused = await order(served, name, "pause")
    resumed = await order(served, name, "resume")
    aborted = await order(served, name, "abort", reason="enough")
    again = await order(served, name, "retry")
    audit = (await served.http.get("/v1/audit")).json()["items"]

    assert ("draft", 0, ["start", "abort"]) == (draft["phase"], draft["step"], draft["moves"])
    assert (412, "step_mismatch") == code_of(stale)
    assert ('"1"', "bob", "now") == (
        started.headers["etag"],
        started.json()["transitions"][0]["author"],
        started.json()["transitions"][0]["reason"],
    )
    assert ["paused", "prefetching"] == [paused.json()["phase"], resumed.json()["phase"]]
    assert (409, "move_refused", ["resume", "promote", "abort"]) == (*code_of(refused), refused.json()["allowed"])
    assert ["aborted", "prefetching"] == [aborted.json()["phase"], again.json()["phase"]]
    assert '"5"' == again.headers["etag"]
    assert (404, "unknown_rollout") == code_of(await order(served, "nobody", "abort"))
    assert {name} == {entry["subject"] for entry in audit if entry["command"] in {"CreateRollout", "MoveRollout"}}


async def test_the_same_key_creates_once(served: Served):
    await ready_region(served)
    body = {"models": {"m": "2.0.0"}, "strategy": FAST, "start": False}
    first = await served.http.post("/v1/rollouts", json=body, headers={"Idempotency-Key": "k"})
    again = await served.http.post("/v1/rollouts", json=body, headers={"Idempotency-Key": "k"})
    other = await served.http.post("/v1/rollouts", json=body | {"reason": "x"}, headers={"Idempotency-Key": "k"})

    assert (201, 201) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert (422, "request_id_reused") == code_of(other)


async def test_one_rollout_a_model_and_nobody_else_activates(served: Served):
    await ready_region(served)
    edges = Edges(served)
    edges.unready = dict.fromkeys(edges.names, "")
    async with edges.reporting():
        await begin(served, rollout_id="r-one")
        second = await begin(served, rollout_id="r-two", models={"m": "3.0.0"})
        plain = await served.activate("3.0.0", force=True)
        deleted = await served.http.delete("/v1/models/m/versions/2.0.0")
        page = (await served.http.get("/v1/rollouts?running=true&model=m")).json()["items"]

    assert [(409, "rollout_running")] * 2 == [code_of(second), code_of(plain)]
    assert (409, "version_in_use") == code_of(deleted)
    assert ["r-one"] == [one["rollout_id"] for one in page]
    assert [] == (await served.http.get("/v1/rollouts?running=false")).json()["items"]


async def test_every_fault_is_told_at_once_with_its_place(served: Served):
    await ready_region(served)
    served.store.shelf.clear()
    Edges(served).report("e01")
    unworkable = {
        "stages": [{"share": "10%"}, {"share": "5%", "cohort": {"labels": {"ring": "canary"}}}],
        "cohort": {"sites": ["atlantis"]},
        "analysis": [{"metric": "latency", "worse_max": 0.9}],
    }
    refused = await begin(served, unworkable, models={"m": "1.0.0", "n": "2.0.0"})
    unreadable = {"stages": [{"share": "lots", "bake": "soon", "shar": 1}], "prefetch": {"deadline": True}}
    unread = await begin(served, unreadable, models={"m": "2.0.0"})
    linted = await served.http.post("/v1/rollouts/lint", json={"models": {"m": "2.0.0"}, "strategy": {"stages": []}})
    fine = await served.http.post("/v1/rollouts/lint", json={"models": {}, "strategy": FAST})

    absurd = {
        "stages": [{"share": "1%", "bake": "999999999999d"}],
        "analysis": [{"metric": "score", "samples_min": -(10**30)}],
    }
    overflowing = await begin(served, absurd, models={"m": "2.0.0"})
    halves = json.dumps({"models": {"\udb9d": "\udade"}, "strategy": {}, "\udade": 1})  # of characters
    unsound = await served.http.post("/v1/rollouts", content=halves, headers={"content-type": "application/json"})

    assert {"stages[0].bake", "analysis[0].samples_min", "models.m"} == {
        fault["place"] for fault in overflowing.json()["faults"]
    }
    assert (422, "invalid") == code_of(unsound)
    assert (422, "strategy_invalid") == code_of(refused)
    places = [fault["place"] for fault in refused.json()["faults"]]
    assert {
        "models.m",
        "models.n",
        "stages[1].share",
        "cohort.sites[0]",
        "stages[1].cohort.labels.ring",
        "analysis[0].worse_max",
    } <= set(places)
    assert {"models.m", "stages[0].share", "stages[0].bake", "stages[0].shar", "prefetch.deadline"} == {
        fault["place"] for fault in unread.json()["faults"]
    }
    assert ["models.m", "stages"] == [fault["place"] for fault in linted.json()["faults"]]
    assert (422, "invalid") == code_of(fine)
    assert {} == served.node.metadata.state.rollouts


@pytest.mark.parametrize(
    ("written", "field", "kept"),
    [
        ({"share": "1%"}, "share_bp", 100),
        ({"share": "0.25%"}, "share_bp", 25),
        ({"share": "100bp"}, "share_bp", 100),
        ({"share": 100}, "share_bp", 100),
        ({"share": "1%", "bake": "1.5m"}, "bake_ms", 90_000),
        ({"share": "1%", "bake": 250}, "bake_ms", 250),
        ({"share": "1%", "bake": "2h"}, "bake_ms", 7_200_000),
    ],
)
async def test_what_people_write_is_what_is_kept(served: Served, written, field, kept):
    await ready_region(served)
    created = await begin(served, {"stages": [written], "progress_deadline": "1d"}, start=False)

    assert kept == created.json()["strategy"]["stages"][0][field]


async def test_a_plan_names_who_would_get_what_and_how_much_is_fetched(served: Served):
    await ready_region(served)
    edges = Edges(served)
    edges.unready = {"e03": ""}
    for name in edges.names:
        edges.report(name)
    strategy = {"stages": [{"share": "50%", "cohort": {"sites": ["north"]}}, {"share": "50%"}]}
    asked = {"models": {"m": "2.0.0"}, "strategy": strategy, "rollout_id": "r-one"}
    plan = (await served.http.post("/v1/rollouts/plan", json=asked)).json()
    half = {name for name in edges.names if bucket_of(name, salt="r-one") < 5_000}
    north = {name for name in half if int(name[1:]) % 2}

    assert (20, "r-one", 1) == (plan["edge_count"], plan["rollout_id"], plan["download_count"])
    assert [sorted(north), sorted(half - north), sorted(set(edges.names) - half)] == [
        stage["added"] for stage in plan["stages"]
    ]
    assert [len(north), len(half), 20] == [stage["edge_count"] for stage in plan["stages"]]
    assert len(b"weights2.0.0") == plan["download_bytes"]
    assert {} == served.node.metadata.state.rollouts


async def test_a_freeze_stops_starts_and_promotions_only(served: Served):
    await ready_region(served)
    before = (await served.http.get("/v1/freeze")).json()
    frozen = await served.http.put(
        "/v1/freeze", json={"frozen": True, "reason": "holidays"}, headers={"X-CCS-Author": "eve"}
    )
    refused = await begin(served)
    draft = (await begin(served, start=False)).json()["rollout_id"]
    started = await order(served, draft, "start")
    aborted = await order(served, draft, "abort")
    lifted = await served.http.put("/v1/freeze", json={"frozen": False})

    assert (False, True, "eve", "holidays") == (
        before["frozen"],
        frozen.json()["frozen"],
        frozen.json()["author"],
        frozen.json()["reason"],
    )
    assert [(409, "frozen")] * 2 == [code_of(refused), code_of(started)]
    assert ("aborted", False) == (aborted.json()["phase"], lifted.json()["frozen"])


async def test_a_rollback_in_the_middle_aborts_and_afterwards_takes_the_bundle_along(served: Served):
    await ready_region(served, "m", "n")
    bundle = {"m": "2.0.0", "n": "3.0.0"}
    async with Edges(served, models=("m", "n")).reporting():
        await begin(served, {"stages": [{"share": "50%", "gate": "manual"}]}, rollout_id="r-one", models=bundle)
        await until(served, "r-one", "waiting")
        back = await served.http.post("/v1/models/n/rollback", headers={"X-CCS-Author": "eve", "Idempotency-Key": "b"})
        again = await served.http.post("/v1/models/n/rollback", headers={"X-CCS-Author": "eve", "Idempotency-Key": "b"})
        aborted = await shown(served, "r-one")
        await begin(served, rollout_id="r-two", models=bundle)
        await until(served, "r-two", "completed")
        await eventually(lambda: not served.node.metadata.state.pendings())
        generations = [served.node.metadata.state.models[name].generation for name in ("m", "n")]
        after = await served.http.post("/v1/models/m/rollback")
    models = [(await served.http.get(f"/v1/models/{name}")).json() for name in ("m", "n")]

    assert (200, "1.0.0", True) == (back.status_code, back.json()["version"], back.json()["effective"])
    assert back.json() == again.json()
    assert ("aborted", "rollback by eve") == (aborted["phase"], aborted["transitions"][-1]["reason"])
    assert (200, "1.0.0") == (after.status_code, after.json()["version"])
    assert ["1.0.0", "1.0.0"] == [model["assignment"]["stable"] for model in models]
    assert [g + 1 for g in generations] == [model["generation"] for model in models]
    assert models[0]["assignment"] == models[1]["assignment"]


async def test_the_published_schema_is_the_one_in_force(served: Served):
    published = json.loads((ROOT / "docs/reference/strategy.schema.json").read_text(encoding="utf-8"))

    assert published == (await served.http.get("/v1/rollouts/strategy-schema")).json()


async def test_followers_pass_orders_on_and_show_what_the_leader_sees(tmp_path):
    async with three_nodes(tmp_path) as region:
        follower = region.callers[region.follower]
        leader = region.nodes[region.leader]
        served = Served(node=leader, app=None, http=follower, store=leader.artifacts)
        await ready_region(served)
        async with Edges(served, count=6).reporting():
            created = await begin(served, {"stages": [{"share": "100%", "gate": "manual"}]}, rollout_id="r-one")
            rollout = await until(served, "r-one", "waiting")
            promoted = await order(served, "r-one", "promote")
            await until(served, "r-one", "completed")

        assert (201, 200) == (created.status_code, promoted.status_code)
        assert 6 == rollout["live"]["ready_count"]
