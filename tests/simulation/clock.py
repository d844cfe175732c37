"""A clock that runs wrong, but not too wrong: exact integers, so that nothing is rounded but by the code under test.

Picture a ruler that was stretched in places. Real time is a whole number of nanoseconds, and things happen only at
multiples of `GRAIN_NS`; a rate is a whole number of local nanoseconds per grain. A reading at such an instant is exact.
Instants between two grains (the end of a lease) are rounded down to a nanosecond, on every clock alike, so that a
comparison of two of them never accuses the innocent.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from random import Random
from typing import Final

GRAIN_NS: Final = 10_000
MS: Final = 1_000_000
S: Final = 1_000_000_000


def on_grain(real_ns: int) -> int:
    """The first instant at or after `real_ns` at which something may happen."""
    return -(-real_ns // GRAIN_NS) * GRAIN_NS


class SimClock:
    """Offset and rate of one machine's clock; the rate is constant between a few instants."""

    def __init__(self, *, rng: Random, rho_ppm: int, varying: bool, horizon_ns: int) -> None:
        error = rho_ppm // 100  # local nanoseconds per grain
        starts = [0]
        if varying:
            starts += sorted(on_grain(rng.randrange(horizon_ns)) for _ in range(rng.choice((1, 4, 12))))
        local_ns = rng.randrange(10**15)
        self._starts: list[int] = []
        self._locals: list[int] = []
        self._rates: list[int] = []
        for i, start_ns in enumerate(starts):
            rate = GRAIN_NS + rng.choice((-error, error, rng.randint(-error, error)))
            self._starts.append(start_ns)
            self._locals.append(local_ns)
            self._rates.append(rate)
            end_ns = starts[i + 1] if i + 1 < len(starts) else start_ns
            local_ns += (end_ns - start_ns) // GRAIN_NS * rate
        self._steady = len(starts) == 1

    def break_loose(self, from_ns: int, until_ns: int, *, rate: int) -> None:
        """Keep no promise between these instants: `rate` local nanoseconds per grain."""
        last = bisect_right(self._starts, until_ns) - 1
        pieces = [(start_ns, r) for start_ns, r in zip(self._starts, self._rates, strict=True) if start_ns < from_ns]
        pieces += [(from_ns, rate), (until_ns, self._rates[last])]
        pieces += [(self._starts[i], self._rates[i]) for i in range(last + 1, len(self._starts))]
        locals_ns = [self._locals[0]]
        for (start_ns, piece_rate), (end_ns, _) in pairwise(pieces):
            locals_ns.append(locals_ns[-1] + (end_ns - start_ns) // GRAIN_NS * piece_rate)
        self._starts, self._rates = [start_ns for start_ns, _ in pieces], [r for _, r in pieces]
        self._locals, self._steady = locals_ns, False

    def read(self, real_ns: int) -> int:
        """What it shows at an instant on the grain."""
        i = 0 if self._steady else bisect_right(self._starts, real_ns) - 1
        return self._locals[i] + (real_ns - self._starts[i]) // GRAIN_NS * self._rates[i]

    def real_ns(self, local_ns: int) -> int:
        """When it shows `local_ns`, rounded down to a nanosecond."""
        i = 0 if self._steady else max(0, bisect_right(self._locals, local_ns) - 1)
        return self._starts[i] + (local_ns - self._locals[i]) * GRAIN_NS // self._rates[i]

    def reached_ns(self, local_ns: int) -> int:
        """The first instant on the grain at which it shows at least `local_ns`."""
        i = 0 if self._steady else max(0, bisect_right(self._locals, local_ns) - 1)
        return self._starts[i] + -(-(local_ns - self._locals[i]) // self._rates[i]) * GRAIN_NS
