"""The testbed's edge program: many clients in one process, histories of all of them, and a life after SIGKILL."""

from __future__ import annotations

import hashlib
import json
import time

import httpx
import msgspec
import pytest

from consistency_service.testbed.demo_region import RegionCalls
from consistency_service.testbed.edge import EdgeSettings, read_settings
from consistency_service.testbed.edge_status import read_status
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.history import check, read_files
from consistency_service.testbed.recorder import line_of
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig

MODEL = "weights"


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_many_clients_in_one_process_switch_together_and_their_histories_agree(tmp_path):
    history = tmp_path / "history"
    config = TestbedConfig(
        directory=tmp_path / "region",
        nodes=1,
        edges=2,
        models=(MODEL,),
        edge_options={
            "edges_in_process": 4,
            "loader": "bytes",
            "workload": "read",
            "read_interval_ms": 5,
            "history_file": str(history / "{edge_id}.jsonl"),
        },
    )
    deadline_s = time.monotonic() + 90
    with Testbed(config) as testbed:
        (url,) = testbed.state.urls("node-")
        calls = RegionCalls({"node-1": url}, remaining_s=lambda: deadline_s - time.monotonic())
        lines = []
        for number in (1, 2, 3):
            push(calls, tmp_path, version=f"{number}.0.0")
            lines.append(calls.activate(MODEL, version=f"{number}.0.0", on_accepted=lambda _: None))
            until(lambda generation=number: all_serve(tmp_path, generation), deadline_s)
        (history / "operator.jsonl").write_bytes(b"".join(map(line_of, lines)))

        testbed.kill("edge-1")
        testbed.restart("edge-1")  # its ids are those of lives that nobody gave up yet
        until(lambda: all_serve(tmp_path, 3), deadline_s)
        live = {e["edge_id"] for e in httpx.get(f"{url}/v1/edges", trust_env=False).json()["items"] if e["live"]}
        calls.close()

    assert {f"edge-{process}-{number}" for process in (1, 2) for number in range(4)} == live
    last = read_status(tmp_path / "region" / "edges" / "edge-2.json")
    assert last is not None
    assert [(0, 0)] * 4 == [(one.failed_reads, one.wrong_reads) for one in last.sessions]
    assert all(3 in {switch.generation for switch in one.switches} for one in last.sessions)
    verdict = check(read_files(history.glob("*.jsonl")))
    assert verdict.ok, verdict.words()
    assert 9 == verdict.process_count and 3 == verdict.activation_count


def push(calls: RegionCalls, tmp_path, *, version: str) -> None:
    path = tmp_path / version
    path.write_bytes(version.encode() * 100)
    calls.push(MODEL, version=version, path=path, digest=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")


def all_serve(tmp_path, generation: int) -> bool:
    statuses = [read_status(tmp_path / "region" / "edges" / f"edge-{number}.json") for number in (1, 2)]
    return all(
        status is not None
        and 4 == len(status.sessions)
        and all(one.generation == generation and one.guarantee == "strong" for one in status.sessions)
        for status in statuses
    )


def until(condition, deadline_s: float) -> None:
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"surprise": 1}, "surprise"),
        ({"models": []}, "models must name at least one"),
        ({"workload": "classify"}, 'workload "classify" needs held_out'),
        ({"edges_in_process": 0}, "edges_in_process must lie in"),
        ({"nats": "nats://one"}, "nats"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, complaint):
    path = tmp_path / "edge.json"
    good = {
        "edge_id": "edge-1",
        "region": "testbed",
        "nats": ["nats://127.0.0.1:4222"],
        "trust": "region.pub",
        "models": [MODEL],
        "status_file": "status.json",
    }
    path.write_text(json.dumps(good))
    assert msgspec.convert(good, EdgeSettings) == read_settings(path)

    path.write_text(json.dumps(good | change))
    with pytest.raises(TestbedError, match=complaint):
        read_settings(path)
