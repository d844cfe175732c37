"""The fence holds whatever the clocks do within rho, and its computed instants are the very instants it is crossed."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.protocol.clocks import ClockSamples
from edge_client.protocol.drift import Drift


@dataclass(frozen=True)
class Exchange:
    """A request, or a beacon: real microseconds since the one before, and of each way."""

    gap_us: int
    there_us: int
    back_us: int
    two_way: bool
    rates: tuple[int, int]
    """Of our clock and the other from now on, in thousandths above one."""


DELAYS_US = st.sampled_from([0, 0, 1, 150]) | st.integers(0, 2_000_000)


def histories(rho: int) -> st.SearchStrategy[list[Exchange]]:
    rates = st.sampled_from([-rho, rho]) | st.integers(-rho, rho)
    exchange = st.builds(
        Exchange,
        gap_us=st.integers(0, 30_000_000),
        there_us=DELAYS_US,
        back_us=DELAYS_US,
        two_way=st.booleans(),
        rates=st.tuples(rates, rates),
    )
    return st.lists(exchange, min_size=1, max_size=12)


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, list[Exchange], int, int]:
    rho = draw(st.sampled_from([0, 1, 10, 50]))
    return rho, draw(histories(rho)), draw(st.integers(0, 10**15)), draw(st.integers(0, 10**15))


@settings(derandomize=True, max_examples=300)
@given(run=runs())
def test_the_clock_is_always_inside_its_fence(run: tuple[int, list[Exchange], int, int]) -> None:
    rho, history, ours_ns, theirs_ns = run
    samples = ClockSamples(drift=Drift(rho * 1_000))

    def check() -> None:
        lo_ns, hi_ns = samples.lo_ns(now_ns=ours_ns), samples.hi_ns(now_ns=ours_ns)
        assert lo_ns is None or lo_ns <= theirs_ns
        assert hi_ns is None or theirs_ns <= hi_ns
        assert samples.two_way == (hi_ns is not None)

    for exchange in history:
        rate, their_rate = 1_000 + exchange.rates[0], 1_000 + exchange.rates[1]
        ours_ns += exchange.gap_us * rate
        theirs_ns += exchange.gap_us * their_rate
        check()
        sent_at_ns = ours_ns
        ours_ns += exchange.there_us * rate
        theirs_ns += exchange.there_us * their_rate
        stamped_at_ns = theirs_ns
        ours_ns += exchange.back_us * rate
        theirs_ns += exchange.back_us * their_rate
        if exchange.two_way:
            assert samples.add_reply(stamped_at_ns=stamped_at_ns, sent_at_ns=sent_at_ns, received_at_ns=ours_ns)
        else:
            assert samples.add_beacon(t0_ns=stamped_at_ns, received_at_ns=ours_ns)
        check()


@settings(derandomize=True, max_examples=500)
@given(
    rho_ppm=st.sampled_from([0, 1, 500, 50_000, 200_000]),
    stamped_at_ns=st.integers(0, 10**15),
    sent_at_ns=st.integers(0, 10**15),
    round_trip_ns=st.integers(0, 10**10),
    ahead_ns=st.integers(-(10**10), 10**12),
)
def test_computed_instants_are_where_the_fence_is_crossed(
    rho_ppm: int, stamped_at_ns: int, sent_at_ns: int, round_trip_ns: int, ahead_ns: int
) -> None:
    samples = ClockSamples(drift=Drift(rho_ppm))
    received_at_ns, instant_ns = sent_at_ns + round_trip_ns, stamped_at_ns + ahead_ns
    samples.add_reply(stamped_at_ns=stamped_at_ns, sent_at_ns=sent_at_ns, received_at_ns=received_at_ns)
    stop_ns, start_ns = samples.surely_before_until_ns(instant_ns), samples.surely_reached_from_ns(instant_ns)
    assert stop_ns is not None
    assert start_ns is not None

    def hi_ns(now_ns: int) -> int:
        bound_ns = samples.hi_ns(now_ns=now_ns)
        assert bound_ns is not None
        return bound_ns

    def lo_ns(now_ns: int) -> int:
        bound_ns = samples.lo_ns(now_ns=now_ns)
        assert bound_ns is not None
        return bound_ns

    assert hi_ns(stop_ns - 1) < instant_ns  # strictly before: surely before
    assert hi_ns(stop_ns + 1) >= instant_ns  # and not a nanosecond too early
    assert lo_ns(start_ns) >= instant_ns
    assert start_ns == received_at_ns or lo_ns(start_ns - 1) < instant_ns
    assert stop_ns <= start_ns


@settings(derandomize=True, max_examples=300)
@given(times_ns=st.lists(st.integers(0, 10**12), min_size=2, max_size=6), reply_ns=st.integers(0, 10**6))
def test_a_fence_only_widens(times_ns: list[int], reply_ns: int) -> None:
    samples = ClockSamples(drift=Drift(500))
    samples.add_reply(stamped_at_ns=7, sent_at_ns=0, received_at_ns=reply_ns)

    widths = [samples.width_ns(now_ns=reply_ns + now_ns) or 0 for now_ns in sorted(times_ns)]

    assert widths == sorted(widths)
