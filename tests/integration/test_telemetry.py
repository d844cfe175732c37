"""A real region, watched: every metric of the reference is told, and one rollout is one trace that reaches every edge."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from consistency_service.core.metrics import NODE_METRICS
from consistency_service.testbed.topology import key_paths
from edge_client import EdgeClient
from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import Kind, Metric
from tests.support.bed import MODEL, Bed, eventually, running
from tests.support.otlp import Exported, Receiver, receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EDGES = 3


@pytest.fixture
def receiver(monkeypatch) -> Any:
    """Nodes and edges of the testbed inherit this environment."""
    with receiving() as one:
        for name, value in {**one.environ, "CCS_LOG_FORMAT": "json"}.items():
            monkeypatch.setenv(name, value)
        yield one


def url_of(bed: Bed, *, leading: bool = True) -> str:
    urls = bed.testbed.state.urls("node-")
    led = [url for url in urls if httpx.get(f"{url}/v1/cluster/self", trust_env=False).json()["leading"]]
    return led[0] if leading else next(url for url in urls if url not in led)


def begin(url: str, *, version: str, name: str, headers: dict[str, str]) -> httpx.Response:
    body = {"models": {MODEL: version}, "strategy": {"stages": [{"share": "50%"}]}, "rollout_id": name}
    answer = httpx.post(f"{url}/v1/rollouts", json=body, headers=headers, trust_env=False, timeout=15)
    assert 200 <= answer.status_code < 300, answer.text
    return answer


def completed(bed: Bed, name: str) -> bool:
    for url in bed.testbed.state.urls("node-"):
        try:
            answer = httpx.get(f"{url}/v1/rollouts/{name}?consistency=local", trust_env=False, timeout=5)
        except httpx.HTTPError:
            continue
        if answer.json().get("phase") == "completed":
            return True
    return False


def tree_of(receiver: Receiver, trace_id: str) -> dict[str, Exported]:
    return {span.span_id: span for span in receiver.of_trace(trace_id)}


def ancestors(span: Exported, spans: dict[str, Exported]) -> list[str]:
    """The names from this span's parent to the root's; fails where one is missing."""
    names = []
    while span.parent_id in spans:
        span = spans[span.parent_id]
        names.append(span.name)
    return names


def test_one_rollout_is_one_trace_from_rest_to_every_edge(tmp_path, receiver):
    caller = (secrets.token_hex(16), secrets.token_hex(8))
    with running(tmp_path, edges=EDGES) as bed:
        headers = {"traceparent": f"00-{caller[0]}-{caller[1]}-01"}
        answer = begin(url_of(bed, leading=False), version="2.0.0", name="r-1", headers=headers)
        eventually(lambda: completed(bed, "r-1"), within_s=60)
        bed.all_strong("2.0.0")

        def all_told() -> list[Exported] | None:
            switched = [s for s in receiver.of_trace(caller[0]) if s.name == "edge switch"]
            by_generation = Counter(s.attributes["ccs.generation"] for s in switched)
            fleet = [s for s in receiver.of_trace(caller[0]) if s.name == "fleet switched"]
            return switched if list(by_generation.values()) == [EDGES, EDGES] and len(fleet) == 2 else None

        switched = eventually(all_told, within_s=20)
        spans = tree_of(receiver, caller[0])
        logs = [path.read_text() for path in sorted(bed.config.directory.rglob("node-*.log"))]

    assert caller[0] == answer.headers["traceresponse"].split("-")[1]
    # One tree: the caller's span is the only parent that is not here.
    assert {caller[1]} == {span.parent_id for span in spans.values() if span.parent_id not in spans}
    assert {f"edge-{number}" for number in range(1, EDGES + 1)} == {span.instance for span in switched}
    for span in switched:
        names = ancestors(span, spans)
        assert "publish RolloutMoved" == names[0]
        assert "propose ActivateRollout" == names[1]
        assert "propose CreateRollout" == names[2]
        assert ["POST /v1/rollouts", "POST /v1/rollouts"] == names[3:]  # the node that was asked, and the leader
        assert "strong" == span.attributes["ccs.guarantee"]
        assert span.attributes["ccs.uncertainty_ms"] > 0
        assert span.begin_unix_ns < span.end_unix_ns
        assert "testbed-edge" == span.service
    told = [span for span in spans.values() if span.name == "fleet switched"]
    assert [EDGES, EDGES] == [span.attributes["ccs.edges"] for span in told]
    assert all(0 <= span.attributes["ccs.spread_ms"] < 1_000 for span in told)
    lines = [json.loads(line) for log in logs for line in log.splitlines() if line.startswith("{")]
    assert {"node_starting", "change_answered"} <= {line["event"] for line in lines}
    assert [caller[0]] * 2 == [line["trace_id"] for line in lines if line.get("request") == "POST /v1/rollouts"]
    assert {"raft_commit_seconds", "raft_leader_changes_total"} <= receiver.metrics["consistency-service"]
    assert {"strong_read_availability_ratio", "beacon_age_seconds"} <= receiver.metrics["testbed-edge"]


def test_a_trace_goes_on_after_its_leader_died(tmp_path, receiver):
    with running(tmp_path, edges=2) as bed:
        leader = httpx.get(f"{url_of(bed)}/v1/cluster", trust_env=False).json()["leader_id"]
        body = {
            "models": {MODEL: "2.0.0"},
            "strategy": {"stages": [{"share": "50%", "bake": "4s"}]},
            "rollout_id": "r-2",
        }
        answer = httpx.post(f"{url_of(bed)}/v1/rollouts", json=body, trust_env=False, timeout=15)
        trace_id = answer.headers["traceresponse"].split("-")[1]
        eventually(lambda: [s for s in receiver.of_trace(trace_id) if s.name == "edge switch"] or None, within_s=30)
        bed.testbed.kill(leader)
        eventually(lambda: completed(bed, "r-2"), within_s=60)

        def done() -> list[Exported] | None:
            spans = [s for s in receiver.of_trace(trace_id) if s.name == "edge switch"]
            return spans if len({(s.instance, s.attributes["ccs.generation"]) for s in spans}) == 4 else None

        switched = eventually(done, within_s=20)
        published = {s.instance for s in receiver.of_trace(trace_id) if s.name == "publish RolloutMoved"}

    assert {"edge-1", "edge-2"} == {span.instance for span in switched}
    assert len(published - {leader}) == 1, "the next authority published the end"


# ---- metrics


def scraped(url: str) -> tuple[dict[str, set[frozenset[str]]], dict[str, str], str]:
    """Samples' names with the sets of their labels' names, types by family, and the text."""
    answer = httpx.get(url, trust_env=False, timeout=10)
    assert 200 == answer.status_code and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, set[frozenset[str]]] = {}
    types: dict[str, str] = {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif not line.startswith("#"):
            name, _, rest = line.partition("{") if "{" in line else (line.split(" ")[0], "", "")
            labels = frozenset(part.split("=")[0] for part in rest.partition("}")[0].split('",') if part)
            samples.setdefault(name, set()).add(labels - {"le"})
    return samples, types, answer.text


def missing(metrics: tuple[Metric, ...], url: str) -> set[str]:
    """Documented metrics that this scrape lacks, or has with another type or other labels."""
    samples, types, _ = scraped(url)
    return {
        metric.name
        for metric in metrics
        if types.get(metric.name) != metric.kind.value
        or {frozenset(metric.labels)} != samples.get(metric.name + "_bucket" * (metric.kind is Kind.HISTOGRAM))
    }


def _tells_all(metrics: tuple[Metric, ...], url: str, *, traffic: Callable[[], object] = lambda: None) -> None:
    def told() -> bool:
        traffic()
        return missing(metrics, url) == set()

    try:
        eventually(told, within_s=20)
    except AssertionError:
        raise AssertionError(f"{url} lacks {missing(metrics, url)}") from None


def lint(text: str) -> str:
    if shutil.which("promtool") is None:
        return ""
    done = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=20)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: matters of taste
    return done.stderr.decode()


def test_every_documented_metric_is_told_by_a_node_and_by_an_edge_with_traffic(tmp_path):
    with running(tmp_path, edges=2) as bed:
        url = url_of(bed)
        begin(url, version="2.0.0", name="r-3", headers={"traceparent": "nonsense"})
        eventually(lambda: completed(bed, "r-3"), within_s=60)
        put = httpx.patch(f"{url}/v1/features/classes/a", json={"window_base_ms": 1_000}, trust_env=False)
        assert put.status_code == 200, put.text
        state = bed.testbed.state
        with EdgeClient.connect(
            state.urls("nats"),
            trust=str(key_paths(bed.config.directory)[1]),
            edge_id="watched",
            region=bed.config.region,
            local=state.urls("redis-edge")[0],
            metrics="127.0.0.1:0",
        ) as edge:
            model = edge.model(MODEL, loader=lambda artifact: artifact.path.read_bytes())
            edge.features.put("a:1", 1)
            for _ in range(50):
                model.read()
                edge.features.get("a:1")
            edge.features.get("a:none")
            edge.features.flush(timeout_ms=2_000)
            bed.swap("3.0.0")
            at = f"http://127.0.0.1:{edge.metrics_port}/metrics"
            scraped(at)  # from now on it looks once a second

            _tells_all(NODE_METRICS, f"{url}/metrics")
            _tells_all(EDGE_METRICS, at, traffic=lambda: edge.features.get("a:1"))
            node_samples, _, node_text = scraped(f"{url}/metrics")
            edge_samples, _, edge_text = scraped(at)

            assert 404 == httpx.get(f"http://127.0.0.1:{edge.metrics_port}/", trust_env=False).status_code

    documented = {metric.name for metric in EDGE_METRICS}
    assert documented == set(edge_samples), "an edge tells nothing else"
    others = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in node_samples}
    others -= {metric.name for metric in NODE_METRICS}
    assert all(name.startswith("process_") or name == "target_info" for name in others), others
    assert 'ccs_events_total{event="traceparents_ignored",part="api"} 1.0' in node_text
    assert 'model="m"' in edge_text and "watched" not in edge_text, "edge ids are no label"
    assert "watched" not in node_text
    for text in (node_text, edge_text):
        lint(text)
