"""Tells the region what this edge is and serves: at intervals, and at once when its readiness changes.

Reports may be lost; each one says everything. The authority answers whether this life may use the edge id. Refused, we
go on serving, since what we read is as true as before, but we report rarely: until the other life is gone, what we say
does not count.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from edge_client.errors import BusUnavailableError, EdgeIdTakenError
from edge_client.protocol.messages import EdgeReport, MessageError, ReportReply, ServedModel, Switch, encode_edge
from edge_client.protocol.position import ORIGIN

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.core.status import ModelStatus
    from edge_client.protocol.messages import FeatureObservations
    from edge_client.protocol.observations import Observations
    from edge_client.protocol.subjects import Subjects
    from edge_client.runtime.ports import Bus, Clock
    from edge_client.runtime.signals import Pulse, Signal
    from edge_client.runtime.state import EdgeState

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
GAP_NS_MIN: Final = 50 * MS
REFUSED_INTERVAL_NS: Final = 30_000 * MS
HEARD_NS: Final = 1_000 * MS
"""How long a new life waits to hear whether its id is free."""
PATIENCE_NS: Final = 5_000 * MS
"""How long a new life asks for its id every second: the one before may have crashed a moment ago."""
SILENCE_NS: Final = 3_000 * MS
"""How long nobody may answer before reports go on the other subject."""
SWITCH_REPORTS: Final = 3
"""How many successive reports carry a switch, since any of them may be lost."""
SWITCHES_MAX: Final = 64
OBSERVATION_REPORTS: Final = 3
"""How many successive reports carry sheets of observations that grew, for the same reason."""
ALL_OBSERVATIONS_NS: Final = 10_000 * MS
"""How often all sheets are told, for nodes that began anew."""
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
        observed: Callable[[], tuple[Observations, ...]] = tuple,
        features: Callable[[], tuple[FeatureObservations, ...]] = tuple,
        bus: Bus,
        subjects: Subjects,
        inbox: str,
        clock: Clock,
        wake: Signal,
        pulse: Pulse,
    ) -> None:
        self._config = config
        self._life_id = life_id
        self._state = state
        self._statuses = statuses
        self._observed = observed
        self._features = features
        self._bus = bus
        self._subjects = subjects
        self._on_own = self._knows_us = config.nats_credentials is not None
        self._answered_at_ns: int | None = None
        self._inbox = inbox
        self._clock = clock
        self._wake = wake
        self._pulse = pulse
        self._told: dict[tuple[str, int], int] = {}
        self._grown: dict[tuple[str, str, int], tuple[int, int]] = {}
        self._all_told_at_ns: int | None = None
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
        self._answered_at_ns, self._on_own = self._clock.now_ns(), self._on_own or reply.own_subject
        self._pulse.fire()

    async def wait_accepted(self) -> None:
        """Return when the region has accepted our id and we know its state, or when it has said too little for a second.

        What is written first is so of the right class. Refused, it is asked again for five seconds; then
        `EdgeIdTakenError` is raised.
        """
        began_ns = self._clock.now_ns()
        while not self.accepted or self._state.position == ORIGIN:
            deadline_ns = began_ns + (PATIENCE_NS if self.accepted is False else HEARD_NS)
            if self._clock.now_ns() >= deadline_ns:
                break
            await self._pulse.wait(clock=self._clock, deadline_ns=deadline_ns)
        if self.accepted is False:
            raise EdgeIdTakenError(f"{self._config.edge_id!r}: {self.refusal or 'another living process uses it'}")

    async def send(self, *, leaving: bool = False) -> None:
        """Send one report; that it does not get through is counted."""
        try:
            await self._bus.publish(self._subject(), payload=self._payload(leaving=leaving), reply_to=self._inbox)
            self.counters["reports_sent"] += 1
        except BusUnavailableError:
            self.counters["reports_unsent"] += 1

    def _subject(self) -> str:
        """Our own once the region says that it hears it; a region of the version before hears only the one for all.

        A bus that knows us lets us speak on our own alone. Else silence has us try the other one.
        """
        now_ns = self._clock.now_ns()
        if self._answered_at_ns is None:
            self._answered_at_ns = now_ns
        elif not self._knows_us and now_ns - self._answered_at_ns >= SILENCE_NS:
            self._answered_at_ns, self._on_own = now_ns, not self._on_own
        return self._subjects.report_of(self._config.edge_id) if self._on_own else self._subjects.report

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
            features=self._features(),
        )
        for observations, untold_count, bare_count in _ever_shorter(self._observations(everything=leaving)):
            try:
                payload = encode_edge(msgspec.structs.replace(report, observations=observations))
            except MessageError:
                continue
            self.counters["observations_untold"] += untold_count
            self.counters["sketches_untold"] += bare_count
            return payload
        self.counters["observations_untold"] += untold_count
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

    def _observations(self, *, everything: bool) -> tuple[Observations, ...]:
        """Those that grew lately, the one begun first first; from time to time, and at the end, all."""
        sheets, now_ns = self._observed(), self._clock.now_ns()
        if self._all_told_at_ns is None or now_ns - self._all_told_at_ns >= ALL_OBSERVATIONS_NS:
            everything, self._all_told_at_ns = True, now_ns
        due, grown = [], {}
        for sheet in sheets:
            key = (sheet.model, sheet.version, sheet.generation)
            count, reports_left = self._grown.get(key, (0, 0))
            if count != sheet.count:
                reports_left = OBSERVATION_REPORTS
            if everything or reports_left > 0:
                due.append(sheet)
            grown[key] = (sheet.count, max(0, reports_left - 1))
        self._grown = grown
        return tuple(due)


def _ever_shorter(sheets: tuple[Observations, ...]) -> Iterator[tuple[tuple[Observations, ...], int, int]]:
    """All sheets, then less and less for one frame; with how many are left out, and how many are without sketches.

    Old generations go first: nobody decides by them any more. Then the sketches: counts are enough for error rates.
    """
    newest = tuple({sheet.model: sheet for sheet in sheets}.values())
    bare = tuple(_without_sketches(sheet) for sheet in newest)
    old_count = len(sheets) - len(newest)
    yield sheets, 0, 0
    yield newest, old_count, 0
    yield bare, old_count, len(bare)
    yield (), len(sheets), 0


def _without_sketches(sheet: Observations) -> Observations:
    return msgspec.structs.replace(sheet, latencies={}, scores={}, score_sum=0.0, score_square_sum=0.0, labels={})


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
        untrusted=status.untrusted,
    )
