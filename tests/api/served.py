"""Real nodes behind the real API: on one log in memory for most tests, on three raft logs where the leader matters."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.api.server import serve
from consistency_service.config import Peer, ServiceConfig
from consistency_service.runtime.node import Node
from consistency_service.runtime.ports import MetadataLog, WebCaller
from edge_client.adapters.system_clock import SystemClock
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import EdgeReport, ServedModel
from edge_client.protocol.subjects import Subjects
from tests.fakes.artifact_store import FakeArtifactStore
from tests.fakes.bus import Hub

LEASE_MS = 200
ARTIFACT_BYTES_MAX = 3_000_000
PROBLEM = "application/problem+json"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    """One node, its API, and a caller of it."""

    node: Node
    app: Any
    """Its `FastAPI`; None where the caller's node is another one."""
    http: httpx.AsyncClient
    store: Any
    """Its artifact store, a fake where nothing is said."""

    async def put_version(self, model: str, version: str, *, content: bytes = b"weights") -> str:
        """A version of `model` whose bytes are `content` and its name."""
        uploaded = await self.http.post("/v1/artifacts", content=content + version.encode())
        digest = str(uploaded.json()["digest"])
        registered = await self.http.post(f"/v1/models/{model}/versions", json={"version": version, "digest": digest})
        assert 201 == registered.status_code, registered.text
        return digest

    async def model(self, name: str = "m", *versions: str, **policy: Any) -> None:
        """A model with versions, none of them active."""
        created = await self.http.post("/v1/models", json={"name": name, "policy": policy})
        assert 201 == created.status_code, created.text
        for version in versions:
            await self.put_version(name, version)

    async def activate(self, version: str, *, model: str = "m", wait: str = "effective", **more: Any) -> httpx.Response:
        body = {"version": version, **more}
        return await self.http.post(f"/v1/models/{model}/activations?wait={wait}", json=body)

    def report(self, edge_id: str, *, model: str = "m", ready: tuple[str, ...] = (), **more: Any) -> None:
        """An edge that follows `model` makes itself heard."""
        served = ServedModel(
            model=model, version=None, generation=0, guarantee="bounded", staleness_bound_ms=None, ready=ready, **more
        )
        report = EdgeReport(edge_id=edge_id, life_id="1", epoch=1, revision=1, models=(served,))
        assert self.node.fleet.report_received(report)


async def eventually(condition: Any, *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def node_of(
    config: ServiceConfig,
    *,
    log: MetadataLog,
    hub: Hub,
    store: FakeArtifactStore,
    signer: Signer,
    peers: Peers,
    web: WebCaller | None = None,
) -> Node:
    return Node(
        config=config,
        clock=SystemClock(),
        log=log,
        bus=hub.event_bus(Subjects(config.region)),
        artifacts=store,
        signer=signer,
        peer_status=peers.self_status,
        rng=random.Random(config.node_id),
        web=web,
    )


def config_of(node_id: str, *, peers: dict[str, Peer], directory: Path, log: str) -> ServiceConfig:
    return ServiceConfig(
        node_id=node_id,
        data_dir=directory / node_id,
        peers=peers,
        region_key=directory / "region.key",
        log=log,
        lease_ms=LEASE_MS,
        beacon_interval_ms=20,
        artifact_bytes_max=ARTIFACT_BYTES_MAX,
    )


def decides(node: Node) -> bool:
    return node.authority.core.is_authority and not node.authority.core.silent(now_ns=node.clock.now_ns())


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(node.run()) for node in nodes]
    try:
        await eventually(lambda: any(map(decides, nodes)))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def one_node(directory: Path, *, run: bool = True, web: WebCaller | None = None) -> AsyncIterator[Served]:
    """A region of one node, called without a network. With `run=False` it is not part of any region."""
    peers = Peers()
    config = config_of("n1", peers={"n1": Peer(raft="127.0.0.1:1", url="http://n1")}, directory=directory, log="memory")
    store = FakeArtifactStore()
    node = node_of(
        config,
        log=MemoryLog(node_id="n1"),
        hub=Hub(),
        store=store,
        signer=Signer(Ed25519PrivateKey.generate()),
        peers=peers,
        web=web,
    )
    app = create_api(node, peers=peers)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        if run:
            await stack.enter_async_context(running(node))
        transport = httpx.ASGITransport(app=app)
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://n1", timeout=30))
        yield Served(node=node, app=app, http=http, store=store)


@asynccontextmanager
async def serving(app: FastAPI, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The base URL of `app` on a real socket; afterwards the server has ended by itself."""
    shutdown = asyncio.Event()
    ports: asyncio.Queue[int] = asyncio.Queue()
    task = asyncio.create_task(
        serve(app, host="127.0.0.1", port=port, shutdown=shutdown, tls=tls, listening=ports.put_nowait)
    )
    try:
        async with asyncio.timeout(10):
            found = await ports.get()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{found}"
    finally:
        shutdown.set()
        async with asyncio.timeout(10):
            await task


@dataclass
class Region:
    """Three nodes on raft, each on its own socket."""

    nodes: dict[str, Node]
    callers: dict[str, httpx.AsyncClient]
    stop: dict[str, AsyncExitStack]

    @property
    def leader(self) -> str:
        return next(name for name, node in self.nodes.items() if decides(node))

    @property
    def follower(self) -> str:
        leader = self.leader
        return next(name for name in self.nodes if name != leader)

    async def kill(self, name: str) -> None:
        del self.nodes[name]
        await self.stop.pop(name).aclose()


@asynccontextmanager
async def three_nodes(directory: Path, *, web: Callable[[], WebCaller] | None = None) -> AsyncIterator[Region]:
    hub, store, signer = Hub(), FakeArtifactStore(), Signer(Ed25519PrivateKey.generate())
    ports = {name: (free_port(), free_port()) for name in ("n1", "n2", "n3")}
    table = {n: Peer(raft=f"127.0.0.1:{raft}", url=f"http://127.0.0.1:{http}") for n, (raft, http) in ports.items()}
    region = Region(nodes={}, callers={}, stop={})
    try:
        for name, here in table.items():
            peers = Peers()
            log = RaftLog(
                RaftLogConfig(
                    node_id=name,
                    listen=here.raft,
                    peers={n: peer.raft for n, peer in table.items()},
                    data_dir=directory / name / "log",
                )
            )
            config = config_of(name, peers=table, directory=directory, log="raft")
            caller = None if web is None else web()
            node = node_of(config, log=log, hub=hub, store=store, signer=signer, peers=peers, web=caller)
            region.nodes[name] = node
            stack = region.stop[name] = AsyncExitStack()
            task = asyncio.create_task(node.run())
            stack.push_async_callback(_end, task)
            url = await stack.enter_async_context(serving(create_api(node, peers=peers), port=ports[name][1]))
            region.callers[name] = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        await eventually(lambda: any(map(decides, region.nodes.values())), within_s=20)
        yield region
    finally:
        for stack in region.stop.values():
            await stack.aclose()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
