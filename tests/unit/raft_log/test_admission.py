"""The doorman's jar of tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consistency_service.adapters.raft_log.admission import NS_PER_S, TokenBucket


def test_a_burst_is_let_in_and_then_one_for_each_drop():
    bucket = TokenBucket(per_s=10, burst=3, now_ns=0)

    assert [True, True, True, False] == [bucket.take(now_ns=0) for _ in range(4)]
    assert not bucket.take(now_ns=NS_PER_S // 10 - 1)
    assert bucket.take(now_ns=NS_PER_S // 10)
    assert not bucket.take(now_ns=NS_PER_S // 10)
    assert "<TokenBucket 0/3>" == repr(bucket)


def test_the_jar_does_not_overflow():
    bucket = TokenBucket(per_s=10, burst=3, now_ns=0)

    assert 3 == sum(bucket.take(now_ns=3_600 * NS_PER_S) for _ in range(10))


@given(st.lists(st.integers(0, NS_PER_S // 5), max_size=200), st.integers(1, 500), st.integers(1, 50))
def test_never_more_than_burst_and_rate_together(pauses_ns, per_s, burst):
    bucket, now_ns, taken = TokenBucket(per_s=per_s, burst=burst, now_ns=0), 0, 0
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        taken += bucket.take(now_ns=now_ns)

    assert taken <= burst + now_ns * per_s / NS_PER_S + 1


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket(per_s=1, burst=1, now_ns=NS_PER_S)

    assert bucket.take(now_ns=NS_PER_S)
    assert not bucket.take(now_ns=0)
    assert not bucket.take(now_ns=NS_PER_S)
    assert bucket.take(now_ns=2 * NS_PER_S)
