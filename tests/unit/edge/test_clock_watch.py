"""When our own clock is believed."""

from __future__ import annotations

from edge_client.protocol.clock_watch import SPREAD_NS_MAX, ClockState, ClockWatch

SEC = 1_000_000_000


class Clocks:
    def __init__(self) -> None:
        self.watch = ClockWatch(rho_ppm=500)
        self.raw_ns = 0
        self.monotonic_ns = 0
        self.slept_ns = 0

    def run(self, seconds: int, *, ppm: int = 0, steps_a_second: int = 1) -> ClockState:
        for _ in range(seconds * steps_a_second):
            self.raw_ns += SEC // steps_a_second
            self.monotonic_ns += (SEC + ppm * 1_000) // steps_a_second
            self.read()
        return self.watch.state

    def read(self, *, spread_ns: int = 0) -> ClockState:
        state = self.watch.read(
            monotonic_ns=self.monotonic_ns,
            raw_ns=self.raw_ns,
            spread_ns=spread_ns,
            now_ns=self.monotonic_ns + self.slept_ns,
        )
        self.watch.check_invariants()
        return state


def test_believes_a_clock_within_the_limit():
    clocks = Clocks()
    assert clocks.run(60, ppm=390) is ClockState.TRUSTED
    assert repr(clocks.watch) == "<ClockWatch trusted +390ppm suspensions=0>"


def test_distrusts_a_slewed_clock_after_ten_seconds_and_believes_it_again_after_ten_more():
    for ppm in (450, -450):
        clocks = Clocks()
        clocks.run(20)
        assert clocks.run(7, ppm=ppm) is ClockState.TRUSTED
        assert clocks.run(5, ppm=ppm) is ClockState.DRIFTING
        assert clocks.run(11) is ClockState.TRUSTED


def test_says_nothing_before_ten_seconds():
    clocks = Clocks()
    assert clocks.run(9, ppm=5_000) is ClockState.TRUSTED
    assert repr(clocks.watch) == "<ClockWatch trusted ? suspensions=0>"


def test_readings_more_often_than_needed_do_not_shorten_the_window():
    clocks = Clocks()
    assert clocks.run(30, ppm=450, steps_a_second=50) is ClockState.DRIFTING


def test_a_suspension_is_counted_and_no_fault():
    clocks = Clocks()
    clocks.run(20)
    clocks.slept_ns += 3_600 * SEC
    assert clocks.run(20) is ClockState.TRUSTED
    assert (clocks.watch.suspension_count, clocks.watch.suspended_ns) == (1, 3_600 * SEC)


def test_clocks_that_were_not_read_together_say_nothing():
    clocks = Clocks()
    clocks.run(20)
    clocks.monotonic_ns += SEC
    assert clocks.read(spread_ns=SPREAD_NS_MAX + 1) is ClockState.TRUSTED
    assert clocks.watch.blurred_count == 1
    assert clocks.read() is ClockState.DRIFTING
