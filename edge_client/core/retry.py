"""When to try again: later each time, and never at the same moment as everybody else.

Each failure doubles the pause, up to a bound; of the pause a random half is waived, so that a fleet whose store comes
back does not come back all at once ("full jitter", halved: Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """The pause that is due after so many failures in a row."""

    __slots__ = ("_first_ns", "_max_ns", "_rng", "failures", "retry_at_ns")

    def __init__(self, *, first_ns: int, max_ns: int, rng: Random) -> None:
        self._first_ns = first_ns
        self._max_ns = max_ns
        self._rng = rng
        self.failures = 0
        """How many there were since the last success."""
        self.retry_at_ns = 0
        """Nothing should be tried before this instant."""

    def failed(self, *, now_ns: int) -> None:
        """Wait longer than the last time."""
        pause_ns = min(self._max_ns, self._first_ns << min(self.failures, 32))
        self.failures += 1
        self.retry_at_ns = now_ns + int(pause_ns * (0.5 + 0.5 * self._rng.random()))

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0
        self.retry_at_ns = 0

    def hurry(self) -> None:
        """Try at once, because somebody waits; the pauses after that are no shorter for it."""
        self.retry_at_ns = 0

    def __repr__(self) -> str:
        return f"<Backoff failures={self.failures} retry_at={self.retry_at_ns}>"
