"""Redis as others run it: with users, as a cluster, and behind TLS, for whatever `redis-server` there is here.

Not every `redis-server` speaks TLS, so a proxy does: what it lets through is what a server with TLS would have heard.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.servers import RedisServer, free_port

SLOTS = 16_384
NODES = 3
BUS_OFFSET = 10_000
SETTLED_TIMEOUT_S = 30.0


class ClusterNodeServer(RedisServer):
    """One node of a Redis Cluster; it remembers the others in its directory."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]


@dataclass
class RedisCluster:
    nodes: list[ClusterNodeServer]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def each(self, what: Callable[[redis.Redis], object]) -> None:
        """Do something on every node."""
        for node in self.nodes:
            with redis.Redis(port=node.port, protocol=2) as client:
                what(client)

    def flush(self) -> None:
        for node in self.nodes:
            node.flush()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        self.wait_settled()

    def wait_settled(self) -> None:
        """All slots are served, in every node's eyes."""
        deadline = time.monotonic() + SETTLED_TIMEOUT_S
        states: list[dict[str, str]] = []
        while time.monotonic() < deadline:
            states.clear()
            self.each(lambda client: states.append(client.execute_command("CLUSTER INFO")))
            if all(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == str(NODES) for state in states):
                return
            time.sleep(0.05)
        raise RuntimeError(f"the cluster did not settle: {states}")


@contextmanager
def start_redis_cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    """Three primaries that share the slots."""
    cluster = RedisCluster(
        [
            ClusterNodeServer(port=port, directory=tmp_path / f"node-{port}", maxmemory=None)
            for port in free_ports(NODES)
        ]
    )
    try:
        for node in cluster.nodes:
            node.start()
        for index, node in enumerate(cluster.nodes):
            with redis.Redis(port=node.port, protocol=2) as client:
                slots = range(index * SLOTS // NODES, (index + 1) * SLOTS // NODES)
                client.execute_command("CLUSTER ADDSLOTS", *slots)
                client.execute_command("CLUSTER MEET", "127.0.0.1", cluster.nodes[0].port)
        cluster.wait_settled()
        yield cluster
    finally:
        cluster.stop()


def free_ports(count: int) -> list[int]:
    """Ports whose bus ports, ten thousand above, are free as well."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        port = port - BUS_OFFSET if port + BUS_OFFSET > 65_535 else port
        with socket.socket() as here, socket.socket() as bus, suppress(OSError):
            here.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + BUS_OFFSET))
            found.append(port)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """Files of a certificate authority and of what it signed for 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path


def certified(directory: Path) -> Certified:
    """A new authority and a certificate of it, good for a day."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {directory.name}")])
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)

    def builder(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(days=1))
        )

    ca = builder(ca_name, ca_key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    named = builder(x509.Name([]), key.public_key()).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True
    )
    files = Certified(ca=directory / "ca.pem", certificate=directory / "own.pem", key=directory / "own.key")
    files.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(named.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@asynccontextmanager
async def tls_before(port: int, *, files: Certified, demand_certificate: bool = False) -> AsyncIterator[int]:
    """A port that speaks TLS for the server at `port`; it may demand a certificate of the same authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if demand_certificate:
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
