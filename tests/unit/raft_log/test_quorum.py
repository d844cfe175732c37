"""Counting disks and ears, against the definition written out the long way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consistency_service.adapters.raft_log.disk_health import DiskHealth
from consistency_service.adapters.raft_log.quorum import Quorum

MS = 1_000_000
ROW = st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans())


@given(own=st.integers(0, 9), rows=st.lists(ROW, min_size=0, max_size=6).filter(lambda rows: len(rows) % 2 == 0))
def test_a_majority_of_all_voters_holds_what_is_said_and_nothing_beyond(own, rows):
    quorum = Quorum(followers=tuple(f"n{number}" for number in range(len(rows))))
    for number, (matched, stamp, counts) in enumerate(rows):
        quorum.answered(f"n{number}", stamp=stamp, counts=counts)
        quorum.matched(f"n{number}", index=matched)

    def most(values):
        needed = (len(rows) + 1) // 2 + 1
        return max((value for value in range(10) if sum(v >= value for v in values) >= needed), default=0)

    assert most([own, *(row[0] for row in rows if row[2])]) == quorum.held_through(own_through=own)
    assert most([own, *(row[1] for row in rows if row[2])]) == quorum.heard_through(own_stamp=own)


def test_what_was_held_is_not_unheld_by_an_older_word_but_by_a_lost_connection():
    quorum = Quorum(followers=("a", "b"))
    quorum.answered("a", stamp=5, counts=True)
    quorum.matched("a", index=7)
    quorum.matched("a", index=3)

    assert (7, 5) == (quorum.held_through(own_through=9), quorum.heard_through(own_stamp=9))
    quorum.forget("a")
    assert (0, 0) == (quorum.held_through(own_through=9), quorum.heard_through(own_stamp=9))


def test_the_heir_is_who_holds_most_and_of_those_who_answered_last():
    quorum = Quorum(followers=("a", "b", "c", "d"))
    assert quorum.most_caught_up() is None
    for name, index, stamp, counts in (("a", 5, 9, True), ("b", 6, 1, True), ("c", 6, 2, True), ("d", 9, 9, False)):
        quorum.answered(name, stamp=stamp, counts=counts)
        quorum.matched(name, index=index)

    assert "c" == quorum.most_caught_up()


def health() -> DiskHealth:
    return DiskHealth(slow_sync_ns=250 * MS, slow_for_ns=2_000 * MS, inline_ns_max=MS)


def synced(disk: DiskHealth, *, at_ms: int, for_ms: int) -> None:
    disk.sync_started(now_ns=at_ms * MS)
    disk.sync_ended(now_ns=(at_ms + for_ms) * MS)


def test_one_slow_sync_is_weather_and_nothing_but_slow_ones_a_slow_disk():
    disk = health()
    synced(disk, at_ms=0, for_ms=300)
    assert not disk.slow(now_ns=60_000 * MS)
    synced(disk, at_ms=60_000, for_ms=1)
    for at_ms in range(61_000, 63_400, 400):
        assert not disk.slow(now_ns=at_ms * MS)
        synced(disk, at_ms=at_ms, for_ms=390)

    assert disk.slow(now_ns=63_400 * MS)
    synced(disk, at_ms=63_500, for_ms=1)
    assert not disk.slow(now_ns=63_501 * MS)
    assert 7 == disk.slow_sync_count


def test_a_sync_that_does_not_come_back_counts_while_it_lasts():
    disk = health()
    disk.sync_started(now_ns=0)

    assert not disk.slow(now_ns=1_999 * MS)
    assert disk.slow(now_ns=2_000 * MS)


def test_the_loop_waits_for_a_fast_disk_itself_and_not_for_a_slow_one():
    disk = health()
    assert disk.inline
    for number in range(20):
        synced(disk, at_ms=10 * number, for_ms=5)

    assert not disk.inline
    for number in range(20):
        synced(disk, at_ms=10_000 + 10 * number, for_ms=0)
    assert disk.inline
