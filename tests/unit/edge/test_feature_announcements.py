"""What is said of writes, and what is made of what others say."""

from __future__ import annotations

from random import Random

import pytest

from edge_client.core.announcements import (
    FRAME_CHANGES_MAX,
    GATHER_NS,
    MS,
    PATTERNS_MAX,
    PATTERNS_PER_S_MAX,
    PENDING_MAX,
    SPREAD_NS,
    Announcements,
    Drop,
    matches,
)
from edge_client.protocol.messages import EDGE_FRAME_BYTES_MAX, FeatureChanges, encode_edge
from edge_client.protocol.stamps import AHEAD_MS_MAX, COUNTER_BITS, HybridClock

NOW = 1_000_000 * MS
UNIX = 1_700_000_000_000
STAMP = UNIX << COUNTER_BITS


def board(**settings) -> Announcements:
    return Announcements(writer=1, stamps=HybridClock(), rng=Random(1), **settings)


def deadline(slips: Announcements) -> int:
    due_ns = slips.next_deadline_ns()
    assert due_ns is not None
    return due_ns


def hear(board: Announcements, *changes, patterns=(), now_ns=NOW, writer=2) -> None:
    board.heard(FeatureChanges(writer=writer, changes=changes, patterns=patterns), unix_ms=UNIX, now_ns=now_ns)
    board.check_invariants()


def test_writes_are_gathered_and_a_key_is_named_once():
    slips = board()
    slips.wrote(7, 100, now_ns=NOW)
    slips.wrote(8, 101, now_ns=NOW)
    slips.wrote(7, 99, now_ns=NOW)
    slips.wrote(7, 105, now_ns=NOW)
    due_ns = deadline(slips)

    assert NOW + GATHER_NS <= due_ns <= NOW + 2 * GATHER_NS
    assert () == slips.due(now_ns=due_ns - 1)
    assert (FeatureChanges(writer=1, changes=((7, 105), (8, 101))),) == slips.due(now_ns=due_ns)
    assert slips.next_deadline_ns() is None
    assert 2 == slips.counters["announcements_merged"]


def test_a_burst_is_cut_into_frames_that_fit_and_the_rest_is_dropped():
    slips = board()
    for number in range(PENDING_MAX + 10):
        slips.wrote((1 << 64) - 1 - number, (1 << 62) + number, now_ns=NOW)
    slips.invalidated("x" * 256, STAMP, now_ns=NOW)
    messages = slips.due(now_ns=None)
    slips.check_invariants()

    assert PENDING_MAX == sum(len(message.changes) for message in messages)
    assert all(len(message.changes) <= FRAME_CHANGES_MAX for message in messages)
    assert max(len(encode_edge(message)) for message in messages) <= EDGE_FRAME_BYTES_MAX
    assert 10 == slips.counters["announcements_dropped"]


def test_what_is_heard_is_noted_at_once_and_thrown_away_a_little_later():
    slips = board()
    hear(slips, (7, STAMP))

    assert slips.is_out_of_date("k", key_hash=7, stamp=STAMP - 1, known_at_ns=NOW - 1)
    assert slips.is_out_of_date("k", key_hash=7, stamp=-1, known_at_ns=NOW - 1)
    assert not slips.is_out_of_date("k", key_hash=7, stamp=STAMP, known_at_ns=NOW - 1)
    assert not slips.is_out_of_date("k", key_hash=8, stamp=0, known_at_ns=NOW - 1)
    due_ns = deadline(slips)
    assert NOW <= due_ns <= NOW + SPREAD_NS
    assert () == slips.drops(now_ns=due_ns - 1)
    assert (Drop(changes=((7, STAMP),), patterns=(), heard_at_ns=NOW),) == slips.drops(now_ns=due_ns)


def test_what_was_known_after_a_slip_stays_whatever_its_stamp():
    """So that a false slip costs one fetch and no more."""
    slips = board()
    hear(slips, (7, STAMP), patterns=(("a*", STAMP),))

    assert not slips.is_out_of_date("abc", key_hash=7, stamp=0, known_at_ns=NOW)


def test_our_own_words_are_no_news():
    slips = board()
    hear(slips, (7, STAMP), writer=1)

    assert not slips.is_out_of_date("k", key_hash=7, stamp=0, known_at_ns=0)
    assert slips.next_deadline_ns() is None


