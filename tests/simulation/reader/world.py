"""Readers under attack: clocks that drift, messages that stray, authorities that change; and an exact verdict afterwards.

Real time is a whole number of microseconds and every rate a whole number of thousandths, so that a clock reading is an
exact integer of nanoseconds and nothing is ever rounded but by the code under test. Instants between two events are
fractions of a microsecond. A reader is asked only when it is stepped; in between its answer is a function of its clock
alone, and `SimReader.account` walks that function piece by piece. What was said is judged at the end (`Verdict`).

The log is a linearizable abstraction: a command is decided at one instant and applied at a later one, or refused by the
fence or by its number (protocol, section 3). Everything else of the service is what sections 4 and 5 say, and no more.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from random import Random

from edge_client.protocol.drift import Drift
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Assignment, Pending, Terms
from edge_client.protocol.position import Position
from edge_client.protocol.reader import Effect, Reader, SendClockRequest

MS_US = 1_000
EPOCH = 1


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a run is made of. Rates are in thousandths: `rho` 50 is five per cent."""

    seed: int
    duration_ms: int = 6_000
    rho: int = 50
    lease_ms: int = 400
    margin_ms: int | None = None
    readers: int = 3
    own_reader: bool = True
    distrust: bool = False
    """Whether readers now and then lose trust in their own clock, and find it again."""

    @property
    def terms(self) -> Terms:
        margin_ms = self.margin_ms or self.lease_ms * 2 * self.rho // (1_000 - self.rho) + 3
        return Terms(lease_ms=self.lease_ms, margin_ms=margin_ms, rho_ppm=self.rho * 1_000)


class SimClock:
    """A clock whose rate stays within rho of real time; some keep one rate, some change it."""

    def __init__(self, *, rng: Random, rho: int, clock_id: str, duration_us: int) -> None:
        self.clock_id = clock_id
        starts = [0, *sorted(rng.randrange(duration_us) for _ in range(rng.choice((0, 0, 1, 4))))]
        local_ns, self._pieces = rng.randrange(10**15), list[tuple[int, int, int]]()
        for start_us, end_us in zip(starts, [*starts[1:], duration_us], strict=True):
            rate = 1_000 + rng.choice((-rho, rho, rng.randint(-rho, rho)))
            self._pieces.append((start_us, local_ns, rate))
            local_ns += (end_us - start_us) * rate

    def read(self, real_us: int) -> int:
        start_us, local_ns, rate = self._pieces[bisect_right(self._pieces, real_us, key=lambda piece: piece[0]) - 1]
        return local_ns + (real_us - start_us) * rate

    def real_us(self, local_ns: int) -> Fraction:
        """When this clock reads `local_ns`."""
        index = max(0, bisect_right(self._pieces, local_ns, key=lambda piece: piece[1]) - 1)
        start_us, base_ns, rate = self._pieces[index]
        return start_us + Fraction(local_ns - base_ns, rate)


@dataclass(frozen=True, kw_only=True)
class State:
    """What a reader can know of the one model, at one revision."""

    revision: int
    generation: int = 1
    pending: Pending | None = None


