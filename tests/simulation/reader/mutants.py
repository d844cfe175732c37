"""Each rule of the reader, switched off: the simulation must notice (protocol, section 11).

A mutant patches one function of the code under test. `caught_within` is the number of seeds, counted from 0, within
which some run must break one of `breaks`; it states how sharp the simulation is, and is small on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from edge_client.protocol import reader as reader_module
from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.drift import Drift
from edge_client.protocol.reader import NEVER_NS, Reader

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One rule off."""

    name: str
    install: Callable[[Patch], None] = field(repr=False)
    breaks: frozenset[str]
    caught_within: int

    def __str__(self) -> str:
        return self.name


def _no_kappa(patch: Patch) -> None:
    patch.setattr(Drift, "faster_ns", lambda _self, elapsed_ns: elapsed_ns)
    patch.setattr(Drift, "slower_ns", lambda _self, elapsed_ns: elapsed_ns)


def _one_clock_kappa(patch: Patch) -> None:
    """1 + rho: as if only the other clock could be wrong."""
    patch.setattr(Drift, "faster_ns", lambda self, ns: -(-ns * (1_000_000 + self.rho_ppm) // 1_000_000))
    patch.setattr(Drift, "slower_ns", lambda self, ns: ns * 1_000_000 // (1_000_000 + self.rho_ppm))


def _first_order_kappa(patch: Patch) -> None:
    """1 + 2 rho: the first term of the series."""
    patch.setattr(Drift, "faster_ns", lambda self, ns: -(-ns * (1_000_000 + 2 * self.rho_ppm) // 1_000_000))
    patch.setattr(Drift, "slower_ns", lambda self, ns: ns * 1_000_000 // (1_000_000 + 2 * self.rho_ppm))


def _stop_by_lo(patch: Patch) -> None:
    unpatched = Reader.standing

    def standing(self: Reader, pending, *, now_ns: int):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ClockSamples, "surely_before_until_ns", ClockSamples.surely_reached_from_ns)
            return unpatched(self, pending, now_ns=now_ns)

    patch.setattr(Reader, "standing", standing)


def _lease_by_lo(patch: Patch) -> None:
    def renew(self: Reader) -> None:
        for clock in self._clocks.values():
            if clock.newest_t0_ns is not None:
                until_ns = clock.samples.surely_reached_from_ns(clock.newest_t0_ns + self.terms.lease_ns)
                self._lease_until_ns = max(self._lease_until_ns, NEVER_NS if until_ns is None else until_ns)

    patch.setattr(Reader, "_renew_lease", renew)


def _start_by_hi(patch: Patch) -> None:
    patch.setattr(ClockSamples, "surely_reached_from_ns", ClockSamples.surely_before_until_ns)


def _no_nonce_pairing(patch: Patch) -> None:
    """A reply answers the latest request."""
    unpatched = Reader.clock_reply_received

    def received(self: Reader, reply, *, now_ns: int):
        if self._requests:
            nonce = list(self._requests)[-1]
            self._requests[nonce] = (self._requests[nonce][0], None)
            reply = msgspec.structs.replace(reply, nonce=nonce)
        return unpatched(self, reply, now_ns=now_ns)

    patch.setattr(Reader, "clock_reply_received", received)


def _lease_from_reception(patch: Patch) -> None:
    unpatched = Reader.beacon_received

    def received(self: Reader, beacon, *, now_ns: int):
        samples = self.samples_of(beacon.clock_id)
        lo_ns = samples.lo_ns(now_ns=now_ns) if samples else None
        t0_ns = beacon.t0_ns if lo_ns is None else max(beacon.t0_ns, lo_ns)
        return unpatched(self, msgspec.structs.replace(beacon, t0_ns=t0_ns), now_ns=now_ns)

    patch.setattr(Reader, "beacon_received", received)


def _not_caught_up(patch: Patch) -> None:
    unpatched = Reader.beacon_received

    def received(self: Reader, beacon, *, now_ns: int):
        revision = min(beacon.revision, self.position.revision)
        return unpatched(self, msgspec.structs.replace(beacon, revision=revision), now_ns=now_ns)

    patch.setattr(Reader, "beacon_received", received)


def _bound_without_beacons(patch: Patch) -> None:
    def bound(self: Reader, pending, *, serve_next: bool, now_ns: int):
        if pending is None or serve_next:
            return 0
        hi_ns = clock.samples.hi_ns(now_ns=now_ns) if (clock := self._clocks.get(pending.clock_id)) else None
        return None if hi_ns is None else self._drift.real_ns_max(max(0, hi_ns - pending.effective_at_ns))

    patch.setattr(Reader, "staleness_bound_ns", bound)


def _bound_without_pending(patch: Patch) -> None:
    unpatched = Reader.staleness_bound_ns
    patch.setattr(
        Reader,
        "staleness_bound_ns",
        lambda self, _pending, *, serve_next, now_ns: unpatched(self, None, serve_next=serve_next, now_ns=now_ns),
    )


def _bound_by_lo(patch: Patch) -> None:
    unpatched = Reader.staleness_bound_ns

    def bound(self: Reader, pending, *, serve_next: bool, now_ns: int):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ClockSamples, "hi_ns", ClockSamples.lo_ns)
            return unpatched(self, pending, serve_next=serve_next, now_ns=now_ns)

    patch.setattr(Reader, "staleness_bound_ns", bound)


def _bound_without_rate(patch: Patch) -> None:
    patch.setattr(Drift, "real_ns_max", lambda _self, elapsed_ns: elapsed_ns)


def _pending_ignored(patch: Patch) -> None:
    """Whoever knows the successor goes on as if it did not."""
    unpatched = Reader.standing
    patch.setattr(Reader, "standing", lambda self, _pending, *, now_ns: unpatched(self, None, now_ns=now_ns))


def _own_clock_for_all(patch: Patch) -> None:
    """Every clock is taken to run like our own."""
    patch.setattr(reader_module, "Drift", lambda _rho_ppm: Drift(0))


_STRONG = frozenset({"inversion", "active", "told"})
_BOUND = frozenset({"bound"})

MUTANTS = tuple(
    Mutant(name=name, install=install, breaks=breaks, caught_within=caught_within)
    for name, install, breaks, caught_within in (
        ("kappa removed", _no_kappa, _STRONG, 5),
        ("kappa of one clock only", _one_clock_kappa, _STRONG, 5),
        ("kappa to first order", _first_order_kappa, _STRONG, 20),
        ("no drift assumed", _own_clock_for_all, _STRONG, 5),
        ("lo for stopping", _stop_by_lo, _STRONG, 5),
        ("lo for the lease", _lease_by_lo, _STRONG, 50),
        ("hi for starting", _start_by_hi, _STRONG, 5),
        ("nonce pairing off", _no_nonce_pairing, _STRONG, 30),
        ("lease counted from reception", _lease_from_reception, _STRONG, 50),
        ("lease before caught up", _not_caught_up, _STRONG, 10),
        ("pending rule off", _pending_ignored, _STRONG, 5),
        ("bound without the beacons' term", _bound_without_beacons, _BOUND, 10),
        ("bound without the pending term", _bound_without_pending, _BOUND, 150),
        ("bound by lo", _bound_by_lo, _BOUND, 30),
    )
)
