"""Who is out there, what do they serve, are they ready? What edges say of themselves, and no more than that.

A view in memory of each node, rebuilt from reports within seconds; nothing of it is replicated, and nothing that must
be true hangs on it: readiness only decides how long an activation waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from consistency_service.core.feature_rates import FeatureRates
from consistency_service.core.observed_totals import ObservedTotals
from edge_client.protocol.messages import EdgeReport, Switch
from edge_client.protocol.models import NAME_PATTERN, Assignment, Version

MS: Final = 1_000_000
LIVE_NS: Final = 10_000 * MS
CHALLENGE_NS: Final = 3_000 * MS
"""A holder of an edge id that stays silent for so long after another life asked for it has lost it: it crashed."""
FORGET_NS: Final = 3_600_000 * MS
EDGES_MAX: Final = 100_000
SWITCHES_KEPT: Final = 32
MODELS_PER_EDGE_MAX: Final = 256
VIEWS_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of all views together, as encoded; in memory they take some three times as much. 100,000 edges of four models need half."""
LIFE_ID_CHARS_MAX: Final = 64
CLOCK_ID_CHARS_MAX: Final = 64
_SWITCH_BYTES: Final = 64
_encoder: Final = msgspec.msgpack.Encoder()


@dataclass(slots=True, kw_only=True)
class EdgeView:
    """The newest report of one edge, without its observations, and its recent switches."""

    report: EdgeReport
    heard_at_ns: int
    heard_at_unix_ms: int
    switches: dict[tuple[str, int], Switch] = field(default_factory=dict)
    challenged_at_ns: int | None = None
    """When another life first asked for this edge id since the report."""
    report_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return self.report_bytes + _SWITCH_BYTES * len(self.switches)

    def live(self, *, now_ns: int) -> bool:
        return not self.report.leaving and now_ns - self.heard_at_ns <= LIVE_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """How far the live edges that follow a model are with what they would serve."""

    ready: tuple[str, ...]
    waiting: tuple[str, ...]
    failed: dict[str, str]
    """Edge id to its own one sentence."""
    fetched_bytes: dict[str, int]

    @property
    def complete(self) -> bool:
        return not self.waiting and not self.failed


