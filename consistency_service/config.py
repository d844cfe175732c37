"""The configuration of one node: one value that refuses nonsense, read once at the edge of the process."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from consistency_service.errors import ConfigError
from edge_client.protocol.models import NAME_PATTERN, Terms
from edge_client.protocol.subjects import REGION_PATTERN

_ENV_PREFIX = "CCS_"


def is_loopback(address: str) -> bool:
    """Whether `host:port` can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a voter is to be found."""

    raft: str
    """`host:port` of its raft listener."""
    url: str
    """Base URL of its REST API, as other nodes and edges reach it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """One node of one region."""

    node_id: str
    """Names this node among `peers`; never reuse one for another machine's data."""

    data_dir: Path
    """Holds the raft log and its snapshots. Losing it loses this node's vote."""

    peers: dict[str, Peer]
    """Every node, this one too. A region begins with these as its voters, 1, 3 or 5, the same table on every node;
    afterwards the log says who is one, and these are addresses at which they may be found: see `ccs cluster add`.
    """

    region_key: Path
    """The region's Ed25519 private key (PEM, mode 0600). With `region_trust` it is read again when it changes."""

    region_trust: Path | None = None
    """Public lines of every key that the region signs with, this node's own too; read again when it changes. Named, the key can
    be rotated while nodes run. None: other nodes are believed by this node's key alone.
    """

    publishers: Path | None = None
    """Public lines of publishers' keys, and `ccs-revoked` ones; read again when it changes."""

    signatures: str = "off"
    """`off`; `check`: a version that comes signed is registered only if one of `publishers` signed it; `require`: unsigned ones
    are not registered either.
    """

    join: bool = False
    """Wait to be added to a running region rather than begin one. Has no effect once `data_dir` is not empty."""

    region: str = "default"
    """Names the region; part of every subject on the bus, so that several regions may share one."""

    http: str = "127.0.0.1:8700"
    """`host:port` on which REST listens."""

    http_certificate: Path | None = None
    http_key: Path | None = None
    """PEM files for TLS on REST, both or neither; renewed ones are used without a restart."""

    http_client_ca: Path | None = None
    """PEM certificates; a caller may show a certificate that one of these signed, and has the role that `access` gives it."""

    http_ca: Path | None = None
    """PEM certificates by which this node believes the other nodes' https addresses; none: the system's."""

    access: Path | None = None
    """Who may do what: tokens (hashed), issuers of JWTs, client certificates. TOML, read again when it changes."""

    insecure: bool = False
    """Listen beyond loopback without TLS or without `access`: whoever reaches the port may then do everything."""

    requests_per_s: int = 100
    """How many calls one caller may make, on average over `requests_burst` calls; further ones are told when to come again."""

    requests_burst: int = 400
    """How many calls one caller may make at once after a pause."""

    nats: tuple[str, ...] = field(default=("nats://127.0.0.1:4222",), repr=False)
    """Bus servers, any of which will do."""

    nats_ca: Path | None = None
    """PEM certificates by which the bus servers are believed, for `tls://`; none: the system's."""

    nats_certificate: Path | None = None
    nats_key: Path | None = None
    """PEM files of a client certificate for the bus, both or neither."""

    nats_credentials: Path | None = None
    """A `.creds` file (JWT and seed) by which the bus knows this node; `ccs nats` makes them. Read again when reconnecting."""

    artifacts: str = field(default="", repr=False)
    """URL of the object store (`file:///…`, `s3://…`, `gs://…`, `az://…`); empty: `data_dir/artifacts`."""

    log: str = "raft"
    """`raft`, or `memory` for one node that forgets everything when it ends."""

    stream_replicas: int = 1
    """Copies of the event stream: 3 on a NATS cluster of three."""

    beacon_interval_ms: int = 100
    """How often the authority speaks. Each costs one log entry and one broadcast, whatever the size of the fleet."""

    lease_ms: int = Terms().lease_ms
    """How long a beacon is worth; seeds a new epoch, then fixed. Higher rides out longer elections; lower shortens the slow barrier."""

    margin_ms: int = Terms().margin_ms
    """Added to the lease in the slow barrier; at least `lease_ms * (kappa - 1)`. Seeds a new epoch, then fixed."""

    clock_drift_max_ppm: int = Terms().rho_ppm
    """Assumed worst rate error of any clock. Seeds a new epoch, then fixed."""

    artifact_bytes_max: int = 4 * 1024**3
    """Larger uploads are refused."""

    election_ms_min: int = 300
    election_ms_max: int = 600
    """A follower that hears no leader for a random time between the two stands for election."""

    raft_ca: Path | None = None
    raft_certificate: Path | None = None
    raft_key: Path | None = None
    """PEM files for TLS between nodes, all three or none; `ccs certs` makes them. Renewed ones are used without a restart."""

    raft_insecure: bool = False
    """Let raft listen beyond loopback without TLS: every host of that network can then rewrite what the region decided."""

    compaction_entries: int = 5_000
    """How many applied entries the log keeps before it snapshots."""

    log_format: str = "text"
    """What goes to stderr: `text` for people, or `json`, one object a line."""

    garbage_interval_ms: int = 60_000
    """How often unneeded versions and artifacts are looked for."""

    def __post_init__(self) -> None:
        if NAME_PATTERN.fullmatch(self.node_id) is None:
            raise ConfigError(f"node_id must be 1 to 128 of a-z 0-9 . _ and -, not {self.node_id!r}")
        if REGION_PATTERN.fullmatch(self.region) is None:
            raise ConfigError(f"region must be 1 to 64 of a-z 0-9 _ and -, not {self.region!r}")
        if self.log not in ("raft", "memory"):
            raise ConfigError(f"log must be 'raft' or 'memory', not {self.log!r}")
        if self.node_id not in self.peers:
            raise ConfigError(f"peers must name this node, {self.node_id!r}")
        if self.log_format not in ("text", "json"):
            raise ConfigError(f"log_format must be 'text' or 'json', not {self.log_format!r}")
        if self.log == "memory" and len(self.peers) != 1:
            raise ConfigError("log = 'memory' is for one node alone")
        for address in (self.http, *(peer.raft for peer in self.peers.values())):
            _require_address(address)
        for peer in self.peers.values():
            if urlsplit(peer.url).scheme not in ("http", "https"):
                raise ConfigError("the url of a peer must be http or https")
            if "@" in urlsplit(peer.url).netloc:
                raise ConfigError("the url of a peer holds no user and password: every edge is told it")
        if not self.nats:
            raise ConfigError("nats needs at least one server url")
        if self.beacon_interval_ms < 10 or self.beacon_interval_ms * 4 > self.lease_ms:
            raise ConfigError("beacon_interval_ms must be at least 10 and allow four beacons within lease_ms")
        if not 50 <= self.election_ms_min < self.election_ms_max:
            raise ConfigError("election_ms_min must be at least 50 and below election_ms_max")
        for kind, certificate, key in (
            ("http", self.http_certificate, self.http_key),
            ("nats", self.nats_certificate, self.nats_key),
        ):
            if (certificate is None) != (key is None):
                raise ConfigError(f"{kind}_certificate and {kind}_key are given together or not at all")
        if self.signatures not in ("off", "check", "require"):
            raise ConfigError(f"signatures must be 'off', 'check' or 'require', not {self.signatures!r}")
        if self.signatures != "off" and self.publishers is None:
            raise ConfigError(f"signatures = {self.signatures!r} needs publishers")
        if self.requests_per_s < 1 or self.requests_burst < 1:
            raise ConfigError("requests_per_s and requests_burst must be at least 1")
        if len({self.raft_ca is None, self.raft_certificate is None, self.raft_key is None}) != 1:
            raise ConfigError("raft_ca, raft_certificate and raft_key are given together or not at all")
        if self.artifact_bytes_max < 1 or self.garbage_interval_ms < 100 or self.compaction_entries < 10:
            raise ConfigError("artifact_bytes_max, garbage_interval_ms or compaction_entries is too small")
        try:
            self.terms()
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def __repr__(self) -> str:
        """All settings, but no password that an address holds."""
        shown = ", ".join(f"{item.name}={_shown(getattr(self, item.name))!r}" for item in fields(self))
        return f"ServiceConfig({shown})"

    def terms(self) -> Terms:
        """What a new epoch is seeded with."""
        return Terms(lease_ms=self.lease_ms, margin_ms=self.margin_ms, rho_ppm=self.clock_drift_max_ppm)

    @property
    def artifacts_url(self) -> str:
        return self.artifacts or f"file://{(self.data_dir / 'artifacts').resolve()}"


