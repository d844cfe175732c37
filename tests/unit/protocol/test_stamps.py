"""Stamps are made by any thread without a lock, most of the time: none twice, none smaller than one before it."""

from __future__ import annotations

import threading
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge_client.protocol.stamps import AHEAD_MS_MAX, COUNTER_BITS, HybridClock

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["stamp", "draw"]), st.integers(-5, 5)),
        st.tuples(st.just("saw"), st.integers(-5, AHEAD_MS_MAX + 5)),
    ),
    max_size=60,
)


@given(STEPS)
def test_stamps_grow_whatever_the_wall_clock_does(steps):
    clock, unix_ms, made = HybridClock(), 1_700_000_000_000, [0]
    for kind, step_ms in steps:
        if kind == "saw":
            seen = (unix_ms + step_ms) << COUNTER_BITS
            assert (step_ms <= AHEAD_MS_MAX) == clock.saw(seen, unix_ms=unix_ms)
            if step_ms <= AHEAD_MS_MAX:
                made.append(max(made[-1], seen))
            continue
        unix_ms += step_ms
        stamp = clock.draw() if kind == "draw" else clock.stamp(unix_ms=unix_ms)
        assert stamp > made[-1]
        assert kind == "draw" or stamp >= unix_ms << COUNTER_BITS
        made.append(stamp)


def test_a_thread_that_was_about_to_draw_gets_a_stamp_of_its_own():
    """It holds the counter that another thread replaces, and the wall is so near that the two could meet."""
    clock = HybridClock()
    late = clock.draw
    made = [clock.stamp(unix_ms=0)]
    clock.saw(made[-1] + 3, unix_ms=0)
    made += [late() for _ in range(1_000)] + [clock.draw() for _ in range(2_000)]

    assert len(made) == len(set(made))


def test_threads_draw_no_stamp_twice_and_each_sees_its_own_grow():
    clock, lock, walls = HybridClock(), threading.Lock(), iter(range(1, 1_000_000))
    drawn: list[list[int]] = [[] for _ in range(4)]

    def draw(mine: list[int]) -> None:
        for number in range(5_000):
            stamp = clock.draw()
            if number % 7 == 0:
                with lock:
                    stamp = clock.stamp(unix_ms=next(walls))
            mine.append(stamp)

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(before < after for mine in drawn for before, after in pairwise(mine))
    assert sum(map(len, drawn)) == len({stamp for mine in drawn for stamp in mine})
