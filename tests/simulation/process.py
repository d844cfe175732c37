"""One process in the world: a clock, a life, pauses, and an account of everything it would have answered.

Picture a clerk who takes one slip of paper at a time. Between two slips nothing changes but the time, so what the clerk
would answer is a function of the clock alone: `account` walks that function piece by piece up to the next slip. A pause
falls between reading the clock and finishing the slip; slips that arrive meanwhile wait.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_client.protocol.models import Pending
from edge_client.protocol.reader import Reader
from tests.simulation.clock import SimClock, on_grain
from tests.simulation.judge import Era

if TYPE_CHECKING:
    from tests.simulation.world import World


class Timer(NamedTuple):
    """A step that waits for an instant of our clock."""

    local_ns: int
    real_ns: int
    life: int
    act: Callable[[int], None]


class Process:
    """What nodes and edges have in common."""

    def __init__(self, world: World, *, name: str, clock: SimClock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.alive = True
        self.life = 0
        self.local_ns = 0
        """What our clock showed when the present step began."""
        self.free_at_ns = 0
        """Real time: when the present step is over; what it sends leaves then."""
        self.loose_until_ns = 0
        """Real time: until when our clock keeps no promise."""
        self._timers: dict[int, Timer] = {}

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def run(self, life: int | None, act: Callable[..., None], *args: Any) -> None:
        """Take a step now: `act(*args, now_ns)`. `life` None: whichever life is there."""
        world = self.world
        if not self.alive or (life is not None and life != self.life):
            return
        now_ns = world.now_ns
        if now_ns < self.free_at_ns:
            world.at(self.free_at_ns, self.run, life, act, *args)
            return
        local_ns = self.local_ns = self.clock.read(now_ns)
        if world.knobs.pause_chance and (pause_ns := world.drawn_pause_ns()):
            self.free_at_ns = now_ns + pause_ns
            self.account(self.free_at_ns, self.clock.read(self.free_at_ns))
        else:
            self.free_at_ns = now_ns
            self.account(now_ns, local_ns)
        if world.tracing:
            world.trace(self.name, name_of(act), args)
        act(*args, local_ns)
        self.after(local_ns)
        world.step_count += 1

    def glance(self, act: Callable[..., None], *args: Any) -> None:
        """As `run`, for a step that reads the clock and changes nothing, so that there is nothing to account for or to
        check. It may pause all the same."""
        world = self.world
        if not self.alive:
            return
        now_ns = world.now_ns
        if now_ns < self.free_at_ns:
            world.at(self.free_at_ns, self.glance, act, *args)
            return
        self.local_ns = self.clock.read(now_ns)
        self.free_at_ns = now_ns + world.drawn_pause_ns()
        if world.tracing:
            world.trace(self.name, act.__name__, args)
        act(*args, self.local_ns)
        world.step_count += 1

    def after_ns(self, delay_ns: int, act: Callable[..., None], *args: Any) -> None:
        """Step `delay_ns` of real time later, if this life lasts."""
        self.world.at(self.free_at_ns + on_grain(delay_ns), self.run, self.life, act, *args)

    def at_local_ns(self, local_ns: int, act: Callable[..., None], *args: Any) -> None:
        """Step once our clock shows `local_ns`, if this life lasts."""
        real_ns = max(self.clock.reached_ns(local_ns), self.free_at_ns)
        if "loose_clock" not in self.world.knobs.faults:
            self.world.at(real_ns, self.run, self.life, act, *args)
            return
        token = self.world.new_token()
        self._timers[token] = Timer(local_ns, real_ns, self.life, partial(act, *args))
        self.world.at(real_ns, self._ring, token, real_ns)

    def _ring(self, token: int, real_ns: int) -> None:
        timer = self._timers.get(token)
        if timer is not None and timer.real_ns == real_ns:
            del self._timers[token]
            self.run(timer.life, timer.act)

    def break_clock(self, until_ns: int, rate: int) -> None:
        """From the end of this step until `until_ns` our clock runs as it likes; what waits for an instant of it, too.

        The instants uttered under its old names are what they were when it was good. A clock that is loose already stays
        so as long as it was to be: two blows may have waited for the end of one pause.
        """
        from_ns, clocks = self.free_at_ns, self.world.clocks
        if from_ns >= until_ns or from_ns < self.loose_until_ns:
            return
        self.world.judge.seen["clocks_broken"] += 1
        good = copy(self.clock)
        for clock_id, clock in clocks.items():
            if clock is self.clock:
                clocks[clock_id] = good
        self.clock.break_loose(from_ns, until_ns, rate=rate)
        self.loose_until_ns = until_ns
        for token, timer in self._timers.items():
            real_ns = max(self.clock.reached_ns(timer.local_ns), from_ns)
            self._timers[token] = timer._replace(real_ns=real_ns)
            self.world.at(real_ns, self._ring, token, real_ns)

    def account_now(self) -> None:
        """Account for everything up to now, or to the end of a pause."""
        until_ns = max(self.world.now_ns, self.free_at_ns)
        self.account(until_ns, self.clock.read(until_ns))

    def account(self, until_ns: int, until_local_ns: int) -> None:
        raise NotImplementedError

    def after(self, local_ns: int) -> None:
        raise NotImplementedError


def name_of(act: Callable[..., None]) -> str:
    return name_of(act.func) if isinstance(act, partial) else act.__name__


class Account:
    """What one reader would have said of one model, told to the judge."""

    __slots__ = ("clock", "judge", "truth", "who")

    def __init__(self, process: Process) -> None:
        self.clock = process.clock
        self.judge = process.world.judge
        self.truth = process.world.truth
        self.who = process.name

    def tell(
        self,
        reader: Reader,
        *,
        era: Era,
        pending: Pending | None,
        crossed: bool,
        may_be_strong: bool,
        since: tuple[int, int],
        until: tuple[int, int],
    ) -> None:
        """Account for `[since, until)`: instants in real and in local time, on the grain."""
        if pending is None:
            self.plain(reader, era=era, may_be_strong=may_be_strong, since=since, until=until)
            return
        self.walk(
            reader, era=era, pending=pending, crossed=crossed, may_be_strong=may_be_strong, since=since, until=until
        )

    def plain(
        self, reader: Reader, *, era: Era, may_be_strong: bool, since: tuple[int, int], until: tuple[int, int]
    ) -> None:
        """As `tell` with nothing pending: strong to the end of the lease."""
        begin_ns, local_ns = since
        end_ns, local_end_ns = until
        lease_ns = reader.lease_until_ns
        if may_be_strong and lease_ns > local_ns:
            strong_end_ns = end_ns if lease_ns >= local_end_ns else self.clock.real_ns(lease_ns)
            if strong_end_ns > begin_ns:
                self.judge.strong(era, begin_ns=begin_ns, end_ns=strong_end_ns, who=self.who)
                self.judge.strong_ns += strong_end_ns - begin_ns
        if era.stale_from_ns < end_ns:
            self._bounds(reader, era, None, serve_next=False, here_ns=local_ns, last_ns=local_end_ns - 1)

    def walk(
        self,
        reader: Reader,
        *,
        era: Era,
        pending: Pending,
        crossed: bool,
        may_be_strong: bool,
        since: tuple[int, int],
        until: tuple[int, int],
    ) -> None:
        """As `tell`, piece by piece, while an activation is pending. `era` is the one before it."""
        here_real_ns, here_ns = since
        until_ns, end_ns = until
        clock = self.clock
        while here_ns < end_ns:
            said, change_ns = era, None
            if crossed:
                said, strong_ns = self.truth.era_after(era), reader.lease_until_ns
            else:
                standing = reader.standing(pending, now_ns=here_ns)
                if standing.serve_next:
                    said = self.truth.era_after(era)
                strong_ns, change_ns = standing.strong_until_ns, standing.changes_at_ns
            if change_ns is not None and here_ns < change_ns < end_ns:
                next_ns, next_real_ns = change_ns, clock.real_ns(change_ns)
            else:
                next_ns, next_real_ns = end_ns, until_ns
            if may_be_strong and strong_ns > here_ns:
                strong_end_ns = next_real_ns if strong_ns >= next_ns else clock.real_ns(strong_ns)
                if strong_end_ns > here_real_ns:
                    self.judge.strong(said, begin_ns=here_real_ns, end_ns=strong_end_ns, who=self.who)
                    self.judge.strong_ns += strong_end_ns - here_real_ns
            if said.stale_from_ns < next_real_ns:
                self._bounds(reader, said, pending, serve_next=said is not era, here_ns=here_ns, last_ns=next_ns - 1)
            here_ns, here_real_ns = next_ns, next_real_ns

    def _bounds(
        self,
        reader: Reader,
        said: Era,
        pending: Pending | None,
        *,
        serve_next: bool,
        here_ns: int,
        last_ns: int,
    ) -> None:
        """The bound grows at least as fast as the staleness, so that the two ends of a piece decide."""
        self.judge.seen["stale_pieces"] += 1
        for local_ns in (here_ns, last_ns):
            bound_ns = reader.staleness_bound_ns(pending, serve_next=serve_next, now_ns=local_ns)
            at_ns = self.clock.real_ns(local_ns)
            self.judge.bound(said, bound_ns=bound_ns, at_ns=at_ns, who=self.who)