@pytest.mark.parametrize(
    ("changes", "patterns"),
    [
        ([(7, (UNIX + AHEAD_MS_MAX + 1) << COUNTER_BITS)], ()),
        ([(7, -1)], ()),
        ([(-1, STAMP)], ()),
        ([(1 << 64, STAMP)], ()),
        ((), [("", STAMP)]),
        ((), [("x" * 257, STAMP)]),
        ((), [("x", (UNIX + AHEAD_MS_MAX + 1) << COUNTER_BITS)]),
    ],
)
def test_what_makes_no_sense_is_refused_and_counted(changes, patterns):
    slips = board()
    hear(slips, *changes, patterns=tuple(patterns))

    assert 1 == slips.counters["announcements_refused"]
    assert slips.next_deadline_ns() is None
    assert not slips.is_out_of_date("x", key_hash=7, stamp=-1, known_at_ns=0)


def test_stamps_that_are_heard_push_our_own():
    stamps = HybridClock()
    slips = Announcements(writer=1, stamps=stamps, rng=Random(1))
    ahead = (UNIX + 50_000) << COUNTER_BITS
    hear(slips, (7, ahead))

    assert stamps.stamp(unix_ms=UNIX) > ahead


def test_too_many_changes_in_one_message_are_refused_whole():
    slips = board()
    hear(slips, *((number, STAMP) for number in range(FRAME_CHANGES_MAX + 1)))

    assert 1 == slips.counters["announcements_oversized"]
    assert not slips.is_out_of_date("k", key_hash=7, stamp=0, known_at_ns=0)


def test_memory_of_what_was_heard_is_bounded_and_the_oldest_goes():
    slips = board(remembered_max=3)
    for number in (1, 2, 3, 1, 4):
        hear(slips, (number, STAMP))

    assert [True, False, True, True] == [
        slips.is_out_of_date("k", key_hash=number, stamp=0, known_at_ns=0) for number in (1, 2, 3, 4)
    ]
    assert 1 == slips.counters["announcements_forgotten"]


def test_only_so_many_patterns_a_second_are_heeded():
    slips = board()
    for number in range(PATTERNS_PER_S_MAX + 5):
        hear(slips, patterns=((f"{number}:*", STAMP),))
    assert 5 == slips.counters["announcements_refused"]
    hear(slips, patterns=(("later:*", STAMP),), now_ns=NOW + 1_000 * MS)

    assert slips.is_out_of_date("later:1", key_hash=None, stamp=0, known_at_ns=0)
    assert not slips.is_out_of_date(f"{PATTERNS_PER_S_MAX}:1", key_hash=None, stamp=0, known_at_ns=0)


def test_patterns_are_bounded_on_both_sides():
    slips = board()
    for number in range(PATTERNS_MAX + 2):
        slips.invalidated(f"{number}:*", STAMP, now_ns=NOW)
    slips.check_invariants()

    assert PATTERNS_MAX == sum(len(message.patterns) for message in slips.due(now_ns=None))
    assert (2, 2) == (slips.counters["announcements_dropped"], slips.counters["patterns_forgotten"])
    assert not slips.is_out_of_date("0:x", key_hash=None, stamp=0, known_at_ns=0)
    assert "<Announcements pending=0 remembered=0 drops=0>" == repr(slips)


def test_drops_wait_in_order_and_too_many_go_at_once():
    slips = board()
    for number in range(300):
        hear(slips, (number, STAMP))

    assert 300 - 256 == len(slips.drops(now_ns=NOW - 1))
    assert 256 == len(slips.drops(now_ns=NOW + SPREAD_NS))


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("user:*", ["user:", "user:1", "user:\n*"], ["use", "xuser:1", "User:1"]),
        ("*:7", [":7", "a:7", "a:b:7"], ["a:77", "7"]),
        ("a?c", ["abc", "a?c", "a*c"], ["ac", "abbc"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc", "abcbc"], ["acb", "ab", "bc"]),
        ("*", ["", "x"], []),
        ("**x**", ["x", "axb"], ["", "ab"]),
        ("a.c[x]", ["a.c[x]"], ["abc[x]", "a.cx"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
    ],
)
def test_patterns(pattern, fits, fits_not):
    assert fits == [key for key in fits + fits_not if matches(key, pattern=pattern)]


@pytest.mark.parametrize("seed", range(3))
def test_patterns_agree_with_trying_everything(seed):
    rng = Random(seed)
    for _ in range(2_000):
        pattern = "".join(rng.choice("ab*?") for _ in range(rng.randrange(1, 7)))
        key = "".join(rng.choice("ab") for _ in range(rng.randrange(7)))

        assert slowly(key, pattern) == matches(key, pattern=pattern), (key, pattern)


def slowly(key: str, pattern: str) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "*":
        return any(slowly(key[skip:], pattern[1:]) for skip in range(len(key) + 1))
    return bool(key) and pattern[0] in ("?", key[0]) and slowly(key[1:], pattern[1:])