_PATHS = frozenset(item.name for item in fields(ServiceConfig) if "Path" in str(item.type))


def load_config(path: Path | None) -> ServiceConfig:
    """The configuration in a TOML file, if any, with `CCS_NAME` from the environment over it. Raises `ConfigError`."""
    if path is None:
        return config_of({}, environ=dict(os.environ), origin="the environment")
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    return config_of(table, environ=dict(os.environ), origin=str(path))


def config_of(table: dict[str, Any], *, environ: dict[str, str], origin: str) -> ServiceConfig:
    """The configuration of a parsed table. Unknown names are refused, so that a typing error is not a default."""
    known = {item.name: item for item in fields(ServiceConfig)}
    unknown = sorted(table.keys() - known.keys())
    if unknown:
        raise ConfigError(f"{origin}: unknown setting {', '.join(unknown)}")
    values = dict(table)
    for name in known:
        if (text := environ.get(_ENV_PREFIX + name.upper())) is not None:
            values[name] = _peers(text) if name == "peers" else text.split(",") if name == "nats" else text
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{origin}: missing setting {', '.join(missing)}")
    try:
        return ServiceConfig(**{name: _typed(name, value, known[name].type) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{origin}: {error}") from None


def _typed(name: str, value: Any, annotation: Any) -> Any:
    if name == "peers":
        return {peer_id: Peer(**peer) for peer_id, peer in dict(value).items()}
    if name in _PATHS:
        return Path(value)
    if name == "nats":
        return tuple(value)
    if annotation == "bool":
        if value not in (True, False, "true", "false"):
            raise ConfigError(f"{name} must be true or false, not {value!r}")
        return value in (True, "true")
    if annotation == "int":
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name} must be a whole number, not {value!r}") from None
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, not {value!r}")
    return value


def _peers(text: str) -> dict[str, dict[str, str]]:
    """A table of peers as the environment has it: `ID RAFT URL, ID RAFT URL, …`."""
    rows = [row.split() for row in text.split(",")]
    if any(len(row) != 3 for row in rows) or len({row[0] for row in rows}) != len(rows):
        raise ConfigError(f"{_ENV_PREFIX}PEERS must be `ID HOST:PORT URL` for each node, with commas between them")
    return {node_id: {"raft": raft, "url": url} for node_id, raft, url in rows}


def _shown(value: object) -> object:
    """The value; of an address, all but user and password."""
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    return re.sub(r"://.*@", "://***@", value) if isinstance(value, str) else value


def _require_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{address!r} is not host:port")
