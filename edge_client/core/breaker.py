"""Is it worth asking? A circuit breaker: outcomes in, permission out.

Picture a fuse with a timer. While outcomes are good it lets everything through (closed). When too many of those in a
sliding window were bad, it lets nothing through (open) for a while that grows each time. Then it lets a few through to see
(half-open): good ones close it, bad ones open it again. It knows neither what is asked nor what a bad outcome is, so the
same fuse serves a Redis that does not answer and an application whose features have become too old.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

MS: Final = 1_000_000
BUCKETS: Final = 10
"""Pieces that the window slides by."""
SHARE_BP: Final = 10_000


class BreakerState(StrEnum):
    """What a breaker does with the next request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a breaker opens, and for how long. Raises `ValueError` for what makes no sense."""

    window_ms: int = 10_000
    """Over how much of the past outcomes are judged. Higher forgives a bad moment; lower opens sooner."""
    count_min: int = 5
    """How many outcomes the window needs before it is judged."""
    bad_bp_max: int = 5_000
    """The share of bad outcomes beyond which it opens."""
    open_ms_min: int = 500
    """How long it is open the first time; twice as long each time the probes fail, spread by a quarter."""
    open_ms_max: int = 15_000
    probes: int = 1
    """How many may pass while half-open, and how many outcomes are judged then."""

    def __post_init__(self) -> None:
        if not 1 <= self.open_ms_min <= self.open_ms_max or self.window_ms < BUCKETS:
            raise ValueError(f"1 <= open_ms_min <= open_ms_max and window_ms >= {BUCKETS} must hold")
        if self.count_min < 1 or self.probes < 1 or not 0 <= self.bad_bp_max < SHARE_BP:
            raise ValueError(f"count_min and probes must be at least 1, bad_bp_max lie in 0..{SHARE_BP - 1}")


class Breaker:
    """One fuse. Not thread-safe: whoever shares it holds a lock."""

    def __init__(self, config: BreakerConfig, *, rng: Random) -> None:
        self._config = config
        self._rng = rng
        self._bucket_ns = config.window_ms * MS // BUCKETS
        self._window: deque[tuple[int, int, int]] = deque()
        """Number of the bucket, good outcomes, bad outcomes; the oldest first."""
        self._open_ms = config.open_ms_min
        self._until_ns = 0
        """Open: when probes may pass. Half-open: when more of them may, if the first ones never came back."""
        self._probes_left = 0
        self._probed = [0, 0]
        self.state = BreakerState.CLOSED
        self.counters: Counter[str] = Counter()

    @property
    def is_calm(self) -> bool:
        """Closed, and nothing at all is remembered of late: a good outcome would change nothing that matters."""
        return not self._window and self.state is BreakerState.CLOSED

    def allows(self, *, now_ns: int) -> bool:
        """Whether the next request may pass. While half-open a True is one of the few probes: use it."""
        if self.state is BreakerState.CLOSED:
            return True
        if now_ns >= self._until_ns:
            self.state = BreakerState.HALF_OPEN
            self._until_ns = now_ns + self._config.open_ms_max * MS
            self._probes_left = self._config.probes
            self._probed = [0, 0]
        if self.state is BreakerState.HALF_OPEN and self._probes_left > 0:
            self._probes_left -= 1
            self.counters["probes"] += 1
            return True
        self.counters["refused"] += 1
        return False

    def came(self, *, good: int = 0, bad: int = 0, now_ns: int) -> None:
        """So many outcomes were good, so many bad."""
        if self.state is BreakerState.OPEN or good + bad == 0:
            return  # stragglers of before say nothing about now
        if self.state is BreakerState.HALF_OPEN:
            self._probed[0] += good
            self._probed[1] += bad
            if sum(self._probed) >= self._config.probes:
                self._judge(*self._probed, now_ns=now_ns)
            return
        bucket = now_ns // self._bucket_ns
        while self._window and self._window[0][0] <= bucket - BUCKETS:
            self._window.popleft()
        if self._window and self._window[-1][0] >= bucket:
            bucket, good_before, bad_before = self._window.pop()
            good, bad = good + good_before, bad + bad_before
        self._window.append((bucket, good, bad))
        good, bad = (sum(one[place] for one in self._window) for place in (1, 2))
        if good + bad >= self._config.count_min and self._is_bad(good, bad):
            self._open(now_ns=now_ns)

    def check_invariants(self) -> None:
        assert len(self._window) <= BUCKETS
        assert [one[0] for one in self._window] == sorted({one[0] for one in self._window})
        assert 0 <= self._probes_left <= self._config.probes
        assert self._config.open_ms_min <= self._open_ms <= self._config.open_ms_max
        assert self.state is BreakerState.CLOSED or not self._window

    def __repr__(self) -> str:
        return f"<Breaker {self.state} open_ms={self._open_ms} window={sum(g + b for _, g, b in self._window)}>"

    def _judge(self, good: int, bad: int, *, now_ns: int) -> None:
        if self._is_bad(good, bad):
            self._open_ms = min(self._config.open_ms_max, self._open_ms * 2)
            self._open(now_ns=now_ns)
        else:
            self.state = BreakerState.CLOSED
            self._open_ms = self._config.open_ms_min
            self.counters["closed"] += 1

    def _is_bad(self, good: int, bad: int) -> bool:
        return bad * SHARE_BP > self._config.bad_bp_max * (good + bad)

    def _open(self, *, now_ns: int) -> None:
        self.state = BreakerState.OPEN
        self._until_ns = now_ns + int(self._open_ms * MS * (0.75 + 0.5 * self._rng.random()))
        self._window.clear()
        self.counters["opened"] += 1
