"""What a metadata log promises, held against the one in memory and the replicated one; then what only a replica can break."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consistency_service.adapters.raft_log import RaftLog, wire
from consistency_service.adapters.raft_log import transport as transport_module
from consistency_service.errors import LogStorageError
from consistency_service.runtime.ports import Committed, NotLeader, Unknown
from tests.conformance.metadata_log_cluster import POISON, Cluster, Recorder, free_port

REPLICATED = ("raft", "raft-tls")
KINDS = ("memory", *REPLICATED)


@pytest.fixture(params=KINDS)
async def cluster(request, tmp_path):
    cluster = Cluster(kind=request.param, directory=tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close_all()


@pytest.fixture(params=REPLICATED)
async def raft(request, tmp_path):
    cluster = Cluster(kind=request.param, directory=tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close_all()


@pytest.fixture
async def plain(tmp_path):
    """Without TLS: whoever reaches the port gets as far as the greeting."""
    cluster = Cluster(kind="raft", directory=tmp_path)
    await cluster.start()
    yield cluster
    await cluster.close_all()


def raft_log(seat) -> RaftLog:
    assert isinstance(seat.log, RaftLog)
    return seat.log


def replica_of(seat) -> Any:
    return raft_log(seat)._replica


# Both.


async def test_every_node_applies_the_same_commands_at_the_same_indices_in_the_order_of_commit(cluster):
    leader = await cluster.leader()
    outcomes = [await leader.log.propose(b"%d" % n, timeout_ms=2_000) for n in range(20)]

    assert [n + 1 for n in range(20)] == [outcome.outcome.revision for outcome in outcomes]
    expected = [(outcome.index, b"%d" % n) for n, outcome in enumerate(outcomes)]
    await cluster.converged([b"%d" % n for n in range(20)])
    assert all(expected == seat.machine.applied for seat in cluster.alive())


async def test_concurrent_proposals_each_hear_of_their_own_command(cluster):
    leader = await cluster.leader()
    commands = [b"c%d" % n for n in range(200)]
    outcomes = await asyncio.gather(*(leader.log.propose(command, timeout_ms=5_000) for command in commands))

    assert sorted(zip((outcome.index for outcome in outcomes), commands, strict=True)) == leader.machine.applied


async def test_a_command_has_been_applied_here_when_its_proposer_hears_so(cluster):
    leader = await cluster.leader()
    outcome = await leader.log.propose(b"a", timeout_ms=2_000)

    assert [(outcome.index, b"a")] == leader.machine.applied
    assert leader.log.status().applied_index >= outcome.index


async def test_a_barrier_comes_after_everything_committed_and_leaves_the_machine_alone(cluster):
    committed = await cluster.commit(b"a")
    leader = await cluster.leader()
    barrier = await leader.log.barrier(timeout_ms=2_000)

    assert isinstance(barrier, Committed)
    assert barrier.outcome.ok
    assert barrier.index >= committed.index
    assert [b"a"] == leader.machine.commands


async def test_a_command_above_a_mebibyte_is_refused_and_one_of_a_mebibyte_is_not(cluster):
    leader = await cluster.leader()
    with pytest.raises(ValueError, match="1048576"):
        await leader.log.propose(bytes((1 << 20) + 1), timeout_ms=1_000)

    assert isinstance(await leader.log.propose(bytes(1 << 20), timeout_ms=5_000), Committed)
    await cluster.converged([bytes(1 << 20)])


async def test_a_restart_of_all_replays_the_same_state(cluster):
    for n in range(10):
        await cluster.commit(b"%d" % n)
    await cluster.converged([b"%d" % n for n in range(10)])
    before = cluster.seats["n1"].machine.applied
    await cluster.close_all()
    for name in cluster.peers:
        await cluster.open(name)

    await cluster.converged([b"%d" % n for n in range(10)])
    assert all(before == seat.machine.applied for seat in cluster.alive())
    await cluster.commit(b"more")
    await cluster.converged([*(b"%d" % n for n in range(10)), b"more"])


@pytest.mark.parametrize("kind", KINDS)
async def test_after_compaction_a_restart_begins_with_the_snapshot(kind, tmp_path):
    cluster = Cluster(kind=kind, directory=tmp_path, compaction_min_entries=20)
    await cluster.start()
    for n in range(90):
        await cluster.commit(b"%d" % n)
    await cluster.converged([b"%d" % n for n in range(90)])
    before = cluster.seats["n1"].machine.applied
    await cluster.close_all()
    for name in cluster.peers:
        await cluster.open(name)

    await cluster.converged([b"%d" % n for n in range(90)])
    assert all(before == seat.machine.applied and len(seat.machine.restored_at) == 1 for seat in cluster.alive())
    await cluster.close_all()


async def test_a_machine_that_raises_is_fatal_and_its_proposer_is_not_told_of_success(cluster):
    leader = await cluster.leader()
    if cluster.kind == "memory":
        with pytest.raises(ZeroDivisionError):
            await leader.log.propose(POISON, timeout_ms=1_000)
    else:
        assert isinstance(await leader.log.propose(POISON, timeout_ms=1_000), Unknown)

    assert len(leader.fatal) == 1
    assert "poisoned" in leader.fatal[0]
    assert not leader.log.status().leading
    assert isinstance(await leader.log.propose(b"a", timeout_ms=1_000), NotLeader)


async def test_a_closed_log_proposes_nothing(cluster):
    leader = await cluster.leader()
    await leader.log.close()
    leader.open = False

    assert isinstance(await leader.log.propose(b"a", timeout_ms=1_000), NotLeader)
    assert isinstance(await leader.log.barrier(timeout_ms=1_000), NotLeader)
    assert leader.statuses[-1].leading is False


async def test_listeners_hear_when_a_node_leads_and_when_its_term_is_settled(cluster):
    leader = await cluster.leader()

    assert leader.statuses[-1].leading
    assert leader.statuses[-1].term_settled
    assert leader.statuses[-1].leader_id == leader.log.status().node_id


# Replicas.


async def test_a_follower_proposes_nothing_and_hints_at_the_leader(raft):
    leader = await raft.leader()
    await raft.commit(b"a")
    await raft.converged([b"a"])
    followers = [seat for seat in raft.alive() if seat is not leader]
    outcomes = [await seat.log.propose(b"b", timeout_ms=1_000) for seat in followers]

    assert [NotLeader(leader_id=leader.log.status().node_id)] * 2 == outcomes
    await raft.commit(b"c")
    await raft.converged([b"a", b"c"])


async def test_without_a_majority_a_proposal_ends_as_unknown_within_its_timeout(raft):
    leader = await raft.leader()
    for seat in raft.alive():
        if seat is not leader:
            await raft.close(seat.log.status().node_id)
    begun = time.monotonic()
    outcome = await leader.log.propose(b"a", timeout_ms=300)

    assert isinstance(outcome, Unknown)
    assert time.monotonic() - begun < 0.6
    assert leader.machine.applied == []
    await raft.until(lambda: not leader.log.status().leading, what="a leader without followers to give up")


async def test_when_the_leader_is_gone_another_takes_over_and_nothing_acknowledged_is_lost(raft):
    for n in range(5):
        await raft.commit(b"%d" % n)
    leader = await raft.leader()
    await raft.close(leader.log.status().node_id)
    begun = time.monotonic()
    await raft.commit(b"after")

    assert time.monotonic() - begun < 3
    await raft.converged([*(b"%d" % n for n in range(5)), b"after"])
    await raft.open(leader.log.status().node_id)
    await raft.converged([*(b"%d" % n for n in range(5)), b"after"])


async def test_who_resigns_makes_room_for_another_and_stays_out_for_a_while(raft):
    leader = await raft.leader()
    pending = asyncio.ensure_future(leader.log.barrier(timeout_ms=5_000))
    await asyncio.sleep(0)
    leader.log.resign()

    assert not leader.log.status().leading
    assert isinstance(await pending, NotLeader | Unknown | Committed)
    await raft.commit(b"a")
    assert (await raft.leader()) is not leader


async def test_a_follower_that_missed_the_compacted_log_gets_the_snapshot_in_parts(tmp_path):
    cluster = Cluster(kind="raft", directory=tmp_path, compaction_min_entries=20)
    await cluster.start()
    await cluster.commit(b"first")
    leader = await cluster.leader()
    name = next(name for name, seat in cluster.seats.items() if seat is not leader)
    await cluster.close(name)
    commands = [b"%04d" % n for n in range(300)]
    for command in commands:
        await cluster.commit(command)
    await cluster.until(lambda: journal_begins_after(cluster, at=100), what="the log to be compacted")
    late = await cluster.open(name)

    await cluster.converged([b"first", *commands])
    assert late.machine.restored_at[-1] > 100
    assert (await cluster.leader()).machine.applied == late.machine.applied
    await cluster.close_all()


def journal_begins_after(cluster: Cluster, *, at: int) -> bool:
    return all(replica_of(seat)._journal[0][1] > at for seat in cluster.alive())


async def test_entries_that_only_a_deposed_leader_has_are_never_applied_and_never_acknowledged(raft):
    """The stock library reports success here, and applies them at the old leader alone."""
    await raft.commit(b"a")
    old = await raft.leader()
    replica = replica_of(old)
    length, send = len(replica._journal), replica.voter.replication._send
    replica.voter.replication._send = lambda *_: True  # what it says is lost from here on
    proposals = [asyncio.ensure_future(old.log.propose(b"lost%d" % n, timeout_ms=5_000)) for n in range(3)]
    await raft.until(lambda: len(replica._journal) == length + 3, what="three entries that nobody else has")
    outcomes = await asyncio.gather(*proposals)
    replica.voter.replication._send = send

    assert [Unknown(reason="this node does not lead any more")] * 3 == outcomes
    await raft.commit(b"b")
    await raft.converged([b"a", b"b"])


async def test_a_second_process_on_one_directory_is_refused(raft):
    second = RaftLog(raft.config("n1"))
    with pytest.raises(LogStorageError, match="another process"):
        await second.start(Recorder())


async def test_an_address_that_is_taken_is_refused_and_everything_released(raft, tmp_path):
    config = raft.config("n1")
    other = Cluster(kind="raft", directory=tmp_path / "other", peers=dict(raft.peers))
    log = RaftLog(other.config("n1"))
    with pytest.raises(LogStorageError, match="cannot listen"):
        await log.start(Recorder())

    other.peers["n1"] = f"127.0.0.1:{free_port()}"
    again = RaftLog(other.config("n1"))
    await again.start(Recorder())
    await again.close()
    assert config.listen == raft.peers["n1"]


# Hostile words on the raft port.


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def hello(plain: Cluster, *, sender: str, target: str) -> bytes:
    return wire.encode(wire.Hello(version=1, cluster_id="ccs", sender=sender, target=target))


async def say(address: str, *, data: bytes) -> bytes:
    """What was answered until the node hung up."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_garbage_on_the_raft_port_is_counted_and_harms_nothing(plain):
    await plain.commit(b"a")
    leader = await plain.leader()
    name = leader.log.status().node_id
    other = next(node_id for node_id in plain.peers if node_id != name)
    term = leader.log.status().term
    empty = struct.pack(">I", 0)
    garbage = [
        b"\xff" * 4_000,
        b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n" + b" " * 600,
        struct.pack(">I", 1 << 31),
        empty,
        wire.encode(wire.HandOver(term=1 << 60)),
        wire.encode(wire.Hello(version=1, cluster_id="another", sender=other, target=name)),
        wire.encode(wire.Hello(version=1, cluster_id="ccs", sender="readonly", target=other)),
        wire.encode(wire.Hello(version=2, cluster_id="ccs", sender=other, target=name)),
        hello(plain, sender=other, target=other),
        hello(plain, sender=name, target=name),
        hello(plain, sender=other, target=name) + empty,
        hello(plain, sender=other, target=name) + struct.pack(">I", wire.FRAME_BYTES_MAX + 1),
        hello(plain, sender=other, target=name) + struct.pack(">I", 60_000) + b"\x91" * 60_000,
        hello(plain, sender=other, target=name) + struct.pack(">I", 14) + b"apply_command!",
    ]
    before = raft_log(leader).counters().get("frames_refused", 0)
    for data in garbage:
        await say(plain.peers[name], data=data)

    assert before + len(garbage) == raft_log(leader).counters()["frames_refused"]
    assert term == leader.log.status().term
    await plain.commit(b"b")
    await plain.converged([b"a", b"b"])
    assert all(seat.fatal == [] for seat in plain.alive())


