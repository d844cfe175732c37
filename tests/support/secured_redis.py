"""Redis as it is shipped: `ops/redis` with TLS and users, single or as a cluster with replicas."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from consistency_service.testbed.binaries import find_redis_server
from tests.support.redis_kinds import SETTLED_TIMEOUT_S, SLOTS, Certified, free_ports
from tests.support.servers import RedisServer

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "ops" / "redis"
PASSWORDS = {"EDGE": "edge s3cr3t/:@", "FEATURE_WRITER": "writer s3cr3t/:@", "REPLICA": "replica-s3cr3t"}
QUOTED = {"EDGE": "edge%20s3cr3t%2F%3A%40", "FEATURE_WRITER": "writer%20s3cr3t%2F%3A%40"}
OPERATOR = "operator"
"""A user of the test's own, with all rights; nobody ships one."""


def require_tls() -> None:
    """Skip where the `redis-server` at hand was built without TLS."""
    if b"tls-cert-file" not in find_redis_server().read_bytes():
        pytest.skip("needs a redis-server with TLS, such as Debian's: apt-get install redis-server")


class SecuredRedis(RedisServer):
    """A redis-server on a shipped configuration; only what belongs to this machine is said beside it."""

    scheme = "rediss"

    def __init__(
        self, *, port: int, directory: Path, kind: str, files: Certified, more: tuple[str, ...] = (), rules: str = ""
    ) -> None:
        super().__init__(port=port, directory=directory, maxmemory=None)
        self.kind, self.files, self.more = kind, files, more
        directory.mkdir(parents=True, exist_ok=True)
        text = rules or (SHIPPED / f"{kind}.acl").read_text()
        for name, password in PASSWORDS.items():
            text = text.replace(f"{name}_PASSWORD_SHA256", sha256(password.encode()).hexdigest())
        (directory / "users.acl").write_text(f"{text}user {OPERATOR} on >{OPERATOR} ~* &* +@all\n")

    def operator(self) -> Any:
        """A client that may do everything."""
        return self.client(OPERATOR, OPERATOR)

    def client(self, user: str, password: str) -> Any:
        return redis.Redis(
            host="127.0.0.1",
            port=self.port,
            retry=Retry(NoBackoff(), 0),
            username=user,
            password=password,
            ssl=True,
            ssl_ca_certs=str(self.files.ca),
            protocol=2,
        )

    def flush(self) -> None:
        with self.operator() as client:
            client.flushall()

    def _command(self) -> list[str]:
        said = {
            "bind": "127.0.0.1",
            "tls-port": str(self.port),
            "tls-cert-file": str(self.files.certificate),
            "tls-key-file": str(self.files.key),
            "tls-ca-cert-file": str(self.files.ca),
            "aclfile": str(self.directory / "users.acl"),
            "dir": str(self.directory),
        }
        words = [word for name, value in said.items() for word in (f"--{name}", value)]
        return [str(find_redis_server()), str(SHIPPED / f"{self.kind}.conf"), *words, *self.more]

    def _answers(self) -> bool:
        with suppress(redis.RedisError), self.client("health", "any") as client:
            return bool(client.ping())
        return False


CLUSTER: tuple[str, ...] = (
    "--cluster-enabled",
    "yes",
    "--tls-cluster",
    "yes",
    "--tls-replication",
    "yes",
    "--masteruser",
    "replica",
)
CLUSTER += ("--masterauth", PASSWORDS["REPLICA"], "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")


class SecuredCluster:
    """Three primaries, and a replica of each."""

    def __init__(self, directory: Path, *, files: Certified) -> None:
        self.nodes = [
            SecuredRedis(
                port=port, directory=directory / f"node-{port}", kind="feature-store", files=files, more=CLUSTER
            )
            for port in free_ports(6)
        ]
        self.primaries, self.replicas = self.nodes[:3], self.nodes[3:]

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for index, node in enumerate(self.nodes):
            with node.operator() as client:
                if index < 3:
                    client.execute_command("CLUSTER ADDSLOTS", *range(index * SLOTS // 3, (index + 1) * SLOTS // 3))
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        self.wait(lambda info: info["cluster_known_nodes"] == "6")
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            with primary.operator() as client:
                name = client.execute_command("CLUSTER MYID").decode()
            self._until(replica, lambda client, name=name: client.execute_command("CLUSTER REPLICATE", name))
            self._until(replica, lambda client: client.info("replication")["master_link_status"] == "up")
        self.wait(lambda info: info["cluster_state"] == "ok")

    def wait(self, condition: Any) -> None:
        """True in every running node's eyes."""
        for node in self.nodes:
            if node.running:
                self._until(node, lambda client: condition(client.execute_command("CLUSTER INFO")))

    def wait_replicated(self) -> None:
        """Every replica has what its primary has."""
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            with primary.operator() as client:
                offset = client.info("replication")["master_repl_offset"]
            self._until(
                replica, lambda client, offset=offset: client.info("replication")["slave_repl_offset"] >= offset
            )

    def _until(self, node: SecuredRedis, condition: Any) -> None:
        deadline = time.monotonic() + SETTLED_TIMEOUT_S
        with node.operator() as client:
            while True:
                with suppress(redis.RedisError, socket.error):
                    if condition(client):
                        return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the cluster did not settle: {node.log_path.read_text()[-2000:]}")
                time.sleep(0.05)


@contextmanager
def start_secured_cluster(directory: Path, *, files: Certified) -> Iterator[SecuredCluster]:
    cluster = SecuredCluster(directory, files=files)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
