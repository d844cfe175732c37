"""For how long would a read have been strong? A stopwatch beside the shop window; readers do not know it.

A strong reading is put up with the instant at which it runs out. When another takes its place, or it is taken down, the time
that it was worth something is added up. So the share is of time, to the nanosecond, and reading costs nothing for it.
"""

from __future__ import annotations


class StrongTime:
    """Of one model. Not thread-safe; instants never go back by themselves, and one that does counts nothing."""

    __slots__ = ("_from_ns", "_strong_ns", "_until_ns", "behind_since_ns", "since_ns")

    def __init__(self, *, now_ns: int) -> None:
        self.since_ns = self._from_ns = self._until_ns = now_ns
        self._strong_ns = 0
        self.behind_since_ns: int | None = now_ns
        """Since when the right version is not served here; None while it is."""

    def shown(self, *, strong_until_ns: int | None, is_right: bool, now_ns: int) -> None:
        """From now on a read is strong before this instant, or, without one, not at all; `is_right`: whatever it is worth, it
        gives the version that should be served.
        """
        self._strong_ns = self.strong_ns(now_ns=now_ns)
        self._from_ns = now_ns
        self._until_ns = now_ns if strong_until_ns is None else strong_until_ns
        if is_right:
            self.behind_since_ns = None
        elif self.behind_since_ns is None:
            self.behind_since_ns = now_ns

    def strong_ns(self, *, now_ns: int) -> int:
        """For how long it was strong, up to now."""
        return self._strong_ns + max(0, min(now_ns, self._until_ns) - self._from_ns)

    def check_invariants(self) -> None:
        assert self._strong_ns <= self._from_ns - self.since_ns or self._from_ns < self.since_ns
