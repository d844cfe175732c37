"""What an edge says in numbers, put together when somebody asks: for the app's OpenTelemetry set-up, or for a scrape.

Nothing is counted here that is not counted anyway; what is added is one look a second at some sums, from when somebody
first asks, for what is told of the last minute.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from edge_client.core.reading import Guarantee
from edge_client.protocol.metrics import ROWS_MAX, Rest, Row, Sheet, few
from edge_client.protocol.trailing import LOOK_NS, Trailing

if TYPE_CHECKING:
    from edge_client.core.status import ClientStatus, FeaturesStatus
    from edge_client.runtime.ports import Bus, Clock
    from edge_client.runtime.state import EdgeState
    from edge_client.runtime.window import ModelWindow, Outlook

S: Final = 1e9
ANSWER_S: Final = 1.0
"""How long another thread waits for the event loop, before it is told what was so last."""
SHEET_NS: Final = 100_000_000
"""How long one sheet is good for: all instruments of one collection read the same."""


class Measuring:
    """The numbers of one life of one edge. `sheet` may be called from any thread, everything else on the event loop."""

    def __init__(
        self, *, state: EdgeState, status: Callable[[], ClientStatus], bus: Bus, clock: Clock, thread_id: int
    ) -> None:
        self._state = state
        self._status = status
        self._bus = bus
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread_id = thread_id
        self._trailing = Trailing()
        self._asked = asyncio.Event()
        self._last: tuple[int, dict[str, list[Row]]] | None = None
        self._closed = False

    async def run(self) -> None:
        """Look once a second, from when somebody first asked, until cancelled."""
        await self._asked.wait()
        due_ns = self._clock.now_ns()
        while True:
            now_ns = self._clock.now_ns()
            late_s = max(0, now_ns - due_ns) / S
            self._trailing.looked(_sums(self._counted(self._status())), late_s=late_s, now_ns=now_ns)
            due_ns = now_ns + LOOK_NS
            await self._clock.sleep_until(due_ns)

    def close(self) -> None:
        """Nothing is told any more."""
        self._closed = True

    def sheet(self) -> Sheet:
        """All that can be said now; of a client that was closed, nothing."""
        if self._closed:
            return {}
        if threading.get_ident() == self._thread_id:
            return self._sheet()
        answer: concurrent.futures.Future[Sheet] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(lambda: answer.set_result(self._sheet()))
            return answer.result(timeout=ANSWER_S)
        except (RuntimeError, TimeoutError, concurrent.futures.TimeoutError):
            return {} if self._last is None else self._last[1]

    # ---- helpers, on the event loop

    def _sheet(self) -> Sheet:
        now_ns = self._clock.now_ns()
        if self._last is None or now_ns - self._last[0] >= SHEET_NS:
            self._asked.set()
            status = self._status()
            counted = self._counted(status)
            self._last = (now_ns, counted | self._standing(status, counted, now_ns=now_ns))
        return self._last[1]

    def _counted(self, status: ClientStatus) -> dict[str, list[Row]]:
        """The counters."""
        strong, followed, slow = self._state.looked_at(_times)
        events: dict[tuple[str, str], float] = {
            ("edge", name): count for name, count in sorted(status.counters.items()) if not name.startswith("bus_")
        }
        events |= {("bus", name): count for name, count in sorted(getattr(self._bus, "counters", {}).items())}
        let_go = sum(status.counters.get(name, 0) for name in ("views_changed", "features_invalidated"))
        rows: dict[str, list[Row]] = {
            "strong_seconds_total": few(strong, rest=Rest.SUM),
            "followed_seconds_total": few(followed, rest=Rest.SUM),
            "reads_slow_total": [((guarantee,), count) for guarantee, count in slow.items()],
            "invalidations_total": [((), let_go)],
            "ccs_events_total": [(pair, float(count)) for pair, count in events.items()],
        }
        hits, misses = _asked(status)
        rows["cache_hits_total"] = [((tier,), count) for tier, count in hits.items()]
        rows["cache_misses_total"] = [((tier,), count) for tier, count in misses.items()]
        if status.features is not None:
            rows["write_behind_total"] = [
                ((outcome,), count) for outcome, count in status.features.queue.items() if outcome not in _LEVELS
            ]
        return rows

    def _standing(self, status: ClientStatus, counted: Mapping[str, list[Row]], *, now_ns: int) -> dict[str, list[Row]]:
        """The gauges."""
        rows = self._state.looked_at(_link) | _of_models(status)
        rows |= {
            "lease_remaining_seconds": [((), status.lease_remaining_ms / 1_000)],
            "clock_trusted": [((), float(status.clock_trusted))],
            "bus_connected": [((), float(status.connected))],
            "edge_id_refused": [((), float(status.refused))],
            "event_loop_lag_seconds": [((), self._trailing.late_s_max())],
        }
        if status.uncertainty_ns is not None:
            rows["clock_uncertainty_seconds"] = [((), status.uncertainty_ns / S)]
        if status.local_tier != "none":
            rows["local_tier_available"] = [((), float(status.local_tier == "ok"))]
        if status.features is not None:
            rows |= _of_features(status.features)
        rows["strong_read_availability_ratio"] = self._shares(counted)
        rows["cache_hit_ratio"] = self._hit_ratios(counted)
        ((_, told),) = counted["invalidations_total"]
        rows["invalidations_per_minute"] = [((), self._trailing.per_minute("invalidations_total", told, now_ns=now_ns))]
        return rows

    def _shares(self, counted: Mapping[str, list[Row]]) -> list[Row]:
        rows: list[Row] = []
        pairs = zip(counted["strong_seconds_total"], counted["followed_seconds_total"], strict=True)
        for (labels, strong_s), (_, followed_s) in pairs:
            part = self._trailing.growth(_key("strong_seconds_total", labels), strong_s)
            whole = self._trailing.growth(_key("followed_seconds_total", labels), followed_s)
            if whole > 0:
                rows.append((labels, min(1.0, part / whole)))
        return rows

    def _hit_ratios(self, counted: Mapping[str, list[Row]]) -> list[Row]:
        rows: list[Row] = []
        for (labels, hit_count), (_, miss_count) in zip(
            counted["cache_hits_total"], counted["cache_misses_total"], strict=True
        ):
            hits = self._trailing.growth(_key("cache_hits_total", labels), hit_count)
            misses = self._trailing.growth(_key("cache_misses_total", labels), miss_count)
            if hits + misses > 0:
                rows.append((labels, hits / (hits + misses)))
        return rows


_LEVELS: Final = frozenset({"depth", "memory_bytes", "spool_bytes", "oldest_ms"})
"""What the queue's metrics say of now; the others only grow."""


