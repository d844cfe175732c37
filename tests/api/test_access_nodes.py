"""Three nodes that ask who comes: a call is judged where it arrives and where it is decided, and nodes know each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consistency_service.adapters import rest_security
from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.api import access as access_layer
from consistency_service.api.app import create_api
from consistency_service.api.peers import Peers
from consistency_service.config import Peer
from consistency_service.core.access import Identity, Role
from consistency_service.errors import ConfigError
from consistency_service.runtime.node import Node
from edge_client.protocol.envelope import Signer
from tests.api.secured import AccessTable, access_table, authority, tls_of
from tests.api.served import config_of, decides, eventually, free_port, node_of, serving
from tests.api.test_models import code_of
from tests.fakes.artifact_store import FakeArtifactStore
from tests.fakes.bus import Hub

pytestmark = [pytest.mark.xdist_group("raft"), pytest.mark.timeout(120)]
NAMES = ("n1", "n2", "n3")
LISTED = '\n[[certificate]]\nname = "ada"\nrole = "operator"\nmodels = ["ada-"]\n'


@dataclass
class Guarded:
    certs: Path
    tables: dict[str, AccessTable]
    nodes: dict[str, Node]
    urls: dict[str, str]
    counters: dict[str, Counter[str]]

    @property
    def leader(self) -> str:
        return next(name for name, node in self.nodes.items() if decides(node))

    @property
    def follower(self) -> str:
        return next(name for name in self.nodes if name != self.leader)

    async def call(
        self, at: str, method: str, path: str, *, token: str | None = None, shows: str | None = None, **more
    ):
        headers = dict(more.pop("headers", {})) | (self.tables[at].bearer(token) if token else {})
        async with httpx.AsyncClient(verify=tls_of(self.certs, shows), base_url=self.urls[at], timeout=30) as http:
            return await http.request(method, path, headers=headers, **more)


@asynccontextmanager
async def guarded(directory: Path) -> AsyncIterator[Guarded]:
    certs = authority(directory / "certs")
    hub, store, signer = Hub(), FakeArtifactStore(), Signer(Ed25519PrivateKey.generate())
    ports = {name: (free_port(), free_port()) for name in NAMES}
    table = {n: Peer(raft=f"127.0.0.1:{raft}", url=f"https://127.0.0.1:{http}") for n, (raft, http) in ports.items()}
    tokens = access_table(directory)
    tokens.write(tokens.path.read_text() + LISTED)
    region = Guarded(certs=certs, tables={}, nodes={}, urls={n: peer.url for n, peer in table.items()}, counters={})
    async with AsyncExitStack() as stack:
        for name in NAMES:
            own = directory / f"{name}.toml"
            region.tables[name] = AccessTable(own, tokens=tokens.tokens)
            region.tables[name].write(tokens.path.read_text())
            config = replace(
                config_of(name, peers=table, directory=directory, log="raft"),
                access=own,
                http_certificate=certs / f"{name}.crt",
                http_key=certs / f"{name}.key",
                http_ca=certs / "ca.crt",
                http_client_ca=certs / "ca.crt",
                raft_ca=certs / "ca.crt",
                raft_certificate=certs / f"{name}.crt",
                raft_key=certs / f"{name}.key",
            )
            rest_security.require_guarded(config)
            counters = region.counters[name] = Counter()
            peers = Peers(tls=rest_security.peers_tls(config, counters=counters))
            raft = {n: peer.raft for n, peer in table.items()}
            log = RaftLog(RaftLogConfig(node_id=name, listen=raft[name], peers=raft, data_dir=directory / name / "log"))
            node = region.nodes[name] = node_of(config, log=log, hub=hub, store=store, signer=signer, peers=peers)
            running = asyncio.create_task(node.run())
            stack.push_async_callback(_end, running)
            known = rest_security.authentication(config, counters=counters)
            app = create_api(node, peers=peers, authentication=known, counters=counters)
            tls = rest_security.server_tls(config, counters=counters)
            await stack.enter_async_context(serving(app, port=ports[name][1], tls=tls))
        await eventually(lambda: any(map(decides, region.nodes.values())), within_s=30)
        yield region


async def _end(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_calls_that_are_passed_on(tmp_path, monkeypatch):
    async with guarded(tmp_path) as region:
        leader, follower = region.leader, region.follower
        by_token = await region.call(follower, "POST", "/v1/models", token="publisher", json={"name": "m"})
        by_certificate = await region.call(follower, "POST", "/v1/models", shows="ada", json={"name": "ada-1"})
        beyond = await region.call(follower, "POST", "/v1/models", shows="ada", json={"name": "m2"})
        low = await region.call(follower, "POST", "/v1/models", token="viewer", json={"name": "m3"})
        audit = (await region.call(follower, "GET", "/v1/audit", token="viewer")).json()["items"]
        authors = {entry["subject"]: entry["author"] for entry in audit}

        assert (201, 201) == (by_token.status_code, by_certificate.status_code), (by_token.text, by_certificate.text)
        assert [(403, "forbidden")] * 2 == [code_of(beyond), code_of(low)]
        assert ("publisher", "ada") == (authors["m"], authors["ada-1"])
        assert region.counters[follower]["forwarded"] >= 2

        # every node sees the others
        reachable: list[bool] = []
        for _ in range(10):  # a machine that has much to do may take more than a second for an answer
            cluster = (await region.call(follower, "GET", "/v1/cluster", token="viewer")).json()
            reachable = [node["reachable"] for node in cluster["nodes"]]
            if all(reachable):
                break
        assert [True] * 3 == reachable

        # the leader looks again: its file is not the first node's
        region.tables[leader].write(LISTED)
        revoked = await region.call(follower, "POST", "/v1/models", token="publisher", json={"name": "m4"})
        assert (401, "unauthenticated") == code_of(revoked)
        assert revoked.headers["www-authenticate"].startswith("Bearer")

        # nobody but a node vouches for others
        vouched = access_layer._vouch(Identity(name="eve", role=Role.ADMIN, kind="certificate")).decode()
        headers = {"X-CCS-On-Behalf": vouched, "X-CCS-Forwarded": "1"}
        for shows in (None, "ada", "eve"):
            stranger = await region.call(leader, "POST", "/v1/models", shows=shows, headers=headers, json={"name": "e"})
            assert (403, "forbidden") == code_of(stranger)
        node = await region.call(leader, "POST", "/v1/models", shows=follower, headers=headers, json={"name": "e"})
        assert 201 == node.status_code, "which shows that the header itself would have done it"
        alone = await region.call(leader, "POST", "/v1/models", shows=follower, json={"name": "f"})
        assert (403, "forbidden") == code_of(alone), "a node itself changes nothing"
        garbage = {"X-CCS-On-Behalf": "%%%", "X-CCS-Forwarded": "1"}
        unreadable = await region.call(
            leader, "POST", "/v1/models", shows=follower, headers=garbage, json={"name": "g"}
        )
        assert (400, "malformed") == code_of(unreadable)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"http": "0.0.0.0:8700"}, "insecure"),
        ({"http": "[::]:8700"}, "insecure"),
        ({"http": "host.example:8700"}, "insecure"),
        ({"http": "0.0.0.0:8700", "access": Path("a")}, "insecure"),
        ({"http": "0.0.0.0:8700", "http_certificate": Path("c"), "http_key": Path("k")}, "insecure"),
        ({"http_client_ca": Path("c")}, "http_client_ca"),
        ({"http": "0.0.0.0:8700", "insecure": True}, None),
        ({"http": "0.0.0.0:8700", "access": Path("a"), "http_certificate": Path("c"), "http_key": Path("k")}, None),
        ({"http": "127.0.0.2:8700"}, None),
        ({"http": "[::1]:8700"}, None),
        ({"http": "localhost:8700"}, None),
    ],
)
def test_where_a_node_may_listen(tmp_path, settings, why):
    config = config_of("n1", peers={"n1": Peer(raft="127.0.0.1:1", url="http://n1")}, directory=tmp_path, log="memory")
    config = replace(config, **settings)
    if why is None:
        rest_security.require_guarded(config)
        return
    with pytest.raises(ConfigError, match=why) as refused:
        rest_security.require_guarded(config)
    assert "\n" not in str(refused.value)


def test_nodes_that_could_not_know_each_other(tmp_path):
    table = {name: Peer(raft=f"127.0.0.1:{n}", url="http://127.0.0.1:1") for n, name in enumerate(NAMES, start=1)}
    config = replace(config_of("n1", peers=table, directory=tmp_path, log="raft"), access=tmp_path / "a")
    with pytest.raises(ConfigError, match="raft certificates"):
        rest_security.require_guarded(config)
