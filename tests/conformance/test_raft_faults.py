"""The replicated log on disks that are full, slow, damaged or gone, and what its neighbours notice."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import time
from typing import Any

import pytest

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.adapters.raft_log.disk import SystemFile
from consistency_service.adapters.raft_log.recovery import recover
from consistency_service.errors import LogStorageError
from consistency_service.runtime.ports import Committed, NotLeader, Unknown
from tests.conformance.metadata_log_cluster import Cluster, Seat


class Tuned(Cluster):
    """Three raft nodes with other settings."""

    settings: dict[str, Any] = {}

    def config(self, name: str) -> RaftLogConfig:
        return dataclasses.replace(super().config(name), **self.settings)


def raft_log(seat: Seat) -> RaftLog:
    assert isinstance(seat.log, RaftLog)
    return seat.log


@pytest.fixture
async def raft(tmp_path):
    cluster = Tuned(kind="raft", directory=tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close_all()


class Faults:
    """What the disks below these directories do."""

    def __init__(self, monkeypatch) -> None:
        self.full: set[str] = set()
        self.slow_s: dict[str, float] = {}
        self._paths: dict[int, str] = {}
        make, write, sync = SystemFile.__init__, SystemFile.write, SystemFile.sync

        def make_noted(file, path, *, flags, durable):
            make(file, path, flags=flags, durable=durable)
            file.place = path.parent.name
            file.size = 0 if flags else path.stat().st_size

        def write_or_not(file, data, *, offset):
            if file.place in self.full and offset + len(data) > file.size:
                raise OSError(errno.ENOSPC, "no space left on device")
            write(file, data, offset=offset)
            file.size = max(file.size, offset + len(data))

        def sync_late(file):
            time.sleep(self.slow_s.get(file.place, 0))
            sync(file)

        monkeypatch.setattr(SystemFile, "__init__", make_noted)
        monkeypatch.setattr(SystemFile, "write", write_or_not)
        monkeypatch.setattr(SystemFile, "sync", sync_late)


@pytest.fixture
def faults(monkeypatch) -> Faults:
    return Faults(monkeypatch)


async def test_a_leader_without_room_hands_over_says_so_and_takes_part_again(faults, raft):
    await raft.commit(b"a")
    old = await raft.leader()
    name = old.log.status().node_id
    faults.full.add(name)
    outcome = await old.log.propose(b"b", timeout_ms=2_000)

    assert isinstance(outcome, Committed | Unknown)
    await raft.until(lambda: not old.log.status().leading, what="the full leader to hand over")
    assert "no room" in str(old.log.status().storage_fault)
    assert raft_log(old).counters()["leads_given_up_for_disk"] == 1
    await raft.commit(b"c")
    assert old.fatal == []
    faults.full.clear()
    await raft.until(lambda: old.log.status().storage_fault is None, what="room to be noticed")
    await raft.commit(b"d")
    leader = await raft.leader()
    await raft.converged(leader.machine.commands)
    assert {b"a", b"c", b"d"} <= set(leader.machine.commands)


async def test_without_room_anywhere_nothing_is_acknowledged_and_nobody_ends(faults, raft):
    await raft.commit(b"a")
    faults.full |= {"n1", "n2", "n3"}
    outcomes = [await seat.log.propose(b"b", timeout_ms=300) for seat in raft.alive()]

    assert not any(isinstance(outcome, Committed) for outcome in outcomes)
    await asyncio.sleep(0.5)
    assert all(seat.fatal == [] and seat.machine.commands == [b"a"] for seat in raft.alive())
    faults.full.clear()
    await raft.commit(b"c")


async def test_a_leader_with_a_slow_disk_hands_over_to_a_faster_one(faults, tmp_path):
    cluster = Tuned(kind="raft", directory=tmp_path)
    cluster.settings = {"sync_slow_ms": 100, "sync_slow_for_ms": 400}
    await cluster.start()
    try:
        old = await cluster.leader()
        faults.slow_s[old.log.status().node_id] = 0.15
        begun = time.monotonic()
        while old.log.status().leading and time.monotonic() - begun < 8:
            await old.log.propose(b"x", timeout_ms=500)
        assert not old.log.status().leading
        assert raft_log(old).counters()["leads_given_up_for_disk"] == 1
        assert (await cluster.leader()) is not old
        assert isinstance(await cluster.commit(b"y"), Committed)
    finally:
        faults.slow_s.clear()
        await cluster.close_all()


async def test_a_read_at_any_node_sees_what_was_acknowledged_before_it_began(raft):
    for number in range(20):
        await raft.commit(b"%d" % number)
        for seat in raft.alive():
            outcome = await seat.log.barrier(timeout_ms=2_000)
            assert isinstance(outcome, Committed)
            assert b"%d" % number == seat.machine.commands[-1]


async def test_reads_write_nothing(raft):
    await raft.commit(b"a")
    leader = await raft.leader()
    before = leader.log.status().commit_index
    for seat in raft.alive():
        await asyncio.gather(*(seat.log.barrier(timeout_ms=2_000) for _ in range(50)))

    assert before == leader.log.status().commit_index


async def test_a_read_without_a_majority_is_not_confirmed(raft):
    leader = await raft.leader()
    for seat in raft.alive():
        if seat is not leader:
            await raft.close(seat.log.status().node_id)

    assert isinstance(await leader.log.barrier(timeout_ms=200), Unknown)
    assert isinstance(await leader.log.barrier(timeout_ms=3_000), NotLeader)


async def test_a_lead_is_handed_to_whom_one_names_within_moments(raft):
    leader = await raft.leader()
    heir = next(seat for seat in raft.alive() if seat is not leader)
    begun = time.monotonic()

    assert heir.log.status().node_id == raft_log(leader).transfer(heir.log.status().node_id)
    await raft.until(lambda: heir.log.status().term_settled, what="the heir to lead")
    assert time.monotonic() - begun < 0.3
    with pytest.raises(ValueError, match="no other voter"):
        raft_log(leader).transfer("n9")


async def test_a_node_that_lost_its_memory_catches_up_before_it_counts(raft):
    for number in range(5):
        await raft.commit(b"%d" % number)
    await raft.close("n3")
    await raft.commit(b"5")
    directory = raft.directory / "n3"
    data = bytearray((directory / "journal").read_bytes())
    data[70] ^= 1
    (directory / "journal").write_bytes(data)
    with pytest.raises(LogStorageError, match="ccs cluster recover"):
        await RaftLog(raft.config("n3")).start(raft.seats["n3"].machine)

    recover(directory, node_id="n3", others_hold_quorum=True)
    seat = await raft.open("n3")
    assert "lost its memory" in str(seat.log.status().storage_fault)
    await raft.until(lambda: seat.log.status().storage_fault is None, what="n3 to count again")
    await raft.converged([b"%d" % number for number in range(6)])
    others = [name for name in raft.peers if name != "n3"]
    await raft.close(others[0])
    await raft.commit(b"6")  # a majority only with n3


async def test_process_durability_syncs_nothing_and_outlives_a_stop(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr("consistency_service.adapters.raft_log.disk.os.fdatasync", synced.append)
    cluster = Tuned(kind="raft", directory=tmp_path)
    cluster.settings = {"durability": "process"}
    await cluster.start()
    await cluster.commit(b"a")
    await cluster.close_all()
    for name in cluster.peers:
        await cluster.open(name)
    await cluster.converged([b"a"])
    await cluster.close_all()

    assert [] == synced