async def test_a_pickle_on_the_raft_port_is_never_executed(plain, tmp_path):
    """In the library's own frame and in ours, before the greeting and after it."""
    trace = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(trace))
    squeezed = zlib.compress(bomb, 3)
    await plain.commit(b"a")
    for name, address in plain.peers.items():
        other = next(node_id for node_id in plain.peers if node_id != name)
        for frame in (
            struct.pack("i", len(squeezed)) + squeezed,
            struct.pack(">I", len(squeezed)) + squeezed,
            struct.pack(">I", len(bomb)) + bomb,
        ):
            await say(address, data=frame + b"\0" * 2_000)
            await say(address, data=hello(plain, sender=other, target=name) + frame + b"\xff" * 5)

    assert not trace.exists()
    pickle.loads(bomb)
    assert trace.exists()
    await plain.commit(b"b")
    await plain.converged([b"a", b"b"])


async def test_strangers_who_say_nothing_are_few_and_short_lived(raft):
    """Without TLS and with it: who does not get on with it gives way to whoever comes next."""
    await raft.leader()
    host, port = raft.peers["n1"].split(":")
    knocks = await asyncio.gather(
        *(asyncio.open_connection(host, int(port)) for _ in range(200)), return_exceptions=True
    )
    log = raft_log(raft.seats["n1"])
    transport: Any = log._transport
    most = 200 - transport_module.STRANGERS_MAX

    def turned_away() -> int:
        return log.counters().get("connections_refused", 0) + log.counters().get("strangers_evicted", 0)

    await raft.until(lambda: turned_away() >= most, what=f"{most} of 200 to be turned away")
    assert len(transport.strangers) <= transport_module.STRANGERS_MAX
    await raft.until(lambda: transport.strangers == [], what="the others to be dropped")
    for knock in knocks:
        if not isinstance(knock, BaseException):
            knock[1].close()


