"""What one life of one edge saw of its feature classes, as sums that only grow; the region sets windows by it.

Two things tell that a window is too wide: readings of which the application says that they were wrong, and copies that
were far off when they were replaced by what the store had meanwhile.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from edge_client.core.freshness import drift
from edge_client.protocol.feature_classes import CLASSES_MAX
from edge_client.protocol.messages import FeatureObservations


class FeatureObserved:
    """Sums by class, for at most as many classes as a region has. Not thread-safe."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self.counters: Counter[str] = Counter()

    def judged(self, class_name: str, *, ok: bool) -> None:
        """The application said whether a reading of this class was right."""
        sums = self._of(class_name)
        sums[_JUDGED] += 1
        sums[_FAILED] += not ok

    def fetched(self, class_name: str, *, before: Any, after: Any) -> None:
        """A copy was replaced by what the store had; both values as the application would see them."""
        sums = self._of(class_name)
        sums[_FETCHED] += 1
        sums[_DRIFT] += drift(before, after)

    def sheets(self) -> tuple[FeatureObservations, ...]:
        """All sums as they are now, by name."""
        return tuple(
            FeatureObservations(
                class_name=name,
                judged_count=int(sums[_JUDGED]),
                failed_count=int(sums[_FAILED]),
                fetched_count=int(sums[_FETCHED]),
                drift_sum=sums[_DRIFT],
            )
            for name, sums in sorted(self._sums.items())
        )

    def check_invariants(self) -> None:
        assert len(self._sums) <= CLASSES_MAX
        for sums in self._sums.values():
            assert 0 <= sums[_FAILED] <= sums[_JUDGED] and 0.0 <= sums[_DRIFT] <= sums[_FETCHED] * (1 + 1e-9)

    def _of(self, class_name: str) -> list[float]:
        sums = self._sums.get(class_name)
        if sums is None:
            sums = [0, 0, 0, 0.0]
            if len(self._sums) < CLASSES_MAX:
                self._sums[class_name] = sums
            else:
                self.counters["classes_unobserved"] += 1
        return sums


_JUDGED: Final = 0
_FAILED: Final = 1
_FETCHED: Final = 2
_DRIFT: Final = 3
