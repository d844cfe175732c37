"""A cluster that begins again from a backup, while survivors of the one before it are still about: on real sockets."""

from __future__ import annotations

import asyncio
import shutil

import msgspec
import pytest

from consistency_service.adapters.raft_log import found, lineage, transport
from consistency_service.errors import LogStorageError
from consistency_service.runtime.ports import AddMember, Committed
from tests.conformance.metadata_log_cluster import Seat
from tests.conformance.test_raft_membership import Growing

EPOCH = 1_800_000_000
OLD, BACKUP = [b"old-%d" % number for number in range(60)], [(1, b"kept")]


class Restored(Growing):
    founders: tuple[str, ...] = ("n1", "n2", "n3")

    def restore(self, name: str) -> None:
        shutil.rmtree(self.directory / name)
        found(self.config(name), state=msgspec.msgpack.encode(BACKUP), lineage=EPOCH)

    async def leader_among(self, *names: str) -> Seat:
        def settled() -> list[Seat]:
            return [self.seats[name] for name in names if self.seats[name].log.status().term_settled]

        await self.until(lambda: len(settled()) == 1, what="a leader of the survivors")
        return settled()[0]

    async def join_again(self, name: str) -> None:
        """With an empty directory, as a newcomer under its old name."""
        shutil.rmtree(self.directory / name, ignore_errors=True)
        self.founders = tuple(founder for founder in self.founders if founder != name)
        self.settings[name] = dict(self.peers)
        await self.open(name)


@pytest.fixture
async def cluster(tmp_path):
    cluster = Restored(kind="raft", directory=tmp_path, compaction_min_entries=20)
    await cluster.start()
    leader = await cluster.leader()
    for command in OLD:
        assert isinstance(await leader.log.propose(command, timeout_ms=5_000), Committed)
    for _ in range(3):  # so that their term is greater than that of whoever begins anew
        (await cluster.leader()).log.transfer(None)
        await asyncio.sleep(0.3)
    yield cluster
    await cluster.close_all()


async def led(seat: Seat) -> None:
    async with asyncio.timeout(10):
        while not seat.log.status().term_settled:
            await asyncio.sleep(0.02)


async def test_survivors_of_the_old_history_never_mix_in(cluster):
    """Two of three old nodes, a majority of theirs, go on: with a longer log, in a greater term, and the same names."""
    await cluster.close("n1")
    cluster.restore("n1")
    await cluster.open("n1")
    restored, old = cluster.seats["n1"], await cluster.leader_among("n2", "n3")
    await led(restored)
    assert isinstance(await restored.log.propose(b"new", timeout_ms=5_000), Committed)
    assert isinstance(await old.log.propose(b"older", timeout_ms=5_000), Committed)
    await asyncio.sleep(1.5)

    assert restored.machine.commands == [b"kept", b"new"]
    assert restored.log.status().voters == ("n1",) and restored.log.status().leading
    assert old.machine.commands[-1] == b"older" and b"new" not in old.machine.commands
    assert restored.log.counters().get("histories_refused", 0) > 0

    # One of them is emptied and joins under its old name, while the last survivor still speaks to it.
    await cluster.close("n2")
    await cluster.join_again("n2")
    newcomer = AddMember(node_id="n2", raft=cluster.peers["n2"], url="http://n2")
    assert isinstance(await restored.log.change_membership(newcomer, timeout_ms=10_000), Committed)
    assert isinstance(await restored.log.propose(b"newer", timeout_ms=5_000), Committed)
    await cluster.until(
        lambda: cluster.seats["n2"].machine.commands == [b"kept", b"new", b"newer"], what="the new history at n2"
    )
    assert b"new" not in cluster.seats["n3"].machine.commands

    # It keeps its history over a restart, and may lead.
    await cluster.close("n2")
    await cluster.open("n2")
    await led(restored)
    restored.log.transfer("n2")
    await led(cluster.seats["n2"])
    assert isinstance(await cluster.seats["n2"].log.propose(b"newest", timeout_ms=5_000), Committed)
    assert cluster.seats["n3"].machine.commands[-1] == b"older"


async def test_without_lineages_a_survivor_takes_the_restored_node_over(cluster, monkeypatch):
    """The rule switched off: what the test above is there for."""
    monkeypatch.setattr(transport.PeerTransport, "_of_our_history", lambda *_: True)
    await cluster.close("n1")
    cluster.restore("n1")
    await cluster.open("n1")
    restored = cluster.seats["n1"]
    await cluster.until(
        lambda: restored.log.status().leader_id in {"n2", "n3"}, what="a survivor that leads the restored node"
    )


async def test_a_directory_with_a_log_is_not_overwritten(cluster):
    await cluster.close("n1")

    with pytest.raises(LogStorageError, match="holds a log already"):
        found(cluster.config("n1"), state=b"", lineage=EPOCH)
    with pytest.raises(LogStorageError, match="used by another"):
        found(cluster.config("n2"), state=b"", lineage=EPOCH)


def test_names_with_and_without_lineage():
    assert lineage.split(lineage.named("ccs", number=7)) == ("ccs", 7)
    assert lineage.split(lineage.named("ccs", number=0)) == ("ccs", 0)
    assert lineage.split("a#b") == ("a#b", 0)
