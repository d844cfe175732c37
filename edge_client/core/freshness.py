"""How old is a copy of a feature, and may it be served?

Picture milk in a fridge with the hour of purchase on each carton. A copy remembers since when it counts its age: of a
critical feature, our own clock before the store was asked (so that the age can only be too great); of a bulk feature, when
it was written. What is old enough to be replaced is decided here, and what came in meanwhile that voids a purchase under
way; who fetches, and from where, is not known here.

Instants are nanoseconds of this machine's clock, the wall time of a writer having been translated when the copy was made:
a read compares one reading of the clock with numbers that are there already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from edge_client.core.feature_reading import FeatureVerdict
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from edge_client.protocol.features import Entry
from edge_client.protocol.stamps import stamp_unix_ms

MS: Final = 1_000_000
UNKNOWN_NS: Final = -(1 << 62)
"""Since when an age counts of which nothing is known: before everything."""
ANY_AGE_NS: Final = 1 << 62
ABSENT_MS_MAX: Final = 1_000
"""How long it is remembered that there is no such feature; never longer than the window."""
EARLY_SHARE_MIN: Final = 0.7
"""From a random share of the window between this and `EARLY_SHARE_MAX` on a copy that is read is fetched again, so that neither the
readers of one machine nor those of many meet at the end of the window."""
EARLY_SHARE_MAX: Final = 0.95
EXPIRY_SPREAD: Final = 0.05
"""By how much of its life memory lets go of a copy early, at random, for the same reason; never late."""
LONG_MS: Final = 1_000_000_000
"""How long memory keeps what never expires: eleven days, and then it is asked for again."""
COPY_BYTES: Final = 512
"""What a copy takes beside its key and its value."""
TOKENS_MAX: Final = 65_536
NEVER: Final = (-1, -1)
"""The order of what was never written: less than any."""

FRESH: Final = FeatureVerdict.FRESH
STALE_WITHIN_BOUND: Final = FeatureVerdict.STALE_WITHIN_BOUND
TOO_STALE: Final = FeatureVerdict.TOO_STALE


class ClassPolicy:
    """What holds of one feature class now. One object a class, shared by its copies: a new window holds for all of them."""

    __slots__ = ("codec", "expire_ms", "feature_class", "is_announced", "is_critical", "limit_ns", "name", "window_ns")

    def __init__(self, feature_class: FeatureClass) -> None:
        self.name = feature_class.name
        self.changed(feature_class)

    def changed(self, feature_class: FeatureClass) -> None:
        """The region says something new of the class."""
        assert feature_class.name == self.name
        self.feature_class = feature_class
        self.codec, self.expire_ms = feature_class.codec, feature_class.expire_ms
        self.is_critical = feature_class.kind is FeatureKind.CRITICAL
        self.is_announced = feature_class.is_announced
        self.window_ns = feature_class.window_now_ms * MS
        self.limit_ns = self.window_ns if self.is_critical else ANY_AGE_NS
        """How old a reading may be by default: a critical one as its window, a bulk one until it expires."""


class Copy:
    """What this process knows of one key. Never changes; a newer one takes its place."""

    __slots__ = (
        "__weakref__",
        "aged_from_ns",
        "data",
        "easy_age_ns",
        "expires_age_ns",
        "is_bounded",
        "key",
        "known_at_ns",
        "order",
        "policy",
        "size_bytes",
        "value",
    )

    key: str
    policy: ClassPolicy
    value: Any
    """What is handed out; a mark of the driver where each reader needs one of its own, or where nothing is there."""
    data: bytes | None
    """The encoded value as far as it is needed again; None, too, where there is nothing."""
    order: tuple[int, int]
    """The order of the write; `NEVER` where there never was one."""
    known_at_ns: int
    """When it was known to be current, on this machine's clock; `UNKNOWN_NS`: nobody knows."""
    aged_from_ns: int
    easy_age_ns: int
    """Younger than this, it has neither expired nor been known for so long that it should be fetched again."""
    expires_age_ns: int
    is_bounded: bool
    """Whether its age holds whatever any wall clock does."""
    size_bytes: int
    """What memory counts it for."""

    def __init__(
        self,
        key: str,
        entry: Entry | None,
        value: Any,
        *,
        policy: ClassPolicy,
        known_at_ns: int | None,
        spread: float,
        unix_ms: int,
        now_ns: int,
    ) -> None:
        """`spread`: anywhere in [0, 1), for early fetches. A stamp ahead of our wall clock counts as written just now."""
        known = known_at_ns is not None and known_at_ns <= now_ns
        self.key, self.policy, self.value = key, policy, value
        self.data = None if entry is None else entry.value
        self.size_bytes = COPY_BYTES + len(key) + len(self.data or b"")
        self.order = NEVER if entry is None else entry.order
        self.known_at_ns = self.aged_from_ns = known_at_ns if known_at_ns is not None and known else UNKNOWN_NS
        if entry is not None and not policy.is_critical:
            self.aged_from_ns = now_ns - max(0, unix_ms - stamp_unix_ms(entry.stamp)) * MS
        self.is_bounded = known and policy.is_critical
        life_ms = LONG_MS
        if entry is None:
            life_ms = min(ABSENT_MS_MAX, policy.feature_class.window_now_ms)
        elif entry.expires_at_unix_ms:
            life_ms = entry.expires_at_unix_ms - unix_ms
        life_ns = life_ms * MS - int(spread * EXPIRY_SPREAD * max(0, life_ms)) * MS
        self.expires_age_ns = now_ns + life_ns - self.aged_from_ns
        early_ns = int(policy.window_ns * (EARLY_SHARE_MIN + spread * (EARLY_SHARE_MAX - EARLY_SHARE_MIN)))
        self.easy_age_ns = min(early_ns + self.known_at_ns - self.aged_from_ns, self.expires_age_ns)

    def age_ns(self, *, now_ns: int) -> int | None:
        """The most that has passed since this was the current value; None: nobody knows."""
        return None if self.aged_from_ns == UNKNOWN_NS else now_ns - self.aged_from_ns

    def expired(self, *, now_ns: int) -> bool:
        return now_ns - self.aged_from_ns >= self.expires_age_ns

    def verdict(self, *, staleness_max_ms: int | None, now_ns: int) -> FeatureVerdict:
        """By its age alone, against the window that holds now and what the caller allows.

        By default a critical class allows its window, and a bulk class any age until expiry.
        """
        age_ns = now_ns - self.aged_from_ns
        allowed_ns = self.policy.limit_ns if staleness_max_ms is None else staleness_max_ms * MS
        if age_ns > allowed_ns:
            return TOO_STALE
        return FRESH if age_ns <= self.policy.window_ns else STALE_WITHIN_BOUND

    def is_due(self, *, now_ns: int) -> bool:
        """Whether to fetch it again in the background when it is read."""
        age_ns = now_ns - self.aged_from_ns
        return age_ns >= self.easy_age_ns or age_ns > self.policy.limit_ns

    def supersedes(self, other: Copy, *, from_store: bool) -> bool:
        """Whether this may take the place of `other`: a newer write, or the same known to be current later.

        Of a critical class the store is the truth: what it said last holds, even if it lost something.
        """
        if (from_store and self.policy.is_critical) or NEVER in (self.order, other.order):
            return self.known_at_ns >= other.known_at_ns
        return (self.order, self.known_at_ns) >= (other.order, other.known_at_ns)

    def __repr__(self) -> str:
        return f"<Copy {self.key} {self.order[0]} known_at={self.known_at_ns} {self.policy.name}>"


