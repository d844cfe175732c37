"""A cluster of either metadata log in one event loop, and a machine that remembers what it was told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from consistency_service.adapters import certificates
from consistency_service.adapters.memory_log import MemoryLog
from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, RaftTls
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import SnapshotError
from consistency_service.runtime.ports import Committed, LogStatus, MetadataLog

POISON = b"poison"


class Recorder:
    """A `StateMachine` whose state is the list of commands it applied, each with its index."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []
        self.restored_at: list[int] = []

    def apply(self, *, index: int, command: bytes) -> Outcome:
        if command == POISON:
            raise ZeroDivisionError("poisoned")
        assert not self.applied or index > self.applied[-1][0]
        self.applied.append((index, command))
        return Outcome(revision=len(self.applied))

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.applied)

    def restore(self, *, state: bytes, index: int) -> None:
        try:
            self.applied = msgspec.msgpack.decode(state, type=list[tuple[int, bytes]])
        except msgspec.MsgspecError as error:
            raise SnapshotError(str(error)) from error
        self.restored_at.append(index)

    @property
    def commands(self) -> list[bytes]:
        return [command for _, command in self.applied]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(directory: Path, *, cluster_id: str, node_ids: list[str]) -> None:
    """An authority and a certificate for each node, unless they are there."""
    now = datetime.now(tz=UTC)
    if not certificates.authority_files(directory).key.exists():
        certificates.create_authority(directory, cluster_id=cluster_id, now=now)
    for node_id in node_ids:
        if not certificates.node_files(directory, node_id).key.exists():
            certificates.issue(directory, node_id=node_id, now=now)


def tls_of(directory: Path, node_id: str) -> RaftTls:
    files = certificates.node_files(directory, node_id)
    return RaftTls(ca=directory / "ca.crt", certificate=files.certificate, key=files.key)


@dataclass
class Seat:
    log: MetadataLog
    machine: Recorder
    fatal: list[str]
    statuses: list[LogStatus]
    open: bool = True


@dataclass
class Cluster:
    """`kind` is "memory" (one node), "raft" or "raft-tls" (three). Every wait is bounded by ten seconds."""

    kind: str
    directory: Path
    compaction_min_entries: int = 5_000
    seats: dict[str, Seat] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        names = ["n1"] if self.kind == "memory" else ["n1", "n2", "n3"]
        self.peers = {name: f"127.0.0.1:{free_port()}" for name in names}
        if self.kind == "raft-tls":
            make_certificates(self.directory / "certs", cluster_id="ccs", node_ids=names)
        for name in names:
            await self.open(name)

    def config(self, name: str) -> RaftLogConfig:
        return RaftLogConfig(
            node_id=name,
            listen=self.peers[name],
            peers=self.peers,
            data_dir=self.directory / name,
            compaction_min_entries=self.compaction_min_entries,
            snapshot_part_bytes=512,
            tls=tls_of(self.directory / "certs", name) if self.kind == "raft-tls" else None,
        )

    async def open(self, name: str) -> Seat:
        """Started, with a machine that knows nothing; a memory log is the one that was closed."""
        fatal: list[str] = []
        statuses: list[LogStatus] = []
        log: MetadataLog
        if self.kind != "memory":
            log = RaftLog(self.config(name), on_fatal=fatal.append)
        elif name in self.seats:
            log, fatal = self.seats[name].log, self.seats[name].fatal
        else:
            log = MemoryLog(node_id=name, compaction_min_entries=self.compaction_min_entries, on_fatal=fatal.append)
        seat = Seat(log=log, machine=Recorder(), fatal=fatal, statuses=statuses)
        log.on_status_change(statuses.append)
        await log.start(seat.machine)
        self.seats[name] = seat
        return seat

    async def close(self, name: str) -> None:
        seat = self.seats[name]
        if seat.open:
            seat.open = False
            await seat.log.close()

    async def close_all(self) -> None:
        for name in self.seats:
            await self.close(name)

    def alive(self) -> list[Seat]:
        return [seat for seat in self.seats.values() if seat.open]

    async def until(self, condition: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            await asyncio.sleep(0.01)

    async def leader(self) -> Seat:
        def settled() -> list[Seat]:
            return [seat for seat in self.alive() if seat.log.status().term_settled]

        await self.until(lambda: len(settled()) == 1, what="a settled leader")
        return settled()[0]

    async def commit(self, command: bytes) -> Committed:
        """Committed, by whoever leads by then."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            seat = await self.leader()
            outcome = await seat.log.propose(command, timeout_ms=2_000)
            if isinstance(outcome, Committed):
                return outcome
        raise AssertionError(f"{command!r} was not committed in ten seconds")

    async def converged(self, commands: list[bytes]) -> None:
        await self.until(
            lambda: all(seat.machine.commands == commands for seat in self.alive()),
            what=f"{len(commands)} commands everywhere",
        )
