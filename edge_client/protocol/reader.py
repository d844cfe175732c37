"""May I answer strongly from memory, and until when? The rules of whoever answers from leased memory.

Picture a ledger of other people's clocks. Beacons say "whoever has applied revision r is current until t0 + L on my
clock"; samples say what that clock can read on ours; together they give one local instant, the end of the read lease. A
pending activation adds the instant at which everybody changes. The reader only keeps this ledger: it is told what was
applied, and it does not know what a model is, where messages come from or who serves (protocol, sections 2, 4, 5, 8).

One class for both sides: a service node is a reader whose own clock is exact.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.drift import Drift
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Pending, Terms
from edge_client.protocol.position import ORIGIN, Position

if TYPE_CHECKING:
    from random import Random

MS: Final = 1_000_000
SAMPLE_PERIOD_NS: Final = 20_000 * MS
SAMPLE_JITTER: Final = 0.3
EXTRA_SAMPLES: Final = 3
"""How often the clock of a pending activation is sampled before its instant: the best of three decides the spread."""
REQUEST_LIFE_NS: Final = 5_000 * MS
REQUESTS_MAX: Final = 64
BEACONS_KEPT: Final = 40
CLOCKS_MAX: Final = 16
ASK_DOUBLINGS_MAX: Final = 4
"""A clock that never answers, because its process is gone, is asked ever more rarely: in the end every lease or so."""
NEVER_NS: Final = -(1 << 62)
"""An instant before every instant."""
FOREVER_NS: Final = 1 << 62
"""An instant after every instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendClockRequest:
    """Ask the clock of one life of one node, or of every node when `clock_id` is None."""

    clock_id: str | None
    nonce: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Fetch a snapshot at or after `at_least`: a greater epoch was heard of."""

    at_least: Position


Effect = SendClockRequest | Resync


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What may be said of one model now."""

    serve_next: bool
    """Serve the pending generation rather than the present one."""
    strong_until_ns: int
    """Strong strictly before this local instant; `NEVER_NS` if not at all."""
    changes_at_ns: int | None
    """The next local instant at which this answer becomes another by time alone."""


@dataclass(slots=True)
class _ServiceClock:
    samples: ClockSamples
    newest_t0_ns: int | None = None
    """The newest `t0` of its beacons whose revision is applied here."""
    heard_at_ns: int = 0
    request_due_ns: int | None = None
    """When to ask it directly, if no two-way sample arrives before."""
    asked_count: int = 0
    """How often it was asked directly."""
    extra_for: set[int] = field(default_factory=set)
    """Revisions of pending activations for which an extra sample was scheduled."""
    extra_at_ns: list[int] = field(default_factory=list)
    """When to sample it for the newest of those, soonest first."""


