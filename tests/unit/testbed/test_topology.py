"""The plan of a testbed is a value, so everything about it can be read off."""

import dataclasses
import itertools
import json
import tomllib
from pathlib import Path

import pytest

from consistency_service.config import config_of
from consistency_service.testbed import topology
from consistency_service.testbed.errors import TestbedError as BedError

PROGRAMS = topology.Programs(python="/py", nats_server="/nats", redis_server="/redis", python_path="/src")


def plan(**keywords):
    config = topology.TestbedConfig(directory=Path("/bed"), **keywords)
    return topology.plan_region(config, itertools.count(1000), programs=PROGRAMS)


def text_of(made, name):
    return next(file.text for file in made.files if file.path == f"/bed/config/{name}")


def test_the_usual_region_is_bus_tier_three_nodes_and_five_edges():
    made = plan()

    assert [spec.name for spec in made.processes] == [
        "nats",
        "redis-edge",
        *(f"node-{n}" for n in (1, 2, 3)),
        *(f"edge-{n}" for n in (1, 2, 3, 4, 5)),
    ]
    ports = [port for spec in made.processes for port in spec.ports]
    assert sorted(ports) == list(range(1000, 1008))  # each used once


def test_a_node_reads_its_own_settings_and_every_peer():
    made = plan(node_options={"lease_ms": 3000})

    assert tomllib.loads(text_of(made, "node-2.toml")) == {
        "region": "testbed",
        "node_id": "node-2",
        "data_dir": "/bed/nodes/node-2",
        "http": "127.0.0.1:1004",
        "nats": ["nats://127.0.0.1:1000"],
        "artifacts": "file:///bed/artifacts",
        "region_key": "/bed/keys/region.key",
        "raft_ca": "/bed/certs/ca.crt",
        "raft_certificate": "/bed/certs/node-2.crt",
        "raft_key": "/bed/certs/node-2.key",
        "lease_ms": 3000,
        "peers": {
            f"node-{n}": {"raft": f"127.0.0.1:{1001 + 2 * n}", "url": f"http://127.0.0.1:{1000 + 2 * n}"}
            for n in (1, 2, 3)
        },
    }
    node = made.processes[3]
    assert node.argv == ("/py", "-m", "consistency_service", "serve", "--config", "/bed/config/node-2.toml")
    assert node.env["PYTHONPATH"] == "/src"


def test_a_node_accepts_what_is_planned_for_it():
    table = tomllib.loads(text_of(plan(node_options={"lease_ms": 3000}), "node-2.toml"))
    config = config_of(table, environ={}, origin="plan")

    assert config.lease_ms == 3000
    assert config.http == "127.0.0.1:1004" and config.peers["node-2"].raft == "127.0.0.1:1005"


def test_an_edge_reads_where_the_region_and_its_own_tier_are():
    made = plan(edge_options={"reads_per_second_max": 50})

    assert json.loads(text_of(made, "edge-3.json")) == {
        "edge_id": "edge-3",
        "region": "testbed",
        "site": "site-1",
        "labels": {"testbed": "yes"},
        "nats": ["nats://127.0.0.1:1000"],
        "trust": "/bed/keys/region.pub",
        "local": "redis://127.0.0.1:1001",
        "models": ["digits"],
        "status_file": "/bed/edges/edge-3.json",
        "reads_per_second_max": 50,
    }
    edge = made.processes[-1]
    assert set(edge.depends_on) == {"nats", "redis-edge", "node-1", "node-2", "node-3"}


@pytest.mark.parametrize("odd", ['quo"te', "back\\slash", "ünï 😀", "del\x7f", "tab\there"])
def test_any_directory_name_survives_the_way_into_a_nodes_settings(odd):
    config = topology.TestbedConfig(directory=Path("/bed") / odd)
    made = topology.plan_region(config, itertools.count(1000), programs=PROGRAMS)
    text = next(file.text for file in made.files if file.path.endswith("node-1.toml"))

    assert tomllib.loads(text)["data_dir"] == f"/bed/{odd}/nodes/node-1"


@pytest.mark.parametrize(
    "wrong", [{"nodes": 0}, {"nodes": 6}, {"edges": -1}, {"edges": 65}, {"ready_timeout_ms": 0}, {"log_bytes_max": 0}]
)
def test_what_cannot_be_run_is_refused(wrong):
    with pytest.raises(BedError):
        topology.TestbedConfig(directory=Path("/bed"), **wrong)


def test_a_plan_names_each_process_once_and_after_what_it_needs():
    made = plan()

    with pytest.raises(BedError, match="'nats'"):
        dataclasses.replace(made, processes=(made.processes[0], made.processes[0]))
    with pytest.raises(BedError, match="node-1 depends on nats"):
        dataclasses.replace(made, processes=(made.processes[2],))
    with pytest.raises(BedError, match="no plain name"):
        dataclasses.replace(made, processes=(dataclasses.replace(made.processes[0], name="../nats"),))


def test_settings_are_private_where_they_name_the_key():
    modes = {Path(file.path).name: file.mode for file in plan(edges=1, nodes=1).files}

    assert modes == {"nats.conf": 0o644, "redis.conf": 0o644, "node-1.toml": 0o600, "edge-1.json": 0o644}
