"""The bus in memory, with a way to travel: messages are lost, repeated, late and out of order, and some hear nothing.

`deaf` and `mute` are one-way partitions that nobody notices; `cut` and `take_down` are noticed by the client library, as
NATS's pings would.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from consistency_service.errors import BusUnavailableError
from tests.fakes.bus import Connection, FakeBus, FakeEventBus, Hub, Inflow, Message
from tests.simulation.clock import MS
from tests.simulation.shell.loop import Process, VirtualLoop

if TYPE_CHECKING:
    from consistency_service.runtime.ports import StreamTail
    from edge_client.protocol.subjects import Subjects


class SimHub(Hub):
    """A server somewhere else."""

    def __init__(self, *, loop: VirtualLoop, rng: Random) -> None:
        super().__init__()
        self.loop = loop
        self.rng = rng
        self.delay_ns = 5 * MS
        self.late_ns = 0
        self.loss_chance = self.repeat_chance = self.late_chance = 0.0
        self.lost_answer_chance = 0.0
        """An event is stored, and its sender never learns so."""
        self.counters: Counter[str] = Counter()
        self.carry = self._travel
        self._due_ns: dict[Inflow, int] = {}

    def publish(self, message: Message) -> None:
        super().publish(message)
        self.published.clear()

    def forget(self, bus: Connection) -> None:
        """Its process is dead."""
        bus._open = False
        if bus in self._buses:
            self._buses.remove(bus)

    def travel_ns(self) -> int:
        return self.rng.randrange(self.delay_ns // 20, self.delay_ns)

    def _travel(self, inflow: Inflow, message: Message) -> None:
        rng, now_ns = self.rng, self.loop.now_ns
        if inflow.bus.deaf or rng.random() < self.loss_chance:  # type: ignore[attr-defined]
            self.counters["lost"] += 1
            return
        process: Process = inflow.bus.process  # type: ignore[attr-defined]
        for _ in range(1 + (rng.random() < self.repeat_chance)):
            if rng.random() < self.late_chance:
                self.counters["late"] += 1
                due_ns = now_ns + self.travel_ns() + rng.randrange(self.late_ns)
            else:
                due_ns = self._due_ns[inflow] = max(self._due_ns.get(inflow, 0), now_ns + self.travel_ns())
            self.loop.at_ns(due_ns, self._arrive, inflow, message, context=process.context)

    def _arrive(self, inflow: Inflow, message: Message) -> None:
        if inflow.bus.connected:
            inflow.offer(message)


class _Plugged(Connection):
    """What both sides' buses have in common here."""

    hub: SimHub
    process: Process
    deaf = mute = False

    def _publish(self, subject: str, *, payload: bytes, reply_to: str | None = None, trace: str = "") -> None:
        if not self.process.alive:
            raise self.unavailable("dead")
        if self.mute:
            self.hub.counters["unheard"] += 1
            return
        super()._publish(subject, payload=payload, reply_to=reply_to, trace=trace)


class SimBus(_Plugged, FakeBus):
    """The edge's."""

    def __init__(self, hub: SimHub, *, process: Process) -> None:
        FakeBus.__init__(self, hub)
        self.process = process


class SimEventBus(_Plugged, FakeEventBus):
    """The service's: what it asks the stream takes a way there and a way back."""

    def __init__(self, hub: SimHub, *, subjects: Subjects, process: Process) -> None:
        FakeEventBus.__init__(self, hub, subjects=subjects)
        self.process = process

    async def stream_tail(self) -> StreamTail:
        await self._way()
        tail = await super().stream_tail()
        await self._way()
        return tail

    async def append(self, *, payload: bytes, message_id: str, expected_sequence: int, trace: str = "") -> int:
        await self._way()
        sequence = await super().append(
            payload=payload, message_id=message_id, expected_sequence=expected_sequence, trace=trace
        )
        self.hub.counters["stored"] += 1
        await self._way()
        if self.hub.rng.random() < self.hub.lost_answer_chance:
            raise BusUnavailableError("no answer")
        return sequence

    async def _way(self) -> None:
        await asyncio.sleep(self.hub.travel_ns() / 1e9)
        if not self.process.alive or self.deaf or self.mute:
            raise BusUnavailableError("no answer")
