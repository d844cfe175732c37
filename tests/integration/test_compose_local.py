"""docker-compose.yml as processes: the file is read, what it says is run, and what it promises is seen to hold.

TLS and authentication on every link, three NATS servers as a cluster, two sites behind leaf nodes, three Redis servers.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import ProcessSpec, TestbedConfig
from ops.compose import file, local
from tests.support.secured_redis import require_tls

ROOT = Path(__file__).parents[2]
EDGES = ("edge-1-1", "edge-1-2", "edge-2-1", "edge-2-2")
DEADLINE_S = 240
"""For all of it, however busy the machine; alone it takes a minute."""


class Bench:
    """The running topology, and those who look at it and give it orders."""

    def __init__(self, testbed: Testbed, specs: Mapping[str, ProcessSpec]) -> None:
        self.testbed = testbed
        self.specs = specs
        self.secrets = testbed.directory / "volumes" / "secrets"
        self.deadline_s = time.monotonic() + DEADLINE_S

    def ccs(self, *words: str) -> Any:
        """What `ccs` answers an administrator."""
        result = subprocess.run(
            [sys.executable, "-m", "consistency_service", "--json", *words],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "CCS_URL": ",".join(self.testbed.state.urls("node-")),
                "CCS_CA": str(self.secrets / "node-1" / "ca.crt"),
                "CCS_TOKEN_FILE": str(self.secrets / "people" / "admin"),
            },
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert 0 == result.returncode, result.stderr
        return json.loads(result.stdout)

    def push(self, version: str, *words: str) -> None:
        path = self.testbed.directory / version
        path.write_bytes(f"weights of {version}".encode())
        self.ccs("model", "push", "digits", version, str(path), *words)

    def status(self, edge: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.specs[edge].env["CCS_EDGE_STATUS_FILE"]).read_bytes())
        return found

    def reads(self, edge: str) -> dict[str, int]:
        counted: dict[str, int] = self.status(edge)["models"]["digits"]["reads"]
        return counted

    def serves(self, version: str, *, guarantee: str = "strong") -> Callable[[str], bool]:
        def holds(edge: str) -> bool:
            model = self.status(edge)["models"]["digits"]
            return (model["version"], model["guarantee"]) == (version, guarantee)

        return holds

    def until(self, holds: Callable[[str], bool], edges: tuple[str, ...] = EDGES) -> None:
        while not all(map(holds, edges)):
            assert time.monotonic() < self.deadline_s, [self.status(edge) for edge in edges]
            time.sleep(0.1)

    def monitor(self, server: str, page: str) -> Any:
        return httpx.get(f"http://{self.specs[server].env['NATS_HTTP_LISTEN']}/{page}", trust_env=False).json()


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE_S + 90)
def test_the_deployed_topology_serves_and_survives(tmp_path):
    require_tls()
    plan = local.ComposePlan(profiles=("sites", "observability"))
    config = TestbedConfig(directory=tmp_path / "region", edges=0, ready_timeout_ms=60_000)
    with Testbed(config, plan=plan) as testbed:
        bench = Bench(testbed, plan.specs)
        everything_is_healthy(bench, plan)
        strangers_are_refused(bench)
        a_model_reaches_every_edge(bench)
        one_of_each_dies(bench)
        a_site_is_cut_off(bench)
        prometheus_sees_it(bench)


def everything_is_healthy(bench: Bench, plan: local.ComposePlan) -> None:
    """The health checks of the file say so, where what they ask with is installed."""
    for name in bench.specs:
        while (healthy := plan.healthy(name)) is False:
            assert time.monotonic() < bench.deadline_s, f"{name} is not healthy"
            time.sleep(0.2)
        assert healthy or not name.startswith(("node-", "edge-"))
    services = file.read()
    left_out = {name for name in services if name not in bench.specs}
    assert left_out <= {"prepare", "grafana", "collector", "prometheus"}


def strangers_are_refused(bench: Bench) -> None:
    """On each kind of link: without TLS there is no conversation, and with it none without a name."""
    url = bench.testbed.state.urls("node-")[0]
    ca = bench.secrets / "node-1" / "ca.crt"
    trust = ssl.create_default_context(cafile=ca)
    with pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https:", "http:") + "/livez", trust_env=False)
    assert 200 == httpx.get(f"{url}/livez", verify=trust, trust_env=False).status_code
    assert 401 == httpx.get(f"{url}/v1/models", verify=trust, trust_env=False).status_code
    for server in ("nats-2", "leaf-1"):
        line = socket.create_connection(address(bench.specs[server].env["NATS_CLIENT_LISTEN"]), timeout=5)
        assert b'"tls_required":true' in line.recv(4_096)
        with trust.wrap_socket(line, server_hostname="127.0.0.1") as secured:
            secured.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            assert b"Authorization Violation" in secured.recv(4_096)
    for server in ("redis-region", "redis-2"):
        line = socket.create_connection(("127.0.0.1", bench.specs[server].ports[0]), timeout=5)
        with trust.wrap_socket(line, server_hostname="127.0.0.1") as secured:
            secured.sendall(b"GET key\r\n")
            assert secured.recv(4_096).startswith(b"-NOAUTH")


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def a_model_reaches_every_edge(bench: Bench) -> None:
    bench.push("1.0.0", "--create", "--activate")
    bench.until(bench.serves("1.0.0"))
    bench.until(lambda edge: bench.status(edge)["features_flushed"] > 0)

    for edge in EDGES:
        status = bench.status(edge)
        assert (True, "ok", "closed") == (status["connected"], status["local_tier"], status["feature_store"])
        leaf = bench.specs[f"leaf-{edge[5]}"].env["NATS_CLIENT_LISTEN"]
        assert f"tls://{leaf}" == bench.specs[edge].env["CCS_EDGE_SERVERS"]
    live = {edge["edge_id"]: edge["site"] for edge in bench.ccs("edges")["items"] if edge["live"]}
    assert {edge: f"site-{edge[5]}" for edge in EDGES} == live
    # The event stream has three copies, wherever they are.
    found = [bench.monitor(f"nats-{n}", "jsz?streams=1&config=1") for n in (1, 2, 3)]
    streams = [s for page in found for account in page.get("account_details", []) for s in account["stream_detail"]]
    assert {3} == {stream["config"]["num_replicas"] for stream in streams}
    assert 3 == len(streams)


def one_of_each_dies(bench: Bench) -> None:
    """The leading node, and a server of the bus: nobody notices, and versions go on being activated."""
    leader = str(bench.ccs("cluster", "status")["leader_id"])
    failed = {edge: bench.reads(edge).get("failed", 0) for edge in EDGES}
    bench.testbed.kill(leader)
    bench.testbed.kill("nats-1")

    bench.push("2.0.0", "--activate")
    bench.until(bench.serves("2.0.0"))

    assert failed == {edge: bench.reads(edge).get("failed", 0) for edge in EDGES}
    bench.testbed.restart(leader, wait_ready=False)
    bench.testbed.restart("nats-1", wait_ready=False)


def a_site_is_cut_off(bench: Bench) -> None:
    """Its edges go on serving what they have and say that it may be old; the other site goes on; then all are one again."""
    here, there = EDGES[:2], EDGES[2:]
    bench.testbed.kill("leaf-1")
    bench.until(lambda edge: bench.status(edge)["models"]["digits"]["guarantee"] != "strong", here)

    bench.push("3.0.0")
    bench.ccs("model", "activate", "digits", "3.0.0", "--force")
    bench.until(bench.serves("3.0.0"), there)
    before = {edge: bench.reads(edge) for edge in here}
    time.sleep(2.5)
    for edge in here:
        model = bench.status(edge)["models"]["digits"]
        assert ("2.0.0", before[edge]["strong"]) == (model["version"], model["reads"]["strong"])
        assert sum(model["reads"].values()) > sum(before[edge].values())
        assert before[edge].get("failed", 0) == model["reads"].get("failed", 0)

    bench.testbed.restart("leaf-1", wait_ready=False)
    bench.until(bench.serves("3.0.0"))


def prometheus_sees_it(bench: Bench) -> None:
    """Where Debian's `prometheus` is installed: nodes and edges are scraped, the ones with a token and by TLS."""
    if "prometheus" not in bench.specs:
        print("prometheus is not installed: what it scrapes was not looked at")
        return
    port = bench.specs["prometheus"].ports[0]
    while True:
        page = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets?state=active", trust_env=False).json()
        health = [(t["labels"]["job"], t["health"], t["lastError"]) for t in page["data"]["activeTargets"]]
        seen = [(job, state) for job, state, _ in health if job in ("nodes", "edges")]
        if sorted(seen) == [("edges", "up")] * 4 + [("nodes", "up")] * 3:
            return
        assert time.monotonic() < bench.deadline_s, health
        time.sleep(0.5)
