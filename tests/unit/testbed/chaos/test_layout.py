"""Everybody reaches everybody else by a line of their own through the proxy."""

import itertools
import json
import tomllib
from pathlib import Path

from consistency_service.config import config_of
from consistency_service.testbed import topology
from consistency_service.testbed.chaos.layout import plan_chaos
from consistency_service.testbed.chaos.plan import StartClock
from consistency_service.testbed.chaos.proxy import ProxyConfig

PROGRAMS = topology.Programs(python="/py", nats_server="/nats", redis_server="/redis", python_path="/src")
CLOCKS = {"node-2": StartClock(offset_ns=7, rate_ppm=-3)}


def plan():
    config = topology.TestbedConfig(directory=Path("/bed"), nodes=3, edges=2, region="chaos")
    return plan_chaos(config, itertools.count(1000), programs=PROGRAMS, clocks=CLOCKS)


def text_of(made, name):
    return next(file.text for file in made.files if file.path == f"/bed/{name}")


def links(made):
    import msgspec

    config = msgspec.json.decode(text_of(made, "config/network.json"), type=ProxyConfig)
    return {link.listen: link for link in config.links}


def test_no_port_is_used_twice_and_the_proxy_is_there_first():
    made = plan()
    ports = [port for spec in made.processes for port in spec.ports]

    assert len(ports) == len(set(ports))
    assert made.processes[0].name == "network"
    assert all("network" in spec.depends_on for spec in made.processes if spec.name.startswith(("node-", "edge-")))


def test_each_node_reaches_each_other_by_its_own_line():
    made = plan()
    through, seen = links(made), set()
    own = {spec.name: spec for spec in made.processes}
    for name in ("node-1", "node-2", "node-3"):
        config = config_of(tomllib.loads(text_of(made, f"config/{name}.toml")), environ={}, origin="test")
        for other, peer in config.peers.items():
            raft, http = int(peer.raft.rpartition(":")[2]), int(peer.url.rpartition(":")[2])
            if other == name:
                assert (http, raft) == own[name].ports
                continue
            for port, target in ((raft, own[other].ports[1]), (http, own[other].ports[0])):
                assert (through[port].source, through[port].target, through[port].port) == (name, other, target)
                seen.add(port)
        bus = through[int(config.nats[0].rpartition(":")[2])]
        assert (bus.source, bus.target, bus.port) == (name, "nats", own["nats"].ports[0])
    assert len(seen) == 12


def test_edges_reach_the_bus_by_a_line_and_have_a_clock_of_their_own():
    made = plan()
    through = links(made)
    for name in ("edge-1", "edge-2"):
        settings = json.loads(text_of(made, f"config/{name}.json"))
        line = through[int(settings["nats"][0].rpartition(":")[2])]
        assert (line.source, line.target) == (name, "nats")
        spec = next(spec for spec in made.processes if spec.name == name)
        assert spec.env["CCS_CLOCK_FAULTS"] == f"/bed/clocks/{name}.json"
    assert json.loads(text_of(made, "clocks/node-2.json")) == {"offset_ns": 7, "rate_ppm": -3}
    assert json.loads(text_of(made, "clocks/edge-1.json")) == {"offset_ns": 0, "rate_ppm": 0}
