"""Hears the region on the bus, and asks it what the cores want to know.

The clock is read first thing when a message arrives and before anything is asked: what a clock sample is worth hangs on
these two instants. So a message is only stamped on arrival, and handled a turn of the event loop later: where several
edges share a loop, none is late by the work of the others. Nothing that comes from the bus is trusted before its signature is verified; whatever is not
acceptable is counted under its reason and dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from edge_client.errors import BusUnavailableError
from edge_client.protocol.messages import (
    Beacon,
    ClockReply,
    ClockRequest,
    Event,
    MessageError,
    ReportReply,
    SnapshotChunk,
    SnapshotRefused,
    SnapshotRequest,
    decode_region,
    encode_edge,
)
from edge_client.protocol.reader import SendClockRequest

if TYPE_CHECKING:
    from edge_client.protocol.envelope import Verifier
    from edge_client.protocol.subjects import Subjects
    from edge_client.runtime.ports import Bus, Clock, Delivery
    from edge_client.runtime.signals import Pulse, Signal
    from edge_client.runtime.state import EdgeState, Outgoing

_log = logging.getLogger(__name__)
PENDING_MAX: Final = 1_024
TURN_MESSAGES_MAX: Final = 32
"""How many messages are handled before the event loop has its turn again."""


class EventHeard(Protocol):
    """Is told of a verified event and of the traceparent that nobody signed."""

    def __call__(self, event: Event, /, *, head: str) -> None: ...


class Follow:
    """The edge's ears, and its questions."""

    def __init__(
        self,
        *,
        state: EdgeState,
        bus: Bus,
        clock: Clock,
        verifier: Verifier,
        subjects: Subjects,
        wake: Signal,
        pulse: Pulse,
        report_replied: Callable[[ReportReply], None],
        event_heard: EventHeard | None = None,
    ) -> None:
        self._state = state
        self._bus = bus
        self._clock = clock
        self._verifier = verifier
        self._subjects = subjects
        self._wake = wake
        self._pulse = pulse
        self._report_replied = report_replied
        self._event_heard = event_heard
        self._subscribed: set[str] = set()
        self._arrived: deque[tuple[Delivery, int]] = deque()
        self._turning = False
        self.inbox = bus.new_inbox()
        self.counters: Counter[str] = Counter()

    async def subscribe(self) -> None:
        """Listen on every subject on which the region speaks to us; again after a failure, without doing it twice."""
        for subject in (self._subjects.beacon, self._subjects.event, self.inbox):
            if subject not in self._subscribed:
                await self._bus.subscribe(subject, handler=self.received, pending_max=PENDING_MAX)
                self._subscribed.add(subject)

    async def run(self) -> None:
        """Follow until cancelled."""
        await self.subscribe()
        self._state.started(now_ns=self._clock.now_ns())
        while True:
            for question in self._state.outgoing():
                await self._ask(question)
            await self._wake.wait(clock=self._clock, deadline_ns=self._state.next_deadline_ns())
            self._state.tick(now_ns=self._clock.now_ns())
            self._pulse.fire()

    def received(self, delivery: Delivery) -> None:
        """Stamp one message off the bus; beyond 1,024 that wait the oldest goes, counted."""
        self._arrived.append((delivery, self._clock.now_ns()))
        if len(self._arrived) > PENDING_MAX:
            self._arrived.popleft()
            self.counters["messages_dropped"] += 1
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Handle what has arrived, a few at a time."""
        for _ in range(min(TURN_MESSAGES_MAX, len(self._arrived))):
            delivery, now_ns = self._arrived.popleft()
            self._handle(delivery, now_ns=now_ns)
        self._turning = bool(self._arrived)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)

    def _handle(self, delivery: Delivery, *, now_ns: int) -> None:
        """Never raises, whatever the message is."""
        try:
            self._take(delivery, now_ns=now_ns)
        except MessageError as error:
            self.counters[f"messages_{error.reason}"] += 1
        except Exception:
            # The bus must go on whatever one message does to us.
            self.counters["messages_failed"] += 1
            _log.exception("message_failed subject=%s bytes=%d", delivery.subject, len(delivery.payload))
        self._wake.set()

    def _take(self, delivery: Delivery, *, now_ns: int) -> None:
        message = decode_region(delivery.payload, verifier=self._verifier)
        replies = delivery.subject == self.inbox
        match message:
            case Beacon() if delivery.subject == self._subjects.beacon:
                self._state.beacon_received(message, now_ns=now_ns)
            case Event() if delivery.subject == self._subjects.event:
                if self._event_heard is not None:
                    self._event_heard(message, head=delivery.trace)
                self._state.event_received(message, frame=delivery.payload, now_ns=now_ns)
            case ClockReply() if replies:
                self._state.clock_reply_received(message, now_ns=now_ns)
            case SnapshotChunk() | SnapshotRefused() if replies:
                self._state.snapshot_answered(message, frame=delivery.payload, now_ns=now_ns)
            case ReportReply() if replies:
                self._report_replied(message)
            case _:
                raise MessageError("misplaced")
        self._pulse.fire()

    async def _ask(self, question: Outgoing) -> None:
        request: ClockRequest | SnapshotRequest
        if isinstance(question, SendClockRequest):
            one = question.clock_id
            subject = self._subjects.clock if one is None else self._subjects.clock_of(one)
            request = ClockRequest(nonce=question.nonce)
        else:
            epoch, revision = question.at_least
            subject = self._subjects.snapshot
            request = SnapshotRequest(nonce=question.nonce, epoch_min=epoch, revision_min=revision)
        try:
            await self._bus.publish(subject, payload=encode_edge(request), reply_to=self.inbox)
        except BusUnavailableError:
            self.counters["questions_unsent"] += 1
