"""Who gets past the raft port's certificates, who does not, and what a peer that misbehaves can do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consistency_service.adapters import certificates
from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, RaftTls, listener, wire
from consistency_service.adapters.raft_log import transport as transport_module
from consistency_service.adapters.raft_log.admission import TokenBucket
from consistency_service.errors import ConfigError
from consistency_service.runtime.ports import Committed, RemoveMember
from tests.conformance.metadata_log_cluster import Cluster, Recorder, free_port, tls_of

NOW = datetime.now(tz=UTC)


@pytest.fixture
async def cluster(tmp_path):
    cluster = Cluster(kind="raft-tls", directory=tmp_path)
    await cluster.start()
    await cluster.commit(b"a")
    yield cluster
    await cluster.close_all()


def hello(sender: str, *, target: str = "n1", cluster_id: str = "ccs") -> bytes:
    return wire.encode(wire.Hello(version=wire.PROTOCOL_VERSION, cluster_id=cluster_id, sender=sender, target=target))


def context_of(pair: certificates.KeyPair) -> ssl.SSLContext:
    """Believes everybody, shows `pair`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(pair.certificate, pair.key)
    return context


async def say(cluster: Cluster, context: ssl.SSLContext | None, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """What n1 answered until it hung up."""
    host, port = cluster.peers["n1"].split(":")
    heard = b""
    with contextlib.suppress(OSError, ssl.SSLError):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            async with asyncio.timeout(15):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                while more := await reader.read(4_096):
                    heard += more
        finally:
            writer.transport.abort()
    return heard


def counted(cluster: Cluster, kind: str, *, name: str = "n1") -> int:
    log = cluster.seats[name].log
    assert isinstance(log, RaftLog)
    return log.counters().get(kind, 0)


async def refused(cluster: Cluster, kind: str, context: ssl.SSLContext | None, *pieces: bytes, **options: Any) -> None:
    before, terms = counted(cluster, kind), {seat.log.status().term for seat in cluster.alive()}
    heard = await say(cluster, context, *pieces, **options)

    assert b"" == heard
    assert before + 1 == counted(cluster, kind)
    assert terms == {seat.log.status().term for seat in cluster.alive()}


async def test_certificates_of_every_wrong_kind_are_refused_and_counted(cluster, tmp_path):
    certs = tmp_path / "certs"
    good = certificates.node_files(certs, "n2")
    foreign, other = tmp_path / "foreign", tmp_path / "other"
    certificates.create_authority(foreign, cluster_id="ccs", now=NOW)
    certificates.create_authority(other, cluster_id="other", now=NOW)
    early = NOW + timedelta(days=2)

    foreign_pair = certificates.issue(foreign, node_id="n2", now=NOW)
    await refused(cluster, "certificates_refused", context_of(foreign_pair), hello("n2"))
    early_pair = certificates.issue(certs, node_id="n2", now=early, into=tmp_path / "early")
    await refused(cluster, "certificates_refused", context_of(early_pair), hello("n2"))
    other_pair = certificates.issue(other, node_id="n2", now=NOW)
    await refused(cluster, "certificates_refused", context_of(other_pair), hello("n2", cluster_id="other"))
    unknown_pair = certificates.issue(certs, node_id="n9", now=NOW)
    await refused(cluster, "frames_refused", context_of(unknown_pair), hello("n2"))
    await refused(cluster, "certificates_refused", context_of(certificates.node_files(certs, "n1")), hello("n1"))
    await refused(cluster, "tls_failed", None, hello("n2"))
    await refused(cluster, "frames_refused", context_of(good), hello("n3"))
    await refused(cluster, "frames_refused", context_of(good), hello("n2", target="n3"))
    await refused(cluster, "frames_refused", context_of(good), hello("n2", cluster_id="other"))
    await refused(cluster, "frames_refused", context_of(good), struct.pack(">I", 1 << 31))
    await refused(cluster, "frames_refused", context_of(good), bytes(1 << 16))
    endless = b"\x16\x03\x01\x40\x00"  # a record of 16 KiB; in the first begins a greeting of TLS of 100 kB
    await refused(
        cluster, "frames_refused", None, endless + b"\x01\x01\x86\xa0" + bytes(16_380), *[endless + bytes(1 << 14)] * 6
    )
    await cluster.commit(b"b")
    await cluster.converged([b"a", b"b"])


async def test_a_node_of_another_cluster_is_refused_even_by_an_authority_that_is_believed(tmp_path):
    """While one authority takes over from another both are believed; the cluster in the URI still decides."""
    cluster = Cluster(kind="raft-tls", directory=tmp_path)
    other = tmp_path / "other"
    certificates.create_authority(other, cluster_id="other", now=NOW)
    pair = certificates.issue(other, node_id="n2", now=NOW)
    certs = tmp_path / "certs"
    certificates.create_authority(certs, cluster_id="ccs", now=NOW)
    with (certs / "ca.crt").open("ab") as bundle:
        bundle.write((other / "ca.crt").read_bytes())
    for node_id in ("n1", "n2", "n3"):
        certificates.issue(certs, node_id=node_id, now=NOW)
    await cluster.start()
    await cluster.commit(b"a")

    await refused(cluster, "certificates_refused", context_of(pair), hello("n2"))
    await cluster.close_all()


async def test_nodes_of_this_cluster_that_nobody_named_are_few_and_cannot_cause_an_election(cluster):
    """They may be members whose addition we missed; they are heard, and believed what anybody would be."""
    certs = cluster.directory / "certs"
    host, port = cluster.peers["n1"].split(":")
    terms = {seat.log.status().term for seat in cluster.alive()}
    claim = wire.VoteRequest(term=1_000, last_index=1 << 40, last_term=999, trial=False, handed_over=False, stamp=1)
    writers = []
    try:
        for number in range(transport_module.NEWCOMERS_MAX):
            pair = certificates.issue(certs, node_id=f"x{number}", now=NOW)
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context_of(pair))
            writer.write(hello(f"x{number}") + wire.encode(claim))
            writers.append(writer)
            assert await asyncio.wait_for(reader.read(1), 5)
        one_more = certificates.issue(certs, node_id="x-more", now=NOW)
        await refused(cluster, "certificates_refused", context_of(one_more), hello("x-more"))
        await cluster.commit(b"all the same")
    finally:
        for writer in writers:
            writer.transport.abort()

    assert terms == {seat.log.status().term for seat in cluster.alive()}


