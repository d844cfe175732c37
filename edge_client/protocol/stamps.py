"""A hybrid logical clock: stamps that grow with wall time and never step back behind what was seen.

Source: Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", 2014. A stamp is one integer, milliseconds
of wall time in the upper bits and a counter in the lower `COUNTER_BITS`, so that comparing stamps compares integers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Final

COUNTER_BITS: Final = 20
AHEAD_MS_MAX: Final = 60_000
"""A stamp further ahead of our wall clock than this is refused: it would win against everybody's writes until then."""

RACERS_MAX: Final = 4_096
"""More threads than ever draw stamps at one moment."""


def stamp_unix_ms(stamp: int) -> int:
    """The wall time in a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """Makes stamps. `draw` is for any thread; the rest is not thread-safe: whoever shares one holds a lock."""

    __slots__ = ("draw",)

    def __init__(self) -> None:
        self.draw: Callable[[], int] = count(1).__next__
        """A stamp that is greater than every one made or seen before the call. Good for a write of now if it also exceeds
        the wall time (`<< COUNTER_BITS`); otherwise it is passed over, and `stamp` makes the right one. Each is drawn once."""

    def stamp(self, *, unix_ms: int) -> int:
        """Greater than every stamp made or seen before."""
        stamp, wall = self.draw(), unix_ms << COUNTER_BITS
        return stamp if stamp >= wall else self._leap(wall)

    def saw(self, stamp: int, *, unix_ms: int) -> bool:
        """Later stamps exceed this one; False, and nothing changed, if it lies too far ahead of our wall clock."""
        if stamp_unix_ms(stamp) > unix_ms + AHEAD_MS_MAX:
            return False
        if stamp >= self.draw():
            self._leap(stamp)
        return True

    def _leap(self, stamp: int) -> int:
        """This stamp or a later one, which is made; those drawn from now on are greater."""
        # Other threads may be about to draw from the counter that is replaced, one each: what they get stays unique.
        made = max(stamp, self.draw() + RACERS_MAX)
        self.draw = count(made + 1).__next__
        return made
