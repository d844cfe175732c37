"""Carries out what the authority core wants: proposals into the log, beacons onto the bus (protocol, sections 3, 4).

Proposals are fire and forget: the core learns what became of one by seeing it apply. At most `PROPOSALS_MAX` are out at
a time; beyond that a confirmation is skipped, which only makes its beacon late.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from consistency_service.core.authority import (
    AskPeersForBus,
    Authority,
    Effect,
    Propose,
    PublishBeacon,
    Resign,
)
from consistency_service.core.commands import AnyCommand
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import BusUnavailableError, NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock, EventBus, LogStatus
from consistency_service.runtime.reads import Reads
from consistency_service.runtime.waking import wait_set
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import Beacon, encode_region
from edge_client.protocol.subjects import Subjects

_log = logging.getLogger(__name__)
PROPOSALS_MAX: Final = 40
PROPOSAL_TIMEOUT_MS: Final = 2_000
IDLE_NS: Final = 100_000_000

PeersBusWorks = Callable[[], Awaitable[bool]]


class AuthorityDriver:
    """Steps the authority core on ticks, on what is applied and on changes of leadership."""

    def __init__(
        self,
        *,
        core: Authority,
        metadata: Metadata,
        reads: Reads,
        bus: EventBus,
        clock: Clock,
        signer: Signer,
        subjects: Subjects,
        peers_bus_works: PeersBusWorks,
    ) -> None:
        self.core = core
        self.counters: Counter[str] = Counter()
        self._metadata = metadata
        self._reads = reads
        self._bus = bus
        self._clock = clock
        self._signer = signer
        self._subjects = subjects
        self._peers_bus_works = peers_bus_works
        self._wake = asyncio.Event()
        self._beacons: asyncio.Queue[Beacon] = asyncio.Queue(maxsize=PROPOSALS_MAX)
        self._proposals: set[asyncio.Task[None]] = set()
        self._ask_peers = False
        metadata.on_applied(self._applied)
        metadata.on_restored(self._restored)
        metadata.log.on_status_change(self._status_changed)

    async def run(self) -> None:
        """Drive until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_beacons(), name="beacons")
            while True:
                self._wake.clear()
                self._status_changed(self._metadata.log.status())
                self._carry_out(self.core.tick(now_ns=self._clock.now_ns()), group=group)
                if self._ask_peers:
                    self._ask_peers = False
                    group.create_task(self._ask_peers_for_bus(), name="peers-bus")
                await self._until_due()

    def beacon_heard(self, beacon: Beacon) -> None:
        """A verified beacon came in on the bus."""
        if beacon.clock_id == self.core.clock_id:
            self.core.own_beacon_heard()

    def published(self, *, through: int) -> None:
        """The relay has put every event up to `through` on the bus."""
        self.core.published(through=through)

    def clock_distrusted(self, clock_id: str) -> None:
        """Our clock broke its rate: go on under a new `clock_id`, as nobody's authority."""
        self._carry_out(self.core.clock_distrusted(clock_id, now_ns=self._clock.now_ns()))

    # ---- helpers

    async def _until_due(self) -> None:
        now_ns = self._clock.now_ns()
        deadline_ns = self.core.next_deadline_ns()
        wait_ns = IDLE_NS if deadline_ns is None else max(0, min(IDLE_NS, deadline_ns - now_ns))
        await wait_set(self._wake, timeout_s=max(wait_ns, 1_000_000) / 1e9)

    def _status_changed(self, status: LogStatus) -> None:
        leading = status.leading and status.term_settled
        self._queue(self.core.leadership(leading=leading, term=status.term, now_ns=self._clock.now_ns()))

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        self._queue(self.core.applied(command, outcome, now_ns=self._clock.now_ns()))

    def _restored(self) -> None:
        self._queue(self.core.restored(now_ns=self._clock.now_ns()))

    def _queue(self, effects: tuple[Effect, ...]) -> None:
        if effects:
            self._carry_out(effects)
            self._wake.set()

    def _carry_out(self, effects: tuple[Effect, ...], *, group: asyncio.TaskGroup | None = None) -> None:
        for effect in effects:
            match effect:
                case Propose(command=command):
                    self._propose(command)
                case PublishBeacon(beacon=beacon):
                    self._reads.beacon_received(beacon)
                    self._offer_beacon(beacon)
                case AskPeersForBus():
                    self._ask_peers = True
                case Resign():
                    _log.warning("authority_resigned clock_id=%s", self.core.clock_id)
                    self._metadata.log.resign()

    def _offer_beacon(self, beacon: Beacon) -> None:
        if self._beacons.full():
            self._beacons.get_nowait()
            self.counters["beacons_dropped"] += 1
        self._beacons.put_nowait(beacon)

    async def _publish_beacons(self) -> None:
        while True:
            beacon = await self._beacons.get()
            try:
                await self._bus.publish(self._subjects.beacon, payload=encode_region(beacon, signer=self._signer))
                self.counters["beacons_published"] += 1
            except BusUnavailableError:
                self.counters["beacons_unpublished"] += 1

    def _propose(self, command: AnyCommand) -> None:
        if len(self._proposals) >= PROPOSALS_MAX:
            self.counters["proposals_skipped"] += 1
            return
        task = asyncio.get_running_loop().create_task(self._propose_quietly(command))
        self._proposals.add(task)
        task.add_done_callback(self._proposals.discard)

    async def _propose_quietly(self, command: AnyCommand) -> None:
        command = msgspec.structs.replace(command, proposed_at_unix_ms=self._clock.unix_ms())
        try:
            await self._metadata.propose(command, timeout_ms=PROPOSAL_TIMEOUT_MS)
        except (NotLeaderError, UnknownOutcomeError):
            self.counters["proposals_unanswered"] += 1

    async def _ask_peers_for_bus(self) -> None:
        if await self._peers_bus_works():
            self._queue(self.core.peer_bus_works(now_ns=self._clock.now_ns()))
