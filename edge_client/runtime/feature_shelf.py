"""What is to be thought of every answer about a feature, whoever gave it: for any thread, without I/O.

Picture the shelf behind a counter. A glance is enough for most questions, and takes no lock: one lookup, one reading of the
clock, a few comparisons. Whoever asks for more gets a slip, a `Lookup`, and walks from tier to tier with it; at each one the
shelf says whether what was found there will do. The loop of the asyncio client and the threads of the blocking one walk
by different doors, but the shelf is one, so both see the same copies and obey the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from edge_client.core.feature_reading import FeatureReading, FeatureReason, FeatureVerdict, OnStale, TierName
from edge_client.core.freshness import FRESH, MS, STALE_WITHIN_BOUND, TOO_STALE, UNKNOWN_NS, ClassPolicy, Copy
from edge_client.errors import ClosedError, TooStaleError
from edge_client.runtime.feature_copies import LOOK, FeatureCopies

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock

ON_STALE: Final = ("serve", "raise", "fetch")
_MEMORY: Final = FeatureReason.MEMORY
_REASONS: Final[dict[TierName, FeatureReason]] = {
    "memory": FeatureReason.MEMORY,
    "queue": FeatureReason.MEMORY,
    "local": FeatureReason.LOCAL,
    "store": FeatureReason.FETCHED,
}


class Lookup:
    """One question on its way from tier to tier."""

    __slots__ = ("default", "key", "on_stale", "policy", "stale", "staleness_max_ms")

    def __init__(
        self, key: str, *, policy: ClassPolicy, staleness_max_ms: int | None, on_stale: OnStale, default: Any
    ) -> None:
        self.key = key
        self.policy = policy
        self.staleness_max_ms = staleness_max_ms
        self.on_stale = on_stale
        self.default = default
        self.stale: Copy | None = None
        """What was found and is too old."""


class FeatureShelf:
    """Readings out of copies. Every method may be called from any thread."""

    def __init__(self, copies: FeatureCopies, *, clock: Clock, refresh_soon: Callable[[str, int], object]) -> None:
        self.copies = copies
        self.hit_count = 0
        """Readings that this machine had. Threads that count at the same instant may lose one."""
        self.miss_count = 0
        """Readings for which it had nothing, or nothing young enough."""
        self.stale_count = 0
        """Readings that were too old: served as such, or refused."""
        self._held = copies.get
        self._now_ns = clock.now_ns
        self._refresh_soon = refresh_soon
        self._closed = False

    def glance(self, key: str, staleness_max_ms: int | None, default: Any) -> FeatureReading | None:
        """What memory answers without further thought, or None: then ask `begin`."""
        copy = self._held(key)
        if copy is None:
            return None
        age_ns = self._now_ns() - copy.aged_from_ns
        policy = copy.policy
        if (
            age_ns >= copy.easy_age_ns
            or age_ns > policy.limit_ns
            or (staleness_max_ms is not None and age_ns > staleness_max_ms * MS)
        ):
            return None
        self.hit_count += 1
        verdict = FRESH if age_ns <= policy.window_ns else STALE_WITHIN_BOUND
        value = copy.value
        if value is LOOK:
            return self._reading(copy, "memory", verdict, age_ns, default)
        age_ms = (age_ns + 999_999) // MS
        bound_ms = age_ms if copy.is_bounded else None
        return FeatureReading(key, value, True, age_ms, "memory", _MEMORY, verdict, policy.name, bound_ms)

    def begin(
        self, key: str, *, staleness_max_ms: int | None, on_stale: OnStale, default: Any
    ) -> FeatureReading | Lookup:
        """What memory and our own queued writes answer, or a slip to go on with.

        Raises `TooStaleError`, `ClosedError`, and `ValueError` for what cannot be asked.
        """
        if self._closed:
            raise ClosedError("the client was closed; connect anew")
        if on_stale not in ON_STALE:
            raise ValueError(f"on_stale must be one of {', '.join(ON_STALE)}, not {on_stale!r}")
        if staleness_max_ms is not None and staleness_max_ms < 0:
            raise ValueError(f"staleness_max_ms must not be negative: {staleness_max_ms}")
        copies = self.copies
        copies.take_classes()
        policy = copies.policy_of(key)
        lookup = Lookup(key, policy=policy, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default)
        copy = self._held(key)
        if copy is not None and not copy.expired(now_ns=self._now_ns()):
            reading = self.offered(lookup, copy, tier="memory")
            if reading is not None:
                return reading
        copy = copies.copy_of_queued(key, policy)
        if copy is not None:
            reading = self.offered(lookup, copy, tier="queue")
            if reading is not None:
                return reading
        return lookup

    def offered(self, lookup: Lookup, copy: Copy, *, tier: TierName) -> FeatureReading | None:
        """The reading that this copy makes; None: it will not do, go on. Raises `TooStaleError` as the caller said."""
        now_ns = self._now_ns()
        verdict = copy.verdict(staleness_max_ms=lookup.staleness_max_ms, now_ns=now_ns)
        if verdict is TOO_STALE:
            lookup.stale = copy
            if lookup.on_stale == "fetch" and tier != "store":
                return None
        if tier == "store":
            self.miss_count += 1
        else:
            self.hit_count += 1
            if verdict is TOO_STALE or copy.is_due(now_ns=now_ns):
                self._refresh_soon(lookup.key, lookup.policy.window_ns)
        if verdict is TOO_STALE:
            self.stale_count += 1
            if lookup.on_stale != "serve":
                raise self._too_stale(lookup)
        self.copies.count(f"served_from_{tier}")
        return self._reading(copy, tier, verdict, now_ns - copy.aged_from_ns, lookup.default)

    def is_too_stale(self, lookup: Lookup, copy: Copy) -> bool:
        return copy.verdict(staleness_max_ms=lookup.staleness_max_ms, now_ns=self._now_ns()) is TOO_STALE

    def failed(self, lookup: Lookup, error: Exception) -> FeatureReading:
        """Nobody could answer. Raises `TooStaleError`, unless the caller takes whatever there is."""
        self.miss_count += 1
        self.stale_count += 1
        self.copies.count("unanswered")
        if lookup.on_stale != "serve":
            raise self._too_stale(lookup) from error
        name = lookup.policy.name
        return FeatureReading(
            lookup.key, lookup.default, False, None, None, FeatureReason.DEFAULT, TOO_STALE, name, None
        )

    def close(self) -> None:
        """No copy is left, and every question raises `ClosedError`."""
        self._closed = True
        self.copies.close()

    def _reading(
        self, copy: Copy, tier: TierName, verdict: FeatureVerdict, age_ns: int, default: Any
    ) -> FeatureReading:
        found = copy.value is not LOOK or copy.data is not None
        value = self.copies.value_of(copy) if found else default
        reason = FeatureReason.STALE if verdict is TOO_STALE else _REASONS[tier]
        if not found:
            reason = FeatureReason.DEFAULT
        age_ms = None if copy.aged_from_ns == UNKNOWN_NS else (age_ns + 999_999) // MS
        bound_ms = age_ms if copy.is_bounded else None
        return FeatureReading(copy.key, value, found, age_ms, tier, reason, verdict, copy.policy.name, bound_ms)

    def _too_stale(self, lookup: Lookup) -> TooStaleError:
        copy = lookup.stale
        if copy is None:
            return TooStaleError(
                f"{lookup.key}: there is no copy on this machine, and the feature store did not answer"
            )
        age_ns = copy.age_ns(now_ns=self._now_ns())
        age = "of unknown age" if age_ns is None else f"{(age_ns + 999_999) // MS} ms old"
        allowed_ms = lookup.staleness_max_ms
        if allowed_ms is None:
            allowed_ms = lookup.policy.window_ns // MS
        return TooStaleError(f"{lookup.key}: what is to be had is {age}, and {allowed_ms} ms are allowed")
