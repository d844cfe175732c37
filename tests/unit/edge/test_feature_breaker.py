"""The fuse: closed while outcomes are good, open for ever longer while they are not, a few probes in between."""

from __future__ import annotations

from random import Random

import pytest

from edge_client.core.breaker import MS, Breaker, BreakerConfig, BreakerState
from edge_client.runtime.feature_guard import Admission, Guard
from tests.unit.edge.worlds import HandClock


class Half(Random):
    """Draws the middle, so that spreads are nothing."""

    def random(self) -> float:
        return 0.5


def breaker(**settings) -> Breaker:
    return Breaker(BreakerConfig(**settings), rng=Half())


def state(fuse: Breaker) -> BreakerState:
    return fuse.state


def at(ms: int) -> int:
    return (1_000_000 + ms) * MS


def test_a_few_bad_outcomes_open_nothing():
    fuse = breaker(count_min=5)
    for number in range(4):
        fuse.came(bad=1, now_ns=at(number))

    assert state(fuse) is BreakerState.CLOSED
    assert fuse.allows(now_ns=at(5))


def test_it_opens_when_most_of_enough_were_bad():
    fuse = breaker(count_min=5, bad_bp_max=5_000)
    fuse.came(good=5, bad=5, now_ns=at(0))
    assert state(fuse) is BreakerState.CLOSED

    fuse.came(bad=1, now_ns=at(1))

    assert state(fuse) is BreakerState.OPEN
    assert not fuse.allows(now_ns=at(2))
    assert {"opened": 1, "refused": 1} == fuse.counters
    assert "<Breaker open open_ms=500 window=0>" == repr(fuse)


def test_what_lies_before_the_window_is_forgotten():
    fuse = breaker(count_min=5, window_ms=1_000)
    fuse.came(bad=4, now_ns=at(0))
    fuse.came(bad=1, good=2, now_ns=at(1_100))

    assert state(fuse) is BreakerState.CLOSED
    fuse.came(bad=4, now_ns=at(1_150))
    assert state(fuse) is BreakerState.OPEN


def test_one_probe_at_a_time_and_a_good_one_closes():
    fuse = breaker(count_min=1, open_ms_min=500)
    fuse.came(bad=1, now_ns=at(0))
    assert not fuse.allows(now_ns=at(499))

    assert fuse.allows(now_ns=at(500))
    assert not fuse.allows(now_ns=at(500))
    fuse.came(good=1, now_ns=at(510))

    assert state(fuse) is BreakerState.CLOSED
    assert fuse.allows(now_ns=at(511))
    fuse.check_invariants()


def test_each_failed_probe_doubles_the_wait_up_to_a_bound():
    fuse = breaker(count_min=1, open_ms_min=500, open_ms_max=1_500)
    fuse.came(bad=1, now_ns=at(0))
    now, waits = 0, []
    for _ in range(4):
        began = now
        while not fuse.allows(now_ns=at(now)):
            now += 10
        waits.append(now - began)
        fuse.came(bad=1, now_ns=at(now))

    assert [500, 1_000, 1_500, 1_500] == waits


def test_a_probe_that_never_comes_back_is_not_the_last():
    fuse = breaker(count_min=1, open_ms_min=500, open_ms_max=2_000)
    fuse.came(bad=1, now_ns=at(0))
    assert fuse.allows(now_ns=at(500))
    assert not fuse.allows(now_ns=at(2_499))

    assert fuse.allows(now_ns=at(2_500))


def test_stragglers_of_before_say_nothing_while_it_is_open():
    fuse = breaker(count_min=1)
    fuse.came(bad=1, now_ns=at(0))
    fuse.came(good=100, now_ns=at(1))

    assert state(fuse) is BreakerState.OPEN


@pytest.mark.parametrize(
    "settings",
    [{"count_min": 0}, {"probes": 0}, {"bad_bp_max": 10_000}, {"open_ms_min": 9, "open_ms_max": 8}, {"window_ms": 9}],
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ValueError):
        BreakerConfig(**settings)


def test_outcomes_in_any_order_leave_a_state_that_may_exist():
    rng = Random(3)
    fuse, now = breaker(window_ms=100, open_ms_min=10, open_ms_max=80, probes=3), 0
    for _ in range(5_000):
        now += rng.choice((0, 1, 7, 300, -5))
        if rng.random() < 0.5:
            fuse.came(good=rng.randrange(3), bad=rng.randrange(3), now_ns=at(now))
        else:
            fuse.allows(now_ns=at(now))
        fuse.check_invariants()
    assert fuse.counters["opened"] > 10 and fuse.counters["closed"] > 10


def test_a_caller_who_gave_up_costs_no_probe_for_ever():
    clock = HandClock()
    guard = Guard(BreakerConfig(count_min=1, open_ms_min=500), clock=clock, rng=Half())
    guard.gave_up()
    assert guard.state == "closed"
    guard.came(bad=1)
    clock.jump(500)
    assert guard.allows()

    guard.gave_up()

    assert guard.state == "open"


def test_the_application_is_turned_away_while_features_are_too_old_and_let_in_again():
    clock = HandClock()
    admission = Admission(misses_bp_max=9_000, stale_bp_max=2_000, clock=clock, rng=Half())
    assert admission.admits(hit_count=1_000, miss_count=0, stale_count=0)
    assert not admission.admits(hit_count=1_000, miss_count=1_000, stale_count=1_000)
    assert admission.state == "open"
    clock.jump(1_000)
    probes = [admission.admits(hit_count=1_000, miss_count=1_000, stale_count=1_000) for _ in range(12)]
    assert [True] * 10 + [False] * 2 == probes

    assert admission.admits(hit_count=1_010, miss_count=1_000, stale_count=1_000)
    assert admission.state == "closed"


def test_misses_alone_turn_the_application_away():
    admission = Admission(misses_bp_max=5_000, stale_bp_max=9_000, clock=HandClock(), rng=Half())

    assert admission.admits(hit_count=10, miss_count=20, stale_count=0)
    assert not admission.admits(hit_count=20, miss_count=60, stale_count=0)