class FillTokens:
    """Permissions to fill, voided by what happens to their key meanwhile (memcache leases; Nishtala et al., NSDI 2013).

    Bounded by `tokens_max`: who comes beyond that may ask, but not fill, which is counted. Not thread-safe.
    """

    def __init__(self, *, tokens_max: int = TOKENS_MAX) -> None:
        self._tokens_max = tokens_max
        self.live: dict[str, tuple[int, int]] = {}
        """Key to how many are under way, and the last number that is void. To be looked at only."""
        self._count = 0
        self._last = 0
        self.refused_count = 0

    def take(self, key: str) -> int:
        """A token for one fill of `key`, to be given back by `settle`; 0 where none is left."""
        if self._count >= self._tokens_max:
            self.refused_count += 1
            return 0
        self._last += 1
        self._count += 1
        count, void_through = self.live.get(key, (0, 0))
        self.live[key] = (count + 1, void_through)
        return self._last

    def void(self, key: str) -> None:
        """None of the fills of `key` that are under way is accepted."""
        held = self.live.get(key)
        if held is not None:
            self.live[key] = (held[0], self._last)

    def void_matching(self, predicate: Callable[[str], bool]) -> None:
        """As `void`, for every key that the predicate takes."""
        for key in self.live:
            if predicate(key):
                self.void(key)

    def settle(self, key: str, token: int) -> bool:
        """The fill ended; whether what it brought may be kept."""
        if token == 0:
            return False
        count, void_through = self.live[key]
        self._count -= 1
        if count == 1:
            del self.live[key]
        else:
            self.live[key] = (count - 1, void_through)
        return token > void_through

    def check_invariants(self) -> None:
        assert self._count == sum(count for count, _ in self.live.values()) <= self._tokens_max
        assert all(count > 0 and void_through <= self._last for count, void_through in self.live.values())


def drift(before: Any, after: Any) -> float:
    """How far a copy was off, from 0, the same, to 1, another value altogether.

    Numbers by their relative difference, arrays of one shape by the sum of differences over the sum of magnitudes; of other
    values only whether they are equal.
    """
    if type(before) is not type(after):
        return 1.0
    try:
        if isinstance(before, float | int) and not isinstance(before, bool):
            total = abs(before) + abs(after)
            off = abs(before - after) / total if total else 0.0
        elif hasattr(before, "shape"):
            if before.shape != after.shape or before.dtype != after.dtype:
                return 1.0
            before, after = before.astype(float), after.astype(float)  # small integers wrap round
            total = float(abs(before).sum()) + float(abs(after).sum())
            off = float(abs(before - after).sum()) / total if total else 0.0
        else:
            return 0.0 if before == after else 1.0
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return 1.0
    return min(1.0, off) if off >= 0.0 else 1.0
