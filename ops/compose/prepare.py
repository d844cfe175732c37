"""Makes whatever a region of containers needs before it can run: keys, certificates, credentials, tokens. Nothing is made twice.

Picture a key cutter who comes before the tenants. In `PREPARE_SECRETS` everybody has a drawer (`node-1`, `nats-2`, `edge-1-1`),
and is shown that drawer alone; `authority` holds what the drawers were made with, and `people` the tokens of those who give
orders. What is there stays; configuration files, which are no secrets, are put in anew each time. Everything here can be
done by hand with `ccs certs`, `ccs nats` and `ccs token`; this does it without questions, from the environment:

    PREPARE_REGION, PREPARE_NODES, PREPARE_SERVERS, PREPARE_SITES, PREPARE_EDGES=SITE/EDGE,…
    PREPARE_REDIS_REGION=NAME/HOST:PORT   PREPARE_REDIS_SITES=NAME/HOST:PORT,…   PREPARE_NATS, PREPARE_REDIS: their configuration
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from consistency_service.adapters import certificates, nats_accounts, region_key
from consistency_service.adapters.private_files import write_over
from consistency_service.core.bus_access import BusRole
from consistency_service.errors import ServiceError

PEOPLE: Final = {"admin": "admin", "operator": "operator", "prometheus": "viewer"}
"""Who has a token, and its role."""


class Cutter:
    """One visit to one cabinet."""

    def __init__(self, root: Path, *, region: str, now: datetime) -> None:
        self.root = root
        self.region = region
        self.now = now
        self.tokens: dict[str, str] = {}
        self._raft = root / "authority" / "raft"
        self._links = root / "authority" / "links"
        self._bus = root / "authority" / "nats"
        self._grants = root / "authority" / "access.toml"

    def authorities(self) -> None:
        """Two authorities for certificates, so that no server can pass for a node; the bus's keys; the region's key."""
        for directory, name in ((self._raft, self.region), (self._links, f"{self.region}-servers")):
            if not certificates.authority_files(directory).certificate.exists():
                certificates.create_authority(directory, cluster_id=name, now=self.now)
        if not (self._bus / nats_accounts.SERVER_FILE).exists():
            nats_accounts.create(self._bus, region=self.region, now=self.now)
        private, public = self._region_key()
        if not private.exists():
            region_key.generate(private, public)

    def node(self, name: str) -> None:
        drawer = self._drawer(name)
        self._server(name)
        if not (drawer / "raft.crt").exists():
            pair = certificates.issue(self._raft, node_id=name, into=drawer / "new", now=self.now)
            pair.key.replace(drawer / "raft.key")
            pair.certificate.replace(drawer / "raft.crt")
        self._credentials(drawer / "nats.creds", role=BusRole.NODE, name=name)
        copy(certificates.authority_files(self._raft).certificate, drawer / "raft-ca.crt")
        copy(self._region_key()[0], drawer / "region.key")

    def bus_server(self, name: str, *, templates: Path) -> None:
        drawer = self._server(name)
        for template in templates.glob("*.conf"):
            copy(template, drawer / template.name)
        copy(self._bus / nats_accounts.SERVER_FILE, drawer / nats_accounts.SERVER_FILE)

    def site(self, name: str, *, number: int, edge_ids: list[str], templates: Path) -> None:
        """The site's own server of the bus may carry the words of its edges, and of no others."""
        server = f"leaf-{number}"
        self.bus_server(server, templates=templates)
        drawer = self._drawer(server)
        write(drawer / "account.key", nats_accounts.account_key(self._bus) + "\n")
        known, words = drawer / "edges", "\n".join(edge_ids) + "\n"
        if not known.exists() or known.read_text(encoding="utf-8") != words:
            (drawer / "leaf.creds").unlink(missing_ok=True)
        self._credentials(drawer / "leaf.creds", role=BusRole.LEAF, name=name, edge_ids=edge_ids)
        write(known, words)

    def redis(self, place: str, *, users: list[str], template: Path, url: str) -> None:
        """A server that knows these users, each with the rights of the user in `template` who has a password.

        Each of them is told where it is and by which password.
        """
        name, _, address = place.partition("/")
        drawer = self._server(name)
        lines = [line for line in template.read_text(encoding="utf-8").splitlines() if " #" not in line]
        rights = next(line for line in template.read_text(encoding="utf-8").splitlines() if " on #" in line)
        for user in users:
            path = self.root / "authority" / name / user
            if not path.exists():
                write(path, secrets.token_urlsafe(32))
            password = path.read_text(encoding="ascii")
            lines.append(f"user {user} on #{sha256(password)} {rights.split(maxsplit=4)[4]}")
            write(self._drawer(user) / url, f"rediss://{user}:{password}@{address}\n")
        write(drawer / "users.acl", "\n".join(lines) + "\n")

    def edge(self, name: str) -> None:
        drawer = self._drawer(name)
        copy(self._region_key()[1], drawer / "region.pub")
        copy(certificates.authority_files(self._links).certificate, drawer / "ca.crt")
        self._credentials(drawer / "nats.creds", role=BusRole.EDGE, name=name)
        write(drawer / "token", self.token(name, role="edge") + "\n")

    def token(self, name: str, *, role: str) -> str:
        """The bearer token of this name; its digest will be in the nodes' `access` file."""
        path = self.root / "people" / name
        if not path.exists():
            write(path, f"{secrets.token_urlsafe(32)}\n")
        found = path.read_text(encoding="ascii").strip()
        self.tokens[name] = f'[[token]]\nname = "{name}"\nrole = "{role}"\nsha256 = "{sha256(found)}"\n\n'
        return found

    def access(self, nodes: list[str]) -> None:
        """The nodes know every token; what somebody else added to the file stays."""
        text = self._grants.read_text(encoding="utf-8") if self._grants.exists() else ""
        known = {entry["name"] for entry in tomllib.loads(text).get("token", [])}
        write(self._grants, text + "".join(entry for name, entry in self.tokens.items() if name not in known))
        for name in nodes:
            copy(self._grants, self._drawer(name) / "access.toml")

    def observers(self) -> None:
        """Prometheus may look at nodes; Grafana's administrator has a password."""
        drawer = self._drawer("prometheus")
        write(drawer / "token", self.token("prometheus", role=PEOPLE["prometheus"]) + "\n")
        copy(certificates.authority_files(self._links).certificate, drawer / "ca.crt")
        password = self._drawer("grafana") / "admin.password"
        if not password.exists():
            write(password, secrets.token_urlsafe(24))

    def _server(self, name: str) -> Path:
        """A drawer with `tls.crt`, `tls.key` and `ca.crt` for whatever answers to this name."""
        drawer = self._drawer(name)
        if not (drawer / "tls.crt").exists():
            hosts = (name, "localhost", "127.0.0.1")
            pair = certificates.issue(self._links, node_id=name, hosts=hosts, into=drawer / "new", now=self.now)
            pair.key.replace(drawer / "tls.key")
            pair.certificate.replace(drawer / "tls.crt")
        copy(certificates.authority_files(self._links).certificate, drawer / "ca.crt")
        return drawer

    def _credentials(self, path: Path, *, role: BusRole, name: str, edge_ids: list[str] | None = None) -> None:
        if not path.exists():
            nats_accounts.issue(self._bus, role=role, name=name, into=path, edge_ids=edge_ids or (), now=self.now)

    def _drawer(self, name: str) -> Path:
        drawer = self.root / name
        drawer.mkdir(mode=0o700, parents=True, exist_ok=True)
        return drawer

    def _region_key(self) -> tuple[Path, Path]:
        return self.root / "authority" / "region.key", self.root / "authority" / "region.pub"


def sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write(path: Path, text: str) -> None:
    """`path` holds this and is its owner's alone; whole or as before."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_over(path, text.encode(), mode=0o600)


def copy(source: Path, target: Path) -> None:
    write(target, source.read_text(encoding="utf-8"))


def words(name: str) -> list[str]:
    return [word for word in os.environ[f"PREPARE_{name}"].split(",") if word]


def main() -> int:
    """0 once everything is there."""
    os.umask(0o077)
    nats, acls = Path(os.environ["PREPARE_NATS"]), Path(os.environ["PREPARE_REDIS"])
    cutter = Cutter(Path(os.environ["PREPARE_SECRETS"]), region=os.environ["PREPARE_REGION"], now=datetime.now(tz=UTC))
    edges = [tuple(word.split("/", 1)) for word in words("EDGES")]
    cutter.authorities()
    for name in words("NODES"):
        cutter.node(name)
    for name in words("SERVERS"):
        cutter.bus_server(name, templates=nats)
    for number, (site, redis) in enumerate(zip(words("SITES"), words("REDIS_SITES"), strict=True), start=1):
        here = [name for place, name in edges if place == site]
        cutter.site(site, number=number, edge_ids=here, templates=nats)
        cutter.redis(redis, users=here, template=acls / "local.acl", url="local.url")
        for name in here:
            cutter.edge(name)
    everybody = [name for _, name in edges]
    store = os.environ["PREPARE_REDIS_REGION"]
    cutter.redis(store, users=everybody, template=acls / "feature-store.acl", url="feature-store.url")
    for name, role in PEOPLE.items():
        cutter.token(name, role=role)
    cutter.observers()
    cutter.access(words("NODES"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServiceError, OSError, KeyError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(1)
