"""A circuit breaker round one dependency, for the loop and for threads: asks while it is worth it, remembers what came.

What is bad is that nobody answers; a dependency that answers and refuses is there, and asking it costs nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from edge_client.core.breaker import Breaker, BreakerConfig, BreakerState

if TYPE_CHECKING:
    from random import Random

    from edge_client.runtime.ports import Clock


class Guard:
    """One breaker with its lock and its clock."""

    def __init__(self, config: BreakerConfig, *, clock: Clock, rng: Random) -> None:
        self._breaker = Breaker(config, rng=rng)
        self._lock = threading.RLock()
        self._clock = clock

    def allows(self) -> bool:
        """Whether to ask. While half-open a True is one of few: then ask, and say what came."""
        if self._breaker.state is BreakerState.CLOSED:
            return True
        with self._lock:
            return self._breaker.allows(now_ns=self._clock.now_ns())

    def came(self, *, good: int = 0, bad: int = 0) -> None:
        """So many answers came, so many did not."""
        with self._lock:
            self._breaker.came(good=good, bad=bad, now_ns=self._clock.now_ns())

    def answered(self) -> None:
        """An answer came. Counted from the first failure on that is remembered: most of the time this costs nothing."""
        if not self._breaker.is_calm:
            self.came(good=1)

    def gave_up(self) -> None:
        """Whoever asked did not wait for the answer, which says nothing; but a probe must not be lost."""
        if self._breaker.state is not BreakerState.CLOSED:
            self.came(bad=1)

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`."""
        return self._breaker.state.value

    @property
    def counters(self) -> Counter[str]:
        with self._lock:
            return self._breaker.counters.copy()


class Admission:
    """Whether the application should lean on features just now: not while too many have to be fetched, or are too old."""

    def __init__(self, *, misses_bp_max: int, stale_bp_max: int, clock: Clock, rng: Random) -> None:
        self._guards = tuple(
            Guard(BreakerConfig(count_min=50, bad_bp_max=bp_max, probes=10, open_ms_min=1_000), clock=clock, rng=rng)
            for bp_max in (misses_bp_max, stale_bp_max)
        )
        self._seen = (0, 0, 0)
        self._lock = threading.RLock()

    def admits(self, *, hit_count: int, miss_count: int, stale_count: int) -> bool:
        """By all that was read so far, as sums that only grow."""
        with self._lock:
            hits, misses, stale = (
                now - before for now, before in zip((hit_count, miss_count, stale_count), self._seen, strict=True)
            )
            self._seen = (hit_count, miss_count, stale_count)
        by_miss, by_age = self._guards
        by_miss.came(good=max(0, hits), bad=max(0, misses))
        by_age.came(good=max(0, hits + misses - stale), bad=max(0, stale))
        # Both are asked, so that each sends its probes; one that is closed refuses nothing.
        return all([by_miss.allows(), by_age.allows()])

    @property
    def state(self) -> str:
        """The worse of the two states."""
        states = {guard.state for guard in self._guards}
        return next(
            state.value
            for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED)
            if state.value in states
        )