@dataclass(kw_only=True)
class Verdict:
    """Extremes of everything that was said, and what of it was wrong."""

    strong_from_us: dict[int, Fraction] = field(default_factory=dict)
    strong_until_us: dict[int, Fraction] = field(default_factory=dict)
    effective_us: dict[int, Fraction] = field(default_factory=dict)
    told_us: dict[int, Fraction] = field(default_factory=dict)
    bounds: list[tuple[int, Fraction, int]] = field(default_factory=list)
    """Generation served, real instant, bound stated then (nanoseconds)."""
    seen: Counter[str] = field(default_factory=Counter)

    def strong(self, generation: int, *, begin_us: Fraction, end_us: Fraction) -> None:
        """A reader says strong(generation) in `[begin_us, end_us)`."""
        self.strong_from_us[generation] = min(begin_us, self.strong_from_us.get(generation, begin_us))
        self.strong_until_us[generation] = max(end_us, self.strong_until_us.get(generation, end_us))
        self.seen["strong_us"] += int(end_us - begin_us)

    def violations(self) -> Counter[str]:
        """Counted by invariant of section 11; `active` is what `strong` means (section 8) and implies the first two."""
        wrong: Counter[str] = Counter()
        newer_from_us: Fraction | None = None
        for generation in sorted(self.strong_from_us | self.strong_until_us, reverse=True):
            begin_us, end_us = self.strong_from_us[generation], self.strong_until_us[generation]
            wrong["inversion"] += newer_from_us is not None and end_us > newer_from_us
            newer_from_us = begin_us if newer_from_us is None else min(begin_us, newer_from_us)
            wrong["active"] += generation in self.effective_us and begin_us < self.effective_us[generation]
            wrong["active"] += generation + 1 in self.effective_us and end_us > self.effective_us[generation + 1]
            wrong["told"] += any(end_us > told_us for later, told_us in self.told_us.items() if later > generation)
        for generation, real_us, bound_ns in self.bounds:
            superseded_us = self.effective_us.get(generation + 1)
            wrong["bound"] += superseded_us is not None and (real_us - superseded_us) * 1_000 > bound_ns
        wrong["contradiction"] += self.seen["clocks_contradicted"]
        return +wrong


class SimReader:
    """A reader, what it has applied, and the account of what it would have said at every instant."""

    def __init__(self, world: World, *, clock: SimClock, own: bool) -> None:
        self._world = world
        self._clock = clock
        self.reader = Reader(
            terms=world.scene.terms, rng=Random(world.rng.random()), own_clock_id=clock.clock_id if own else None
        )
        self.state = State(revision=1)
        self._since_us = 0
        self.step(lambda now_ns: self.reader.epoch_began(Position(EPOCH, 1), terms=world.scene.terms, now_ns=now_ns))

    def step(self, act: Callable[[int], tuple[Effect, ...]]) -> None:
        """Let `act` happen now, or once the pause is over; a pause may come between reading the clock and acting."""
        if self._world.now_us < self._since_us:
            self._world.at(self._since_us, lambda: self.step(act))
            return
        done_us = self._world.now_us + self._world.pause_us()
        self.account(until_us=done_us)
        effects = act(self._clock.read(self._world.now_us))
        self.reader.check_invariants()
        self._since_us = done_us
        for effect in effects:
            assert isinstance(effect, SendClockRequest)
            self._world.ask_clocks(self, effect, sent_us=done_us)

    def apply(self, state: State, *, now_ns: int) -> tuple[Effect, ...]:
        if state.revision <= self.state.revision:
            return ()
        self.state = state
        self.reader.applied(Position(EPOCH, state.revision), now_ns=now_ns)
        return () if state.pending is None else self.reader.pending_known(state.pending, now_ns=now_ns)

    def hear_clock(self, reply: ClockReply, now_ns: int) -> tuple[Effect, ...]:
        return self.reader.clock_reply_received(reply, now_ns=now_ns)

    def toggle_trust(self, now_ns: int) -> tuple[Effect, ...]:
        if not self.reader.trusted:
            return self.reader.own_clock_trusted(now_ns=now_ns)
        self.reader.own_clock_distrusted(now_ns=now_ns)
        return ()

    def account(self, *, until_us: int) -> None:
        """Walk the answers from the last step to `until_us`, which time alone can change."""
        verdict, pending = self._world.verdict, self.state.pending
        here_ns, end_ns = self._clock.read(self._since_us), self._clock.read(until_us)
        while here_ns < end_ns:
            standing = self.reader.standing(pending, now_ns=here_ns)
            generation = self.state.generation + standing.serve_next
            change_ns = standing.changes_at_ns
            next_ns = change_ns if change_ns is not None and here_ns < change_ns < end_ns else end_ns
            begin_us, next_us = self._clock.real_us(here_ns), self._clock.real_us(next_ns)
            if here_ns < (strong_until_ns := min(next_ns, standing.strong_until_ns)):
                verdict.strong(generation, begin_us=begin_us, end_us=self._clock.real_us(strong_until_ns))
            verdict.seen["open_switches"] += pending is not None and standing.strong_until_ns < 0
            for local_ns, real_us in ((here_ns, begin_us), (next_ns, next_us)):
                bound_ns = self.reader.staleness_bound_ns(pending, serve_next=standing.serve_next, now_ns=local_ns)
                if bound_ns is not None:
                    verdict.bounds.append((generation, real_us, bound_ns))
            here_ns = next_ns


