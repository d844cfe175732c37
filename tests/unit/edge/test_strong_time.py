"""The stopwatch beside the window says for how long a read would have been strong, and no more than passed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_client.core.strong_time import StrongTime


def test_a_reading_is_worth_something_until_it_runs_out_or_is_replaced():
    time = StrongTime(now_ns=100)
    assert 0 == time.strong_ns(now_ns=150)

    time.shown(strong_until_ns=300, is_right=True, now_ns=200)
    assert (50, 100, 100) == tuple(time.strong_ns(now_ns=now_ns) for now_ns in (250, 300, 900))

    time.shown(strong_until_ns=1_500, is_right=True, now_ns=1_000)
    time.shown(strong_until_ns=None, is_right=True, now_ns=1_200)
    assert 300 == time.strong_ns(now_ns=5_000)


def test_since_when_the_right_version_is_not_served():
    time = StrongTime(now_ns=0)
    assert 0 == time.behind_since_ns
    time.shown(strong_until_ns=None, is_right=True, now_ns=10)
    assert time.behind_since_ns is None
    time.shown(strong_until_ns=None, is_right=False, now_ns=20)
    time.shown(strong_until_ns=None, is_right=False, now_ns=30)
    assert 20 == time.behind_since_ns


@given(st.lists(st.tuples(st.integers(0, 100), st.none() | st.integers(-50, 200), st.booleans()), max_size=50))
def test_it_is_the_length_of_the_union_of_what_was_shown(steps):
    time, now_ns = StrongTime(now_ns=0), 0
    nanoseconds: set[int] = set()
    shown = None
    for wait_ns, lasts_ns, is_right in steps:
        if shown is not None:
            nanoseconds.update(range(shown[0], min(shown[1], now_ns + wait_ns)))
        now_ns += wait_ns
        until_ns = None if lasts_ns is None else now_ns + lasts_ns
        time.shown(strong_until_ns=until_ns, is_right=is_right, now_ns=now_ns)
        time.check_invariants()
        shown = None if until_ns is None else (now_ns, until_ns)

        assert len(nanoseconds) == time.strong_ns(now_ns=now_ns) <= now_ns
