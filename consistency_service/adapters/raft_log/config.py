"""Every knob of the replicated log, refused here if it makes no sense."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from consistency_service.config import is_loopback
from consistency_service.errors import ConfigError

_URI_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, with IPv6 hosts in brackets. Raises `ConfigError`."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{address!r} is not host:port")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(f"{host!r} is no host name: {error}") from error
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftTls:
    """PEM files. Replaced ones are noticed within seconds and used for new connections; no restart is needed."""

    ca: Path
    """Whom to believe: one authority, or several while one takes over from another."""

    certificate: Path
    """This node's, naming `ccs://CLUSTER/node/NODE_ID`."""

    key: Path
    """Not encrypted, and readable by its owner alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftLogConfig:
    node_id: str

    listen: str
    """`host:port` to bind, and nothing but that host."""

    peers: Mapping[str, str]
    """Nodes by their id, this one included, with the `host:port` at which the others reach it.

    On an empty `data_dir` these are the founders of the cluster, all with a vote. Afterwards the log says who is a member,
    and these are addresses at which members may be found.
    """

    data_dir: Path
    """Belongs to this node alone. Losing it means losing a vote: give the node a new id rather than an empty directory."""

    urls: Mapping[str, str] = field(default_factory=dict)
    """Base URLs of founders, kept in the log for whoever asks where a member is."""

    join: bool = False
    """An empty `data_dir` founds nothing: the node waits until a cluster that has it as a member speaks to it, and has no
    vote before it holds all that cluster's log. Has no effect on a `data_dir` that is not empty.
    """

    cluster_id: str = "ccs"
    """Nodes of another cluster are refused."""

    tls: RaftTls | None = None
    """Mutual TLS between nodes. Without it whoever reaches the port is believed to be who it says, so only loopback will do."""

    insecure: bool = False
    """Listen beyond loopback without TLS: every host of that network can then rewrite the log."""

    election_timeout_min_ms: int = 300
    election_timeout_max_ms: int = 600
    """A follower stands after a silence drawn from this range. Lower fails over sooner; higher forgives longer stalls."""

    heartbeat_ms: int = 50
    """At most this long between two words of the leader. Also how late a follower may apply what is committed."""

    tick_ms: int = 20
    """How often deadlines are looked at. Messages and proposals do not wait for it."""

    connection_timeout_ms: int = 3_000
    """A peer silent for so long is reconnected; each side speaks at least three times as often."""

    connection_retry_ms: int = 200

    resign_hold_ms: int = 2_000
    """How long a node that resigned does not stand for election."""

    compaction_min_entries: int = 5_000
    """The log is replaced by a snapshot beyond this many entries. Higher spares snapshots; lower shortens a restart."""

    compaction_min_bytes: int = 64 << 20
    """Or beyond this many bytes, however few the entries are. Memory holds the log, too: for a follower far behind up to four
    times as many bytes and sixteen times as many entries.
    """

    command_bytes_max: int = 1 << 20
    batch_bytes_max: int = 4 << 20
    """Entries sent to a follower in one message, one command more at most."""

    snapshot_part_bytes: int = 1 << 18
    backlog_bytes_max: int = 16 << 20
    """Beyond so many unsent bytes a peer is sent nothing more until it has caught up."""

    proposals_max: int = 4_096
    """Proposals under way, and as many reads; one more is answered `Unknown` at once, and counted."""

    durability: Literal["fsync", "process"] = "fsync"
    """`fsync`: nothing is acknowledged before a majority's disks have it. `process`: before their kernels have it. That
    outlives the kill of every process, and no machine: a power cut or a kernel crash may take acknowledged commands
    and votes with it, and a node that lost a vote can vote twice. For tests and throw-away clusters.
    """

    sync_inline_max_us: int = 5_000
    """The event loop itself waits for syncs while they usually take less; above, a thread does, and one sync covers all
    that came meanwhile. Handing over costs some 0.3 ms of a commit; not handing over makes reads and heartbeats wait for
    the disk. 0: always the thread.
    """

    sync_slow_ms: int = 250
    sync_slow_for_ms: int = 2_000
    """A leader none of whose syncs took less than `sync_slow_ms` for `sync_slow_for_ms` hands over to a faster node."""

    disk_hold_ms: int = 10_000
    """How long a node that gave up leadership for its disk does not stand for election."""

    def __post_init__(self) -> None:
        if self.node_id not in self.peers:
            raise ConfigError(f"peers must name this node, {self.node_id!r}")
        for address in (self.listen, *self.peers.values()):
            split_address(address)
        if not all(0 < len(name) <= 64 for name in (self.cluster_id, *self.peers)):
            raise ConfigError("cluster_id and node ids have 1 to 64 characters")
        if self.tls is None and not self.insecure and not is_loopback(self.listen):
            raise ConfigError(f"raft listens on {self.listen} and needs tls there: see `ccs certs`")
        if self.tls is not None and not all(_URI_NAME.fullmatch(name) for name in (self.cluster_id, *self.peers)):
            raise ConfigError("with tls, cluster_id and node ids have only letters, digits and . _ -")
        if self.heartbeat_ms * 3 >= self.election_timeout_min_ms:
            raise ConfigError("election_timeout_min_ms must allow more than three heartbeats")
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ConfigError("election_timeout_max_ms must exceed election_timeout_min_ms")
        if self.connection_timeout_ms < self.election_timeout_max_ms:
            raise ConfigError("connection_timeout_ms must not be below election_timeout_max_ms")
        if self.durability not in {"fsync", "process"}:
            raise ConfigError(f"durability is fsync or process, not {self.durability!r}")
        if self.compaction_min_entries < 10:
            raise ConfigError("compaction_min_entries must be at least 10")
        if self.compaction_min_bytes < self.command_bytes_max:
            raise ConfigError("compaction_min_bytes must hold a whole command")
        if self.command_bytes_max > self.batch_bytes_max:
            raise ConfigError("batch_bytes_max must hold a whole command")
