"""`ccs doctor`: each fault, made; and a section of the docs for each."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from consistency_service.adapters import certificates
from consistency_service.adapters.link_probes import StreamSeen
from consistency_service.adapters.nats_bus import NatsAccess
from consistency_service.adapters.region_key import generate
from consistency_service.cli import doctor_links as links
from consistency_service.cli import doctor_machine as machine
from consistency_service.cli import doctor_region as region
from consistency_service.cli.commands import app
from consistency_service.cli.doctor_findings import REMEDIES, Finding, Level
from consistency_service.cli.session import Shared
from consistency_service.config import ServiceConfig, config_of
from edge_client.protocol.envelope import trust_line
from tests.support.servers import free_port, start_nats, start_redis

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def levels(findings: Any) -> dict[str, str]:
    """The worst of each name."""
    worst: dict[str, str] = {}
    for finding in findings:
        assert finding.id in REMEDIES and (finding.remedy == "") == (finding.level is Level.FINE)
        order = ["fine", "warning", "wrong"]
        worst[finding.id] = max(worst.get(finding.id, "fine"), finding.level.value, key=order.index)
    return worst


def one(finding: Finding) -> tuple[str, str]:
    return next(iter(levels([finding]).items()))


def settings(directory: Path, **more: Any) -> ServiceConfig:
    if not (directory / "region.key").exists():
        generate(directory / "region.key", directory / "region.pub")
    values = {
        "node_id": "n1",
        "data_dir": str(directory / "data"),
        "region_key": str(directory / "region.key"),
        "http": f"127.0.0.1:{free_port()}",
        "peers": {"n1": {"raft": f"127.0.0.1:{free_port()}", "url": "http://127.0.0.1:1"}},
    }
    return config_of(values | more, environ={}, origin="test")


# ---- the machine


def test_a_sound_machine() -> None:
    found = list(machine.look_at_machine())

    assert {"platform", "clock-rate", "descriptors", "memory-limit"} <= levels(found).keys()
    assert [finding for finding in found if finding.level is Level.WRONG] == []


def test_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "current_clocksource"
    source.write_text("acpi_pm\n")
    monkeypatch.setattr(machine, "RATE_WATCHED_S", 0.0001)
    found = list(machine.look_at_machine(clock_source=source))

    assert levels(found)["clock-source"] == "warning"
    assert ("clock-rate", "wrong") == one(machine.judged_rate(1 + 450e-6, rho_ppm=500))
    assert ("clock-rate", "fine") == one(machine.judged_rate(1 - 350e-6, rho_ppm=500))
    assert ("suspended", "warning") == one(machine.suspension(slept_s=30.0))
    assert ("suspended", "fine") == one(machine.suspension(slept_s=0.001))


def test_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert levels(machine.look_at_machine()) == {"platform": "wrong"}


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(f"{100 << 20}\n")
    monkeypatch.setattr(machine, "RATE_WATCHED_S", 0.0001)

    assert levels(machine.look_at_machine(memory_limits=(limit,)))["memory-limit"] == "wrong"
    limit.write_text("max\n")
    assert levels(machine.look_at_machine(memory_limits=(limit,)))["memory-limit"] == "fine"
    assert ("descriptors", "warning") == one(machine.descriptors(2_000))
    few = f"ulimit -n 256; exec {sys.executable} -m consistency_service doctor --json --url http://127.0.0.1:1"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", few], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == done.returncode
    found = {finding["id"]: finding["level"] for finding in json.loads(done.stdout)["findings"]}
    assert ("wrong", "wrong") == (found["descriptors"], found["region-unreachable"])


# ---- a node's files


def test_a_sound_node(tmp_path: Path) -> None:
    found = levels(machine.look_at_node(settings(tmp_path)))

    assert set(found.values()) == {"fine"}
    assert {"data-dir", "disk-space", "disk-latency", "key-permissions", "lease-settings"} == found.keys()
    assert not (tmp_path / "data").exists() and {"region.key", "region.pub"} == {f.name for f in tmp_path.iterdir()}


def test_the_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path)
    config.data_dir.mkdir()
    config.data_dir.chmod(0o777)
    assert levels(machine.look_at_node(config))["data-dir"] == "warning"
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert levels(machine.look_at_node(config)) == {
        "data-dir": "wrong",
        "key-permissions": "fine",
        "lease-settings": "fine",
    }
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    assert levels(machine.look_at_node(settings(tmp_path, data_dir=str(tmp_path / "file"))))["data-dir"] == "wrong"


def test_the_disk(tmp_path: Path) -> None:
    assert ("disk-space", "wrong") == one(machine.space(GIB // 8, path=tmp_path))
    assert ("disk-space", "warning") == one(machine.space(GIB, path=tmp_path))
    assert ("disk-latency", "wrong") == one(machine.latency([300.0] * 9, path=tmp_path))
    assert ("disk-latency", "warning") == one(machine.latency([1.0, 30.0, 40.0], path=tmp_path))
    assert ("disk-latency", "fine") == one(machine.latency([1.0, 2.0, 400.0], path=tmp_path))


def test_keys_that_others_may_read(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.region_key.chmod(0o644)
    assert levels(machine.look_at_node(config))["key-permissions"] == "wrong"
    config.region_key.chmod(0o600)
    credentials = tmp_path / "node.creds"
    config = settings(tmp_path, nats_credentials=str(credentials))
    assert levels(machine.look_at_node(config))["key-permissions"] == "wrong"
    credentials.write_text("")
    credentials.chmod(0o640)
    assert levels(machine.look_at_node(config))["key-permissions"] == "wrong"
    credentials.chmod(0o600)
    assert levels(machine.look_at_node(config))["key-permissions"] == "fine"


def test_certificates_that_end(tmp_path: Path) -> None:
    now = datetime.now(tz=UTC)
    certificates.create_authority(tmp_path, cluster_id="r", now=now)
    pair = certificates.issue(tmp_path, node_id="n1", now=now, days=100)

    for days, level in ((0, "fine"), (80, "warning"), (101, "wrong")):
        assert ("certificate-expiry", level) == one(
            machine.expiry("raft_certificate", pair.certificate, now=now + timedelta(days=days))
        )
    (tmp_path / "none").write_text("no certificate")
    assert ("certificate-expiry", "wrong") == one(machine.expiry("raft_ca", tmp_path / "none", now=now))


def test_a_lease_that_no_election_fits_into(tmp_path: Path) -> None:
    assert ("lease-settings", "warning") == one(machine.lease_settings(settings(tmp_path, lease_ms=1_000)))


# ---- what must be reached


def test_ports(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert levels(links.look_at_ports(config)) == {"port-taken": "fine"}
    host, _, port = config.http.rpartition(":")
    with socket.create_server((host, int(port))):
        assert levels(links.look_at_ports(config)) == {"port-taken": "wrong"}
    peers = {"n1": {"raft": config.peers["n1"].raft, "url": "http://127.0.0.1:1"}}
    peers |= {name: {"raft": f"127.0.0.1:{free_port()}", "url": "http://127.0.0.1:1"} for name in ("n2", "n3")}
    assert levels(links.look_at_ports(settings(tmp_path, peers=peers)))["peer-unreachable"] == "wrong"


def test_the_bus(tmp_path: Path) -> None:
    access = NatsAccess()
    closed = f"nats://user:hunter2@127.0.0.1:{free_port()}"
    (finding,) = links.look_at_bus((closed,), access=access, region="r", replicas=1)
    assert ("bus-unreachable", "wrong") == one(finding) and "hunter2" not in finding.text

    with start_nats(tmp_path) as server:
        found = levels(links.look_at_bus((server.url,), access=access, region="r", replicas=1))
        assert found == {"bus-unreachable": "fine", "bus-jetstream": "fine"}
        assert levels(links.look_at_bus((server.url,), access=access, region="r", replicas=None)) == {
            "bus-unreachable": "fine"
        }
        missing = NatsAccess(ca=tmp_path / "missing.pem")
        assert levels(links.look_at_bus((server.url,), access=missing, region="r", replicas=1)) == {
            "bus-unreachable": "wrong"
        }


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (StreamSeen(fault="jetstream not enabled"), {"bus-jetstream": "wrong"}),
        (StreamSeen(missing=True), {"bus-jetstream": "fine"}),
        (StreamSeen(replicas=1, servers=3), {"bus-jetstream": "fine", "bus-replicas": "warning"}),
        (StreamSeen(replicas=3, servers=3, late=("a",)), {"bus-jetstream": "fine", "bus-replicas": "warning"}),
        (StreamSeen(replicas=3, servers=3), {"bus-jetstream": "fine", "bus-replicas": "fine"}),
    ],
)
def test_the_stream(seen: StreamSeen, found: dict[str, str]) -> None:
    assert found == levels(links.judged_stream(seen, where="nats://n", replicas=3))


def test_a_bus_without_jetstream(tmp_path: Path) -> None:
    with start_nats(tmp_path, jetstream=False) as server:
        found = levels(links.look_at_bus((server.url,), access=NatsAccess(), region="r", replicas=1))

    assert found == {"bus-unreachable": "fine", "bus-jetstream": "wrong"}


def test_redis(tmp_path: Path) -> None:
    (finding,) = links.look_at_redis(f"redis://:hunter2@127.0.0.1:{free_port()}", what="local")
    assert ("redis-unreachable", "wrong") == one(finding) and "hunter2" not in finding.text
    with start_redis(tmp_path) as server:
        assert levels(links.look_at_redis(server.url, what="local")) == {
            "redis-unreachable": "fine",
            "redis-memory": "fine",
        }
        client = redis.Redis.from_url(server.url)
        client.config_set("maxmemory", "10mb")
        client.config_set("maxmemory-policy", "noeviction")
        client.close()
        assert levels(links.look_at_redis(server.url, what="local"))["redis-memory"] == "warning"


def test_the_object_store(tmp_path: Path) -> None:
    assert levels(links.look_at_artifacts(settings(tmp_path))) == {"artifacts": "fine"}
    (tmp_path / "file").write_text("")
    broken = settings(tmp_path, artifacts=f"file://{tmp_path}/file/inside")
    assert levels(links.look_at_artifacts(broken)) == {"artifacts": "wrong"}


def test_trust() -> None:
    line = trust_line(Ed25519PrivateKey.generate().public_key())

    assert [("trust", "fine"), ("trust", "wrong"), ("trust", "wrong")] == [
        one(links.look_at_trust(text)) for text in (line, "", "ccs-region-key ed25519 nonsense")
    ]


# ---- the region


def node(node_id: str, **more: Any) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "url": f"http://{node_id}",
        "reachable": True,
        "version": "0.1.0",
        "is_authority": node_id == "n1",
        "standing": "member",
        "storage_fault": None,
        "bus_connected": True,
        "commit_index": 2_000,
        "applied_index": 2_000,
        "lease_remaining_ms": 1_900,
    } | more


def cluster(**changed: Any) -> dict[str, Any]:
    return {
        "epoch": 5,
        "leader_id": changed.pop("leader_id", "n1"),
        "authority": changed.pop("authority", {"node_id": "n1"}),
        "terms": {"lease_ms": 2_000, "margin_ms": 6, "rho_ppm": 500},
        "nodes": [node(name, **changed.get(name, {})) for name in ("n1", "n2", "n3")],
    }


@pytest.mark.parametrize(
    ("said", "name", "level"),
    [
        (cluster(n3={"reachable": False}), "peer-unreachable", "wrong"),
        (cluster(leader_id=None), "no-leader", "wrong"),
        (cluster(authority=None), "no-authority", "wrong"),
        (cluster(n1={"is_authority": False}), "no-authority", "wrong"),
        (cluster(n2={"bus_connected": False, "bus_fault": "refused"}), "bus-lost", "wrong"),
        (cluster(n2={"storage_fault": "no room"}), "disk-fault", "wrong"),
        (cluster(n2={"standing": "removed"}), "removed", "wrong"),
        (cluster(n2={"applied_index": 10}), "node-behind", "warning"),
        (cluster(n2={"lease_remaining_ms": None}), "no-lease", "warning"),
        (cluster(n2={"version": "0.2.0"}), "version-skew", "warning"),
    ],
)
def test_a_region_with_a_fault(said: dict[str, Any], name: str, level: str) -> None:
    assert set(levels(region.look_at_region(cluster())).values()) == {"fine"}
    assert levels(region.look_at_region(said))[name] == level


def test_settings_that_have_no_effect(tmp_path: Path) -> None:
    found = list(region.look_at_region(cluster(), config=settings(tmp_path, lease_ms=3_000, margin_ms=9)))

    assert levels(found)["lease-settings"] == "warning"
    assert "lease-settings" not in levels(region.look_at_region(cluster(), config=settings(tmp_path)))


def edge(edge_id: str, **more: Any) -> dict[str, Any]:
    models = [{"model": "m", "generation": 1, "guarantee": "strong"}]
    return {"edge_id": edge_id, "live": True, "epoch": 5, "uncertainty_ns": 3_000_000, "models": models} | more


@pytest.mark.parametrize(
    ("seen", "name", "level"),
    [
        (edge("e", epoch=6), "epoch-behind", "wrong"),
        (edge("e", uncertainty_ns=600_000_000), "clock-uncertainty", "wrong"),
        (edge("e", models=[{"model": "m", "generation": 1, "guarantee": "bounded"}]), "edge-weak", "warning"),
    ],
)
def test_edges_with_a_fault(seen: dict[str, Any], name: str, level: str) -> None:
    sound = {"clock-uncertainty": "fine", "edge-weak": "fine"}

    assert sound == levels(region.look_at_edges([edge("d"), edge("gone", live=False, epoch=9)], cluster=cluster()))
    assert levels(region.look_at_edges([edge("d"), seen], cluster=cluster()))[name] == level
    assert ("round-trip", "warning") == one(region.round_trip(80.0))


# ---- the command


def run(*words: str, answer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(machine, "RATE_WATCHED_S", 0.5)
    shared = Shared(transport=httpx.MockTransport(answer))
    return CliRunner().invoke(app, ["doctor", "--url", "http://n1", *words], obj=shared)


def healthy(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/cluster":
        return httpx.Response(200, json=cluster())
    return httpx.Response(200, json={"items": [edge("e")], "next_cursor": None})


def test_the_command_says_what_is_wrong_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: httpx.Request) -> httpx.Response:
        document = {"type": "urn:ccs:problem:unauthenticated", "title": "Who asks is not known", "status": 401}
        return httpx.Response(401, json=document)

    assert 0 == run(answer=healthy, monkeypatch=monkeypatch).exit_code
    refused = run(answer=forbidden, monkeypatch=monkeypatch)
    assert 1 == refused.exit_code and "rest-refused" in refused.stdout and "do: show a token" in refused.stdout
    document = json.loads(run("--json", answer=forbidden, monkeypatch=monkeypatch).stdout)
    (finding,) = [finding for finding in document["findings"] if finding["level"] == "wrong"]
    assert not document["ok"] and finding["docs"] == "docs/how-to/troubleshoot.md#rest-refused"


def test_settings_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edge.json"
    path.write_text('{"servers": ["nats://127.0.0.1:1"]}')
    broken = run("--edge", str(path), answer=healthy, monkeypatch=monkeypatch)
    path.write_text("nonsense")
    worse = run("--edge", str(path), answer=healthy, monkeypatch=monkeypatch)
    config = run("--config", str(tmp_path / "none.toml"), answer=healthy, monkeypatch=monkeypatch)

    assert [1, 1, 1] == [result.exit_code for result in (broken, worse, config)]
    assert "trust" in broken.stdout and "neither TOML nor JSON" in worse.stdout and "cannot read" in config.stdout


def test_every_finding_has_a_section_and_every_section_a_finding() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text()

    assert list(REMEDIES) == re.findall(r"^### ([a-z-]+)$", text, re.MULTILINE)