class Reader:
    """Keeps samples, beacons and the lease. Not thread-safe; every call is one synchronous step."""

    def __init__(self, *, terms: Terms, rng: Random, own_clock_id: str | None = None) -> None:
        self._rng = rng
        self._own_clock_id = own_clock_id
        self.terms = terms
        self._drift = Drift(terms.rho_ppm)
        self.position: Position = ORIGIN
        self.counters: Counter[str] = Counter()
        self._clocks: dict[str, _ServiceClock] = {}
        self._waiting: list[Beacon] = []
        self._requests: dict[bytes, tuple[int, str | None]] = {}
        self._sample_all_due_ns: int | None = None
        self._trusted = True
        self._lease_until_ns = NEVER_NS
        self._add_own_clock()

    # ---- inputs

    def started(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Begin to sample; call once, or again after `terms` were learnt anew."""
        self._sample_all_due_ns = now_ns
        return self.tick(now_ns=now_ns)

    def epoch_began(self, position: Position, *, terms: Terms, now_ns: int) -> tuple[Effect, ...]:
        """Drop everything and stand at `position` of a new epoch, under its terms (section 7)."""
        assert position.epoch > self.position.epoch
        self.position = position
        self.terms = terms
        self._drift = Drift(terms.rho_ppm)
        self._waiting.clear()
        self._requests.clear()
        self._clocks.clear()
        self._lease_until_ns = NEVER_NS
        if self._trusted:
            self._add_own_clock()
        return self.started(now_ns=now_ns)

    def applied(self, position: Position, *, now_ns: int) -> None:
        """Everything up to `position` has been applied here; beacons that waited for it are now worth a lease."""
        assert position.epoch == self.position.epoch
        if position <= self.position:
            return
        self.position = position
        ready = [beacon for beacon in self._waiting if beacon.position <= position]
        self._waiting = [beacon for beacon in self._waiting if beacon.position > position]
        for beacon in ready:
            self._take(beacon)

    def beacon_received(self, beacon: Beacon, *, now_ns: int) -> tuple[Effect, ...]:
        """Take a verified beacon, whoever relayed it, however late."""
        if beacon.epoch != self.position.epoch:
            return self._foreign_epoch(beacon.position)
        if not self._trusted:
            self.counters["beacons_ignored_untrusted_clock"] += 1
            return ()
        clock = self._clock(beacon.clock_id, now_ns=now_ns)
        if beacon.clock_id != self._own_clock_id and not clock.samples.add_beacon(
            t0_ns=beacon.t0_ns, received_at_ns=now_ns
        ):
            return self._contradicted(beacon.clock_id, now_ns=now_ns)
        if beacon.position <= self.position:
            self._take(beacon)
            self._ask_again_if_poor(beacon, clock, now_ns=now_ns)
        elif beacon not in self._waiting:
            self._waiting.append(beacon)
            if len(self._waiting) > BEACONS_KEPT:
                del self._waiting[0]
                self.counters["beacons_dropped_while_behind"] += 1
        return self.tick(now_ns=now_ns)

    def clock_reply_received(self, reply: ClockReply, *, now_ns: int) -> tuple[Effect, ...]:
        """Take a verified reply to one of our requests; others are counted and dropped (nonce pairing)."""
        request = self._requests.get(reply.nonce)
        if request is None or (request[1] is not None and request[1] != reply.clock_id):
            self.counters["clock_replies_unasked"] += 1
            return ()
        if reply.epoch != self.position.epoch:
            return self._foreign_epoch(Position(reply.epoch, 0))
        if not self._trusted or reply.clock_id == self._own_clock_id:
            return ()
        clock = self._clock(reply.clock_id, now_ns=now_ns)
        if not clock.samples.add_reply(stamped_at_ns=reply.stamped_at_ns, sent_at_ns=request[0], received_at_ns=now_ns):
            return self._contradicted(reply.clock_id, now_ns=now_ns)
        clock.request_due_ns = None
        self._renew_lease()
        return ()

    def pending_known(self, pending: Pending, *, now_ns: int) -> tuple[Effect, ...]:
        """A pending activation was applied: sample its clock at a random moment of each third of the remaining lead."""
        if not self._trusted:
            return ()
        clock = self._clock(pending.clock_id, now_ns=now_ns)
        if pending.revision in clock.extra_for or pending.clock_id == self._own_clock_id:
            return ()
        clock.extra_for = {pending.revision} | {r for r in clock.extra_for if r > pending.revision - 1_000}
        if not clock.samples.two_way:
            return self.tick(now_ns=now_ns)
        stop_ns = clock.samples.surely_before_until_ns(pending.effective_at_ns)
        assert stop_ns is not None
        if stop_ns > now_ns:
            third_ns = (stop_ns - now_ns) / EXTRA_SAMPLES
            clock.extra_at_ns = [now_ns + int((n + self._rng.random()) * third_ns) for n in range(EXTRA_SAMPLES)]
        return self.tick(now_ns=now_ns)

    def own_clock_distrusted(self, *, now_ns: int) -> None:
        """Our own clock's rate is off: void every sample and lease, and take none until it is trusted (section 1)."""
        if self._trusted:
            self._trusted = False
            self.counters["own_clock_distrusted"] += 1
            self._clocks.clear()
            self._waiting.clear()
            self._requests.clear()
            self._lease_until_ns = NEVER_NS

    def own_clock_trusted(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Our own clock keeps its rate again: begin anew."""
        if self._trusted:
            return ()
        self._trusted = True
        self._add_own_clock()
        return self.started(now_ns=now_ns)

    def tick(self, *, now_ns: int) -> tuple[Effect, ...]:
        """Whatever is due: forget old requests, ask clocks."""
        while self._requests and now_ns - next(iter(self._requests.values()))[0] >= REQUEST_LIFE_NS:
            del self._requests[next(iter(self._requests))]  # they stand in the order in which they were sent
        if not self._trusted:
            return ()
        effects: list[Effect] = []
        if self._sample_all_due_ns is not None and now_ns >= self._sample_all_due_ns:
            spread = 1 + SAMPLE_JITTER * (2 * self._rng.random() - 1)
            known = any(c.samples.two_way for i, c in self._clocks.items() if i != self._own_clock_id)
            period_ns = SAMPLE_PERIOD_NS if known else self.terms.lease_ns // 2
            self._sample_all_due_ns = now_ns + int(period_ns * spread)
            effects.append(self._request(None, now_ns=now_ns))
        for clock_id, clock in self._clocks.items():
            if clock.extra_at_ns and now_ns >= clock.extra_at_ns[0]:
                clock.extra_at_ns = [at_ns for at_ns in clock.extra_at_ns if at_ns > now_ns]
                effects.append(self._request(clock_id, now_ns=now_ns))
            if clock.request_due_ns is not None and now_ns >= clock.request_due_ns:
                clock.asked_count += 1
                wait_ns = self._within_eighth_lease() << min(clock.asked_count, ASK_DOUBLINGS_MAX)
                clock.request_due_ns = None if clock.samples.two_way else now_ns + wait_ns
                effects.append(self._request(clock_id, now_ns=now_ns))
        return tuple(effects)

    def next_deadline_ns(self) -> int | None:
        """When `tick` next has something to do."""
        if not self._trusted:
            return None
        due_ns = FOREVER_NS if self._sample_all_due_ns is None else self._sample_all_due_ns
        for clock in self._clocks.values():
            if clock.request_due_ns is not None and clock.request_due_ns < due_ns:
                due_ns = clock.request_due_ns
            if clock.extra_at_ns and clock.extra_at_ns[0] < due_ns:
                due_ns = clock.extra_at_ns[0]
        return None if due_ns == FOREVER_NS else due_ns

    # ---- answers

    @property
    def lease_until_ns(self) -> int:
        """The local instant strictly before which our state is current; `NEVER_NS` without a lease."""
        return self._lease_until_ns

    @property
    def trusted(self) -> bool:
        return self._trusted

    def behind(self) -> Position | None:
        """The greatest position named by a beacon that we have not applied; None if we are up to date."""
        return max((beacon.position for beacon in self._waiting), default=None)

    def standing(self, pending: Pending | None, *, now_ns: int, through_log: bool = False) -> Standing:
        """What may be said now of a model with this pending activation: the pending rule (section 5).

        `through_log`: our state was just shown to be current by a barrier of the log, so that no lease is needed.
        """
        lease_ns = FOREVER_NS if through_log else self._lease_until_ns
        if pending is None:
            return Standing(serve_next=False, strong_until_ns=lease_ns, changes_at_ns=None)
        clock = self._clocks.get(pending.clock_id)
        stop_ns = clock.samples.surely_before_until_ns(pending.effective_at_ns) if clock else None
        start_ns = clock.samples.surely_reached_from_ns(pending.effective_at_ns) if clock else None
        if start_ns is not None and now_ns >= start_ns:
            return Standing(serve_next=True, strong_until_ns=lease_ns, changes_at_ns=None)
        if stop_ns is not None and now_ns < stop_ns:
            return Standing(serve_next=False, strong_until_ns=min(lease_ns, stop_ns), changes_at_ns=stop_ns)
        return Standing(serve_next=False, strong_until_ns=NEVER_NS, changes_at_ns=start_ns)

    def staleness_bound_ns(self, pending: Pending | None, *, serve_next: bool, now_ns: int) -> int | None:
        """How long ago, at most, what we would serve was active; None where no bound is known (section 8)."""
        terms_ns = [
            hi_ns - clock.newest_t0_ns
            for clock in self._clocks.values()
            if clock.newest_t0_ns is not None and (hi_ns := clock.samples.hi_ns(now_ns=now_ns)) is not None
        ]
        if not terms_ns:
            return None
        bound_ns = max(0, min(terms_ns))
        if pending is not None and not serve_next:
            clock = self._clocks.get(pending.clock_id)
            hi_ns = clock.samples.hi_ns(now_ns=now_ns) if clock else None
            if hi_ns is None:
                return None
            bound_ns = max(bound_ns, hi_ns - pending.effective_at_ns)
        return self._drift.real_ns_max(bound_ns)

    def samples_of(self, clock_id: str) -> ClockSamples | None:
        """The bounds on one service clock, for metrics and computed instants."""
        clock = self._clocks.get(clock_id)
        return clock.samples if clock else None

    def uncertainty_ns(self, *, now_ns: int) -> int | None:
        """The width of the best known service clock; None without a two-way sample."""
        widths = [w for c in self._clocks.values() if (w := c.samples.width_ns(now_ns=now_ns)) is not None]
        return min(widths, default=None)

    def check_invariants(self) -> None:
        assert len(self._waiting) <= BEACONS_KEPT
        assert len(self._requests) <= REQUESTS_MAX
        assert len(self._clocks) <= CLOCKS_MAX
        assert not self._waiting or min(beacon.position for beacon in self._waiting) > self.position
        assert self._trusted or (self._lease_until_ns == NEVER_NS and not self._clocks)

    def __repr__(self) -> str:
        return f"<Reader {self.position} lease_until={self._lease_until_ns} clocks={len(self._clocks)}>"

    # ---- helpers

    def _take(self, beacon: Beacon) -> None:
        clock = self._clocks.get(beacon.clock_id)
        if clock is None:
            self.counters["beacons_of_forgotten_clocks"] += 1
            return
        if clock.newest_t0_ns is None or beacon.t0_ns > clock.newest_t0_ns:
            clock.newest_t0_ns = beacon.t0_ns
            self._renew_lease()

    def _ask_again_if_poor(self, beacon: Beacon, clock: _ServiceClock, *, now_ns: int) -> None:
        """The newest beacon gave little lease or none although its clock is known: the sample took long on its way.

        Little is less than a quarter: it would end before the next beacon, time and again until the next round of samples.
        """
        if not clock.samples.two_way or beacon.clock_id == self._own_clock_id:
            return
        if self._lease_until_ns > now_ns + self.terms.lease_ns // 4:
            clock.asked_count = 0
        elif clock.request_due_ns is None and beacon.t0_ns == clock.newest_t0_ns:
            wait_ns = self._within_eighth_lease() << min(clock.asked_count, ASK_DOUBLINGS_MAX)
            clock.request_due_ns = now_ns + wait_ns

    def _renew_lease(self) -> None:
        """The latest instant over all authorities: a new one voids none, and better samples only lengthen."""
        for clock in self._clocks.values():
            if clock.newest_t0_ns is not None:
                until_ns = clock.samples.surely_before_until_ns(clock.newest_t0_ns + self.terms.lease_ns)
                if until_ns is not None and until_ns > self._lease_until_ns:
                    self._lease_until_ns = until_ns

    def _clock(self, clock_id: str, *, now_ns: int) -> _ServiceClock:
        clock = self._clocks.get(clock_id)
        if clock is None:
            if len(self._clocks) >= CLOCKS_MAX:
                oldest = min((i for i in self._clocks if i != self._own_clock_id), key=self._heard_at)
                del self._clocks[oldest]
                self.counters["clocks_forgotten"] += 1
            clock = _ServiceClock(samples=ClockSamples(drift=self._drift))
            clock.request_due_ns = now_ns + self._within_eighth_lease()
            self._clocks[clock_id] = clock
        clock.heard_at_ns = now_ns
        return clock

    def _heard_at(self, clock_id: str) -> int:
        return self._clocks[clock_id].heard_at_ns

    def _add_own_clock(self) -> None:
        if self._own_clock_id is not None:
            self._clocks[self._own_clock_id] = _ServiceClock(samples=ClockSamples.own())

    def _within_eighth_lease(self) -> int:
        return 1 + int(self._rng.random() * (self.terms.lease_ns // 8))

    def _request(self, clock_id: str | None, *, now_ns: int) -> SendClockRequest:
        nonce = self._rng.randbytes(16)
        if len(self._requests) >= REQUESTS_MAX:
            del self._requests[next(iter(self._requests))]
            self.counters["clock_requests_forgotten"] += 1
        self._requests[nonce] = (now_ns, clock_id)
        return SendClockRequest(clock_id=clock_id, nonce=nonce)

    def _foreign_epoch(self, position: Position) -> tuple[Effect, ...]:
        if position.epoch > self.position.epoch:
            return (Resync(at_least=Position(position.epoch, max(1, position.revision))),)
        self.counters["messages_of_old_epoch"] += 1
        return ()

    def _contradicted(self, clock_id: str, *, now_ns: int) -> tuple[Effect, ...]:
        """Samples that exclude each other: an assumption is broken. Void what this clock gave, or would give once caught up."""
        self.counters["clocks_contradicted"] += 1
        self._clocks.pop(clock_id, None)
        self._waiting = [beacon for beacon in self._waiting if beacon.clock_id != clock_id]
        self._lease_until_ns = NEVER_NS
        self._renew_lease()
        self._clock(clock_id, now_ns=now_ns)
        return self.tick(now_ns=now_ns)
