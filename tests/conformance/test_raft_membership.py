"""A cluster that changes its members while it works: on real sockets and disks, with restarts in between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from functools import partial

import pytest

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig
from consistency_service.adapters.raft_log import transport as transport_module
from consistency_service.errors import ConfigError
from consistency_service.runtime.ports import (
    AddMember,
    Committed,
    MembershipChange,
    MembershipRefused,
    NotLeader,
    RemoveMember,
    Unknown,
)
from tests.conformance.metadata_log_cluster import Cluster, Recorder, Seat, free_port


class Growing(Cluster):
    """Founded by `founders`; whoever comes later was told of those that were there."""

    founders: tuple[str, ...] = ("n1",)

    async def start(self) -> None:
        self.settings = {}
        self.peers = {name: f"127.0.0.1:{free_port()}" for name in self.founders}
        for name in self.founders:
            self.settings[name] = dict(self.peers)
            await self.open(name)

    def config(self, name: str) -> RaftLogConfig:
        known = self.settings[name]
        return dataclasses.replace(
            RaftLogConfig(
                node_id=name,
                listen=self.peers[name],
                peers=known,
                urls={node_id: f"http://{node_id}" for node_id in known},
                data_dir=self.directory / name,
                compaction_min_entries=self.compaction_min_entries,
                snapshot_part_bytes=512,
            ),
            join=name not in self.founders,
        )

    async def join(self, name: str) -> None:
        self.peers[name] = f"127.0.0.1:{free_port()}"
        alive = {seat.log.status().node_id for seat in self.alive()}
        self.settings[name] = {node_id: self.peers[node_id] for node_id in (*sorted(alive), name)}
        await self.open(name)

    async def change(self, change: MembershipChange) -> None:
        """Done by whoever leads; what is not known is asked again."""
        outcome: object = None
        for _ in range(50):
            outcome = await (await self.leader()).log.change_membership(change, timeout_ms=5_000)
            if isinstance(outcome, Committed):
                return
            assert not isinstance(outcome, MembershipRefused) or outcome.code in {"change_pending", "quorum_at_risk"}
            await asyncio.sleep(0.05)
        raise AssertionError(f"{change} was not made: {outcome}")

    async def add(self, name: str) -> None:
        await self.join(name)
        await self.change(AddMember(node_id=name, raft=self.peers[name], url=f"http://{name}"))

    async def remove(self, name: str) -> None:
        await self.change(RemoveMember(node_id=name))
        await self.close(name)

    async def restart(self, *names: str) -> None:
        for name in names:
            await self.close(name)
        for name in names:
            await self.open(name)

    async def agreed(self, *names: str) -> None:
        await self.until(
            lambda: all(seat.log.status().voters == names for seat in self.alive()), what=f"the voters {names}"
        )


@pytest.fixture
async def growing(tmp_path):
    cluster = Growing(kind="raft", directory=tmp_path, compaction_min_entries=60)
    await cluster.start()
    yield cluster
    await cluster.close_all()


class Load:
    """Proposes one command after another at whoever leads, and remembers what was acknowledged."""

    def __init__(self, cluster: Cluster, *, name: str) -> None:
        self.acknowledged: list[tuple[int, bytes]] = []
        self._cluster = cluster
        self._name = name

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            command = f"{self._name}-{number}".encode()
            leading = [seat for seat in self._cluster.alive() if seat.log.status().leading]
            if leading:
                outcome = await leading[0].log.propose(command, timeout_ms=1_000)
                if isinstance(outcome, Committed):
                    self.acknowledged.append((outcome.index, command))
            await asyncio.sleep(0.002)


@pytest.mark.timeout(120)
async def test_from_one_to_five_and_back_under_load_with_restarts_loses_nothing(growing):
    loads = [Load(growing, name=f"c{number}") for number in range(3)]

    def count() -> int:
        return sum(len(load.acknowledged) for load in loads)

    def lasting(wanted: int) -> bool:
        return count() >= wanted

    tasks = [asyncio.create_task(load.run()) for load in loads]
    try:
        for step in (
            growing.add("n2"),
            growing.add("n3"),
            growing.restart("n1"),
            growing.add("n4"),
            growing.restart("n2", "n3", "n4", "n1"),
            growing.add("n5"),
            growing.agreed("n1", "n2", "n3", "n4", "n5"),
            growing.restart("n5", "n2"),
            growing.remove("n1"),
            growing.remove("n4"),
            growing.restart("n2", "n3", "n5"),
            growing.agreed("n2", "n3", "n5"),
            growing.remove("n2"),
            growing.restart("n3", "n5"),
        ):
            await step
            await growing.until(partial(lasting, count() + 30), what="30 more acknowledged commands")
        leader = (await growing.leader()).log.status().node_id
        await growing.remove(leader)
        (last,) = {"n3", "n5"} - {leader}
        await growing.agreed(last)
        await growing.restart(last)
        await growing.until(partial(lasting, count() + 30), what="30 more acknowledged commands")
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    await growing.commit(b"end")
    applied = growing.seats[last].machine.applied
    acknowledged = [entry for load in loads for entry in load.acknowledged]

    assert len(acknowledged) > 200
    assert [] == [entry for entry in acknowledged if entry not in set(applied)]
    assert len(applied) == len(set(applied)) == len({index for index, _ in applied})
    assert (last,) == growing.seats[last].log.status().voters


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("away", "leader"), [("n1", "n4"), ("n3", "n2")], ids=["whom it dials", "who should dial it"])
async def test_a_voter_follows_a_leader_that_was_added_while_it_was_away(growing, monkeypatch, away, leader):
    """It has never heard of that node, and the others, content with their leader, tell it nothing."""
    monkeypatch.setattr(transport_module, "LONELY_S", 0.2)
    for name in sorted({"n2", "n3", "n4"} - {leader}):
        await growing.add(name)
    await growing.agreed(*sorted({"n1", "n2", "n3", "n4"} - {leader}))
    await growing.close(away)
    await growing.add(leader)
    while (led := await growing.leader()).log.status().node_id != leader:
        led.log.transfer(leader)
        await asyncio.sleep(0.2)
    for number in range(100):
        await growing.commit(b"%d" % number)
    await growing.open(away)

    await growing.until(lambda: growing.seats[away].log.status().leader_id == leader, what=f"{away} behind {leader}")
    await growing.agreed("n1", "n2", "n3", "n4")


async def test_the_stock_library_forgets_members_and_this_log_does_not(growing):
    await growing.add("n2")
    await growing.add("n3")
    for _ in range(80):
        await growing.commit(b"x")
    await growing.restart("n1", "n2", "n3")
    await growing.commit(b"y")

    await growing.agreed("n1", "n2", "n3")
    members = growing.seats["n1"].log.status().members
    assert [("n1", "http://n1"), ("n2", "http://n2"), ("n3", "http://n3")] == [(m.node_id, m.url) for m in members]
    assert growing.settings["n1"].keys() == {"n1"}
    await growing.close("n2")
    await growing.close("n3")
    await growing.until(lambda: not growing.seats["n1"].log.status().leading, what="one of three to stop leading")


async def test_what_cannot_be_done_is_refused_with_a_reason(growing):
    await growing.commit(b"a")
    log = growing.seats["n1"].log

    async def code(change: MembershipChange, *, timeout_ms: int = 2_000) -> str:
        outcome = await log.change_membership(change, timeout_ms=timeout_ms)
        return outcome.code if isinstance(outcome, MembershipRefused) else type(outcome).__name__

    absent = AddMember(node_id="n9", raft=f"127.0.0.1:{free_port()}", url="http://n9")
    assert "last_voter" == await code(RemoveMember(node_id="n1"))
    assert "unknown_member" == await code(RemoveMember(node_id="n7"))
    assert "invalid_member" == await code(dataclasses.replace(absent, raft="nowhere"))
    assert "member_exists" == await code(dataclasses.replace(absent, raft=growing.peers["n1"]))
    assert "Committed" == await code(AddMember(node_id="n1", raft=growing.peers["n1"], url="http://n1"))
    both = await asyncio.gather(code(absent, timeout_ms=1_000), code(dataclasses.replace(absent, node_id="n8")))
    assert ["catching_up", "change_pending"] == list(both)
    assert ("n1",) == log.status().voters
    await growing.commit(b"b")
    assert "Committed" == await code(RemoveMember(node_id="n9"))
    assert "member_removed" == await code(absent)
    assert "Committed" == await code(RemoveMember(node_id="n9"))


async def test_a_follower_refuses_and_a_leader_hands_over_before_it_goes(growing):
    await growing.add("n2")
    await growing.add("n3")
    leader = await growing.leader()
    other = next(seat for seat in growing.alive() if seat is not leader)
    name = leader.log.status().node_id

    assert isinstance(await other.log.change_membership(RemoveMember(node_id=name), timeout_ms=1_000), NotLeader)
    outcome = await leader.log.change_membership(RemoveMember(node_id=name), timeout_ms=1_000)
    assert isinstance(outcome, NotLeader)
    assert outcome.leader_id not in {None, name}
    await growing.remove(name)
    await growing.commit(b"without it")


async def test_a_removal_that_nobody_confirmed_is_not_called_done_when_it_is_asked_again(growing):
    await growing.add("n2")
    await growing.add("n3")
    leader = await growing.leader()
    others = [seat.log.status().node_id for seat in growing.alive() if seat is not leader]
    for name in others:
        await growing.close(name)

    first = await leader.log.change_membership(RemoveMember(node_id=others[0]), timeout_ms=200)
    assert isinstance(first, Unknown)
    again = await leader.log.change_membership(RemoveMember(node_id=others[0]), timeout_ms=200)
    assert isinstance(again, Unknown | NotLeader)


async def test_a_newcomer_reads_after_everything_acknowledged_before(growing):
    await growing.commit(b"a")
    await growing.add("n2")
    done = await growing.commit(b"b")
    seat: Seat = growing.seats["n2"]

    outcome = await seat.log.barrier(timeout_ms=2_000)
    while isinstance(outcome, NotLeader | Unknown):
        outcome = await seat.log.barrier(timeout_ms=2_000)
    assert (done.index, b"b") in seat.machine.applied


async def test_an_even_number_does_not_found_a_cluster(tmp_path):
    peers = {"n1": f"127.0.0.1:{free_port()}", "n2": f"127.0.0.1:{free_port()}"}
    config = RaftLogConfig(node_id="n1", listen=peers["n1"], peers=peers, data_dir=tmp_path)

    with pytest.raises(ConfigError, match="join = true"):
        await RaftLog(config).start(Recorder())
