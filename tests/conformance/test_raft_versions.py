"""A cluster of two releases: what one does not know, it does not do by halves."""

from __future__ import annotations

from typing import cast

import msgspec

from consistency_service.adapters.raft_log import RaftLog
from consistency_service.core import commands as c
from consistency_service.core.commands import COMMAND_VERSION, encode_command
from consistency_service.core.outcomes import Outcome
from consistency_service.core.state import State
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Committed
from edge_client.protocol.models import Policy, Terms
from tests.conformance.metadata_log_cluster import Cluster, Seat

FUTURE = bytes((COMMAND_VERSION,)) + msgspec.msgpack.encode({"type": "RenameRegion", "region": "new"})


class Next(Metadata):
    """The metadata of the next release, which knows one more command."""

    def apply(self, *, index: int, command: bytes) -> Outcome:
        if command != FUTURE:
            return super().apply(index=index, command=command)
        self.machine.state.region = "new"
        self.machine.state.revision += 1
        return Outcome(revision=self.machine.state.revision)


class Mixed(Cluster):
    """Each node has the release that `releases` says."""

    releases: dict[str, type[Metadata]]

    async def open(self, name: str) -> Seat:
        fatal: list[str] = []
        log = RaftLog(self.config(name), on_fatal=fatal.append)
        seat = Seat(log=log, machine=self.releases[name](log=log), fatal=fatal, statuses=[])  # type: ignore[arg-type]
        await log.start(seat.machine)
        self.seats[name] = seat
        return seat

    def state(self, name: str) -> State:
        return cast("Metadata", self.seats[name].machine).state


async def test_a_node_stops_at_a_command_that_it_does_not_know_and_goes_on_when_upgraded(tmp_path):
    cluster = Mixed(kind="raft", directory=tmp_path)
    cluster.releases = {"n1": Next, "n2": Metadata, "n3": Next}
    await cluster.start()
    try:
        leader = await cluster.leader()
        if leader is cluster.seats["n2"]:
            leader.log.transfer("n1")
            await cluster.until(lambda: cluster.seats["n1"].log.status().term_settled, what="n1 to lead")
        await cluster.commit(encode_command(c.Bootstrap(region="old", region_epoch=1, terms=Terms())))
        await cluster.commit(FUTURE)
        await cluster.until(lambda: bool(cluster.seats["n2"].fatal), what="n2 to stop")

        assert "upgrade this node" in cluster.seats["n2"].fatal[0]
        assert cluster.state("n2").region == "old"
        await cluster.close("n2")
        assert isinstance(await cluster.commit(encode_command(c.CreateModel(model="m", policy=Policy()))), Committed)

        # It stops again for as long as it is the old release, and changes nothing.
        again = await cluster.open("n2")
        await cluster.until(lambda: bool(again.fatal), what="n2 to stop again")
        await cluster.close("n2")
        cluster.releases["n2"] = Next
        await cluster.open("n2")
        await cluster.until(lambda: "m" in cluster.state("n2").models, what="n2 to catch up")
        states = [seat.machine.snapshot() for seat in cluster.seats.values()]
        assert states[0] == states[1] == states[2] and not any(seat.fatal for seat in cluster.alive())
    finally:
        await cluster.close_all()
