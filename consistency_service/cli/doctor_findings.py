"""What the doctor can find: one entry for each fault, with a name that never changes and what to do about it.

docs/how-to/troubleshoot.md has a section for each name; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DOCS: Final = "docs/how-to/troubleshoot.md"


class Level(StrEnum):
    """How much it matters."""

    WRONG = "wrong"
    """Something does not work, or will not when it is needed."""
    WARNING = "warning"
    """It works, and somebody should look at it."""
    FINE = "fine"
    """It was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. `id` is that of `REMEDIES`."""

    id: str
    level: Level
    text: str

    @property
    def remedy(self) -> str:
        """What to do; empty where nothing is wrong."""
        return "" if self.level is Level.FINE else REMEDIES[self.id]

    @property
    def docs(self) -> str:
        return f"{DOCS}#{self.id}"


def wrong(name: str, text: str) -> Finding:
    return Finding(id=name, level=Level.WRONG, text=text)


def warning(name: str, text: str) -> Finding:
    return Finding(id=name, level=Level.WARNING, text=text)


def fine(name: str, text: str) -> Finding:
    return Finding(id=name, level=Level.FINE, text=text)


REMEDIES: Final[dict[str, str]] = {
    "settings": "mend the file; the sentence names the setting",
    "platform": "strong answers need Linux: run it there, or expect bounded ones",
    "clock-source": "choose a steady one: echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
    "clock-rate": "let the time daemon step rather than slew (chrony: maxslewrate 100), and look again in a minute",
    "suspended": "do not let this machine sleep: a node or an edge that was suspended begins anew",
    "port-taken": "stop what listens there, or give the node another port in http or peers",
    "data-dir": "make it, and give it to the user that the node runs as: chown and chmod 700",
    "disk-space": "make room, or move data_dir: a node with a full disk acknowledges nothing",
    "disk-latency": "give data_dir a disk of its own, with a power-safe cache: each commit waits for a majority's disks",
    "key-permissions": "chmod 600, and chown to the user that the node runs as",
    "certificate-expiry": "renew it (ccs certs issue --into DIR) and move the files over the old ones; no restart is needed",
    "descriptors": "raise it: LimitNOFILE=65536 in the unit, or ulimit -Hn",
    "memory-limit": "give the node at least 512 MiB, an edge what its models need and 256 MiB more",
    "lease-settings": "see the sentence; terms are fixed for the epoch, so a change needs a restore",
    "artifacts": "see that the object store is there, and that this user may read and write it",
    "peer-unreachable": "see that the node runs, and that no firewall is between: both its REST and its raft port are needed",
    "rest-refused": "show a token or a certificate with the role viewer: --token-file, --certificate and --key",
    "region-unreachable": "start a node, or name one with --url",
    "no-leader": "start nodes until a majority of the voters runs; then look at peer-unreachable",
    "no-authority": "wait some seconds after a start; if it stays so, look at clock-rate and bus-unreachable of the leader",
    "no-lease": "the node answers through the log, slower; see whether it hears the bus and how far it is behind",
    "node-behind": "see its disk (disk-latency) and its link to the leader; it catches up by itself",
    "disk-fault": "look at the disk of that node; `ccs cluster recover` if its log is damaged",
    "removed": "stop the node: it is no member any more, and its id cannot come back",
    "version-skew": "finish the upgrade; until then use nothing that only the newer release knows",
    "bus-unreachable": "see that the server runs and listens there, and that TLS and credentials are those it wants",
    "bus-jetstream": "put a jetstream block into the server's configuration; nodes keep the stream of events there",
    "bus-replicas": "set stream_replicas = 3, and: nats stream edit --replicas 3",
    "bus-lost": "see whether the node reaches the bus: run ccs doctor --config on its machine",
    "redis-unreachable": "start it, or mend the edge's local: without it an edge begins with nothing after a restart",
    "redis-memory": "set maxmemory and maxmemory-policy allkeys-lru: a full Redis takes no artifact any more",
    "trust": "give the edge the region's public line (ccs keys): it believes nothing that another key signed",
    "clock-uncertainty": "bring nodes and edges closer, or spare the machine: the width adds to each switch",
    "round-trip": "put nodes nearer to each other: each commit takes a round trip",
    "edge-weak": "run ccs doctor --edge FILE on its machine; `ccs edges` says what it serves",
    "epoch-behind": "the region was restored with a clock that is behind: restore again with a greater --epoch-min",
}
"""By name, in the order in which they are looked at. Names never change."""