# Real processes.


class Voter:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.conformance.metadata_log_node", json.dumps(self.settings)),
            cwd=Path(__file__).parents[2],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 22,
        )

    async def ask(self, line: str) -> dict[str, Any]:
        await self.tell(line)
        return await self.answer()

    async def tell(self, line: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        async with asyncio.timeout(10):
            return dict(json.loads(await self.process.stdout.readline()))

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


async def leading_voter(voters: list[Voter]) -> Voter:
    async with asyncio.timeout(10):
        while True:
            for voter in voters:
                if (await voter.ask("status"))["settled"]:
                    return voter
            await asyncio.sleep(0.02)
    raise AssertionError


def voters_in(directory: Path) -> list[Voter]:
    peers = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2", "n3")}
    common = {"peers": peers, "compaction_min_entries": 60}
    return [
        Voter({**common, "node_id": name, "listen": address, "data_dir": str(directory / name)})
        for name, address in peers.items()
    ]


@dataclass
class Burst:
    """Commands proposed one after another, and what was heard of them."""

    number: int = 0
    acknowledged: set[tuple[int, str]] = field(default_factory=set)

    async def propose(self, leader: Voter, *, count: int) -> None:
        for _ in range(count):
            self.number += 1
            answer = await leader.ask(f"propose c{self.number}")
            if answer["outcome"] == "Committed":
                self.acknowledged.add((answer["index"], f"c{self.number}"))

    async def agreed(self, voters: list[Voter]) -> set[tuple[int, str]]:
        """What every voter has applied, the same on each."""
        leader = await leading_voter(voters)
        assert (await leader.ask("propose last"))["outcome"] == "Committed"
        await asyncio.sleep(0.3)
        first, *others = [(await voter.ask("applied"))["applied"] for voter in voters]
        assert all(first == other for other in others)
        return {(index, command) for index, command in first}


@pytest.mark.slow
async def test_a_leader_killed_five_times_takes_no_acknowledged_command_with_it(tmp_path):
    voters, burst = voters_in(tmp_path), Burst()
    try:
        for voter in voters:
            await voter.start()
        for _ in range(5):
            leader = await leading_voter(voters)
            await burst.propose(leader, count=50)
            await leader.tell("propose under way")
            await leader.kill()
            await leader.start()
        applied = await burst.agreed(voters)
    finally:
        for voter in voters:
            await voter.kill()

    assert len(burst.acknowledged) > 200
    assert burst.acknowledged <= applied


@pytest.mark.slow
async def test_all_killed_at_once_around_compactions_lose_no_acknowledged_command(tmp_path):
    """The stock library loses some in nearly every such round."""
    voters, burst = voters_in(tmp_path), Burst()
    try:
        for count in (55, 61, 67, 5):
            for voter in voters:
                await voter.start()
            await burst.propose(await leading_voter(voters), count=count)
            await asyncio.gather(*(voter.kill() for voter in voters))
        for voter in voters:
            await voter.start()
        applied = await burst.agreed(voters)
    finally:
        for voter in voters:
            await voter.kill()

    assert len(burst.acknowledged) > 150
    assert burst.acknowledged <= applied


@pytest.mark.slow
async def test_a_leader_that_was_paused_neither_acknowledges_nor_keeps_what_it_was_told_meanwhile(tmp_path):
    voters, burst = voters_in(tmp_path), Burst()
    try:
        for voter in voters:
            await voter.start()
        old = await leading_voter(voters)
        await burst.propose(old, count=10)
        assert old.process is not None
        old.process.send_signal(signal.SIGSTOP)
        await old.tell("propose stale")
        others = [voter for voter in voters if voter is not old]
        await burst.propose(await leading_voter(others), count=10)
        old.process.send_signal(signal.SIGCONT)
        stale = await old.answer()
        applied = await burst.agreed(voters)
    finally:
        for voter in voters:
            await voter.kill()

    assert len(burst.acknowledged) == 20
    assert burst.acknowledged <= applied
    assert stale["outcome"] == "Committed" or "stale" not in {command for _, command in applied}
