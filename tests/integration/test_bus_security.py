"""Nodes and edges on a bus that knows who is who: what they do when refused, revoked, renewed, deceived; and at a site."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from consistency_service.adapters import certificates, nats_accounts, region_key
from consistency_service.adapters.nats_bus import NatsEventBus
from consistency_service.api.peers import Peers
from consistency_service.app import build_node
from consistency_service.config import Peer, ServiceConfig
from consistency_service.core.bus_access import BusRole
from edge_client import AsyncEdgeClient
from edge_client.adapters.nats_access import NatsAccess
from edge_client.adapters.nats_bus import NatsBus
from edge_client.adapters.nats_connection import NatsConnection
from edge_client.config import EdgeConfig
from edge_client.errors import BusUnavailableError, ConfigError
from edge_client.protocol.subjects import Subjects
from edge_client.runtime.ports import Delivery
from tests.support.secured_bus import REGION, SecuredBus, now, start_secured_bus
from tests.support.servers import NatsServer, start_nats

SUBJECTS = Subjects(REGION)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBus]:
    with start_secured_bus(tmp_path_factory.mktemp("bus")) as started:
        yield started


async def eventually(condition: Callable[[], object], *, timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def edge_at(urls: list[str] | str, access: NatsAccess, *, edge_id: str = "cam-17") -> AsyncIterator[NatsBus]:
    edge = NatsBus(urls, name=f"edge {edge_id}", inbox_prefix=f"_INBOX.e.{edge_id}", access=access)
    await edge.connect()
    try:
        yield edge
    finally:
        await edge.close()


@asynccontextmanager
async def node_at(bus: SecuredBus) -> AsyncIterator[NatsEventBus]:
    node = NatsEventBus(
        bus.urls,
        name="node-1",
        subjects=SUBJECTS,
        stream_replicas=3,
        inbox_prefix="_INBOX.n.node-1",
        access=bus.access(BusRole.NODE, "node-1"),
    )
    await node.connect()
    try:
        await eventually(lambda: node.connected)
        yield node
    finally:
        await node.close()


async def test_whoever_is_refused_says_so_once_and_goes_on_until_let_in(
    bus: SecuredBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Credentials of another region's bus; then the right ones are put in their place."""
    nats_accounts.create(tmp_path / "other", region=REGION, now=now())
    path = tmp_path / "own.creds"
    nats_accounts.issue(tmp_path / "other", role=BusRole.EDGE, name="cam-17", into=path, now=now())
    secret = path.read_text().split("SEED-----")[1].split()[0]
    caplog.set_level(logging.DEBUG)
    async with edge_at(bus.urls, NatsAccess(ca=bus.ca, credentials=path)) as edge:
        await eventually(lambda: edge.counters["refused"] >= 4)
        refusals = [record for record in caplog.records if "bus_away" in record.getMessage()]

        assert not edge.connected
        assert edge.fault.startswith("refused: ") and "Authorization" in edge.fault
        assert 1 == len(refusals)
        with pytest.raises(BusUnavailableError, match="refused"):
            await edge.publish(SUBJECTS.clock, payload=b"")

        shutil.copy(bus.credentials(BusRole.EDGE, "cam-17"), tmp_path / "next.creds")
        (tmp_path / "next.creds").replace(path)
        await eventually(lambda: edge.connected)

        assert "" == edge.fault
    assert secret not in caplog.text


async def test_a_file_that_others_may_read_is_refused_and_taken_once_it_is_mended(
    bus: SecuredBus, tmp_path: Path
) -> None:
    path = tmp_path / "own.creds"
    shutil.copy(bus.credentials(BusRole.EDGE, "cam-17"), path)
    access = NatsAccess(ca=bus.ca, credentials=path)
    path.chmod(0o640)
    with pytest.raises(
        ConfigError, match=r"nats_credentials: .* is open to group or others \(mode 0640\); run: chmod 600"
    ):
        NatsConnection(bus.urls, name="edge", access=access)
    path.chmod(0o600)
    async with edge_at(bus.urls, access) as edge:
        await eventually(lambda: edge.connected)
        path.chmod(0o644)
        for server in bus.servers:
            server.restart()
        await eventually(lambda: edge.fault.startswith("credentials: "))

        assert "chmod 600" in edge.fault
        path.chmod(0o600)
        await eventually(lambda: edge.connected)
    bus.wait_ready()


@pytest.mark.parametrize("content", ["", "no such thing", "-----BEGIN NATS USER JWT-----\neyJ\n"])
def test_a_file_that_holds_no_credentials_is_refused_at_once(tmp_path: Path, content: str) -> None:
    """nats-py by itself would read the file for ever."""
    path = tmp_path / "own.creds"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="holds no JWT with its seed"):
        NatsConnection("nats://host", name="edge", access=NatsAccess(credentials=path))


