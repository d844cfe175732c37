"""The sum of what edges reported of one version under one generation: what an analysis weighs.

Each edge reports totals of its life, again and again; a sheet takes what they grew by, so that a report that comes twice,
or one that was skipped, changes nothing. Work for each report is that of the report, however many edges there are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Final, TypeVar

import msgspec

from edge_client.protocol.observations import BUCKET_MAX, LABELS_MAX, OTHER, Observations

_COUNTS: Final = ("count", "judged_count", "failed_count")
COUNT_MAX: Final = 2**53
"""More readings than this nobody has made."""
_TABLES: Final = ("latencies", "scores", "labels")
_Key = TypeVar("_Key", bound=Hashable)


class Sheet(msgspec.Struct, kw_only=True):
    """Bounded: buckets are limited by their number, labels by `LABELS_MAX`, the others counting as `OTHER`."""

    count: int = 0
    judged_count: int = 0
    failed_count: int = 0
    latencies: dict[int, int] = {}
    scores: dict[int, int] = {}
    score_sum: float = 0.0
    score_square_sum: float = 0.0
    labels: dict[str, int] = {}

    def add(self, later: Observations, *, earlier: Observations | None = None) -> bool:
        """Counts what a life of an edge reported since `earlier`; False, and nothing changes, if that is no growth."""
        before = earlier or Observations(model=later.model, version=later.version, generation=later.generation)
        singles = {name: getattr(later, name) - getattr(before, name) for name in _COUNTS}
        tables = {name: _growth(getattr(later, name), getattr(before, name)) for name in _TABLES}
        sums = (later.score_sum - before.score_sum, later.score_square_sum - before.score_square_sum)
        if min(*singles.values(), *(more for table in tables.values() for more in table.values()), sums[1]) < 0:
            return False
        if not all(map(math.isfinite, sums)) or any(
            abs(bucket) > BUCKET_MAX for bucket in later.latencies | later.scores
        ):
            return False
        for name, more in singles.items():
            setattr(self, name, getattr(self, name) + more)
        for name, table in tables.items():
            mine = getattr(self, name)
            for key, more in table.items():
                place = key if key in mine or name != "labels" or len(mine) < LABELS_MAX else OTHER
                mine[place] = mine.get(place, 0) + more
        self.score_sum += sums[0]
        self.score_square_sum += sums[1]
        return True

    @property
    def latency_count(self) -> int:
        return sum(self.latencies.values())

    @property
    def score_count(self) -> int:
        return sum(self.scores.values())

    @property
    def label_count(self) -> int:
        return sum(self.labels.values())

    @property
    def contradicts_itself(self) -> bool:
        """Whether no readings can have made these counts."""
        tables = (self.latencies, self.scores, self.labels)
        if self.failed_count < 0 or any(min(table.values(), default=0) < 0 for table in tables):
            return True
        if max(self.judged_count, self.latency_count, self.score_count, self.label_count) > COUNT_MAX:
            return True
        if any(max(table) > BUCKET_MAX or min(table) < -BUCKET_MAX for table in (self.latencies, self.scores) if table):
            return True
        if self.failed_count > self.judged_count or not math.isfinite(self.score_sum + self.score_square_sum):
            return True
        least = self.score_sum * self.score_sum  # of the squares' sum times the count, by Cauchy and Schwarz
        return least > self.score_square_sum * self.score_count * (1 + 1e-6) + 1e-9


def _growth(later: Mapping[_Key, int], before: Mapping[_Key, int]) -> dict[_Key, int]:
    """What was added under each key; keys of nothing new are left out."""
    return {key: more for key in {**before, **later} if (more := later.get(key, 0) - before.get(key, 0))}