async def test_nothing_is_unpacked_of_who_is_not_certified(cluster, monkeypatch):
    fed: list[bytes] = []  # beyond TLS
    monkeypatch.setattr(wire.FrameSplitter, "feed", feed_counting(fed, wire.FrameSplitter.feed))
    certificates.create_authority(cluster.directory / "foreign", cluster_id="ccs", now=NOW)
    unknown = certificates.issue(cluster.directory / "foreign", node_id="n9", now=NOW)
    await cluster.close("n2")
    await cluster.close("n3")
    fed.clear()
    await say(cluster, None, hello("n2"))
    await say(cluster, context_of(unknown), hello("n2"))

    assert [] == fed
    await say(cluster, context_of(certificates.node_files(cluster.directory / "certs", "n2")), hello("n3"))
    assert fed


def feed_counting(fed: list[bytes], feed: Any) -> Any:
    def counting(self: wire.FrameSplitter, data: bytes) -> None:
        if data:
            fed.append(data)
        feed(self, data)

    return counting


async def test_strangers_are_shown_out_after_the_timeout_whatever_they_do(cluster):
    """Silent, dribbling, or in the middle of their greeting."""
    good = context_of(certificates.node_files(cluster.directory / "certs", "n2"))
    begun = time.monotonic()
    await asyncio.gather(
        refused_in_time(cluster, None),
        refused_in_time(cluster, None, *[b"\x16", b"\x03", b"\x01", b"\x02"] * 20, pause_s=0.1),
        refused_in_time(cluster, good, hello("n2")[:9]),
        refused_in_time(cluster, good, *(bytes([byte]) for byte in hello("n2")[:-1] * 9), pause_s=0.2),
    )

    assert 2.5 < time.monotonic() - begun < 6
    assert 3 <= counted(cluster, "connections_timed_out")


async def refused_in_time(cluster: Cluster, context: ssl.SSLContext | None, *pieces: bytes, **options: Any) -> None:
    async with asyncio.timeout(8):
        await say(cluster, context, *pieces, **options)


