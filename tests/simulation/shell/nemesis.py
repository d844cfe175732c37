"""What goes wrong, one blow at a time, and how it is mended at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from edge_client.protocol.messages import Beacon, Event, encode_region
from edge_client.protocol.subjects import Subjects
from tests.fakes.bus import Message
from tests.simulation.clock import MS, S
from tests.simulation.shell.node import REGION

if TYPE_CHECKING:
    from tests.simulation.shell.edge import EdgeBox
    from tests.simulation.shell.node import Machine
    from tests.simulation.shell.world import World


class Nemesis:
    """Draws and deals blows while the run lasts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.chaos
        blows = {
            "kill": self._kill,
            "power": self._power,
            "blackout": self._blackout,
            "stop": self._stop,
            "pause": self._pause,
            "partition": self._partition,
            "reset": self._reset,
            "bus_partition": self._bus_partition,
            "bus_down": self._bus_down,
            "bus_wipe": self._bus_wipe,
            "disk_full": self._disk_full,
            "disk_slow": self._disk_slow,
            "disk_broken": self._disk_broken,
            "edge_restart": self._edge_restart,
            "tier_away": self._tier_away,
            "forgery": self._forge,
        }
        self.blows = [(name, blow) for name, blow in blows.items() if world.knobs.on(name)]

    def steady(self) -> None:
        """What is wrong all the time."""
        world, knobs, rng = self.world, self.world.knobs, self.rng
        if knobs.on("bus_loss"):
            world.hub.loss_chance = rng.choice((0.02, 0.2))
        if knobs.on("bus_repeat"):
            world.hub.repeat_chance = 0.1
        if knobs.on("bus_late"):
            world.hub.late_chance, world.hub.late_ns = 0.05, rng.choice((50, 1_500)) * MS
        if knobs.on("bus_answers"):
            world.hub.lost_answer_chance = 0.3
        if knobs.on("slow_network"):
            world.network.late_chance, world.network.late_ns = 0.01, rng.choice((30, 400)) * MS
        if knobs.on("artifacts"):
            faults = world.source_faults
            faults.unavailable, faults.cut, faults.corrupt = 0.1, 0.2, 0.2
        if knobs.on("hiccup"):
            world.hiccup_chance = rng.choice((0.0003, 0.002))

    async def rage(self) -> None:
        world, rng = self.world, self.rng
        while self.blows:
            await asyncio.sleep(rng.uniform(0.1, 1.9) * world.knobs.fault_every_ns / 1e9)
            if world.loop.now_ns >= world.work_until_ns:
                return
            name, blow = rng.choice(self.blows)
            world.judge.seen[f"blow_{name}"] += 1
            blow()

    def heal(self) -> None:
        """No fault from now on, but for clocks that drift."""
        world = self.world
        world.say("nemesis: heals")
        hub, network, faults = world.hub, world.network, world.source_faults
        hub.loss_chance = hub.repeat_chance = hub.late_chance = hub.lost_answer_chance = 0.0
        network.late_chance = world.hiccup_chance = 0.0
        faults.unavailable = faults.cut = faults.corrupt = 0.0
        network.set_cut(set())
        hub.bring_up()
        for bus in hub._buses:
            bus._cut = bus.deaf = bus.mute = False  # type: ignore[attr-defined]
        for machine in world.machines.values():
            machine.cut_in, machine.slow_ns = None, 0
            machine.disk.full = machine.disk.broken = False
            machine.start_again()
        for edge in world.edges:
            if edge.redis is not None:
                edge.redis.away = False
            edge.start_again()

    # Blows.

    def _living(self) -> list[Machine]:
        return [machine for machine in self.world.machines.values() if machine.alive]

    def _later(self, act, *args, after_ns: int | None = None) -> None:
        after_ns = self.rng.randrange(50 * MS, 3 * S) if after_ns is None else after_ns
        self.world.loop.at_ns(self.world.loop.now_ns + after_ns, act, *args)

    def _kill(self) -> None:
        if living := self._living():
            machine = self.rng.choice(living)
            machine.kill()
            self._later(machine.start_again)

    def _power(self) -> None:
        """At once, or in the middle of the next things it does to its disk."""
        if living := self._living():
            machine = self.rng.choice(living)
            if self.rng.random() < 0.5 and not self.world.knobs.contents:
                machine.power_cut()
            else:
                machine.cut_in = self.rng.randrange(1, 40)
            self._later(machine.start_again)

    def _blackout(self) -> None:
        """Everywhere at once."""
        contents = self.rng.choice(("dropped", "dropped", "torn", None))
        for machine in self._living():
            machine.power_cut(contents=contents, names="synced" if contents else None)
        for machine in self.world.machines.values():
            self._later(machine.start_again, after_ns=self.rng.randrange(50 * MS, 800 * MS))

    def _stop(self) -> None:
        if living := self._living():
            machine = self.rng.choice(living)
            self.world.background(machine.stop())
            self._later(machine.start_again)

    def _pause(self) -> None:
        everybody: list[Machine | EdgeBox] = [*self._living(), *self.world.edges]
        processes = [p.process for p in everybody if p.alive]
        if processes:
            self.rng.choice(processes).pause(self.rng.choice((50, 400, 1_500, 4_000)) * MS)

    def _partition(self) -> None:
        """Some nodes apart from the others, one node's words unheard, or every direction as chance will."""
        names, rng = list(self.world.machines), self.rng
        pairs = [(a, b) for a in names for b in names if a != b]
        match rng.randrange(4):
            case 0:
                cut = set()
            case 1:
                apart = set(rng.sample(names, rng.randrange(1, len(names))))
                cut = {(a, b) for a, b in pairs if (a in apart) != (b in apart)}
            case 2:
                one = rng.choice(names)
                cut = {pair for pair in pairs if pair[0] == one}
            case _:
                cut = {pair for pair in pairs if rng.random() < 0.4}
        self.world.say(f"nemesis: cuts {sorted(cut)}")
        self.world.network.set_cut(cut)
        if cut:
            self._later(self.world.network.set_cut, set())

    def _reset(self) -> None:
        network = self.world.network
        for connection in [c for c in network.connections if self.rng.random() < 0.5]:
            network.hang_up(connection)

    def _bus_partition(self) -> None:
        """Somebody is cut off, hears nothing, or is not heard."""
        buses = list(self.world.hub._buses)
        if not buses:
            return
        bus = self.rng.choice(buses)
        fault = self.rng.choice(("_cut", "deaf", "mute"))
        setattr(bus, fault, True)
        self._later(setattr, bus, fault, False)

    def _bus_down(self) -> None:
        self.world.hub.take_down()
        self._later(self.world.hub.bring_up)

    def _bus_wipe(self) -> None:
        self.world.hub.wipe_streams()

    def _disk_full(self) -> None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.disk.full = True
        self._later(self._make_room, machine)

    def _make_room(self, machine: Machine) -> None:
        machine.disk.full = False

    def _disk_slow(self) -> None:
        machine = self.rng.choice(list(self.world.machines.values()))
        machine.slow_ns = self.rng.choice((30, 300, 1_200)) * MS
        self._later(self._hurry, machine)

    def _hurry(self, machine: Machine) -> None:
        machine.slow_ns = 0

    def _disk_broken(self) -> None:
        """The next sync fails; the process must end, and begins again on a disk that works."""
        if living := self._living():
            machine = self.rng.choice(living)
            machine.disk.broken = True
            self._later(self._mend, machine)

    def _mend(self, machine: Machine) -> None:
        machine.disk.broken = False
        machine.start_again()

    def _edge_restart(self) -> None:
        edge = self.rng.choice(self.world.edges)
        if edge.alive:
            edge.kill()
            edge.meddle()
            self._later(edge.start_again)

    def _forge(self) -> None:
        """Somebody on the bus says what the region never said, under its name and without its key."""
        world, rng = self.world, self.rng
        truth = world.truth
        state = truth.machine.state
        if not state.models or state.authority is None:
            return
        subjects = Subjects(REGION)
        clock = world.clock_ids[state.authority.clock_id]
        lie: Beacon | Event = Beacon(
            epoch=state.epoch,
            revision=0,
            clock_id=state.authority.clock_id,
            assumption=state.authority.assumption,
            assumed_at_ns=0,
            t0_ns=clock.read(world.loop.now_ns) + 20 * S,
        )
        subject = subjects.beacon
        if rng.random() < 0.5:
            view = truth.views[truth.position][rng.choice(list(state.models))]
            forged = msgspec.structs.replace(view, generation=view.generation + 1, pending=None)
            lie = Event(
                epoch=state.epoch,
                revision=state.revision + 1,
                name="Forged",
                at_unix_ms=0,
                models=(forged,),
                removed=(),
            )
            subject = subjects.event
        frame = bytearray(encode_region(lie, signer=world.signer))
        frame[20] ^= 1
        world.hub.publish(Message(subject=subject, payload=bytes(frame), reply_to=None))

    def _tier_away(self) -> None:
        tiers = [edge.redis for edge in self.world.edges if edge.redis is not None]
        if tiers:
            tier = self.rng.choice(tiers)
            tier.away = True
            self._later(setattr, tier, "away", False)
