"""How fast may downloads go? A bucket of tokens, kept as the instant at which it is full again.

Picture a turnstile that turns once a byte at an even pace; who was away for a while may go through a few at once. It
never refuses: it says from when on the next may come, and whoever waits takes nothing from the network meanwhile, which
makes the sender wait as well.
"""

from __future__ import annotations

from typing import Final

SECOND_NS: Final = 1_000_000_000
BURST_NS: Final = 100_000_000
"""What an idle link may make up for."""


class Pace:
    """At most `bytes_per_s_max` over any time, and the burst of a tenth of a second, and the chunk that went last."""

    def __init__(self, *, bytes_per_s_max: int) -> None:
        self._bytes_per_s_max = bytes_per_s_max
        self._even_at_ns: int | None = None

    def taken(self, size_bytes: int, *, now_ns: int) -> int:
        """So many bytes came; take no more before the instant that this returns."""
        earliest_ns = now_ns - BURST_NS
        began_ns = earliest_ns if self._even_at_ns is None else max(self._even_at_ns, earliest_ns)
        self._even_at_ns = began_ns - (-size_bytes * SECOND_NS // self._bytes_per_s_max)
        return self._even_at_ns

    def __repr__(self) -> str:
        return f"<Pace {self._bytes_per_s_max}B/s even_at={self._even_at_ns}>"