class Fleet:
    """Edges by id, the longest unheard first. Bounded; not thread-safe."""

    def __init__(
        self,
        *,
        known: Callable[[str, str, int], bool] | None = None,
        known_class: Callable[[str], bool] | None = None,
    ) -> None:
        self._edges: dict[str, EdgeView] = {}
        self._views_bytes = 0
        self.counters: Counter[str] = Counter()
        self.observed = ObservedTotals(known=known, counters=self.counters)
        """What came of readings, of all edges together; `known` says which version and generation of a model exist."""
        self.features = FeatureRates(known=known_class, counters=self.counters)
        """How feature classes do lately, of all edges together; `known_class` says which exist."""

    def report_received(self, report: EdgeReport, *, unix_ms: int, now_ns: int) -> bool:
        """Take it; False when another living process holds this edge id."""
        if not _is_acceptable(report):
            self.counters["reports_invalid"] += 1
            return False
        known = self._edges.get(report.edge_id)
        if known is not None and known.report.life_id != report.life_id and self._holds(known, now_ns=now_ns):
            self.counters["edge_ids_taken"] += 1
            return False
        self.observed.report_received(report, now_ns=now_ns)
        self.features.report_received(report, now_ns=now_ns)
        report = msgspec.structs.replace(report, observations=(), features=())
        size_bytes = len(_encoder.encode(report))
        view = EdgeView(report=report, heard_at_ns=now_ns, heard_at_unix_ms=unix_ms, report_bytes=size_bytes)
        if known is not None:
            self._remove(report.edge_id)
            view.switches = known.switches
        for switch in report.switches:
            view.switches[(switch.model, switch.generation)] = switch
        while len(view.switches) > SWITCHES_KEPT:
            del view.switches[next(iter(view.switches))]
        self._edges[report.edge_id] = view
        self._views_bytes += view.size_bytes
        self._forget(now_ns=now_ns)
        return True

    def _holds(self, view: EdgeView, *, now_ns: int) -> bool:
        """The life that reported last still holds its id against another that asks now."""
        if view.challenged_at_ns is None:
            view.challenged_at_ns = now_ns
        return view.live(now_ns=now_ns) and now_ns - view.challenged_at_ns <= CHALLENGE_NS

    def edges(self) -> tuple[EdgeView, ...]:
        """Every edge heard within the last hour, by id."""
        return tuple(self._edges[edge_id] for edge_id in sorted(self._edges))

    def views(self) -> Iterable[EdgeView]:
        """The same in no particular order, for walks over many; not to be kept."""
        return self._edges.values()

    def deaf(self, *, now_ns: int) -> bool:
        """Edges were heard within the last hour, and none lately: rather this node is cut off than all of them gone."""
        newest = next(reversed(self._edges.values()), None)
        return newest is not None and now_ns - newest.heard_at_ns > LIVE_NS

    def readiness(self, model: str, *, assignment: Assignment, versions: dict[str, Version], now_ns: int) -> Readiness:
        """How ready the live edges that follow `model` are for `assignment`."""
        ready, waiting, failed, fetched = [], [], {}, {}
        for edge_id, view in sorted(self._edges.items()):
            served = next((m for m in view.report.models if m.model == model), None)
            if served is None or not view.live(now_ns=now_ns):
                continue
            version = assignment.version_for(edge_id=edge_id, site=view.report.site, labels=view.report.labels)
            digest = versions[version].digest
            if digest in served.ready:
                ready.append(edge_id)
            elif digest in served.failed:
                failed[edge_id] = served.failed[digest]
            else:
                waiting.append(edge_id)
            fetched[edge_id] = served.fetched_bytes.get(digest, 0)
        return Readiness(ready=tuple(ready), waiting=tuple(waiting), failed=failed, fetched_bytes=fetched)

    def followers_of(self, model: str, *, now_ns: int) -> tuple[str, ...]:
        """Live edges that follow `model`."""
        return tuple(
            edge_id
            for edge_id, view in sorted(self._edges.items())
            if view.live(now_ns=now_ns) and any(m.model == model for m in view.report.models)
        )

    def check_invariants(self) -> None:
        assert len(self._edges) <= EDGES_MAX
        assert self._views_bytes == sum(view.size_bytes for view in self._edges.values())
        assert self._views_bytes <= VIEWS_BYTES_MAX or len(self._edges) == 1
        assert all(edge_id == view.report.edge_id for edge_id, view in self._edges.items())
        self.observed.check_invariants()
        self.features.check_invariants()

    def _forget(self, *, now_ns: int) -> None:
        """Reports re-insert their edge at the end, so the longest unheard is first, and the newest is never forgotten."""
        while True:
            edge_id, view = next(iter(self._edges.items()))
            few = len(self._edges) <= EDGES_MAX and (self._views_bytes <= VIEWS_BYTES_MAX or len(self._edges) == 1)
            if few and now_ns - view.heard_at_ns <= FORGET_NS:
                return
            self._remove(edge_id)
            self.counters["edges_forgotten"] += 1

    def _remove(self, edge_id: str) -> None:
        self._views_bytes -= self._edges.pop(edge_id).size_bytes


def _is_acceptable(report: EdgeReport) -> bool:
    """Its names are no longer than any honest edge's: they are kept, also where the report is not."""
    return (
        NAME_PATTERN.fullmatch(report.edge_id) is not None
        and len(report.life_id) <= LIFE_ID_CHARS_MAX
        and len(report.models) <= MODELS_PER_EDGE_MAX
        and all(
            NAME_PATTERN.fullmatch(switch.model) is not None and len(switch.clock_id) <= CLOCK_ID_CHARS_MAX
            for switch in report.switches
        )
    )
