"""A hybrid logical clock: stamps that grow with wall time and never step back behind what was seen.

Source: Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", 2014. A stamp is one integer, milliseconds
of wall time in the upper bits and a counter in the lower `COUNTER_BITS`, so that comparing stamps compares integers.
"""

from __future__ import annotations

from typing import Final

COUNTER_BITS: Final = 20
AHEAD_MS_MAX: Final = 60_000
"""A stamp further ahead of our wall clock than this is refused: it would win against everybody's writes until then."""


def stamp_unix_ms(stamp: int) -> int:
    """The wall time in a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """Makes stamps. Not thread-safe: whoever shares one holds a lock."""

    __slots__ = ("newest",)

    def __init__(self) -> None:
        self.newest = 0
        """The greatest stamp made or seen here."""

    def stamp(self, *, unix_ms: int) -> int:
        """Greater than every stamp made or seen before."""
        stamp, wall = self.newest + 1, unix_ms << COUNTER_BITS
        if wall > stamp:  # noqa: PLR1730  (each put comes here, and `max` takes a tenth of a microsecond)
            stamp = wall
        self.newest = stamp
        return stamp

    def saw(self, stamp: int, *, unix_ms: int) -> bool:
        """Later stamps exceed this one; False, and nothing changed, if it lies too far ahead of our wall clock."""
        if stamp_unix_ms(stamp) > unix_ms + AHEAD_MS_MAX:
            return False
        self.newest = max(self.newest, stamp)
        return True