def _key(name: str, labels: tuple[str, ...]) -> str:
    return ",".join((name, *labels))


def _sums(counted: Mapping[str, list[Row]]) -> dict[str, float]:
    """Those of which the last minute is told, each row under a name of its own."""
    watched = (
        "strong_seconds_total",
        "followed_seconds_total",
        "cache_hits_total",
        "cache_misses_total",
        "invalidations_total",
    )
    return {_key(name, labels): value for name in watched for labels, value in counted[name]}


def _times(
    _outlook: Outlook, windows: Mapping[str, ModelWindow], reads: Mapping[str, int], now_ns: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    strong = {name: window.time.strong_ns(now_ns=now_ns) / S for name, window in windows.items()}
    followed = {name: (now_ns - window.time.since_ns) / S for name, window in windows.items()}
    return strong, followed, {guarantee.value: float(reads.get(guarantee.value, 0)) for guarantee in Guarantee}


def _link(
    outlook: Outlook, windows: Mapping[str, ModelWindow], _reads: Mapping[str, int], now_ns: int
) -> dict[str, list[Row]]:
    """How far we are from what was heard."""
    lags = {
        name: 0.0 if window.time.behind_since_ns is None else (now_ns - window.time.behind_since_ns) / S
        for name, window in windows.items()
    }
    heard, held = outlook.position_heard, outlook.follower.position
    behind = heard.revision - (held.revision if heard.epoch == held.epoch else 0) if heard > held else 0
    rows: dict[str, list[Row]] = {
        "model_version_lag_seconds": few(lags, rest=Rest.MAX),
        "position_lag_revisions": [((), float(behind))],
    }
    if outlook.beacon_at_ns is not None:
        rows["beacon_age_seconds"] = [((), (now_ns - outlook.beacon_at_ns) / S)]
    return rows


def _of_models(status: ClientStatus) -> dict[str, list[Row]]:
    models = status.models
    bounds = {m.name: m.staleness_bound_ms / 1_000 for m in models if m.staleness_bound_ms is not None}
    newest = {switch.model: switch for switch in status.switches}
    return {
        "staleness_age_seconds": few(bounds, rest=Rest.MAX),
        "model_generation": few({m.name: float(m.generation) for m in models}, rest=Rest.MAX),
        "model_serving": [
            ((m.name, m.version, m.guarantee or "none"), 1.0) for m in models[:ROWS_MAX] if m.version is not None
        ],
        "switch_late_seconds": few({name: switch.late_ns / S for name, switch in newest.items()}, rest=Rest.MAX),
        "switch_uncertainty_seconds": few(
            {name: switch.uncertainty_ns / S for name, switch in newest.items()}, rest=Rest.MAX
        ),
    }


def _of_features(features: FeaturesStatus) -> dict[str, list[Row]]:
    breakers = {"store": features.store, "local": features.local_tier}
    return {
        "cache_entries": [(("memory",), float(features.memory_count))],
        "cache_bytes": [(("memory",), float(features.memory_bytes))],
        "write_behind_depth": [((), float(features.queue_count))],
        "write_behind_bytes": [((), float(features.queue_bytes))],
        "write_behind_age_seconds": [((), features.queue_oldest_ms / 1_000)],
        "breaker_open": [((name,), float(state != "closed")) for name, state in breakers.items() if state != "none"],
    }


def _asked(status: ClientStatus) -> tuple[dict[str, float], dict[str, float]]:
    """Questions that each tier answered, and that it did not."""
    count = status.counters.get
    hits: dict[str, float] = {}
    misses: dict[str, float] = {}
    if status.local_tier != "none":
        hits["artifacts"] = count("artifacts_from_tier", 0)
        misses["artifacts"] = count("artifacts_fetched", 0)
    if status.features is not None:
        local = count("features_served_from_local", 0)
        hits["memory"] = max(0, status.features.hit_count - local)
        misses["memory"] = local + status.features.miss_count
        if status.features.local_tier != "none":
            hits["local"], misses["local"] = local, status.features.miss_count
        hits["store"] = count("features_served_from_store", 0)
        misses["store"] = count("features_unanswered", 0)
    return hits, misses
