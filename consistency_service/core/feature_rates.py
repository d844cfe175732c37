"""How many readings of each feature class go wrong, and how far fetched copies were off, lately.

Edges tell sums over their life, as with `observed_totals`, so that reports may be lost, repeated or late. The difference to
the sums that the same life told last is what happened since, and falls into the second in which it was heard; a ring of
such seconds is "lately". The first sums of a life are only a start to count from: they may be of hours ago, told to another
node. So a life that was forgotten need not be remembered as such; when it is heard again, it starts again.

Nothing here is replicated, and nothing that an edge says is trusted: whatever it says, a window stays between floor and base.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from edge_client.protocol.feature_classes import CLASSES_MAX
from edge_client.protocol.messages import EdgeReport, FeatureObservations
from edge_client.protocol.observations import COUNT_MAX

MS: Final = 1_000_000
SPAN_MS: Final = 20_000
"""How long "lately" is: some ten reports of each edge."""
SECOND_NS: Final = 1_000 * MS
SECONDS: Final = SPAN_MS // 1_000
HELD_MAX: Final = 500_000
"""Lives, and last sums of all of them; beyond it the life unheard for longest is forgotten."""
RINGS_MAX: Final = CLASSES_MAX + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRate:
    """What was told of one class within the last `SPAN_MS`, by all edges together."""

    judged_count: int = 0
    failed_count: int = 0
    fetched_count: int = 0
    drift_sum: float = 0.0


class _Sums(NamedTuple):
    judged_count: int
    failed_count: int
    fetched_count: int
    drift_sum: float


class _Told(NamedTuple):
    sums: _Sums
    grew_at_ns: int | None
    """When they were more than before; None: not yet."""


NOTHING: Final = FeatureRate()
_Life = dict[str, _Told]
_Ring = deque[tuple[int, _Sums]]
"""What happened in each second, the oldest first."""


class FeatureRates:
    """Rates by class. Everything is bounded, what overflows is counted; not thread-safe. `known` says which classes exist."""

    def __init__(self, *, known: Callable[[str], bool] | None = None, counters: Counter[str] | None = None) -> None:
        self._known = known
        self._lives: OrderedDict[tuple[str, str], _Life] = OrderedDict()
        self._sheet_count = 0
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self.counters: Counter[str] = Counter() if counters is None else counters

    def report_received(self, report: EdgeReport, *, now_ns: int) -> None:
        """What this life of this edge told beyond what it had told before is in the rates. Never raises."""
        if not report.features:
            return
        life = self._lives.setdefault((report.edge_id, report.life_id), {})
        self._lives.move_to_end((report.edge_id, report.life_id))
        for sheet in report.features[:RINGS_MAX]:
            self._sheet_received(life, sheet, now_ns=now_ns)
        if len(report.features) > RINGS_MAX:
            self.counters["feature_observations_beyond_max"] += 1
        while self._sheet_count + len(self._lives) > HELD_MAX and len(self._lives) > 1:
            self._sheet_count -= len(self._lives.popitem(last=False)[1])
            self.counters["feature_lives_forgotten"] += 1

    def rate(self, class_name: str, *, now_ns: int) -> FeatureRate:
        """What happened lately; `NOTHING` if nothing was told."""
        ring = self._rings.get(class_name)
        if ring is None:
            return NOTHING
        _let_go(ring, now_ns=now_ns)
        return FeatureRate(
            judged_count=sum(sums.judged_count for _, sums in ring),
            failed_count=sum(sums.failed_count for _, sums in ring),
            fetched_count=sum(sums.fetched_count for _, sums in ring),
            drift_sum=math.fsum(sums.drift_sum for _, sums in ring),
        )

    def edge_counts(self, *, now_ns: int) -> Counter[str]:
        """How many edges told something of each class lately. Looks at each life once: for people, not for every tick."""
        since_ns = now_ns - SPAN_MS * MS
        return Counter(
            name
            for life in self._lives.values()
            for name, told in life.items()
            if told.grew_at_ns is not None and told.grew_at_ns > since_ns
        )

    def check_invariants(self) -> None:
        assert self._sheet_count == sum(map(len, self._lives.values()))
        assert self._sheet_count + len(self._lives) <= HELD_MAX or len(self._lives) == 1
        assert len(self._rings) <= RINGS_MAX
        for ring in self._rings.values():
            seconds = [second for second, _ in ring]
            assert seconds == sorted(set(seconds)) and len(seconds) <= SECONDS + 1
            assert all(_possible(sums) for _, sums in ring)

    # ---- helpers

    def _sheet_received(self, life: _Life, sheet: FeatureObservations, *, now_ns: int) -> None:
        sums = _Sums(sheet.judged_count, sheet.failed_count, sheet.fetched_count, sheet.drift_sum)
        if not (_possible(sums) and sums.judged_count <= COUNT_MAX and sums.fetched_count <= COUNT_MAX):
            self.counters["feature_observations_invalid"] += 1
            return
        name = sheet.class_name
        if self._known is not None and not self._known(name):
            self.counters["feature_observations_unknown"] += 1
            return
        told = life.get(name)
        if told is None:
            if len(life) >= RINGS_MAX:  # Classes come and go; the oldest of this life is no more.
                del life[next(iter(life))]
                self._sheet_count -= 1
            life[name] = _Told(sums, None)
            self._sheet_count += 1
            return
        grown = _since(sums, told.sums)
        if not _possible(grown):
            self.counters["feature_observations_shrunk"] += 1
        elif any(grown):
            life[name] = _Told(sums, now_ns)
            self._add(name, grown, now_ns=now_ns)

    def _add(self, name: str, grown: _Sums, *, now_ns: int) -> None:
        ring = self._rings.setdefault(name, deque())
        self._rings.move_to_end(name)
        if len(self._rings) > RINGS_MAX:
            self._rings.popitem(last=False)
            self.counters["feature_rates_forgotten"] += 1
        second = now_ns // SECOND_NS
        if ring and ring[-1][0] == second:
            grown = _added(ring.pop()[1], grown)
        ring.append((second, grown))
        _let_go(ring, now_ns=now_ns)


def _let_go(ring: _Ring, *, now_ns: int) -> None:
    while ring and ring[0][0] <= now_ns // SECOND_NS - SECONDS:
        ring.popleft()


def _added(one: _Sums, other: _Sums) -> _Sums:
    return _Sums(
        one.judged_count + other.judged_count,
        one.failed_count + other.failed_count,
        one.fetched_count + other.fetched_count,
        one.drift_sum + other.drift_sum,
    )


def _since(sums: _Sums, last: _Sums) -> _Sums:
    """What came in between; a drift beyond the fetches is rounding."""
    fetched_count = sums.fetched_count - last.fetched_count
    return _Sums(
        sums.judged_count - last.judged_count,
        sums.failed_count - last.failed_count,
        fetched_count,
        min(sums.drift_sum - last.drift_sum, float(fetched_count)),
    )


def _possible(sums: _Sums) -> bool:
    """Whether this can have happened; no comparison holds of what is no number, and a little is left for rounding."""
    drift_max = sums.fetched_count * (1 + 1e-9)
    return 0 <= sums.failed_count <= sums.judged_count and 0 <= sums.drift_sum <= drift_max