async def test_a_peer_that_sends_half_frames_writes_slowly_or_does_not_read_is_dropped(cluster):
    """With the certificate and greeting of n3, which is away."""
    await cluster.close("n3")
    context = context_of(certificates.node_files(cluster.directory / "certs", "n3"))
    host, port = cluster.peers["n1"].split(":")
    frame = struct.pack(">I", 1 << 20)
    transport: Any = cluster.seats["n1"].log._transport

    async def peer(*pieces: bytes, pause_s: float = 0.0) -> float:
        """Greeted as n3; how long it was borne afterwards."""
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(hello("n3"))
        assert (await reader.readexactly(4)) != b""
        begun = time.monotonic()
        with contextlib.suppress(OSError, ssl.SSLError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(15):
                while await reader.read(1 << 16):
                    pass
        writer.transport.abort()
        return time.monotonic() - begun

    assert 2.5 < await peer(frame + bytes(1_000)) < 5
    assert 2.5 < await peer(frame, *[b"x"] * 200, pause_s=0.02) < 5
    assert await peer(struct.pack(">I", wire.FRAME_BYTES_MAX + 1)) < 1
    assert 2 == counted(cluster, "connections_timed_out")
    assert 1 == counted(cluster, "frames_refused")

    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(hello("n3"))
    await reader.readexactly(4)
    stalled: Any = writer.transport
    stalled.pause_reading()
    ping = wire.encode(wire.Ping())
    connection = transport._connections["n3"]
    connection.write(ping * 2_000_000)
    begun = time.monotonic()
    while connection in transport._connections.values() and time.monotonic() - begun < 8:
        with contextlib.suppress(OSError):
            writer.write(ping)
        await asyncio.sleep(0.1)
    writer.transport.abort()

    assert 3 == counted(cluster, "connections_timed_out")
    await cluster.commit(b"b")


async def test_peers_come_go_and_move_while_the_others_go_on(cluster):
    """n3 dials, n1 is dialled: both ends of a change."""
    transports: dict[str, Any] = {name: seat.log._transport for name, seat in cluster.seats.items()}
    await cluster.until(lambda: all(len(t._connections) == 2 for t in transports.values()), what="all connected")
    kept = transports["n3"]._connections["n2"]
    for transport in (transports["n1"], transports["n3"]):
        without = {name: address for name, address in cluster.peers.items() if name == transport.config.node_id}
        transport.set_peers({**without, "n2": cluster.peers["n2"]})
    await cluster.until(lambda: "n1" not in transports["n3"]._connections, what="n1 to be gone")
    await asyncio.sleep(0.5)

    assert {"n2"} == set(transports["n1"]._connections)
    assert kept is transports["n3"]._connections["n2"]
    transports["n1"].set_peers(cluster.peers)
    await asyncio.sleep(0.5)
    assert {"n2"} == set(transports["n1"]._connections)  # n3 is to dial, and does not know yet
    transports["n3"].set_peers({**cluster.peers, "n1": f"127.0.0.1:{free_port()}"})
    await cluster.until(lambda: transports["n3"].counters["dials_failed"] > 0, what="nobody at the wrong address")
    transports["n3"].set_peers(cluster.peers)
    await cluster.until(lambda: "n3" in transports["n1"]._connections, what="n3 at the right one")
    assert kept is transports["n3"]._connections["n2"]


async def test_nothing_said_waits_for_more_to_say(cluster):
    """Sockets made without the number of TCP would: asyncio then leaves them as they are."""
    transports: list[Any] = [seat.log._transport for seat in cluster.alive()]
    await cluster.until(lambda: all(len(t._connections) == 2 for t in transports), what="all connected")
    connections = [connection for transport in transports for connection in transport._connections.values()]
    sockets = [connection._transport.get_extra_info("socket") for connection in connections]

    assert [1] * 6 == [made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for made in sockets]


async def test_a_connection_does_not_outlive_the_certificate_it_was_made_with(cluster):
    transport: Any = cluster.seats["n3"].log._transport
    await cluster.until(lambda: len(transport._connections) == 2, what="both peers")
    connection = transport._connections["n1"]
    expired = certificates_expired(connection.identity)
    connection._channel.identity = expired
    await cluster.until(lambda: counted(cluster, "certificates_expired", name="n3") == 1, what="the end of it")

    await cluster.until(lambda: transport._connections.get("n1") not in {None, connection}, what="a new one")


def certificates_expired(identity: Any) -> Any:
    return type(identity)(cluster_id=identity.cluster_id, node_id=identity.node_id, expires_at_unix_s=1)


async def test_who_comes_faster_than_we_can_afford_is_turned_away(cluster):
    transport: Any = cluster.seats["n1"].log._transport
    wings = transport._listener._wings
    for wing in wings:
        wings[wing] = TokenBucket(per_s=1, burst=1, now_ns=time.monotonic_ns())
    host, port = cluster.peers["n1"].split(":")
    begun = time.monotonic()
    knocks = [socket.create_connection((host, int(port))) for _ in range(5)]
    await cluster.until(lambda: counted(cluster, "connections_refused") > 0, what="somebody to be turned away")
    await asyncio.sleep(0.1)

    assert 4 - int(time.monotonic() - begun) <= counted(cluster, "connections_refused") <= 4
    for knock in knocks:
        knock.close()


async def test_a_port_without_descriptors_lets_a_few_in_from_its_reserve_and_recovers(cluster):
    transport: Any = cluster.seats["n1"].log._transport
    host, port = cluster.peers["n1"].split(":")
    knocks = [socket.socket() for _ in range(20)]
    for knock in knocks:
        knock.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1, hard)
    )
    plugs = []
    try:
        with contextlib.suppress(OSError):
            while True:
                plugs.append(os.open(os.devnull, os.O_RDONLY))
        for knock in knocks:
            await asyncio.get_running_loop().sock_connect(knock, (host, int(port)))
        await cluster.until(lambda: counted(cluster, "accepts_failed") > 0, what="nothing to accept with")
        in_need = len(transport.strangers)
        outcome = await (await cluster.leader()).log.propose(b"b", timeout_ms=2_000)
    finally:
        for plug in plugs:
            os.close(plug)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert transport._spare._count == in_need
    assert isinstance(outcome, Committed)
    await cluster.until(lambda: len(transport.strangers) == 20, what="those who waited")
    for knock in knocks:
        knock.close()
    await cluster.until(lambda: len(transport._spare._held) == transport._spare._count, what="a reserve again")


