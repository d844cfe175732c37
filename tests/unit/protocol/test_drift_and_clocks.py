"""Bounds on another clock: worked examples; what holds for all numbers is in tests/property/protocol."""

import pytest

from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.drift import EXACT, Drift

FIVE_PER_CENT = Drift(50_000)


@pytest.mark.parametrize("rho_ppm", [-1, 200_001, 1_000_000])
def test_an_impossible_drift_is_refused(rho_ppm):
    with pytest.raises(ValueError, match="rho_ppm must lie in"):
        Drift(rho_ppm)


def test_upper_bounds_round_up_and_lower_bounds_down():
    assert (Drift(500).faster_ns(1_000_000), Drift(500).slower_ns(1_000_000)) == (1_001_001, 999_000)
    assert (Drift(500).faster_ns(1), Drift(500).slower_ns(1)) == (2, 0)
    assert (Drift(500).faster_ns(-1), Drift(500).slower_ns(-1)) == (-1, -1)
    assert (Drift(500).real_ns_max(1_999), Drift(500).real_ns_max(0)) == (2_000, 0)
    assert (EXACT.faster_ns(7), EXACT.slower_ns(7), EXACT.real_ns_max(7)) == (7, 7, 7)


def test_without_samples_nothing_is_known():
    samples = ClockSamples(drift=FIVE_PER_CENT)

    assert samples.lo_ns(now_ns=0) is None
    assert samples.hi_ns(now_ns=0) is None
    assert samples.width_ns(now_ns=0) is None
    assert samples.surely_before_until_ns(5) is None
    assert samples.surely_reached_from_ns(5) is None
    assert samples.consistent(now_ns=0)
    assert not samples.two_way


def test_a_beacon_alone_gives_only_a_lower_bound():
    samples = ClockSamples(drift=FIVE_PER_CENT)

    assert samples.add_beacon(t0_ns=1_000, received_at_ns=100)
    assert samples.lo_ns(now_ns=100) == 1_000
    assert samples.hi_ns(now_ns=100) is None
    assert samples.width_ns(now_ns=100) is None
    assert samples.surely_before_until_ns(5_000) is None
    assert samples.surely_reached_from_ns(1_000) == 100
    assert not samples.two_way


def test_a_reply_fences_the_clock_in_and_the_fence_widens():
    samples = ClockSamples(drift=FIVE_PER_CENT)

    assert samples.add_reply(stamped_at_ns=10_000, sent_at_ns=0, received_at_ns=1_900)
    assert (samples.lo_ns(now_ns=1_900), samples.hi_ns(now_ns=1_900)) == (10_000, 12_100)
    assert (samples.lo_ns(now_ns=4_000), samples.hi_ns(now_ns=3_800)) == (11_900, 14_200)
    assert samples.width_ns(now_ns=1_900) == 2_100
    assert samples.two_way
    assert repr(samples) == "<ClockSamples lo=(10000, 1900) hi=(10000, 0)>"


def test_the_best_of_all_samples_is_kept_for_each_side_alone():
    samples = ClockSamples(drift=FIVE_PER_CENT)

    assert samples.add_reply(stamped_at_ns=10_000, sent_at_ns=0, received_at_ns=1_900)
    assert samples.add_reply(stamped_at_ns=10_100, sent_at_ns=1_000, received_at_ns=1_950)  # better above alone
    assert (samples.lo_ns(now_ns=1_950), samples.hi_ns(now_ns=1_950)) == (10_100, 11_150)
    assert samples.add_reply(stamped_at_ns=10_500, sent_at_ns=0, received_at_ns=2_000)  # better below alone
    assert (samples.lo_ns(now_ns=2_000), samples.hi_ns(now_ns=1_950)) == (10_500, 11_150)
    assert samples.add_beacon(t0_ns=10_000, received_at_ns=2_000)  # an old one is worth nothing
    assert samples.lo_ns(now_ns=2_000) == 10_500


def test_samples_that_exclude_each_other_are_a_contradiction():
    samples = ClockSamples(drift=FIVE_PER_CENT)
    samples.add_reply(stamped_at_ns=10_000, sent_at_ns=0, received_at_ns=1_900)

    assert samples.add_beacon(t0_ns=12_100, received_at_ns=1_900)
    assert not samples.add_beacon(t0_ns=12_101, received_at_ns=1_900)
    assert not samples.consistent(now_ns=1_900)


def test_a_reply_from_below_is_a_contradiction_too():
    samples = ClockSamples(drift=FIVE_PER_CENT)
    samples.add_beacon(t0_ns=10_000, received_at_ns=0)

    assert not samples.add_reply(stamped_at_ns=9_000, sent_at_ns=0, received_at_ns=100)


def test_our_own_clock_is_exact_for_ever():
    own = ClockSamples.own()

    for now_ns in (0, 5, 10**18):
        assert (own.lo_ns(now_ns=now_ns), own.hi_ns(now_ns=now_ns)) == (now_ns, now_ns)
    assert own.surely_before_until_ns(77) == own.surely_reached_from_ns(77) == 77
