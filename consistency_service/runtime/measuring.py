"""What a node says in numbers, put together when somebody asks, and what it watches for that nobody else does.

Once a second it looks at some sums, for what is told of the last minute, and at activations whose edges have had time to
say when they switched. Nothing is counted here that a core counts already.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from consistency_service.core.commands import ActivateGeneration, ActivateRollout, AnyCommand
from consistency_service.core.fleet_metrics import fleet_rows, switch_lates_s
from consistency_service.core.outcomes import Outcome
from consistency_service.runtime.telemetry import Telemetry
from edge_client.protocol.metrics import Rest, Row, Sheet, few
from edge_client.protocol.trailing import LOOK_NS, Trailing

if TYPE_CHECKING:
    from consistency_service.runtime.node import Node
    from consistency_service.runtime.ports import LogStatus

S: Final = 1e9
MS: Final = 1_000_000
SHEET_NS: Final = 200_000_000
"""How long one sheet is good for: all instruments of one collection read the same."""
ANSWER_S: Final = 2.0
"""How long another thread waits for the event loop, before it is told what was so last."""
SWITCHED_NS: Final = 3_000 * MS
"""How long edges have to report a switch before its spread is told."""
SWITCHES_MAX: Final = 64
SPREAD_EDGES_MIN: Final = 2


@dataclass(slots=True)
class _Awaited:
    """An activation of one model whose spread is still to be told."""

    model: str
    generation: int
    revision: int
    trace: str
    settled_at_ns: int | None = None


class Measuring:
    """The numbers of one node. `sheet` may be called from any thread, everything else on the event loop."""

    def __init__(self, node: Node, *, telemetry: Telemetry) -> None:
        self._node = node
        self._telemetry = telemetry
        self._thread_id = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trailing = Trailing()
        self._last: tuple[int, dict[str, list[Row]]] | None = None
        self._leader: tuple[int, str] | None = None
        self._leader_changes = 0
        self._leased_ns = self._watched_ns = 0
        self._looked: tuple[int, int] | None = None
        self._awaited: list[_Awaited] = []
        self.counters: Counter[str] = Counter()
        self.parts: dict[str, Mapping[str, int]] = {}
        """Counters of parts that are not the node's, by part."""
        node.metadata.on_applied(self._applied)
        node.metadata.log.on_status_change(self._status_changed)
        telemetry.observe(self.sheet)

    async def run(self) -> None:
        """Look once a second until cancelled."""
        self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
        clock = self._node.clock
        due_ns = clock.now_ns()
        while True:
            now_ns = clock.now_ns()
            self._status_changed(self._node.metadata.log.status())
            self._look_at_lease(now_ns=now_ns)
            self._tell_spreads(now_ns=now_ns)
            self._trailing.looked(self._sums(), late_s=max(0, now_ns - due_ns) / S, now_ns=now_ns)
            due_ns = now_ns + LOOK_NS
            await clock.sleep_until(due_ns)

    def sheet(self) -> Sheet:
        """All that can be said now."""
        loop = self._loop
        if loop is None or threading.get_ident() == self._thread_id:
            return self._sheet()
        answer: concurrent.futures.Future[Sheet] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(lambda: answer.set_result(self._sheet()))
            return answer.result(timeout=ANSWER_S)
        except (RuntimeError, TimeoutError, concurrent.futures.TimeoutError):
            return {} if self._last is None else self._last[1]

    # ---- what is watched

    def _status_changed(self, status: LogStatus) -> None:
        if status.leader_id is None:
            return
        leader = (status.term, status.leader_id)
        if self._leader is not None and leader != self._leader:
            self._leader_changes += 1
        self._leader = leader

    def _look_at_lease(self, *, now_ns: int) -> None:
        """The time since the last look that the lease of then, or of now, is sure to have covered."""
        until_ns = self._node.reads.reader.lease_until_ns
        if self._looked is not None:
            looked_at_ns, covered_until_ns = self._looked
            self._watched_ns += now_ns - looked_at_ns
            self._leased_ns += max(0, min(now_ns, covered_until_ns) - looked_at_ns)
        self._looked = (now_ns, until_ns)

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        if not outcome.ok or not isinstance(command, ActivateGeneration | ActivateRollout):
            return
        for model in self._node.metadata.state.models.values():
            pending = model.pending
            if pending is not None and pending.revision == outcome.revision:
                self._awaited.append(_Awaited(model.name, pending.generation, pending.revision, pending.trace))
        if len(self._awaited) > SWITCHES_MAX:
            self.counters["spreads_untold"] += len(self._awaited) - SWITCHES_MAX
            del self._awaited[:-SWITCHES_MAX]

    def _tell_spreads(self, *, now_ns: int) -> None:
        pendings = self._node.metadata.state.pendings()
        for awaited in tuple(self._awaited):
            if awaited.settled_at_ns is None and awaited.revision not in pendings:
                awaited.settled_at_ns = now_ns
            if awaited.settled_at_ns is not None and now_ns - awaited.settled_at_ns >= SWITCHED_NS:
                self._awaited.remove(awaited)
                if self._node.authority.core.is_authority:
                    self._tell_spread(awaited)

    def _tell_spread(self, awaited: _Awaited) -> None:
        lates_s = switch_lates_s(
            self._node.fleet.view.views(),
            model=awaited.model,
            generation=awaited.generation,
            activation=awaited.revision,
        )
        if len(lates_s) < SPREAD_EDGES_MIN:
            return
        spread_s = lates_s[-1] - lates_s[0]
        self._telemetry.record("switch_spread_seconds", spread_s)
        about: dict[str, Any] = {"model": awaited.model, "generation": awaited.generation, "edges": len(lates_s)}
        with self._telemetry.span("fleet switched", parent=awaited.trace, spread_ms=spread_s * 1e3, **about) as span:
            span.note(late_ms_max=lates_s[-1] * 1e3, late_ms_min=lates_s[0] * 1e3)

    # ---- what is told

    def _sheet(self) -> Sheet:
        now_ns = self._node.clock.now_ns()
        if self._last is None or now_ns - self._last[0] >= SHEET_NS:
            unix_ms = self._node.clock.unix_ms()
            state = self._node.metadata.state
            rows = self._of_the_log() | self._of_the_lease(now_ns=now_ns) | self._of_the_region()
            rows |= fleet_rows(self._node.fleet.view.views(), state, now_ns=now_ns, unix_ms=unix_ms)
            rows["event_loop_lag_seconds"] = [((), self._trailing.late_s_max())]
            if self._loop is not None:
                rows["asyncio_tasks"] = [((), float(len(asyncio.all_tasks(self._loop))))]
            rows["ccs_events_total"] = self._events()
            self._last = (now_ns, rows)
        return self._last[1]

    def _sums(self) -> dict[str, float]:
        return {
            "invalidations": float(self._node.events_relayed),
            "leased": float(self._leased_ns),
            "watched": float(self._watched_ns),
        }

    def _of_the_log(self) -> dict[str, list[Row]]:
        status = self._node.metadata.log.status()
        return _one(
            raft_leading=status.leading,
            raft_leader_known=status.leader_id is not None,
            raft_term=status.term,
            raft_leader_changes_total=self._leader_changes,
            raft_commit_index=status.commit_index,
            raft_applied_index=status.applied_index,
            raft_voters=len(status.voters),
            raft_storage_fault=bool(status.storage_fault),
            authority_held=self._node.authority.core.is_authority,
            clock_trusted=self._node.authority.core.clock_is_trusted,
            bus_connected=self._node.bus.connected,
        )

    def _of_the_lease(self, *, now_ns: int) -> dict[str, list[Row]]:
        reads, sums = self._node.reads, self._sums()
        rows = _one(
            lease_remaining_seconds=max(0, reads.reader.lease_until_ns - now_ns) / S,
            invalidations_total=sums["invalidations"],
            invalidations_per_minute=self._trailing.per_minute("invalidations", sums["invalidations"], now_ns=now_ns),
        )
        watched = self._trailing.growth("watched", sums["watched"])
        if watched > 0:
            leased = self._trailing.growth("leased", sums["leased"])
            rows["strong_read_availability_ratio"] = [((), min(1.0, leased / watched))]
        if reads.beacon_at_ns is not None:
            rows["beacon_age_seconds"] = [((), (now_ns - reads.beacon_at_ns) / S)]
        authority = self._node.metadata.state.authority
        samples = None if authority is None else reads.reader.samples_of(authority.clock_id)
        width_ns = None if samples is None else samples.width_ns(now_ns=now_ns)
        if width_ns is not None:
            rows["clock_uncertainty_seconds"] = [((), width_ns / S)]
        return rows

    def _of_the_region(self) -> dict[str, list[Row]]:
        state = self._node.metadata.state
        phases = Counter(rollout.phase.value for rollout in state.rollouts.values())
        classes = {name: found.feature_class.window_now_ms / 1_000 for name, found in state.feature_classes.items()}
        rows = _one(
            region_epoch=state.epoch,
            region_revision=state.revision,
            outbox_depth=len(state.outbox),
            changes_frozen=state.freeze is not None,
            webhook_deliveries_given_up=sum(len(webhook.dead) for webhook in state.webhooks.values()),
        )
        rows["rollouts"] = [((phase,), float(count)) for phase, count in sorted(phases.items())]
        rows["feature_window_seconds"] = few(dict(sorted(classes.items())), rest=Rest.MAX)
        return rows

    def _events(self) -> list[Row]:
        counted = dict(self._node.counters())
        raft: Mapping[str, int] = getattr(self._node.metadata.log, "counters", dict)()
        for part, counters in {"raft": raft, "bus": getattr(self._node.bus, "counters", {}), **self.parts}.items():
            counted |= {f"{part}.{name}": count for name, count in sorted(counters.items())}
        return [((part, event), float(count)) for (part, _, event), count in _split(counted)]


def _split(counted: Mapping[str, int]) -> list[tuple[tuple[str, str, str], int]]:
    return [(name.partition("."), count) for name, count in counted.items()]


def _one(**values: float) -> dict[str, list[Row]]:
    """Metrics without labels."""
    return {name: [((), float(value))] for name, value in values.items()}
