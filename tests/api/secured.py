"""Nodes that ask who comes: an `access` file, an authority with certificates, and callers of every kind."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters import certificates, rest_security
from consistency_service.adapters.access_file import create_token
from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.config import Peer, ServiceConfig
from edge_client.protocol.envelope import Signer
from tests.api.served import Served, config_of, node_of, running, serving
from tests.fakes.artifact_store import FakeArtifactStore
from tests.fakes.bus import Hub

ROLES = ("viewer", "publisher", "operator", "admin", "edge")


def now() -> datetime:
    return datetime.now(tz=UTC)


@dataclass
class AccessTable:
    """An `access` file, and the tokens that it lets in."""

    path: Path
    tokens: dict[str, str] = field(default_factory=dict)
    more: str = ""

    def add(self, name: str, role: str, *, models: tuple[str, ...] = (), expires_in_s: float | None = None) -> str:
        expires_at = None if expires_in_s is None else now() + timedelta(seconds=expires_in_s)
        made = create_token(name=name, role=role, models=models, expires_at=expires_at)
        self.tokens[name] = made.token
        self.write((self.path.read_text() if self.path.exists() else "") + "\n" + made.table)
        return made.token

    def write(self, text: str) -> None:
        """Replaced at once, as an editor does it."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.replace(self.path)

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}


def access_table(directory: Path) -> AccessTable:
    """Everybody of the ladder under the name of their role; `expired`, and `limited` to models that begin with `mine-`."""
    table = AccessTable(directory / "access.toml")
    for role in ROLES:
        table.add(role, role)
    table.add("expired", "admin", expires_in_s=-60)
    table.add("limited", "admin", models=("mine-",))
    return table


def authority(directory: Path, *, region: str = "default", hosts: tuple[str, ...] = ("127.0.0.1",)) -> Path:
    """A directory with an authority, `n1` to `n3`, and client certificates for `ada` and `eve`."""
    certificates.create_authority(directory, cluster_id=region, now=now())
    for node_id in ("n1", "n2", "n3"):
        certificates.issue(directory, node_id=node_id, hosts=hosts, now=now())
    for name in ("ada", "eve"):
        certificates.issue_client(directory, name=name, now=now())
    return directory


def tls_of(certs: Path, name: str | None = None) -> ssl.SSLContext:
    """A caller that believes the authority, and shows the certificate of `name`."""
    context = ssl.create_default_context(cafile=certs / "ca.crt")
    if name is not None:
        context.load_cert_chain(certs / f"{name}.crt", certs / f"{name}.key")
    return context


@dataclass
class Secured(Served):
    table: AccessTable
    counters: Counter[str]

    async def call(self, name: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        """As the holder of a token."""
        headers = dict(more.pop("headers", {})) | (self.table.bearer(name) if name is not None else {})
        return await self.http.request(method, path, headers=headers, **more)


@asynccontextmanager
async def secured_node(directory: Path, *, table: AccessTable | None = None, **settings: Any) -> AsyncIterator[Secured]:
    """A region of one node that asks who comes, called without a network, by `admin` where nobody is said."""
    table = table or access_table(directory)
    config = replace(
        config_of("n1", peers={"n1": Peer(raft="127.0.0.1:1", url="http://n1")}, directory=directory, log="memory"),
        access=table.path,
        **{"requests_per_s": 10_000, "requests_burst": 10_000, **settings},
    )
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(_node(config, table=table))
        transport = httpx.ASGITransport(app=served.app)
        served.http = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://n1", timeout=30)
        )
        yield served


@asynccontextmanager
async def tls_node(
    directory: Path, certs: Path, *, access: str = "", **settings: Any
) -> AsyncIterator[tuple[str, Secured]]:
    """The same on a socket with TLS, `access` added to its file, and its address."""
    table = access_table(directory)
    table.write(table.path.read_text() + access)
    config = replace(
        config_of("n1", peers={"n1": Peer(raft="127.0.0.1:1", url="https://n1")}, directory=directory, log="memory"),
        access=table.path,
        http_certificate=certs / "n1.crt",
        http_key=certs / "n1.key",
        http_ca=certs / "ca.crt",
        raft_ca=certs / "ca.crt",
        raft_certificate=certs / "n1.crt",
        raft_key=certs / "n1.key",
        **settings,
    )
    async with _node(config, table=table) as served:
        tls = rest_security.server_tls(config, counters=served.counters)
        async with serving(served.app, tls=tls) as url:
            yield url, served


@asynccontextmanager
async def _node(config: ServiceConfig, *, table: AccessTable) -> AsyncIterator[Secured]:
    counters: Counter[str] = Counter()
    peers, store = Peers(tls=rest_security.peers_tls(config, counters=counters)), FakeArtifactStore()
    signer = Signer(Ed25519PrivateKey.generate())
    node = node_of(config, log=MemoryLog(node_id="n1"), hub=Hub(), store=store, signer=signer, peers=peers)
    found = rest_security.authentication(config, counters=counters)
    app = create_api(node, peers=peers, authentication=found, counters=counters)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(peers.close)
        await stack.enter_async_context(running(node))
        nobody: Any = None
        yield Secured(node=node, app=app, http=nobody, store=store, table=table, counters=counters)