class World:
    """One run: everything that happens is drawn from the scene's seed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rng = Random(scene.seed)
        self.verdict = Verdict()
        self._duration_us = scene.duration_ms * MS_US
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.now_us = 0
        # How bad this run is: the usual delay, how often one is long, lost, or repeated, and how often one pauses.
        self._delay_us = self.rng.choice((100, 3_000, 60_000))
        self._long, self._lost, self._twice, self._pauses = (self.rng.choice((0.0, 0.05, 0.3)) for _ in range(4))
        self._clocks = [self._new_clock() for _ in range(self.rng.choice((1, 2, 3)))]
        # The log.
        self._state = State(revision=1)
        self._authority = (self._clocks[0], 1)
        self._number, self._accepted = 0, 0
        self._known_at_ns: dict[
            str, int
        ] = {}  # the local instant at which a clock's node applied the pending activation
        self.readers = [SimReader(self, clock=self._new_clock(), own=False) for _ in range(scene.readers)]
        if scene.own_reader:
            self.readers.append(SimReader(self, clock=self._clocks[0], own=True))

    def run(self) -> Verdict:
        """Play to the end and judge."""
        every = ((100, self._beat), (300, self._activate), (60, self._settle), (2_500, self._change_authority))
        for period_ms, act in every:
            self._repeat(period_ms, act)
        for reader in self.readers:
            self._drive(reader)
        while self._queue and self._queue[0][0] < self._duration_us:
            self.now_us, _, act = heapq.heappop(self._queue)
            act()
        for reader in self.readers:
            reader.account(until_us=self._duration_us)
            self.verdict.seen["clocks_contradicted"] += reader.reader.counters["clocks_contradicted"]
        return self.verdict

    def _drive(self, reader: SimReader) -> None:
        self._repeat(40, lambda: reader.step(lambda now_ns: reader.reader.tick(now_ns=now_ns)))
        self._repeat(700, lambda: reader.step(lambda now_ns: reader.reader.started(now_ns=now_ns)))
        if self.scene.distrust:
            self._repeat(1_500, lambda: reader.step(reader.toggle_trust))

    # ---- chance

    def at(self, real_us: int, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(real_us, self.now_us), self._count, act))

    def pause_us(self) -> int:
        return self.rng.randrange(600_000) if self.rng.random() < self._pauses / 30 else 0

    def _repeat(self, period_ms: int, act: Callable[[], None]) -> None:
        def again() -> None:
            act()
            self.at(self.now_us + self.rng.randrange(period_ms * 2 * MS_US), again)

        self.at(self.rng.randrange(period_ms * MS_US), again)

    def _delay(self) -> int:
        return self.rng.randrange(900_000 if self.rng.random() < self._long else self._delay_us)

    def _deliver(self, act: Callable[[], None], *, sent_us: int) -> None:
        """Let `act` happen some time after `sent_us`: never, once or twice."""
        for _ in range(0 if self.rng.random() < self._lost else 2 if self.rng.random() < self._twice else 1):
            self.at(sent_us + self._delay(), act)

    def _new_clock(self) -> SimClock:
        self._count += 1
        return SimClock(
            rng=self.rng, rho=self.scene.rho, clock_id=f"c{self._count}", duration_us=self._duration_us + 10_000_000
        )

    # ---- the service

    def _commit(self, act: Callable[[], None]) -> None:
        """Propose a numbered command of the present authority: applied later, unless fence or number refuse it."""
        self._number += 1
        authority, number = self._authority, self._number

        def apply() -> None:
            if self._authority == authority and number > self._accepted:
                self._accepted = number
                act()

        self.at(self.now_us + self._delay(), apply)

    def _advance(self, **changes: object) -> None:
        fields = {"generation": self._state.generation, "pending": self._state.pending} | changes
        self._state = State(revision=self._state.revision + 1, **fields)  # type: ignore[arg-type]
        for reader in self.readers:
            self._send_state(reader)

    def _send_state(self, reader: SimReader) -> None:
        state = self._state
        self._deliver(lambda: reader.step(lambda now_ns: reader.apply(state, now_ns=now_ns)), sent_us=self.now_us)

    def _change_authority(self) -> None:
        clock = self.rng.choice(self._clocks)
        if self.rng.random() < 0.2:
            clock = self._new_clock()
            self._clocks.append(clock)
            self._known_at_ns[clock.clock_id] = clock.read(self.now_us)
        self._advance()
        self._authority, self._accepted, self._number = (clock, self._state.revision), 0, 0

    def _beat(self) -> None:
        clock, assumption = self._authority
        t0_ns = clock.read(self.now_us)

        def publish() -> None:
            self.verdict.seen["beacons"] += 1
            beacon = Beacon(
                epoch=EPOCH,
                revision=self._state.revision,
                clock_id=clock.clock_id,
                assumption=assumption,
                assumed_at_ns=0,
                t0_ns=t0_ns,
            )
            for reader in self.readers:
                self._send_beacon(reader, beacon)

        self._commit(publish)

    def _send_beacon(self, reader: SimReader, beacon: Beacon) -> None:
        def hear() -> None:
            reader.step(lambda now_ns: reader.reader.beacon_received(beacon, now_ns=now_ns))
            if reader.reader.behind() is not None:
                self._deliver(lambda: self._send_state(reader), sent_us=self.now_us)

        self._deliver(hear, sent_us=self.now_us)

    def _activate(self) -> None:
        (clock, assumption), terms = self._authority, self.scene.terms
        lead_ns = terms.lease_ns + terms.margin_ns
        effective_at_ns = clock.read(self.now_us) + lead_ns

        def apply() -> None:
            if self._state.pending is not None:
                return
            generation = self._state.generation + 1
            pending = Pending(
                revision=self._state.revision + 1,
                generation=generation,
                assignment=Assignment(stable=str(generation)),
                effective_at_ns=effective_at_ns,
                lead_ns=lead_ns,
                clock_id=clock.clock_id,
                assumption=assumption,
            )
            effective_us = clock.real_us(effective_at_ns)
            if effective_us < self._duration_us:
                self.verdict.effective_us[generation] = effective_us
                self.verdict.told_us[generation] = max(effective_us, Fraction(self.now_us))
            self._known_at_ns = {each.clock_id: each.read(self.now_us) for each in self._clocks}
            self._advance(pending=pending)

        self._commit(apply)

    def _settle(self) -> None:
        (clock, _), pending = self._authority, self._state.pending
        if pending is None:
            return
        now_ns = clock.read(self.now_us)
        if pending.clock_id == clock.clock_id:
            passed = now_ns >= pending.effective_at_ns
        else:
            waited_ns = now_ns - self._known_at_ns[clock.clock_id]
            passed = waited_ns >= Drift(self.scene.terms.rho_ppm).faster_ns(pending.lead_ns)

        def apply() -> None:
            if self._state.pending is pending:
                self.verdict.seen["settled"] += 1
                self._advance(generation=pending.generation, pending=None)

        if passed:
            self._commit(apply)

    def ask_clocks(self, reader: SimReader, request: SendClockRequest, *, sent_us: int) -> None:
        """Carry a request to the clocks it asks, and each reply back."""
        for clock in self._clocks:
            if request.clock_id in {None, clock.clock_id}:
                self._ask_clock(reader, clock, request.nonce, sent_us=sent_us)

    def _ask_clock(self, reader: SimReader, clock: SimClock, nonce: bytes, *, sent_us: int) -> None:
        def stamp() -> None:
            reply = ClockReply(
                epoch=EPOCH,
                clock_id=clock.clock_id,
                nonce=nonce,
                stamped_at_ns=clock.read(self.now_us),
                node_id="n",
                url="",
            )
            self._deliver(lambda: reader.step(partial(reader.hear_clock, reply)), sent_us=self.now_us)

        self._deliver(stamp, sent_us=sent_us)
