"""What a read of a feature returns: the value, and what it is worth.

A reading is a receipt, like that of a model: it never changes and says how old the answer may be, who gave it and why.
Two numbers that look alike are kept apart. `age_ms` is what this edge measured; `staleness_bound_ms` is what it vouches
for, and None where it would have to trust the wall clock of another edge.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

TierName = Literal["memory", "queue", "local", "store"]
"""This process's memory, its own writes on their way, the box's Redis, the regional store."""

OnStale = Literal["serve", "raise", "fetch"]
"""What to do when what is at hand is too old: serve it and say so, raise, or ask the tiers below."""


class FeatureVerdict(StrEnum):
    """How the age of a reading compares with what was asked."""

    FRESH = "FRESH"
    """Within the staleness window of its class, and within what the caller allows."""
    STALE_WITHIN_BOUND = "STALE_WITHIN_BOUND"
    """Beyond the window, within what the caller allows; it is being fetched again."""
    TOO_STALE = "TOO_STALE"
    """Beyond what is allowed; served only where the caller said `on_stale="serve"`."""


class FeatureReason(StrEnum):
    """Why this answer."""

    MEMORY = "MEMORY"
    """It was in this process: in memory, or on its way to the store."""
    LOCAL = "LOCAL"
    """The box's Redis had it."""
    FETCHED = "FETCHED"
    """The regional store was asked."""
    STALE = "STALE"
    """It is too old, and the caller wanted it all the same."""
    DEFAULT = "DEFAULT"
    """There is no such feature, or nobody could say; the value is the caller's default."""


class FeatureReading(msgspec.Struct, frozen=True):
    """Immutable. Made for every read, hence a struct of C: it costs a tenth of a microsecond."""

    key: str
    value: Any
    """The feature with the type it was put with, or the caller's default. Arrays are read-only; dicts and lists are the
    caller's own."""
    found: bool
    age_ms: int | None
    """The most that has passed since this was the current value, in whole milliseconds, rounded up: since it was known current
    (critical), or since it was written, by the writer's wall clock (bulk). None: nobody knows, as after a restart of the
    machine."""
    tier: TierName | None
    """Who gave the answer; None where nobody did."""
    reason: FeatureReason
    verdict: FeatureVerdict
    feature_class: str
    staleness_bound_ms: int | None
    """The age where it holds whatever any wall clock does: critical classes, and what this very process wrote. Otherwise
    None: no bound is vouched for."""

    def __repr__(self) -> str:
        age = "?" if self.age_ms is None else f"{self.age_ms}ms"
        bound = "?" if self.staleness_bound_ms is None else f"{self.staleness_bound_ms}ms"
        return (
            f"<FeatureReading {self.key} {'found' if self.found else 'absent'} {self.verdict} age={age} bound={bound}"
            f" tier={self.tier or 'none'} {self.reason} class={self.feature_class}>"
        )