async def test_a_server_that_another_authority_vouches_for_is_not_told_anything(
    bus: SecuredBus, tmp_path: Path
) -> None:
    certificates.create_authority(tmp_path / "other", cluster_id="other", now=now())
    other = certificates.authority_files(tmp_path / "other").certificate
    access = NatsAccess(ca=other, credentials=bus.credentials(BusRole.EDGE, "cam-17"))
    async with edge_at(bus.urls, access) as edge:
        await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in edge.fault)

        assert not edge.connected and 0 == edge.counters["refused"]


def says_no_tls(edge: NatsBus) -> bool:
    return "offers no TLS" in edge.fault


async def test_a_server_without_tls_is_not_told_anything_where_tls_was_asked_for(
    bus: SecuredBus, tmp_path: Path
) -> None:
    server: NatsServer
    with start_nats(tmp_path, jetstream=False) as server:
        for url, access in (
            (server.url, NatsAccess(ca=bus.ca)),
            (server.url.replace("nats://", "tls://"), NatsAccess()),
        ):
            async with edge_at(url, access) as edge:
                await eventually(partial(says_no_tls, edge))

                assert not edge.connected


async def test_the_revoked_are_put_out_and_everybody_else_stays(bus: SecuredBus, tmp_path: Path) -> None:
    path, renewed = tmp_path / "cam-66.creds", tmp_path / "renewed.creds"
    nats_accounts.issue(bus.keys, role=BusRole.EDGE, name="cam-66", into=path, now=now())
    access = NatsAccess(ca=bus.ca, credentials=path)
    async with edge_at(bus.urls, access, edge_id="cam-66") as edge, node_at(bus) as node:
        other = NatsBus(bus.urls, name="other", access=bus.access(BusRole.EDGE, "cam-18"))
        await other.connect()
        await eventually(lambda: edge.connected and other.connected)

        nats_accounts.revoke(bus.keys, role=BusRole.EDGE, name="cam-66", now=now())
        bus.take_keys()
        await eventually(lambda: edge.fault.startswith("refused: "))

        assert other.connected and node.connected
        assert 1 == node.counters["connected"] == other.counters["connected"]

        await asyncio.sleep(1.1)  # a JWT has its instant in whole seconds
        nats_accounts.issue(bus.keys, role=BusRole.EDGE, name="cam-66", into=renewed, now=now())
        renewed.replace(path)
        await eventually(lambda: edge.connected)
        await other.close()


async def test_credentials_end_by_themselves(bus: SecuredBus, tmp_path: Path) -> None:
    import datetime as dt

    path = tmp_path / "short.creds"
    begun = now() - dt.timedelta(days=1) + dt.timedelta(seconds=2)
    nats_accounts.issue(bus.keys, role=BusRole.EDGE, name="short", into=path, now=begun, days=1)
    async with edge_at(bus.urls, NatsAccess(ca=bus.ca, credentials=path), edge_id="short") as edge:
        await eventually(lambda: edge.connected)
        await eventually(lambda: edge.fault.startswith("refused: "))

        assert not edge.connected


@pytest.mark.slow
async def test_an_edge_at_a_site_reports_and_hears_through_it_and_the_site_survives_the_line(
    bus: SecuredBus, tmp_path: Path
) -> None:
    site = bus.site("dock-9")
    site.start()
    heard: list[Delivery] = []
    reports: list[Delivery] = []
    here, there = bus.access(BusRole.EDGE, "cam-17"), bus.access(BusRole.EDGE, "cam-18")
    try:
        async with (
            node_at(bus) as node,
            edge_at(site.url, here) as edge,
            edge_at(site.url, there, edge_id="cam-18") as next_door,
        ):
            await eventually(lambda: edge.connected and next_door.connected)
            await edge.subscribe(SUBJECTS.beacon, handler=heard.append, pending_max=100)
            await next_door.subscribe(SUBJECTS.features, handler=heard.append, pending_max=100)
            await node.subscribe(SUBJECTS.reports, handler=reports.append, pending_max=100)  # type: ignore[arg-type]

            async def until(condition: Callable[[], object]) -> None:
                async with asyncio.timeout(15):
                    while not condition():
                        await edge.publish(SUBJECTS.report_of("cam-17"), payload=b"report")
                        await node.publish(SUBJECTS.beacon, payload=b"beacon")
                        await asyncio.sleep(0.05)

            await until(lambda: heard and reports)
            await edge.publish(SUBJECTS.report_of("cam-18"), payload=b"forged")
            await edge.publish(SUBJECTS.beacon, payload=b"forged")
            await asyncio.sleep(0.3)

            assert {SUBJECTS.report_of("cam-17")} == {report.subject for report in reports}
            assert b"forged" not in {delivery.payload for delivery in heard}
            assert edge.counters["permission_denied"] >= 2

            for server in bus.servers:
                server.stop()
            heard.clear()
            await edge.publish(SUBJECTS.features, payload=b"slip")
            await eventually(lambda: heard)

            assert [b"slip"] == [delivery.payload for delivery in heard]
            for server in bus.servers:
                server.start()
            bus.wait_ready()
            await eventually(lambda: node.connected)
            heard.clear()
            await until(lambda: any(delivery.payload == b"beacon" for delivery in heard))
    finally:
        site.stop()


