"""What goes wrong, one blow at a time, and how it is mended at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consistency_service.core import restoring
from consistency_service.core.state import encode_state
from tests.simulation import workload
from tests.simulation.clock import GRAIN_NS, MS, S, on_grain
from tests.simulation.edge import SimEdge
from tests.simulation.fabric import Log

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World


class Nemesis:
    """Draws and deals blows while the run lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._term = 0

    def start(self) -> None:
        self._watch()
        self._later(self._blow)

    def _later(self, act) -> None:
        world = self._world
        world.at(world.now_ns + on_grain(world.rng.randrange(1, 2 * world.knobs.fault_every_ns)), act)

    # ---- leadership

    def _watch(self) -> None:
        """Where nobody leads who could, somebody is elected."""
        world = self._world
        able = [n for n in world.nodes if self._able(n)]
        if able and not any(n.leading for n in able):
            willing = [n for n in able if world.now_ns >= n.resigned_at_ns + 2 * S] or able
            self.elect(world.rng.choice(willing))
        world.at(world.now_ns + on_grain(world.rng.randrange(200 * MS, 500 * MS)), self._watch)

    def _able(self, node: SimNode) -> bool:
        log = self._world.log
        return node.alive and node.name not in log.cannot_propose and node.name not in log.cannot_learn

    def elect(self, winner: SimNode) -> None:
        """A new term. The old leader may believe in the old one for a while."""
        world, rng = self._world, self._world.rng
        self._term += 1
        term, token = self._term, world.new_token()
        world.judge.seen["elections"] += 1
        winner.run(None, winner.leads, world.log, term, token)
        world.log.propose(winner, None, token=token)
        if world.knobs.eager:
            for _ in range(4):
                world.at(world.now_ns + on_grain(rng.randrange(1, 30 * MS)), workload.activate, world)
        for node in world.nodes:
            if node is not winner:
                late_ns = 3 * world.knobs.lease_ms * MS if "wrong_leader" in world.active else 50 * MS
                world.at(world.now_ns + on_grain(rng.randrange(1, late_ns)), node.run, None, node.follows, term)

    # ---- blows

    def _blow(self) -> None:
        world = self._world
        if world.now_ns >= world.work_until_ns:
            return
        blows = [blow for name, blow in self._blows.items() if name in world.active]
        if blows:
            world.rng.choice(blows)(self)
        self._later(self._blow)

    def _election(self) -> None:
        """Somebody else leads; with partitions, perhaps behind the back of who led before."""
        world = self._world
        if "partition" in world.active and world.rng.random() < 0.5:
            world.log.cannot_learn = {node.name for node in world.nodes if node.leading}
        able = [n for n in world.nodes if self._able(n)]
        if able:
            self.elect(world.rng.choice(able))
        self._catch_up()

    def _crash(self) -> None:
        world, rng = self._world, self._world.rng
        processes: list[SimNode | SimEdge] = [*world.nodes, *world.edges]
        process = rng.choice(processes)
        if process.alive and (isinstance(process, SimEdge) or sum(n.alive for n in world.nodes) > 1):
            process.crash()
            world.judge.seen["crashes"] += 1
            world.at(world.now_ns + on_grain(rng.randrange(1, 4 * world.knobs.lease_ms * MS)), self.revive, process)

    def revive(self, process) -> None:
        if not process.alive:
            process.start()
            self._catch_up()

    def _partition(self) -> None:
        """Cut some nodes off from the log, for proposals, for news, or both; or mend it."""
        world, rng = self._world, self._world.rng
        log = world.log
        log.cannot_propose.clear()
        log.cannot_learn.clear()
        if rng.random() < 0.6:
            cut = {node.name for node in rng.sample(world.nodes, len(world.nodes) // 2)}
            kind = rng.randrange(3)
            if kind != 0:
                log.cannot_propose |= cut
            if kind != 1:
                log.cannot_learn |= cut
        self._catch_up()

    def _bus_partition(self) -> None:
        world, rng = self._world, self._world.rng
        bus = world.bus
        deaf = bus.cannot_hear
        bus.cannot_send, bus.cannot_hear = set(), set()
        for edge in world.edges:
            if edge.name in deaf:
                bus.redeliver(edge)
        if rng.random() < 0.7:
            everybody = [p.name for p in (*world.nodes, *world.edges)]
            cut = set(rng.sample(everybody, rng.randrange(1, len(everybody))))
            kind = rng.randrange(3)
            if kind != 0:
                bus.cannot_send |= cut
            if kind != 1:
                bus.cannot_hear |= cut

    def _bus_wipe(self) -> None:
        self._world.bus.wipe()

    def _distrust(self) -> None:
        """Of one life: a blow that waits for the end of a pause must not fall on the next life, after its mending."""
        world, rng = self._world, self._world.rng
        later_ns = world.now_ns + on_grain(rng.randrange(1, 4 * world.knobs.lease_ms * MS))
        processes: list[SimNode | SimEdge] = [*world.nodes, *world.edges]
        process = rng.choice(processes)
        if world.now_ns < process.loose_until_ns:
            return
        if "loose_clock" in world.active:
            later_ns = min(later_ns, world.work_until_ns)
            rate = rng.choice((GRAIN_NS // 2, GRAIN_NS * 9 // 10, GRAIN_NS * 11 // 10, 2 * GRAIN_NS, 5 * GRAIN_NS))
            process.run(process.life, process.clock_broke, later_ns, rate)
        else:
            process.run(process.life, process.clock_distrusted)
        world.at(later_ns, process.run, None, process.clock_trusted_again)

    def _install(self) -> None:
        """A node gets another's snapshot of the log."""
        world, rng = self._world, self._world.rng
        givers = [n for n in world.nodes if n.kept is not None and n.alive]
        takers = [n for n in world.nodes if n.name not in world.log.cannot_learn]
        if givers and takers:
            giver, taker = rng.choice(givers), rng.choice(takers)
            assert giver.kept is not None
            index, payload = giver.applied_index, giver.machine.snapshot()
            world.at(
                world.now_ns + on_grain(rng.randrange(1, S)), taker.run, None, taker.install, index, payload, world.log
            )

    def _restore(self) -> None:
        """The old cluster is stopped; a new one begins from a backup, in a greater epoch."""
        world, rng = self._world, self._world.rng
        if rng.random() < 0.8:
            return
        world.judge.seen["restores"] += 1
        for node in world.nodes:
            if node.alive:
                node.crash()
        world.log.closed = True
        backup = rng.choice(world.backups)
        world.log = Log(world, base=restored_state(backup, epoch=world.truth.position.epoch + rng.choice((1, 1, 5))))
        world.truth.restored(world.log.base, now_ns=world.now_ns)  # type: ignore[arg-type]
        if world.rollout_judge is not None:
            world.rollout_judge.restored(world.truth.machine.state)
        world.backups = [world.log.base]  # type: ignore[list-item]
        for node in world.nodes:
            node.kept = None
            world.at(world.now_ns + on_grain(rng.randrange(1, 500 * MS)), self.revive, node)

    _blows = {
        "election": _election,
        "crash": _crash,
        "partition": _partition,
        "bus_partition": _bus_partition,
        "bus_wipe": _bus_wipe,
        "distrust": _distrust,
        "install": _install,
        "restore": _restore,
    }

    def _catch_up(self) -> None:
        """Whoever can hears how far the log is."""
        world = self._world
        for node in world.nodes:
            world.at(
                world.now_ns + on_grain(world.rng.randrange(1, world.knobs.apply_ns)),
                world.log.show,
                node,
                len(world.log.entries),
            )

    # ---- the end

    def heal(self) -> None:
        """Everything works from now on; clocks drift as before."""
        world = self._world
        world.knobs.calm()
        world.active = frozenset()
        world.log.cannot_propose.clear()
        world.log.cannot_learn.clear()
        world.bus.cannot_send.clear()
        world.bus.cannot_hear.clear()
        if world.knobs.deaf_at_the_end:
            deaf = {node.name for node in world.nodes if node.authority.is_authority}
            world.bus.cannot_send |= deaf
            world.bus.cannot_hear |= deaf
        for process in (*world.nodes, *world.edges):
            self.revive(process)
        for node in world.nodes:
            node.run(None, node.clock_trusted_again)
            if node.term < self._term:  # where everything arrives, nobody believes in an old term for ever
                node.run(None, node.follows, self._term)
        for edge in world.edges:
            edge.run(None, edge.clock_trusted_again)
            world.bus.redeliver(edge)
        self._catch_up()


def restored_state(backup: bytes, *, epoch: int) -> bytes:
    """The first state of a new epoch, as the product makes it of a backup."""
    return encode_state(restoring.restored(backup, epoch=epoch, author="operator", at_unix_ms=0).state)
