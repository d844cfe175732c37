"""Feature classes over REST: set field by field, guarded, refused with reasons, and shown with how they do."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from edge_client.protocol.messages import EdgeReport, FeatureObservations
from tests.api.served import Served, eventually
from tests.api.test_dashboard import EVIL, foreign, look

CLASSES = "/v1/features/classes"


async def put(served: Served, name: str = "track", *, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return await served.http.patch(f"{CLASSES}/{name}", json=body, headers={"X-CCS-Author": "ann"} | (headers or {}))


def told(served: Served, edge_id: str = "e", **sums: Any) -> None:
    features = (FeatureObservations(class_name="track", **sums),)
    report = EdgeReport(edge_id=edge_id, life_id="1", epoch=1, revision=1, features=features)
    assert served.node.fleet.report_received(report)


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["type"]).removeprefix("urn:ccs:problem:")


async def test_what_nobody_set_is_as_it_is_built_in(served: Served):
    items = (await served.http.get(CLASSES)).json()["items"]

    assert [(one["name"], one["kind"], one["revision"]) for one in items] == [("default", "bulk", 0)]
    assert items[0]["observed"] == {
        "span_ms": 20_000,
        "edge_count": 0,
        "judged_count": 0,
        "failed_count": 0,
        "fetched_count": 0,
        "failed_share": None,
        "drift": None,
        "error_rate": None,
    }


async def test_fields_are_set_one_by_one(served: Served):
    first = await put(served, kind="critical", window_base_ms=4_000, expire_ms=None)
    second = await put(served, shards=8, when_full="block")
    shown = second.json()

    assert first.status_code == second.status_code == 200
    assert (shown["kind"], shown["window_base_ms"], shown["expire_ms"]) == ("critical", 4_000, None)
    assert (shown["shards"], shown["when_full"], shown["announced"], shown["author"]) == (8, "block", True, "ann")
    assert first.json()["revision"] < shown["revision"] == int(second.headers["ETag"].strip('"'))
    assert (await served.http.get(f"{CLASSES}/track")).json() == shown
    listed = (await served.http.get(CLASSES)).json()["items"]
    assert [one["name"] for one in listed] == ["default", "track"]


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("track", {"window_base_ms": 100}, "window_floor_ms <="),
        ("track", {"expire_ms": None}, "bulk features expire"),
        ("track", {"window_ms": 100}, "Extra inputs"),
        ("track", {"codec": "gzip"}, "Input should be"),
        ("track", {"shards": 0}, "greater than or equal"),
        ("track", {"shards": "8"}, "valid integer"),
        ("Track", {}, "should match pattern"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_reason(served: Served, name: str, body: Any, says: str):
    answer = await put(served, name, **body)

    assert problem(answer) == (422, "invalid")
    assert says in answer.text
    assert served.node.metadata.state.feature_classes == {}


async def test_only_from_the_revision_that_was_seen(served: Served):
    assert problem(await put(served, headers={"If-Match": '"9"'})) == (412, "revision_mismatch")
    made = await put(served, headers={"If-Match": '"0"'})
    assert problem(await put(served, headers={"If-Match": '"0"'})) == (412, "revision_mismatch")
    assert (await put(served, headers={"If-Match": made.headers["ETag"]}, shards=2)).status_code == 200
    gone = await served.http.delete(f"{CLASSES}/track", headers={"If-Match": made.headers["ETag"]})

    assert problem(gone) == (412, "revision_mismatch")


async def test_a_class_is_removed_once(served: Served):
    await put(served)

    assert (await served.http.delete(f"{CLASSES}/track")).status_code == 204
    assert problem(await served.http.delete(f"{CLASSES}/track")) == (404, "unknown_feature_class")
    assert problem(await served.http.get(f"{CLASSES}/track")) == (404, "unknown_feature_class")


async def test_the_same_key_sets_it_once(served: Served):
    key = {"Idempotency-Key": "k"}
    first = await put(served, headers=key, shards=2)
    await put(served, shards=4)
    again = await put(served, headers=key, shards=2)

    assert (first.json()["shards"], again.json()["shards"]) == (2, 4)
    assert problem(await put(served, headers=key, shards=3)) == (422, "request_id_reused")


async def test_the_region_tightens_what_edges_find_wrong_and_says_why(served: Served):
    await put(served, window_base_ms=5_000)
    told(served)
    told(served, "f")
    told(served, judged_count=400, failed_count=160, fetched_count=10, drift_sum=1.0)
    await eventually(lambda: served.node.metadata.state.feature_classes["track"].feature_class.window_ms)
    shown = (await served.http.get(f"{CLASSES}/track")).json()

    assert shown["window_ms"] == 3_000
    assert shown["window_reason"].startswith("160 of 400 judged readings wrong, mean drift 0.100 over 10 fetches")
    assert shown["observed"]["error_rate"] == shown["observed"]["failed_share"] == 0.4
    assert (shown["observed"]["edge_count"], shown["observed"]["drift"]) == (1, 0.1)
    widened = await put(served, window_floor_ms=3_500)
    assert widened.json()["window_ms"] == 3_500, "the floor is people's"
    events = served.node.metadata.events_kept()
    assert [e.name for e in events if e.feature_classes] == ["FeatureClassSet", "FeatureWindowSet", "FeatureClassSet"]


async def test_the_page_shows_classes_windows_and_how_they_do(served: Served):
    await put(served, window_base_ms=5_000, headers={"X-CCS-Author": EVIL})
    told(served)
    told(served, judged_count=400, failed_count=160, fetched_count=10, drift_sum=1.0)
    await eventually(lambda: served.node.metadata.state.feature_classes["track"].feature_class.window_ms)
    page = await look(served, "/features")

    assert "track bulk lz4, 5 s 3 000 ms tightened" in page.text
    assert "160 of 400 judged readings wrong" in page.text and "500 – 5 000 ms" in page.text
    assert "40 % of 400" in page.text and "10 % over 10" in page.text
    assert "default bulk lz4, 5 s 5 000 ms" in page.text and "built in" in page.text
    assert [] == list(foreign(page)) and not page.all("img")
