"""A region whose processes reach each other through the proxy, with clocks that can be made to err: a plan, as a value.

The usual plan (`topology.plan_region`), with three changes: node A knows node B by the ports of the line from A to B;
every process knows the bus by a line of its own; every process has the control file of a faulty clock.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

import consistency_service
from consistency_service.testbed.binaries import find_nats_server, find_redis_server
from consistency_service.testbed.chaos.plan import BUS, StartClock
from consistency_service.testbed.chaos.proxy import HOST, Link, ProxyConfig
from consistency_service.testbed.topology import (
    PlannedFile,
    ProcessSpec,
    Programs,
    Ready,
    ReadyKind,
    TestbedConfig,
    Topology,
    plan_region,
)
from edge_client.adapters.system_clock import FAULTS_VARIABLE

NETWORK: Final = "network"
"""The process that carries everything."""


def installed_programs() -> Programs:
    """The programs of this machine. Raises `BinaryMissingError`."""
    packages = str(Path(consistency_service.__file__).parents[1])
    return Programs(
        python=sys.executable,
        nats_server=str(find_nats_server()),
        redis_server=str(find_redis_server()),
        python_path=os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH")))),
    )


def clock_path(directory: Path, name: str) -> Path:
    """The control file of a process's clock."""
    return directory / "clocks" / f"{name}.json"


def plan_chaos(
    config: TestbedConfig, ports: Iterator[int], *, programs: Programs, clocks: Mapping[str, StartClock]
) -> Topology:
    """The plan on free ports; `clocks` says how the clock of each process is when it starts."""
    usual = plan_region(config, ports, programs=programs)
    specs = {spec.name: spec for spec in usual.processes}
    nodes = [spec for name, spec in specs.items() if name.startswith("node-")]
    walkers = [spec for name, spec in specs.items() if name.startswith(("node-", "edge-"))]
    raft, http, bus = {}, {}, {}
    for node in nodes:
        for other in nodes:
            if node is not other:
                pair = (node.name, other.name)
                http[pair] = Link(source=node.name, target=other.name, listen=next(ports), port=other.ports[0])
                raft[pair] = Link(source=node.name, target=other.name, listen=next(ports), port=other.ports[1])
    for spec in walkers:
        bus[spec.name] = Link(source=spec.name, target=BUS, listen=next(ports), port=specs[BUS].ports[0])
    files: list[PlannedFile] = []
    for file in usual.files:
        name = Path(file.path).stem
        text = file.text
        if name.startswith("node-"):
            text = _node_text(text, name=name, raft=raft, http=http, bus=bus[name])
        elif name.startswith("edge-"):
            text = json.dumps(json.loads(text) | {"nats": [_url(bus[name])]}, indent=2) + "\n"
        files.append(replace(file, text=text))
    links = [*raft.values(), *http.values(), *bus.values()]
    proxy, proxy_file = _plan_proxy(config, links, control=next(ports), programs=programs)
    files.append(proxy_file)
    for spec in walkers:
        start = clocks.get(spec.name, StartClock())
        text = json.dumps({"offset_ns": start.offset_ns, "rate_ppm": start.rate_ppm})
        files.append(PlannedFile(path=str(clock_path(config.directory, spec.name)), text=text))
    return replace(
        usual,
        processes=(proxy, *(_through_proxy(spec, directory=config.directory) for spec in usual.processes)),
        files=tuple(files),
    )


def _through_proxy(spec: ProcessSpec, *, directory: Path) -> ProcessSpec:
    if not spec.name.startswith(("node-", "edge-")):
        return spec
    env = {**spec.env, FAULTS_VARIABLE: str(clock_path(directory, spec.name))}
    return replace(spec, env=env, depends_on=(NETWORK, *spec.depends_on))


def _plan_proxy(
    config: TestbedConfig, links: list[Link], *, control: int, programs: Programs
) -> tuple[ProcessSpec, PlannedFile]:
    path = str(config.directory / "config" / f"{NETWORK}.json")
    text = msgspec.json.format(msgspec.json.encode(ProxyConfig(control=control, links=links)), indent=2).decode()
    spec = ProcessSpec(
        name=NETWORK,
        argv=(programs.python, "-m", "consistency_service.testbed.chaos.proxy", "--config", path),
        env={"PYTHONPATH": programs.python_path, "PYTHONUNBUFFERED": "1"},
        cwd=str(config.directory),
        ready=Ready(kind=ReadyKind.PORT, target=str(control)),
        ports=(control, *(link.listen for link in links)),
    )
    return spec, PlannedFile(path=path, text=text)


def _node_text(
    text: str, *, name: str, raft: Mapping[tuple[str, str], Link], http: Mapping[tuple[str, str], Link], bus: Link
) -> str:
    settings: dict[str, Any] = tomllib.loads(text)
    peers: dict[str, dict[str, str]] = settings.pop("peers")
    for other, peer in peers.items():
        if other != name:
            peer["raft"] = f"{HOST}:{raft[name, other].listen}"
            peer["url"] = f"http://{HOST}:{http[name, other].listen}"
    settings["nats"] = [_url(bus)]
    tables = "".join(f"[peers.{other}]\n{_toml(peer)}" for other, peer in peers.items())
    return _toml(settings) + tables


def _url(link: Link) -> str:
    return f"nats://{HOST}:{link.listen}"


def _toml(settings: Mapping[str, Any]) -> str:
    """Plain `key = value` lines; JSON's strings, numbers, booleans and lists are TOML's, but for one character."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for key, value in settings.items()
    )
