"""What may a service clock read now? Two lines that fence it in, from samples by request and reply.

Picture a dog on a leash: each sample says where the dog was and how long the leash can have grown since. The lowest
upper end and the highest lower end of all samples are kept separately, since both only widen with age. This module
knows nothing of leases; see `reader` (protocol, section 2).
"""

from __future__ import annotations

from edge_client.protocol.drift import EXACT, Drift


class ClockSamples:
    """Bounds on one service clock, as seen from our own."""

    __slots__ = ("_drift", "_hi", "_lo")

    def __init__(self, *, drift: Drift) -> None:
        self._drift = drift
        self._hi: tuple[int, int] | None = None  # (x, s): service clock stamped, our clock before asking
        self._lo: tuple[int, int] | None = None  # (x, r): service clock stamped, our clock on receiving

    @classmethod
    def own(cls) -> ClockSamples:
        """The clock of this very process: both bounds are the clock itself."""
        samples = cls(drift=EXACT)
        samples.add_reply(stamped_at_ns=0, sent_at_ns=0, received_at_ns=0)
        return samples

    def add_reply(self, *, stamped_at_ns: int, sent_at_ns: int, received_at_ns: int) -> bool:
        """Take a two-way sample: stamped between our `sent_at_ns` and `received_at_ns`. False: contradiction."""
        if self._hi is None or self._hi_of(stamped_at_ns, sent_at_ns, received_at_ns) < self._require_hi(
            received_at_ns
        ):
            self._hi = (stamped_at_ns, sent_at_ns)
        return self.add_beacon(t0_ns=stamped_at_ns, received_at_ns=received_at_ns)

    def add_beacon(self, *, t0_ns: int, received_at_ns: int) -> bool:
        """Take a one-way sample: the clock had passed `t0_ns` when it was received. False: contradiction."""
        lo = self.lo_ns(now_ns=received_at_ns)
        if lo is None or t0_ns > lo:
            self._lo = (t0_ns, received_at_ns)
        return self.consistent(now_ns=received_at_ns)

    def consistent(self, *, now_ns: int) -> bool:
        """False when the bounds exclude each other: some clock broke its promise, or the sample lied."""
        lo, hi = self.lo_ns(now_ns=now_ns), self.hi_ns(now_ns=now_ns)
        return lo is None or hi is None or lo <= hi

    @property
    def two_way(self) -> bool:
        """True once a reply was taken, so that there is an upper bound."""
        return self._hi is not None

    def lo_ns(self, *, now_ns: int) -> int | None:
        """The least the clock can read at our `now_ns`; None without samples."""
        if self._lo is None:
            return None
        x, received_at_ns = self._lo
        return x + self._drift.slower_ns(max(0, now_ns - received_at_ns))

    def hi_ns(self, *, now_ns: int) -> int | None:
        """The most the clock can read at our `now_ns`; None without a two-way sample."""
        return None if self._hi is None else self._require_hi(now_ns)

    def width_ns(self, *, now_ns: int) -> int | None:
        """How uncertain we are, nanoseconds; None without a two-way sample."""
        lo, hi = self.lo_ns(now_ns=now_ns), self.hi_ns(now_ns=now_ns)
        return None if lo is None or hi is None else hi - lo

    def surely_before_until_ns(self, instant_ns: int) -> int | None:
        """Our instant strictly before which `hi < instant_ns`; None without a two-way sample."""
        if self._hi is None:
            return None
        x, sent_at_ns = self._hi
        return sent_at_ns + self._drift.slower_ns(instant_ns - x)

    def surely_reached_from_ns(self, instant_ns: int) -> int | None:
        """Our instant from which on `lo >= instant_ns`; None without samples."""
        if self._lo is None:
            return None
        x, received_at_ns = self._lo
        return received_at_ns + max(0, self._drift.faster_ns(instant_ns - x))

    def _require_hi(self, now_ns: int) -> int:
        assert self._hi is not None
        return self._hi_of(*self._hi, now_ns)

    def _hi_of(self, x: int, sent_at_ns: int, now_ns: int) -> int:
        return x + self._drift.faster_ns(now_ns - sent_at_ns)

    def __repr__(self) -> str:
        return f"<ClockSamples lo={self._lo} hi={self._hi}>"
