"""Hears the bus on behalf of a node, and answers: clocks, snapshots, reports (protocol, sections 2 and 7).

Everything that comes in is bounded in size before it is read and in rate by the bus's pending limits; what is not
acceptable is counted under its reason and dropped. Only a verified region message ever reaches a core.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from consistency_service.errors import BusUnavailableError
from consistency_service.runtime.authority import AuthorityDriver
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock, Delivery, EventBus
from consistency_service.runtime.reads import Reads
from consistency_service.runtime.snapshots import Snapshots
from edge_client.protocol.envelope import Signer, Verifier
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    ClockRequest,
    EdgeReport,
    MessageError,
    ReportReply,
    SnapshotRefused,
    SnapshotRequest,
    decode_edge,
    decode_region,
    encode_edge,
    encode_region,
)
from edge_client.protocol.position import Position
from edge_client.protocol.reader import SendClockRequest
from edge_client.protocol.subjects import Subjects

REPLIES_MAX: Final = 4_096
PENDING_MAX: Final = 8_192
NONCE_BYTES_MAX: Final = 32
SNAPSHOTS_MAX: Final = 64


class Answers:
    """The node's ears and mouth on the bus."""

    def __init__(
        self,
        *,
        node_id: str,
        url: str,
        metadata: Metadata,
        reads: Reads,
        authority: AuthorityDriver,
        fleet: FleetDriver,
        snapshots: Snapshots,
        bus: EventBus,
        clock: Clock,
        signer: Signer,
        verifier: Verifier,
        subjects: Subjects,
        inbox: str,
        bus_knows_edges: bool = False,
    ) -> None:
        self._bus_knows_edges = bus_knows_edges
        self._node_id = node_id
        self._url = url
        self._metadata = metadata
        self._reads = reads
        self._authority = authority
        self._fleet = fleet
        self._snapshots = snapshots
        self._bus = bus
        self._clock = clock
        self._signer = signer
        self._verifier = verifier
        self._subjects = subjects
        self._inbox = inbox
        self.counters: Counter[str] = Counter()
        self._replies: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(maxsize=REPLIES_MAX)
        self._snapshot_requests: asyncio.Queue[tuple[str, SnapshotRequest]] = asyncio.Queue(maxsize=SNAPSHOTS_MAX)
        self._subscribed: set[str] = set()
        self._clock_subject = ""

    async def run(self) -> None:
        """Listen and answer until cancelled."""
        subscribe, subjects = self._subscribe, self._subjects
        await subscribe(subjects.beacon, handler=self._beacon)
        await subscribe(self._inbox, handler=self._clock_reply)
        await subscribe(subjects.clock, handler=self._clock_request)
        await self.clock_renamed(self._authority.core.clock_id)
        await subscribe(subjects.snapshot, handler=self._snapshot_request, queue="nodes")
        await subscribe(subjects.reports, handler=self._own_report)
        if not self._bus_knows_edges:
            # Edges of the version before. Where the bus knows who is who, nobody could be held to the id in the report.
            await subscribe(subjects.report, handler=self._report)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_replies(), name="replies")
            group.create_task(self._send_snapshots(), name="snapshots")
            group.create_task(self._sample_clocks(), name="clock-samples")

    async def clock_renamed(self, clock_id: str) -> None:
        """Answer clock requests under this id, and under none that the clock had before."""
        before, self._clock_subject = self._clock_subject, self._subjects.clock_of(clock_id)
        await self._subscribe(self._clock_subject, handler=self._clock_request)
        if before not in ("", self._clock_subject):
            await self._bus.unsubscribe(before)
            self._subscribed.discard(before)

    async def _subscribe(self, subject: str, *, handler: Callable[[Delivery], None], queue: str = "") -> None:
        """Once, however often this driver begins again."""
        if subject not in self._subscribed:
            await self._bus.subscribe(subject, handler=handler, pending_max=PENDING_MAX, queue=queue)
            self._subscribed.add(subject)

    # ---- what comes in

    def _beacon(self, delivery: Delivery) -> None:
        message = self._region_message(delivery)
        if isinstance(message, Beacon):
            self._authority.beacon_heard(message)
            self._reads.beacon_received(message)
        elif message is not None:
            self.counters["unexpected_type"] += 1

    def _clock_reply(self, delivery: Delivery) -> None:
        message = self._region_message(delivery)
        if isinstance(message, ClockReply):
            self._reads.clock_reply_received(message)
        elif message is not None:
            self.counters["unexpected_type"] += 1

    def _clock_request(self, delivery: Delivery) -> None:
        message = self._edge_message(delivery)
        if not isinstance(message, ClockRequest) or len(message.nonce) > NONCE_BYTES_MAX:
            return
        if not self._metadata.state.epoch or not self._authority.core.clock_is_trusted:
            return
        reply = ClockReply(
            epoch=self._metadata.state.epoch,
            clock_id=self._authority.core.clock_id,
            nonce=message.nonce,
            stamped_at_ns=self._clock.now_ns(),
            node_id=self._node_id,
            url=self._url,
        )
        self._reply(delivery, encode_region(reply, signer=self._signer))

    def _snapshot_request(self, delivery: Delivery) -> None:
        message = self._edge_message(delivery)
        if not isinstance(message, SnapshotRequest) or len(message.nonce) > NONCE_BYTES_MAX or not delivery.reply_to:
            return
        if self._snapshot_requests.full():
            self.counters["snapshot_requests_dropped"] += 1
            return
        self._snapshot_requests.put_nowait((delivery.reply_to, message))

    def _own_report(self, delivery: Delivery) -> None:
        """A report counts only for the edge whose subject it came on: the bus may have proved who that is."""
        self._report(delivery, tied=True)

    def _report(self, delivery: Delivery, *, tied: bool = False) -> None:
        message = self._edge_message(delivery)
        if not isinstance(message, EdgeReport):
            return
        if tied and delivery.subject != self._subjects.report_of(message.edge_id):
            self.counters["reports_of_another"] += 1
            return
        accepted = self._fleet.report_received(message)
        if self._authority.core.is_authority and delivery.reply_to:
            reply = ReportReply(
                epoch=self._metadata.state.epoch,
                edge_id=message.edge_id,
                life_id=message.life_id,
                accepted=accepted,
                reason="" if accepted else "the edge id is not acceptable or another living process holds it",
                own_subject=True,
            )
            self._reply(delivery, encode_region(reply, signer=self._signer))

    def _region_message(self, delivery: Delivery) -> object | None:
        try:
            return decode_region(delivery.payload, verifier=self._verifier)
        except MessageError as error:
            self.counters[f"region_{error.reason}"] += 1
            return None

    def _edge_message(self, delivery: Delivery) -> object | None:
        try:
            return decode_edge(delivery.payload)
        except MessageError as error:
            self.counters[f"edge_{error.reason}"] += 1
            return None

    # ---- what goes out

    def _reply(self, delivery: Delivery, payload: bytes) -> None:
        if not delivery.reply_to:
            self.counters["requests_without_reply_subject"] += 1
        elif self._replies.full():
            self.counters["replies_dropped"] += 1
        else:
            self._replies.put_nowait((delivery.reply_to, payload))

    async def _send_replies(self) -> None:
        while True:
            subject, payload = await self._replies.get()
            await self._publish(subject, payload)

    async def _send_snapshots(self) -> None:
        while True:
            subject, request = await self._snapshot_requests.get()
            at_least = Position(request.epoch_min, request.revision_min)
            if not self._metadata.state.epoch:
                continue
            if self._metadata.state.position < at_least:
                refusal = SnapshotRefused(
                    epoch=self._metadata.state.epoch,
                    nonce=request.nonce,
                    revision=self._metadata.state.revision,
                    reason="behind",
                )
                await self._publish(subject, encode_region(refusal, signer=self._signer))
                continue
            for frame in self._snapshots.frames(nonce=request.nonce):
                await self._publish(subject, frame)

    async def _publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._bus.publish(subject, payload=payload)
        except BusUnavailableError:
            self.counters["replies_undelivered"] += 1

    async def _sample_clocks(self) -> None:
        """The node is a reader too: it samples the other nodes' clocks like any edge."""
        while True:
            reads, now_ns = self._reads, self._clock.now_ns()
            effects, reads.effects = (*reads.effects, *reads.reader.tick(now_ns=now_ns)), []
            for effect in effects:
                if isinstance(effect, SendClockRequest):
                    subject = (
                        self._subjects.clock if effect.clock_id is None else self._subjects.clock_of(effect.clock_id)
                    )
                    await self._request(subject, encode_edge(ClockRequest(nonce=effect.nonce)))
            deadline_ns = reads.reader.next_deadline_ns()
            soon_ns = now_ns + 50_000_000
            await self._clock.sleep_until(
                soon_ns if deadline_ns is None else min(soon_ns, max(deadline_ns, now_ns + 1_000_000))
            )

    async def _request(self, subject: str, payload: bytes) -> None:
        try:
            await self._bus.publish(subject, payload=payload, reply_to=self._inbox)
        except BusUnavailableError:
            self.counters["clock_requests_unsent"] += 1
