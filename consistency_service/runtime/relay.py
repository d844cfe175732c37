"""Empties the outbox onto the event stream, in revision order, fenced (protocol, section 7).

Reads the stream's last message before it appends and expects that sequence at every append: of two relays one is
refused. The stream may lose anything; what it still holds is not sent again, and readers fill gaps by snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Final

from consistency_service.core.commands import AnyCommand
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import BusUnavailableError, StreamFencedError
from consistency_service.runtime.authority import AuthorityDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import EventBus, StreamTail
from consistency_service.runtime.telemetry import SILENCE, Telemetry
from consistency_service.runtime.waking import wait_set
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import Event, MessageError, encode_region

_log = logging.getLogger(__name__)
RETRY_S: Final = 0.25
LOOK_AGAIN_S: Final = 1.0


class Relay:
    """Runs on every node, works on the authority's only."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        authority: AuthorityDriver,
        bus: EventBus,
        signer: Signer,
        telemetry: Telemetry = SILENCE,
    ) -> None:
        self._metadata = metadata
        self._authority = authority
        self._bus = bus
        self._signer = signer
        self._telemetry = telemetry
        self.counters: Counter[str] = Counter()
        self._tail: StreamTail | None = None
        self._wake = asyncio.Event()
        metadata.on_applied(self._applied)

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            self._wake.clear()
            if not self._authority.core.is_authority:
                self._tail = None
            elif self._metadata.state.outbox:
                try:
                    await self._relay()
                except StreamFencedError:
                    self._tail = None
                    self.counters["fenced"] += 1
                except BusUnavailableError:
                    self._tail = None
                    self.counters["bus_unavailable"] += 1
                    await asyncio.sleep(RETRY_S)
            await wait_set(self._wake, timeout_s=LOOK_AGAIN_S)

    async def _relay(self) -> None:
        if self._tail is None:
            self._tail = await self._bus.stream_tail()
        relayed = self._relayed_through()
        for event in [e for e in self._metadata.state.outbox if e.revision > relayed]:
            if not self._authority.core.is_authority or event.epoch != self._metadata.state.epoch:
                return
            await self._append(event)
            self._authority.published(through=event.revision)
        if self._metadata.state.outbox:
            self._authority.published(through=self._relayed_through())

    def _relayed_through(self) -> int:
        """The last revision of this epoch that the stream holds, or that was trimmed before."""
        assert self._tail is not None
        through = self._metadata.state.published_through
        epoch, _, revision = (self._tail.message_id or "0-0").partition("-")
        if epoch.isdigit() and revision.isdigit() and int(epoch) == self._metadata.state.epoch:
            through = max(through, min(int(revision), self._metadata.state.revision))
        return through

    async def _append(self, event: Event) -> None:
        assert self._tail is not None
        try:
            payload = encode_region(event, signer=self._signer)
        except MessageError:
            # Readers see the gap and fetch a snapshot, which travels in chunks.
            self.counters["events_oversized"] += 1
            _log.error("event_oversized revision=%s", event.revision)
            return
        said = {"revision": event.revision, "event": event.name}
        with self._telemetry.span(f"publish {event.name}", parent=event.trace, kind="producer", **said) as span:
            sequence = await self._bus.append(
                payload=payload,
                message_id=event.message_id,
                expected_sequence=self._tail.sequence,
                trace=span.traceparent,
            )
        self._tail = StreamTail(sequence=sequence, message_id=event.message_id)
        self.counters["events_relayed"] += 1

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        if self._metadata.state.outbox:
            self._wake.set()
