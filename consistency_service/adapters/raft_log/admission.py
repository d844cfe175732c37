"""How many strangers may knock, and how often: what a flood costs us is decided here, not by the flood.

Picture a doorman with a jar of tokens that fills at a steady pace. Everybody who comes costs him a token, for a handshake
costs us processor time; without a token the door stays shut. Nothing here knows of sockets, so that time is an argument.
"""

from __future__ import annotations

NS_PER_S = 1_000_000_000


class TokenBucket:
    """At most `burst` at once, and `per_s` in the long run."""

    def __init__(self, *, per_s: int, burst: int, now_ns: int) -> None:
        self._per_s = per_s
        self._full_ns = burst * NS_PER_S // per_s
        self._level_ns = self._full_ns
        self._at_ns = now_ns

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level_ns * self._per_s // NS_PER_S}/{self._full_ns * self._per_s // NS_PER_S}>"

    def take(self, *, now_ns: int) -> bool:
        """Whether there was a token; then there is one less."""
        self._level_ns = min(self._full_ns, self._level_ns + max(0, now_ns - self._at_ns))
        self._at_ns = max(self._at_ns, now_ns)
        cost_ns = NS_PER_S // self._per_s
        if self._level_ns < cost_ns:
            return False
        self._level_ns -= cost_ns
        return True