@pytest.mark.slow
async def test_append_survives_the_loss_of_each_server_in_turn(bus: SecuredBus) -> None:
    """Routes, JetStream with three copies and the limits are those that are shipped."""
    async with node_at(bus) as node:
        sequence = (await node.stream_tail()).sequence
        for server in bus.servers:
            server.kill()
            async with asyncio.timeout(20):
                while True:
                    try:
                        tail = await node.stream_tail()
                        sequence = await node.append(
                            payload=b"x", message_id=f"1-{os.urandom(4).hex()}", expected_sequence=tail.sequence
                        )
                        break
                    except Exception:
                        await asyncio.sleep(0.1)
            server.start()
            bus.wait_ready()

        assert sequence == (await node.stream_tail()).sequence >= 3


async def test_a_node_and_an_edge_are_strong_over_a_bus_that_knows_both(bus: SecuredBus, tmp_path: Path) -> None:
    """The settings alone: what a node is started with, and what an application passes to `connect`."""
    directory = tmp_path / "node"
    region_key.generate(tmp_path / "region.key", tmp_path / "region.pub")
    config = ServiceConfig(
        node_id="node-1",
        data_dir=directory,
        peers={"node-1": Peer(raft="127.0.0.1:1", url="http://127.0.0.1:1")},
        region_key=tmp_path / "region.key",
        region=REGION,
        log="memory",
        nats=tuple(bus.urls),
        nats_ca=bus.ca,
        nats_credentials=bus.credentials(BusRole.NODE, "node-1"),
        stream_replicas=3,
    )
    directory.mkdir()
    peers = Peers()
    node = build_node(config, peers=peers)
    running = asyncio.create_task(node.run())
    try:
        await eventually(lambda: node.bus.connected and node.self_status()["is_authority"])
        async with await AsyncEdgeClient.connect(
            bus.urls,
            trust=str(tmp_path / "region.pub"),
            edge_id="dock.3",
            region=REGION,
            nats_ca=str(bus.ca),
            nats_credentials=str(bus.credentials(BusRole.EDGE, "dock.3")),
        ) as edge:
            await eventually(lambda: edge.status().lease_remaining_ms > 0)
            await eventually(lambda: node.self_status()["edges_live"] == 1)
            status = edge.status()

            assert status.connected and "" == status.bus_fault and status.counters["bus_connected"] == 1
            assert "bus_permission_denied" not in status.counters
            assert 0 == node.counters().get("bus.permission_denied", 0)
        async with await AsyncEdgeClient.connect(
            bus.urls,
            trust=str(tmp_path / "region.pub"),
            edge_id="dock.4",
            region=REGION,
            nats_ca=str(bus.ca),
            nats_credentials=str(bus.credentials(BusRole.EDGE, "dock.3")),
        ) as impostor:
            await eventually(lambda: impostor.status().counters.get("bus_permission_denied", 0) > 2)

            assert impostor.status().lease_remaining_ms == 0  # it hears beacons, and no reply that is not its own
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await peers.close()
    assert "dock.4" not in {view.report.edge_id for view in node.fleet.view.edges()}


def test_settings_show_no_password() -> None:
    edge = EdgeConfig(
        servers=("nats://user:s3cr3t@a:4222", "nats://s3cr3t@b:4222"),
        trust="region.pub",
        edge_id="cam-17",
        local="rediss://edge:s3cr3t@box",
        feature_store="redis://store:6379?username=u&password=s3cr3t",
    )
    node = ServiceConfig(
        node_id="n1",
        data_dir=Path("data"),
        peers={"n1": Peer(raft="127.0.0.1:1", url="http://n1")},
        region_key=Path("key"),
        nats=("nats://user:s3cr3t@a:4222",),
    )

    assert "s3cr3t" not in repr(edge) + repr(node)
    assert "rediss://***@box" in repr(edge) and "nats://***@a:4222" in repr(node) and "edge_id='cam-17'" in repr(edge)
