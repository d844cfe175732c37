"""How much did a sum grow lately? Looks at sums once a second and remembers a minute of them.

Picture a meter reader with a notebook of sixty lines: what was used within the last minute is today's figure less the one
at the top of the page. Counts of nothing are not counted here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

SPAN_NS: Final = 60_000_000_000
LOOK_NS: Final = 1_000_000_000
_LOOKS_MAX: Final = 64


class Trailing:
    """The last minute of some sums. Shorter until a minute was looked at."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Mapping[str, float], float]] = deque(maxlen=_LOOKS_MAX)

    def looked(self, sums: Mapping[str, float], *, late_s: float = 0.0, now_ns: int) -> None:
        """These are the sums now; this look came so much later than was meant."""
        self._looks.append((now_ns, sums, late_s))
        while len(self._looks) > 1 and self._looks[1][0] <= now_ns - SPAN_NS:
            self._looks.popleft()

    def growth(self, name: str, value: float) -> float:
        """By how much a sum that is `value` now grew; of one that was not there, all of it."""
        return value - self._looks[0][1].get(name, 0.0) if self._looks else 0.0

    def per_minute(self, name: str, value: float, *, now_ns: int) -> float:
        """The same as a rate; 0 in the first second."""
        span_ns = now_ns - self._looks[0][0] if self._looks else 0
        return self.growth(name, value) * SPAN_NS / span_ns if span_ns >= LOOK_NS else 0.0

    def late_s_max(self) -> float:
        """The latest of these looks."""
        return max((late_s for _, _, late_s in self._looks), default=0.0)

    def check_invariants(self) -> None:
        assert len(self._looks) <= _LOOKS_MAX
        assert all(one[0] <= other[0] for one, other in zip(self._looks, list(self._looks)[1:], strict=False))
