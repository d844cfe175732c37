"""Tells the region what this edge is and serves: at intervals, and at once when its readiness changes.

Reports may be lost; each one says everything. The authority answers whether this life may use the edge id. Refused, we
go on serving, since what we read is as true as before, but we report rarely: until the other life is gone, what we say
does not count.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edge_client.errors import BusUnavailableError
from edge_client.protocol.messages import EdgeReport, MessageError, ReportReply, ServedModel, Switch, encode_edge

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.core.status import ModelStatus
    from edge_client.runtime.ports import Bus, Clock
    from edge_client.runtime.signals import Pulse, Signal
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
GAP_NS_MIN: Final = 50 * MS
REFUSED_INTERVAL_NS: Final = 30_000 * MS
PATIENCE_NS: Final = 5_000 * MS
"""How long a new life asks for its id every second: the one before may have crashed a moment ago."""
SWITCH_REPORTS: Final = 3
"""How many successive reports carry a switch, since any of them may be lost."""
SWITCHES_MAX: Final = 64
MODELS_MAX: Final = 256
REASON_CHARS_MAX: Final = 200


class Report:
    """The edge's mouth."""

    def __init__(
        self,
        *,
        config: EdgeConfig,
        life_id: str,
        state: EdgeState,
        statuses: Callable[[], tuple[ModelStatus, ...]],
        bus: Bus,
        subject: str,
        inbox: str,
        clock: Clock,
        wake: Signal,
        pulse: Pulse,
    ) -> None:
        self._config = config
        self._life_id = life_id
        self._state = state
        self._statuses = statuses
        self._bus = bus
        self._subject = subject
        self._inbox = inbox
        self._clock = clock
        self._wake = wake
        self._pulse = pulse
        self._told: dict[tuple[str, int], int] = {}
        self.accepted: bool | None = None
        """Whether the authority accepts this life under the edge id; None before it has answered."""
        self.refusal = ""
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Report until cancelled."""
        began_ns = self._clock.now_ns()
        while True:
            await self.send()
            now_ns = self._clock.now_ns()
            await self._clock.sleep_until(now_ns + GAP_NS_MIN)
            if self.accepted is False:
                patient = now_ns - began_ns < PATIENCE_NS
                interval_ns = self._config.report_interval_ms * MS if patient else REFUSED_INTERVAL_NS
                await self._clock.sleep_until(now_ns + interval_ns)
            else:
                await self._wake.wait(clock=self._clock, deadline_ns=now_ns + self._config.report_interval_ms * MS)

    def replied(self, reply: ReportReply) -> None:
        """The authority has heard a life of this edge."""
        if (reply.edge_id, reply.life_id) != (self._config.edge_id, self._life_id):
            self.counters["report_replies_misaddressed"] += 1
            return
        if not reply.accepted:
            self.counters["reports_refused"] += 1
            if self.accepted is not False:
                _log.error("edge_id_refused edge=%s reason=%s", reply.edge_id, reply.reason[:200])
        elif self.accepted is False:
            _log.warning("edge_id_accepted edge=%s", reply.edge_id)
        self.accepted, self.refusal = reply.accepted, reply.reason
        self._pulse.fire()

    async def send(self, *, leaving: bool = False) -> None:
        """Send one report; that it does not get through is counted."""
        try:
            await self._bus.publish(self._subject, payload=self._payload(leaving=leaving), reply_to=self._inbox)
            self.counters["reports_sent"] += 1
        except BusUnavailableError:
            self.counters["reports_unsent"] += 1

    def _payload(self, *, leaving: bool) -> bytes:
        models = tuple(_served(status) for status in self._statuses())
        position = self._state.position
        report = EdgeReport(
            edge_id=self._config.edge_id,
            life_id=self._life_id,
            site=self._config.site,
            labels=dict(self._config.labels),
            epoch=position.epoch,
            revision=position.revision,
            source=self._state.source,
            models=models[:MODELS_MAX],
            switches=self._switches(),
            reads=self._state.take_reads(),
            uncertainty_ns=self._state.uncertainty_ns(),
            leaving=leaving,
        )
        while True:
            try:
                return encode_edge(report)
            except MessageError:
                # Too many models for one frame: the rest is not heard of, which is counted.
                self.counters["reports_truncated"] += 1
                half = report.models[: len(report.models) // 2]
                report = EdgeReport(
                    edge_id=report.edge_id,
                    life_id=report.life_id,
                    site=report.site,
                    labels=report.labels if half else {},
                    epoch=report.epoch,
                    revision=report.revision,
                    models=half,
                )

    def _switches(self) -> tuple[Switch, ...]:
        """Those that were not told often enough yet."""
        known = {(switch.model, switch.activation): switch for switch in self._state.switches()}
        self._told = {key: self._told.get(key, 0) for key in known}
        due = [key for key, told_count in self._told.items() if told_count < SWITCH_REPORTS][:SWITCHES_MAX]
        for key in due:
            self._told[key] += 1
        return tuple(known[key] for key in due)


def _served(status: ModelStatus) -> ServedModel:
    return ServedModel(
        model=status.name,
        version=status.version,
        generation=status.generation,
        guarantee=status.guarantee or "none",
        staleness_bound_ms=status.staleness_bound_ms,
        ready=status.ready,
        failed={digest: reason[:REASON_CHARS_MAX] for digest, reason in status.failed.items()},
        fetched_bytes=dict(status.fetched_bytes),
    )
