"""How often each caller may ask: a bounded table of leaking buckets, one number each.

The number is the instant at which the bucket would be empty (GCRA, ITU-T I.371): a call moves it on by one interval, and
is refused while that would be further ahead than the burst. Nothing fills or empties in between, so that a caller who is
silent costs nothing. When the table is full, the caller not seen for longest is forgotten, and counted: they begin afresh.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

NS_PER_S: Final = 1_000_000_000
KEYS_MAX: Final = 10_000


class RateLimits:
    """For each key at most `burst` at once and `per_s` in the long run."""

    def __init__(self, *, per_s: float, burst: int, keys_max: int = KEYS_MAX) -> None:
        assert per_s > 0, per_s
        assert burst >= 1, burst
        self.forgotten_count = 0
        self._interval_ns = int(NS_PER_S / per_s)
        self._burst_ns = burst * self._interval_ns
        self._keys_max = keys_max
        self._empty_at_ns: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._empty_at_ns)

    def __repr__(self) -> str:
        return f"<RateLimits keys={len(self._empty_at_ns)}/{self._keys_max} forgotten={self.forgotten_count}>"

    def take(self, key: str, *, now_ns: int) -> int:
        """0 if the call may go on, and is counted; else how many nanoseconds later it may come again."""
        wait_ns = self.wait_ns(key, now_ns=now_ns)
        if wait_ns == 0:
            self._empty_at_ns[key] = max(now_ns, self._empty_at_ns.get(key, 0)) + self._interval_ns
            self._empty_at_ns.move_to_end(key)
            while len(self._empty_at_ns) > self._keys_max:
                self._empty_at_ns.popitem(last=False)
                self.forgotten_count += 1
        return wait_ns

    def wait_ns(self, key: str, *, now_ns: int) -> int:
        """How long the next call has to wait; nothing is counted."""
        ahead_ns = max(0, self._empty_at_ns.get(key, 0) - now_ns)
        return max(0, ahead_ns + self._interval_ns - self._burst_ns)

    def check_invariants(self) -> None:
        assert len(self._empty_at_ns) <= self._keys_max
