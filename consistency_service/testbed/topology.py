"""What runs in a testbed, as a plan: which processes, with which files, on which ports, in which order.

Nothing here starts anything. A plan is a value: given the configuration, the programs and some free ports, it names every
process and the text of every file it reads. Another set of free ports makes another plan, which is how a port that
somebody else grabbed in between is dealt with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from consistency_service.testbed.errors import TestbedError

NODES_MAX: Final = 5
EDGES_MAX: Final = 64
SITE_COUNT: Final = 2
REDIS_MEMORY_MAX: Final = "256mb"
NATS_STORE_MAX: Final = "1GB"
PRIVATE_MODE: Final = 0o600

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TestbedConfig:
    """Raises `TestbedError` for what cannot be run."""

    __test__ = False  # not a test, in spite of its name

    directory: Path
    """Everything the testbed writes lives here; made absolute."""

    nodes: int = 3
    """Members of the cluster. Odd numbers are worth their cost."""

    edges: int = 5
    """Edge processes, each with its own client."""

    models: tuple[str, ...] = ("digits",)
    """What every edge asks for."""

    region: str = "testbed"

    node_options: Mapping[str, Scalar] = field(default_factory=dict)
    """More lines for every node's configuration; they win over ours."""

    edge_options: Mapping[str, Scalar] = field(default_factory=dict)
    """More entries for every edge's configuration; they win over ours."""

    nats_sync_interval: str = "1s"
    """How often the bus syncs its files. The protocol does not depend on it; lower costs disk writes."""

    ready_timeout_ms: int = 60_000
    """How long all processes together may take to become ready."""

    log_bytes_max: int = 20_000_000
    """A log file beyond this becomes NAME.log.1 (replacing the one before) and starts again."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory).absolute())
        if not 1 <= self.nodes <= NODES_MAX:
            raise TestbedError(f"a testbed has 1 to {NODES_MAX} nodes, not {self.nodes}")
        if not 0 <= self.edges <= EDGES_MAX:
            raise TestbedError(f"a testbed has 0 to {EDGES_MAX} edges, not {self.edges}")
        if self.ready_timeout_ms <= 0 or self.log_bytes_max <= 0:
            raise TestbedError("ready_timeout_ms and log_bytes_max must be above 0")


class ReadyKind(StrEnum):
    """How one sees that a process is ready; in brackets what `Ready.target` holds."""

    PORT = "port"
    """The process itself listens on this TCP port [number]."""
    HTTP = "http"
    """This address answers 200 [http://host:port/path]."""
    LOG = "log"
    """Its log, since this start, contains this text [text]."""
    FILE = "file"
    """This file exists; it is removed before each start [absolute path]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    kind: ReadyKind
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process. `env` is added to the environment of whoever starts it; `depends_on` are ready before it starts."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    ready: Ready
    depends_on: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A file that must hold `text` before anything starts."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The whole plan. `processes` are listed after those they depend on."""

    directory: str
    processes: tuple[ProcessSpec, ...]
    files: tuple[PlannedFile, ...] = ()
    directories: tuple[str, ...] = ()
    log_bytes_max: int = 20_000_000
    ready_timeout_ms: int = 60_000

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for spec in self.processes:
            if spec.name in seen or not spec.name.replace("-", "").isalnum():
                raise TestbedError(f"the plan names a process {spec.name!r}, which is taken or no plain name")
            if missing := [name for name in spec.depends_on if name not in seen]:
                raise TestbedError(f"{spec.name} depends on {missing[0]}, which is not planned before it")
            seen.add(spec.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Absolute paths of what is run."""

    python: str
    nats_server: str
    redis_server: str
    python_path: str
    """What `PYTHONPATH` must be for `python` to find our packages from any directory."""


Plan = Callable[[TestbedConfig, Iterator[int]], Topology]
"""Makes a topology from free ports; `plan_region` with its programs bound is the usual one."""


def key_paths(directory: Path) -> tuple[Path, Path]:
    """Where a testbed keeps the region's private key and the public line that edges trust."""
    return directory / "keys" / "region.key", directory / "keys" / "region.pub"


def certificates_path(directory: Path) -> Path:
    """Where a testbed keeps its authority and the certificates of its nodes."""
    return directory / "certs"


def node_names(config: TestbedConfig) -> list[str]:
    return [f"node-{number}" for number in range(1, config.nodes + 1)]


def plan_region(config: TestbedConfig, ports: Iterator[int], *, programs: Programs) -> Topology:
    """A whole region: bus, local tier, nodes, edges; two ports for each node and one each for bus and tier."""
    nats_port, redis_port = next(ports), next(ports)
    node_ports = [(next(ports), next(ports)) for _ in range(config.nodes)]
    python_env = {"PYTHONPATH": programs.python_path, "PYTHONUNBUFFERED": "1"}
    bus, bus_file = _plan_nats(config, port=nats_port, program=programs.nats_server)
    tier, tier_file = _plan_redis(config, port=redis_port, program=programs.redis_server)
    nodes, node_files = _plan_nodes(config, node_ports, bus=bus, python=programs.python, env=python_env)
    edges, edge_files = _plan_edges(config, bus=bus, tier=tier, nodes=nodes, python=programs.python, env=python_env)
    directory = config.directory
    return Topology(
        directory=str(directory),
        processes=(bus, tier, *nodes, *edges),
        files=(bus_file, tier_file, *node_files, *edge_files),
        directories=tuple(
            str(directory / name)
            for name in ("nats", "redis", "artifacts", "edges", *(f"nodes/{node.name}" for node in nodes))
        ),
        log_bytes_max=config.log_bytes_max,
        ready_timeout_ms=config.ready_timeout_ms,
    )


def _plan_nats(config: TestbedConfig, *, port: int, program: str) -> tuple[ProcessSpec, PlannedFile]:
    path = str(config.directory / "config" / "nats.conf")
    store = json.dumps(str(config.directory / "nats"), ensure_ascii=False)
    text = (
        'server_name: "testbed"\n'
        f'listen: "127.0.0.1:{port}"\n'
        "max_payload: 1MB\n"
        "jetstream {\n"
        f"  store_dir: {store}\n"
        f"  max_file_store: {NATS_STORE_MAX}\n"
        f'  sync_interval: "{config.nats_sync_interval}"\n'
        "}\n"
    )
    spec = ProcessSpec(
        name="nats",
        argv=(program, "--config", path),
        env={},
        cwd=str(config.directory),
        ready=Ready(kind=ReadyKind.PORT, target=str(port)),
        ports=(port,),
        url=f"nats://127.0.0.1:{port}",
    )
    return spec, PlannedFile(path=path, text=text)


def _plan_redis(config: TestbedConfig, *, port: int, program: str) -> tuple[ProcessSpec, PlannedFile]:
    path = str(config.directory / "config" / "redis.conf")
    folder = json.dumps(str(config.directory / "redis"), ensure_ascii=False)
    text = (
        f"bind 127.0.0.1\nport {port}\nprotected-mode yes\ndaemonize no\ndir {folder}\n"
        f'save ""\nappendonly no\nmaxmemory {REDIS_MEMORY_MAX}\nmaxmemory-policy allkeys-lru\n'
    )
    spec = ProcessSpec(
        name="redis-edge",
        argv=(program, path),
        env={},
        cwd=str(config.directory),
        ready=Ready(kind=ReadyKind.PORT, target=str(port)),
        ports=(port,),
        url=f"redis://127.0.0.1:{port}",
    )
    return spec, PlannedFile(path=path, text=text)


def _plan_nodes(
    config: TestbedConfig, node_ports: list[tuple[int, int]], *, bus: ProcessSpec, python: str, env: dict[str, str]
) -> tuple[list[ProcessSpec], list[PlannedFile]]:
    names, certs = node_names(config), certificates_path(config.directory)
    peers = "".join(
        f"[peers.{name}]\n{_toml({'raft': f'127.0.0.1:{raft}', 'url': f'http://127.0.0.1:{http}'})}"
        for name, (http, raft) in zip(names, node_ports, strict=True)
    )
    private, _ = key_paths(config.directory)
    specs: list[ProcessSpec] = []
    files: list[PlannedFile] = []
    for name, (http, raft) in zip(names, node_ports, strict=True):
        url = f"http://127.0.0.1:{http}"
        settings: dict[str, Scalar | list[str]] = {
            "region": config.region,
            "node_id": name,
            "data_dir": str(config.directory / "nodes" / name),
            "http": f"127.0.0.1:{http}",
            "nats": [bus.url or ""],
            "artifacts": (config.directory / "artifacts").as_uri(),
            "region_key": str(private),
            "raft_ca": str(certs / "ca.crt"),
            "raft_certificate": str(certs / f"{name}.crt"),
            "raft_key": str(certs / f"{name}.key"),
            **config.node_options,
        }
        path = str(config.directory / "config" / f"{name}.toml")
        files.append(PlannedFile(path=path, text=_toml(settings) + peers, mode=PRIVATE_MODE))
        specs.append(
            ProcessSpec(
                name=name,
                argv=(python, "-m", "consistency_service", "serve", "--config", path),
                env=env,
                cwd=str(config.directory),
                ready=Ready(kind=ReadyKind.HTTP, target=f"{url}/readyz"),
                depends_on=(bus.name,),
                ports=(http, raft),
                url=url,
            )
        )
    return specs, files


def _plan_edges(
    config: TestbedConfig,
    *,
    bus: ProcessSpec,
    tier: ProcessSpec,
    nodes: list[ProcessSpec],
    python: str,
    env: dict[str, str],
) -> tuple[list[ProcessSpec], list[PlannedFile]]:
    specs: list[ProcessSpec] = []
    files: list[PlannedFile] = []
    for number in range(1, config.edges + 1):
        name = f"edge-{number}"
        status_file = str(config.directory / "edges" / f"{name}.json")
        settings = {
            "edge_id": name,
            "region": config.region,
            "site": f"site-{(number - 1) % SITE_COUNT + 1}",
            "labels": {"testbed": "yes"},
            "nats": [bus.url],
            "trust": str(key_paths(config.directory)[1]),
            "local": tier.url,
            "models": list(config.models),
            "status_file": status_file,
            **config.edge_options,
        }
        path = str(config.directory / "config" / f"{name}.json")
        files.append(PlannedFile(path=path, text=json.dumps(settings, indent=2) + "\n"))
        specs.append(
            ProcessSpec(
                name=name,
                argv=(python, "-m", "consistency_service.testbed.edge", "--config", path),
                env={**env, "OMP_NUM_THREADS": "1"},  # many edges share this machine's cores
                cwd=str(config.directory),
                ready=Ready(kind=ReadyKind.FILE, target=status_file),
                depends_on=(bus.name, tier.name, *(node.name for node in nodes)),
            )
        )
    return specs, files


def _toml(settings: Mapping[str, Scalar | list[str]]) -> str:
    """Plain `key = value` lines. JSON's strings, numbers, booleans and lists are TOML's, but for one character."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f")
        for key, value in settings.items()
    )
