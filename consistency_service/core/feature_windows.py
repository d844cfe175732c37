"""How old may a feature be, when answers go wrong more often, or the world moves faster?

`window = clamp(base * (1 - error_rate), floor, base)` (protocol, section 10). The error rate of a class is the greater of two
shares of the last seconds: of the judged readings those that were wrong, and the mean distance between a copy and what
replaced it. The greater, because either alone is reason enough to look more often: a mean of both would hide drift behind
many right answers, and wrong answers behind a world that stands still.

Picture a thermostat with a thick scale: it closes at once when it surely grew too warm, and opens step by step when it was
cool for a while. "Surely" means that even the smallest error rate which three standard deviations allow asks for a window
a tenth smaller (Wilson's interval, 1927; what lies between 0 and 1 varies no more than a coin does, so it holds for drift).
For wider windows the worst moment of the calm time counts. So noise hardly moves anything, however few the readings: under
steady errors a window settles. And silence proves nothing: without enough readings it stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from consistency_service.core.feature_rates import SPAN_MS, FeatureRate
from edge_client.protocol.feature_classes import FeatureClass

MS: Final = 1_000_000
READINGS_MIN: Final = 50
"""Fewer judged readings, or fewer fetches, say nothing."""
CHANGE_MIN: Final = 0.1
"""By this share a window must be wrong before it is moved."""
DEVIATIONS: Final = 3.0
APART_NS: Final = 5_000 * MS
"""Between two changes of one class."""
CALM_NS: Final = 30_000 * MS
"""How long a wider window must have been enough before it is taken."""
WIDEN_MAX: Final = 2
"""At most so many times wider in one step."""
ORDERS_MAX: Final = 8
"""Changes of all classes in one look; the others come with the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChange:
    """The window of this class should be this from now on."""

    class_name: str
    window_ms: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRate:
    """What is believed of a class: the estimate, and the least that is plausible."""

    estimate: float
    least: float


@dataclass(slots=True)
class _Class:
    """What this life of the authority keeps of a class."""

    changed_at_ns: int | None = None
    calm_since_ns: int | None = None
    worst: float = 0.0
    """The greatest error rate since."""


class FeatureWindows:
    """Decides for all classes. Not thread-safe; what it decided it finds in the classes of a later look, or decides again."""

    def __init__(self) -> None:
        self._classes: dict[str, _Class] = {}

    def look(self, classes: Iterable[tuple[FeatureClass, FeatureRate]], *, now_ns: int) -> tuple[WindowChange, ...]:
        """The changes that are due, given every class of the region and what was told of it lately."""
        before, self._classes = self._classes, {}
        changes: list[WindowChange] = []
        for feature_class, rate in classes:
            seen = self._classes[feature_class.name] = before.get(feature_class.name) or _Class()
            if len(changes) == ORDERS_MAX:
                continue
            window_ms = _due(feature_class, error_rate(rate), seen, now_ns=now_ns)
            if window_ms is None:
                continue
            seen.changed_at_ns, seen.calm_since_ns = now_ns, None
            reason = _reason(feature_class, rate, window_ms=window_ms)
            changes.append(WindowChange(class_name=feature_class.name, window_ms=window_ms, reason=reason))
        return tuple(changes)

    def forget(self) -> None:
        """Another life may have decided meanwhile: every wait begins anew."""
        self._classes.clear()

    def check_invariants(self) -> None:
        assert all(0 <= seen.worst <= 1 for seen in self._classes.values())


def error_rate(rate: FeatureRate) -> ErrorRate | None:
    """The error rate of a class; None where there are too few readings to say."""
    shares = (
        (rate.failed_count, rate.judged_count),
        (min(max(0.0, rate.drift_sum), rate.fetched_count), rate.fetched_count),
    )
    told = [
        ErrorRate(estimate=total / count, least=_least(total / count, count=count))
        for total, count in shares
        if count >= READINGS_MIN
    ]
    if not told:
        return None
    return ErrorRate(estimate=max(one.estimate for one in told), least=max(one.least for one in told))


def window_of(feature_class: FeatureClass, *, error: float) -> int:
    """The window that protocol section 10 has for an error rate, in milliseconds."""
    window_ms = round(feature_class.window_base_ms * (1 - error))
    return max(feature_class.window_floor_ms, min(window_ms, feature_class.window_base_ms))


def _due(feature_class: FeatureClass, error: ErrorRate | None, seen: _Class, *, now_ns: int) -> int | None:
    """The window to set now; None to leave it."""
    present_ms = feature_class.window_now_ms
    if error is None:
        seen.calm_since_ns = None
        return None
    if window_of(feature_class, error=error.least) <= (1 - CHANGE_MIN) * present_ms:
        seen.calm_since_ns = None
        return window_of(feature_class, error=error.estimate) if _apart(seen, now_ns=now_ns) else None
    if not _wider(feature_class, error=error.estimate):
        seen.calm_since_ns = None
        return None
    if seen.calm_since_ns is None:
        seen.calm_since_ns, seen.worst = now_ns, error.estimate
    seen.worst = max(seen.worst, error.estimate)
    if now_ns - seen.calm_since_ns < CALM_NS or not _apart(seen, now_ns=now_ns):
        return None
    return min(window_of(feature_class, error=seen.worst), present_ms * WIDEN_MAX)


def _wider(feature_class: FeatureClass, *, error: float) -> bool:
    """Whether this error rate allows a window that is worth taking: a tenth wider, or all of the base."""
    wide_ms, present_ms = window_of(feature_class, error=error), feature_class.window_now_ms
    return wide_ms >= (1 + CHANGE_MIN) * present_ms or present_ms < wide_ms == feature_class.window_base_ms


def _apart(seen: _Class, *, now_ns: int) -> bool:
    return seen.changed_at_ns is None or now_ns - seen.changed_at_ns >= APART_NS


def _least(share: float, *, count: int) -> float:
    """The lower end of Wilson's interval."""
    z2 = DEVIATIONS * DEVIATIONS
    middle = share + z2 / (2 * count)
    half = DEVIATIONS * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, (middle - half) / (1 + z2 / count))


def _reason(feature_class: FeatureClass, rate: FeatureRate, *, window_ms: int) -> str:
    told = []
    if rate.judged_count:
        told.append(f"{rate.failed_count} of {rate.judged_count} judged readings wrong")
    if rate.fetched_count:
        told.append(f"mean drift {rate.drift_sum / rate.fetched_count:.3f} over {rate.fetched_count} fetches")
    return f"{', '.join(told)} in {SPAN_MS // 1_000} s: {feature_class.window_now_ms} ms to {window_ms} ms"
