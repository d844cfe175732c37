"""The region's bus as it is shipped: three servers from `ops/nats`, TLS on every link, keys by `ccs nats`; and sites."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from consistency_service.adapters import certificates, nats_accounts
from consistency_service.core.bus_access import BusRole
from consistency_service.testbed.binaries import find_nats_server
from edge_client.adapters.nats_access import NatsAccess
from tests.support.servers import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "ops" / "nats"
REGION = "harbour"
READY_TIMEOUT_S = 20.0


def now() -> datetime:
    return datetime.now(tz=UTC)


class ConfiguredServer(Server):
    """A nats-server on a configuration file, with what the file wants from the environment."""

    scheme = "tls"

    def __init__(self, *, port: int, directory: Path, file: str, environment: dict[str, str]) -> None:
        super().__init__(port=port, directory=directory)
        self.file = file
        self.environment = environment
        self.http_port = int(environment["NATS_HTTP_LISTEN"].rpartition(":")[2])

    def start(self) -> None:
        before = dict(os.environ)
        os.environ.update(self.environment)  # a child inherits it
        try:
            super().start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def reload(self) -> None:
        """Read the configuration again, as `nats-server --signal reload` has it do."""
        before = self.log_path.read_text().count("Reloaded server configuration")
        self._signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while self.log_path.read_text().count("Reloaded server configuration") == before:
            assert time.monotonic() < deadline, self.log_path.read_text()[-2000:]
            time.sleep(0.02)

    def monitoring(self, page: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/{page}", timeout=2) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def _command(self) -> list[str]:
        return [str(find_nats_server()), "-c", str(self.directory / self.file)]

    def _answers(self) -> bool:
        return bool(self.monitoring("varz"))


class SecuredBus:
    """Keys, certificates and three servers below one directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.keys = directory / "keys"
        self.authority = directory / "certs"
        nats_accounts.create(self.keys, region=REGION, now=now())
        certificates.create_authority(self.authority, cluster_id="bus", now=now())
        self.ca = certificates.authority_files(self.authority).certificate
        ports = [[free_port() for _ in range(4)] for _ in range(3)]
        self.routes = ", ".join(f"tls://127.0.0.1:{route}" for _, route, _, _ in ports)
        self.leaf_ports = [leaf for _, _, leaf, _ in ports]
        self.servers = [self._server(index, *numbers) for index, numbers in enumerate(ports, start=1)]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def credentials(self, role: BusRole, name: str, **more: object) -> Path:
        """A new `.creds` file, kept under its holder's name."""
        path = self.directory / f"{role}-{name}.creds"
        if not path.exists():
            nats_accounts.issue(self.keys, role=role, name=name, into=path, now=now(), **more)  # type: ignore[arg-type]
        return path

    def access(self, role: BusRole, name: str) -> NatsAccess:
        return NatsAccess(ca=self.ca, credentials=self.credentials(role, name))

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Every server has found the others, and JetStream a leader."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = list(self.servers)
        while waiting:
            assert time.monotonic() < deadline, self.servers[0].log_path.read_text()[-3000:]
            with suppress(OSError):
                jetstream = waiting[0].monitoring("jsz")
                if waiting[0].monitoring("healthz").get("status") == "ok" and "meta_cluster" in jetstream:
                    cluster = jetstream["meta_cluster"]
                    if isinstance(cluster, dict) and cluster.get("leader"):
                        waiting.pop(0)
                        continue
            time.sleep(0.05)

    def take_keys(self) -> None:
        """The servers' file is copied to all of them, and they read it."""
        for server in self.servers:
            shutil.copy(self.keys / nats_accounts.SERVER_FILE, server.directory)
            server.reload()

    def site(self, name: str, **more: object) -> ConfiguredServer:
        """A site's server, on the shipped file, not started."""
        port, http_port = free_port(), free_port()
        directory = self._configured(f"site-{name}")
        hubs = ", ".join(f"tls://127.0.0.1:{leaf}" for leaf in self.leaf_ports)
        environment = self._environment(name, port, http_port) | {
            "NATS_HUBS": f"[{hubs}]",
            "NATS_HUB_CA": str(self.ca),
            "NATS_LEAF_CREDENTIALS": str(self.credentials(BusRole.LEAF, name, **more)),
            "NATS_ACCOUNT": nats_accounts.account_key(self.keys),
        }
        return ConfiguredServer(port=port, directory=directory, file="leaf.conf", environment=environment)

    def _server(self, index: int, port: int, route: int, leaf: int, http: int) -> ConfiguredServer:
        directory = self._configured(f"nats-{index}")
        environment = self._environment(f"nats-{index}", port, http) | {
            "NATS_CLUSTER_NAME": REGION,
            "NATS_ROUTE_LISTEN": f"127.0.0.1:{route}",
            "NATS_ROUTES": f"[{self.routes}]",
            "NATS_LEAF_LISTEN": f"127.0.0.1:{leaf}",
            "NATS_STORE_DIR": str(directory / "store"),
        }
        return ConfiguredServer(port=port, directory=directory, file="server.conf", environment=environment)

    def _configured(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir()
        for path in (*SHIPPED.glob("*.conf"), self.keys / nats_accounts.SERVER_FILE):
            shutil.copy(path, directory)
        return directory

    def _environment(self, name: str, port: int, http_port: int) -> dict[str, str]:
        files = certificates.issue(self.authority, node_id=name, hosts=["127.0.0.1", "localhost"], now=now())
        return {
            "NATS_SERVER_NAME": name,
            "NATS_CLIENT_LISTEN": f"127.0.0.1:{port}",
            "NATS_HTTP_LISTEN": f"127.0.0.1:{http_port}",
            "NATS_CA": str(self.ca),
            "NATS_CERTIFICATE": str(files.certificate),
            "NATS_KEY": str(files.key),
        }


@contextmanager
def start_secured_bus(directory: Path) -> Iterator[SecuredBus]:
    """Three servers that know each other."""
    bus = SecuredBus(directory)
    with ExitStack() as stack:
        for server in bus.servers:
            stack.callback(server.stop)
        bus.start()
        yield bus
