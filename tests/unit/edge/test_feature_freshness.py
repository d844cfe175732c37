"""How old a copy is, when it will do, what may replace it; who may fill; how far a copy was off."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from edge_client.core.feature_observed import FeatureObserved
from edge_client.core.feature_reading import FeatureReading, FeatureReason, FeatureVerdict
from edge_client.core.freshness import (
    ABSENT_MS_MAX,
    MS,
    NEVER,
    UNKNOWN_NS,
    ClassPolicy,
    Copy,
    FillTokens,
    drift,
)
from edge_client.protocol.feature_classes import CLASSES_MAX, FeatureClass, FeatureKind
from edge_client.protocol.features import Entry
from edge_client.protocol.stamps import COUNTER_BITS

NOW = 10_000_000 * MS
UNIX = 1_700_000_000_000
CRITICAL = FeatureClass(name="c", kind=FeatureKind.CRITICAL, window_base_ms=1_000, expire_ms=None)
BULK = FeatureClass(name="b", window_base_ms=1_000, expire_ms=30_000)
FRESH, STALE, TOO_STALE = FeatureVerdict.FRESH, FeatureVerdict.STALE_WITHIN_BOUND, FeatureVerdict.TOO_STALE


def copy(
    feature_class=CRITICAL, *, known_ms_ago=0, written_ms_ago=0, expires_in_ms=None, stamp=None, **settings
) -> Copy:
    entry = Entry(
        b"x",
        (UNIX - written_ms_ago) << COUNTER_BITS if stamp is None else stamp,
        1,
        0 if expires_in_ms is None else UNIX + expires_in_ms,
    )
    given: dict[str, Any] = {
        "policy": ClassPolicy(feature_class),
        "known_at_ns": None if known_ms_ago is None else NOW - known_ms_ago * MS,
        "spread": 0.0,
        "unix_ms": UNIX,
        "now_ns": NOW,
    }
    return Copy("k", settings.pop("entry", entry), "x", **(given | settings))


def verdicts(one: Copy, *, staleness_max_ms=None, after_ms=()) -> list[FeatureVerdict]:
    return [one.verdict(staleness_max_ms=staleness_max_ms, now_ns=NOW + ms * MS) for ms in after_ms]


def test_a_critical_copy_is_as_old_as_what_is_known_of_it():
    one = copy(known_ms_ago=200, written_ms_ago=90_000)

    assert 200 * MS == one.age_ns(now_ns=NOW)
    assert one.is_bounded
    assert [FRESH, FRESH, TOO_STALE] == verdicts(one, after_ms=(0, 800, 801))


def test_a_bulk_copy_is_as_old_as_its_writing_and_served_until_it_expires():
    one = copy(BULK, known_ms_ago=200, written_ms_ago=900, expires_in_ms=10_000)

    assert 900 * MS == one.age_ns(now_ns=NOW)
    assert not one.is_bounded
    assert [FRESH, FRESH, STALE, STALE] == verdicts(one, after_ms=(0, 100, 101, 9_000))
    assert [False, True] == [one.expired(now_ns=NOW + ms * MS) for ms in (9_999, 10_000)]


def test_what_the_caller_allows_widens_and_narrows():
    one = copy(known_ms_ago=0)

    assert [FRESH, STALE, TOO_STALE] == verdicts(one, staleness_max_ms=1_500, after_ms=(1_000, 1_001, 1_501))
    assert [FRESH, TOO_STALE] == verdicts(one, staleness_max_ms=10, after_ms=(10, 11))


def test_a_window_that_is_tightened_holds_for_copies_that_are_there():
    one = copy(known_ms_ago=0)
    one.policy.changed(
        FeatureClass(name="c", kind=FeatureKind.CRITICAL, window_base_ms=1_000, window_ms=600, expire_ms=None)
    )

    assert [FRESH, TOO_STALE] == verdicts(one, after_ms=(600, 601))


@pytest.mark.parametrize("known_ms_ago", [None, -1])
def test_of_what_nobody_knows_the_age_nothing_is_vouched(known_ms_ago):
    """After a restart of the machine; or an instant that has not come yet, which cannot be of this clock."""
    one = copy(known_ms_ago=known_ms_ago)

    assert one.age_ns(now_ns=NOW) is None
    assert not one.is_bounded
    assert [TOO_STALE] * 2 == verdicts(one, after_ms=(0,)) + verdicts(one, staleness_max_ms=10**12, after_ms=(0,))


def test_a_stamp_ahead_of_our_wall_clock_counts_as_written_now():
    assert 0 == copy(BULK, written_ms_ago=-5_000).age_ns(now_ns=NOW)


def test_copies_are_fetched_again_before_the_window_ends_each_at_its_own_moment():
    shares = [copy(spread=spread).easy_age_ns / (1_000 * MS) for spread in (0.0, 0.5, 0.999)]

    assert [0.7, 0.825, 0.95] == [pytest.approx(share, abs=0.001) for share in shares]
    one = copy(known_ms_ago=0)
    assert [False, True] == [one.is_due(now_ns=NOW + ms * MS) for ms in (699, 700)]


def test_a_bulk_copy_is_fetched_again_some_time_after_it_was_fetched_not_written():
    one = copy(BULK, known_ms_ago=0, written_ms_ago=8_000, expires_in_ms=20_000)

    assert [False, True] == [one.is_due(now_ns=NOW + ms * MS) for ms in (699, 700)]


def test_expiry_is_never_late_and_a_little_early_at_random():
    ends = [copy(BULK, expires_in_ms=10_000, spread=spread).expires_age_ns // MS for spread in (0.0, 0.5, 0.999)]

    assert [10_000, 9_750, 9_501] == ends


def test_absence_is_remembered_briefly_and_never_longer_than_the_window():
    narrow = FeatureClass(name="n", kind=FeatureKind.CRITICAL, window_base_ms=600, expire_ms=None)

    assert ABSENT_MS_MAX == copy(entry=None).expires_age_ns // MS
    assert 600 == copy(narrow, entry=None).expires_age_ns // MS
    assert NEVER == copy(entry=None).order


@pytest.mark.parametrize(
    ("new", "old", "from_store", "holds"),
    [
        ({"stamp": 2}, {"stamp": 1, "known_ms_ago": -0}, False, True),
        ({"stamp": 1}, {"stamp": 2, "known_ms_ago": 50}, False, False),
        ({"stamp": 1}, {"stamp": 2, "known_ms_ago": 50}, True, True),  # the store has the last word
        ({"stamp": 2, "known_ms_ago": 50}, {"stamp": 1}, True, False),  # but not for what it said before
        ({"stamp": 1}, {"stamp": 1, "known_ms_ago": 50}, False, True),
        ({"stamp": 1, "known_ms_ago": 50}, {"stamp": 1}, False, False),
        ({"entry": None}, {"stamp": 5, "known_ms_ago": 50}, False, True),
        ({"entry": None, "known_ms_ago": 60}, {"stamp": 5, "known_ms_ago": 50}, False, False),
    ],
)
def test_what_takes_whose_place(new, old, from_store, holds):
    assert holds == copy(**new).supersedes(copy(**old), from_store=from_store)


def test_the_store_does_not_unwrite_bulk():
    assert not copy(BULK, stamp=1).supersedes(copy(BULK, stamp=2, known_ms_ago=9), from_store=True)


def test_a_fill_whose_key_was_touched_meanwhile_is_refused():
    tokens = FillTokens()
    first, second = tokens.take("k"), tokens.take("k")
    other = tokens.take("l")
    tokens.void("k")
    third = tokens.take("k")

    assert [False, False, True, True] == [
        tokens.settle("k", first),
        tokens.settle("k", second),
        tokens.settle("k", third),
        tokens.settle("l", other),
    ]
    assert not tokens.live
    assert tokens.settle("k", tokens.take("k")), "what was voided is forgotten with its tokens"


def test_tokens_are_bounded_and_who_comes_late_may_not_fill():
    tokens = FillTokens(tokens_max=1)
    token = tokens.take("k")

    assert 0 == tokens.take("l")
    assert not tokens.settle("l", 0)
    assert tokens.settle("k", token)
    assert 1 == tokens.refused_count


def test_tokens_under_any_steps():
    rng, tokens, live, touched = Random(1), FillTokens(tokens_max=20), [], set()
    for _ in range(5_000):
        step, key = rng.random(), rng.choice("abc")
        if step < 0.5:
            token = tokens.take(key)
            if token:
                live.append((key, token))
        elif step < 0.7:
            if rng.random() < 0.5:
                tokens.void(key)
                keys = {key}
            else:
                tokens.void_matching(lambda one: one != "a")
                keys = {"b", "c"}
            touched |= {pair for pair in live if pair[0] in keys}
        elif live:
            pair = live.pop(rng.randrange(len(live)))
            assert tokens.settle(*pair) == (pair not in touched)
        tokens.check_invariants()


@pytest.mark.parametrize(
    ("before", "after", "off"),
    [
        (1, 1, 0),
        (0, 0, 0),
        (1.0, 3.0, 0.5),
        (-1, 1, 1),
        (True, False, 1),
        ("a", "a", 0),
        ("a", "b", 1),
        (1, "1", 1),
        (None, {"x": 1}, 1),
        ({"x": [1]}, {"x": [1]}, 0),
        (float("nan"), 1.0, 1),
        (10**400, 1, 1),
        (np.array([1, 1], "f4"), np.array([1, 1], "f4"), 0),
        (np.array([1, 0], "f4"), np.array([0, 1], "f4"), 1),
        (np.array([0, 255], "u1"), np.array([255, 0], "u1"), 1),
        (np.array([1.0]), np.array([1.0, 2.0]), 1),
        (np.array([1.0]), np.array([3.0]), 0.5),
        (np.array([np.nan]), np.array([1.0]), 1),
        (np.array(["a"]), np.array(["b"]), 1),
    ],
)
def test_drift(before, after, off):
    assert off == pytest.approx(drift(before, after))


def test_sums_by_class_and_no_more_classes_than_a_region_has():
    seen = FeatureObserved()
    seen.judged("a", ok=True)
    seen.judged("a", ok=False)
    seen.fetched("a", before=1.0, after=3.0)
    for number in range(CLASSES_MAX + 3):
        seen.judged(f"c{number}", ok=True)
    seen.check_invariants()

    first = seen.sheets()[0]
    assert ("a", 2, 1, 1, 0.5) == (
        first.class_name,
        first.judged_count,
        first.failed_count,
        first.fetched_count,
        first.drift_sum,
    )
    assert CLASSES_MAX == len(seen.sheets())
    assert 4 == seen.counters["classes_unobserved"]


def test_a_reading_never_changes_and_says_what_it_is():
    reading: Any = FeatureReading("u:1", 7, True, 12, "memory", FeatureReason.MEMORY, FRESH, "u", 12)

    assert "<FeatureReading u:1 found FRESH age=12ms bound=12ms tier=memory MEMORY class=u>" == repr(reading)
    with pytest.raises(AttributeError):
        reading.value = 8
    unknown = FeatureReading("u:1", None, False, None, None, FeatureReason.DEFAULT, TOO_STALE, "u", None)
    assert "<FeatureReading u:1 absent TOO_STALE age=? bound=? tier=none DEFAULT class=u>" == repr(unknown)


def test_copies_and_unknown_ages_print_well():
    assert f"<Copy k 5 known_at={UNKNOWN_NS} c>" == repr(copy(stamp=5, known_ms_ago=None))
