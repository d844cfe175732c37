"""No rounding ever lengthens a lease."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.protocol.drift import Drift

ELAPSED_NS = st.integers(min_value=-(10**18), max_value=10**18)
DRIFTS = st.builds(Drift, st.sampled_from([0, 1, 500, 50_000, 200_000]) | st.integers(0, 200_000))


def kappa(drift: Drift) -> Fraction:
    return Fraction(1_000_000 + drift.rho_ppm, 1_000_000 - drift.rho_ppm)


@settings(derandomize=True, max_examples=500)
@given(drift=DRIFTS, elapsed_ns=ELAPSED_NS)
def test_each_bound_is_the_nearest_integer_on_the_safe_side(drift: Drift, elapsed_ns: int) -> None:
    most, least = elapsed_ns * kappa(drift), elapsed_ns / kappa(drift)
    real_max = elapsed_ns * Fraction(1_000_000, 1_000_000 - drift.rho_ppm)

    assert most <= drift.faster_ns(elapsed_ns) < most + 1
    assert least - 1 < drift.slower_ns(elapsed_ns) <= least
    assert real_max <= drift.real_ns_max(elapsed_ns) < real_max + 1


@settings(derandomize=True, max_examples=500)
@given(drift=DRIFTS, elapsed_ns=ELAPSED_NS)
def test_the_two_are_inverse_up_to_safe_rounding(drift: Drift, elapsed_ns: int) -> None:
    """`slower` is the greatest inverse of `faster` (a Galois connection): there and back loses nothing to the unsafe side."""
    assert drift.faster_ns(drift.slower_ns(elapsed_ns)) <= elapsed_ns
    assert drift.slower_ns(drift.faster_ns(elapsed_ns)) >= elapsed_ns
    assert drift.slower_ns(drift.faster_ns(elapsed_ns)) <= elapsed_ns + 1
    assert drift.faster_ns(drift.slower_ns(elapsed_ns) + 1) > elapsed_ns


@settings(derandomize=True, max_examples=500)
@given(drift=DRIFTS, elapsed_ns=st.integers(0, 10**18), more_ns=st.integers(0, 10**9))
def test_a_duration_never_gets_longer_by_caution(drift: Drift, elapsed_ns: int, more_ns: int) -> None:
    assert 0 <= drift.slower_ns(elapsed_ns) <= elapsed_ns <= drift.faster_ns(elapsed_ns)
    assert drift.slower_ns(elapsed_ns) <= drift.slower_ns(elapsed_ns + more_ns)
    assert drift.faster_ns(elapsed_ns) <= drift.faster_ns(elapsed_ns + more_ns)