def config(tmp_path, **changes: Any) -> RaftLogConfig:
    address = f"127.0.0.1:{free_port()}"
    values: dict[str, Any] = {"node_id": "n1", "listen": address, "peers": {"n1": address}, "data_dir": tmp_path / "n1"}
    return RaftLogConfig(**{**values, **changes})


def test_without_certificates_only_loopback_is_listened_on(tmp_path):
    for listen in ("0.0.0.0:7000", "[::]:7000", "10.0.0.1:7000", "node-1.example:7000"):
        with pytest.raises(ConfigError, match="needs tls"):
            config(tmp_path, listen=listen)
        assert config(tmp_path, listen=listen, insecure=True).insecure
        assert config(tmp_path, listen=listen, tls=tls_of(tmp_path, "n1")).tls
    for listen in ("127.0.0.1:7000", "[::1]:7000", "localhost:7000"):
        assert config(tmp_path, listen=listen).tls is None
    for nowhere in ("x" * 64 + ".example:7000", "a..b:7000"):
        with pytest.raises(ConfigError, match="no host name"):
            config(tmp_path, listen=nowhere, insecure=True)
    with pytest.raises(ConfigError, match="letters, digits"):
        config(tmp_path, cluster_id="a/b", tls=tls_of(tmp_path, "n1"))


async def test_useless_certificates_are_refused_at_start_and_everything_released(tmp_path):
    wrong = config(tmp_path, tls=RaftTls(ca=tmp_path / "a", certificate=tmp_path / "b", key=tmp_path / "c"))
    with pytest.raises(ConfigError, match="cannot read"):
        await RaftLog(wrong).start(Recorder())

    again = RaftLog(config(tmp_path))
    await again.start(Recorder())
    await again.close()


def test_addresses_are_compared_in_one_form():
    assert "127.0.0.1" == listener.canonical("::ffff:127.0.0.1")
    assert "fe80::1" == listener.canonical("fe80:0::1%eth0")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["n1", "n3"], ids=["whom others dial", "who dials"])
async def test_a_removed_node_is_told_whether_it_was_there_or_not(cluster, name, monkeypatch):
    """By its certificate it is still who it was; a member says so, then and whenever it comes again."""
    monkeypatch.setattr(transport_module, "LONELY_S", 0.2)
    while (leader := await cluster.leader()).log.status().node_id == name:
        leader.log.resign()
        await asyncio.sleep(0.1)

    def standing() -> str:
        return str(cluster.seats[name].log.status().standing)

    outcome = await leader.log.change_membership(RemoveMember(node_id=name), timeout_ms=5_000)
    assert isinstance(outcome, Committed)
    await cluster.until(lambda: standing() == "removed", what="the news")
    await cluster.close(name)
    await cluster.open(name)
    await cluster.until(lambda: standing() == "removed", what="the news after a restart")
    assert any(counted(cluster, "removed_peers_told", name=other) for other in cluster.seats)
