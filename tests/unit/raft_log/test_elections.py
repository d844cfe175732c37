"""Who may stand, and when: the rules by themselves, with time as an argument."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from consistency_service.adapters.raft_log.elections import Elections

MS = 1_000_000
OWN = (3, 10, "n2")


def elections(*, majority: int = 2, now_ms: int = 0) -> Elections:
    return Elections(
        majority=majority,
        timeout_min_ns=300 * MS,
        timeout_max_ns=600 * MS,
        grace_ns=100 * MS,
        random=Random(1),
        now_ns=now_ms * MS,
    )


def first_due_ms(rules: Elections, *, from_ms: int = 0) -> int:
    return next(ms for ms in range(from_ms, from_ms + 10_000) if rules.due(now_ns=ms * MS))


@given(st.integers(0, 10**6))
def test_patience_ends_between_the_two_timeouts(heard_ms):
    rules = elections()
    rules.leader_heard(now_ns=heard_ms * MS)

    assert not rules.due(now_ns=(heard_ms + 299) * MS)
    assert rules.due(now_ns=(heard_ms + 600) * MS)


def test_a_majority_of_answers_to_this_very_question_makes_one_stand_and_only_once():
    rules = elections(majority=3)
    rules.begin_trial(stamp=7, now_ns=0)
    rules.willing("n2", stamp=7)
    rules.willing("n2", stamp=7)
    rules.willing("n3", stamp=6)

    assert not rules.should_stand()
    rules.willing("n3", stamp=7)
    assert rules.should_stand()
    assert not rules.should_stand()


def test_a_leader_heard_meanwhile_ends_the_asking():
    rules = elections()
    rules.begin_trial(stamp=7, now_ns=0)
    rules.leader_heard(now_ns=1)
    rules.willing("n3", stamp=7)

    assert not rules.should_stand()


def test_a_single_voter_needs_nobody():
    rules = elections(majority=1)
    rules.begin_trial(stamp=1, now_ns=0)

    assert rules.should_stand()


def test_nobody_votes_beside_a_leader_it_hears_nor_just_after_it_woke_unless_the_leader_named_the_heir():
    rules = elections()

    assert not rules.may_vote(handed_over=False, now_ns=299 * MS)
    assert rules.may_vote(handed_over=False, now_ns=300 * MS)
    rules.leader_heard(now_ns=1_000 * MS)
    assert not rules.may_vote(handed_over=False, now_ns=1_299 * MS)
    assert rules.may_vote(handed_over=True, now_ns=1_001 * MS)
    assert rules.may_vote(handed_over=False, now_ns=1_300 * MS)


def test_a_shorter_log_is_not_voted_for():
    rules = elections()

    assert not rules.would_vote((3, 9, "n9"), own=OWN, now_ns=1_000 * MS)
    assert not rules.would_vote((2, 99, "n9"), own=OWN, now_ns=1_000 * MS)
    assert rules.would_vote((3, 10, "n1"), own=OWN, now_ns=1_000 * MS)
    assert rules.would_vote((4, 1, "n1"), own=OWN, now_ns=1_000 * MS)


@given(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_of_two_that_ask_each_other_exactly_one_gives_way(one_log, two_log):
    one, two = elections(), elections()
    for rules in (one, two):
        rules.begin_trial(stamp=1, now_ns=1_000 * MS)
    first, second = (*one_log, "n1"), (*two_log, "n2")

    one_gives = one.would_vote(second, own=first, now_ns=1_001 * MS)
    two_gives = two.would_vote(first, own=second, now_ns=1_001 * MS)
    assert one_gives != two_gives
    assert one.trying == (not one_gives)


def test_after_a_stall_there_is_time_to_read_the_sockets():
    rules = elections()
    rules.leader_heard(now_ns=0)
    rules.stalled(now_ns=5_000 * MS)

    assert 5_100 == first_due_ms(rules, from_ms=5_000)
    assert not rules.may_vote(handed_over=False, now_ns=5_050 * MS)


def test_a_lost_connection_makes_one_ask_early_and_free_to_vote():
    rules = elections()
    rules.leader_heard(now_ns=1_000 * MS)
    rules.leader_lost(now_ns=1_001 * MS)

    assert 1_015 <= first_due_ms(rules, from_ms=1_000) <= 1_151
    assert rules.may_vote(handed_over=False, now_ns=1_002 * MS)


def test_who_gave_up_leadership_holds_back():
    rules = elections()
    rules.hold(until_ns=2_000 * MS)

    assert 2_000 == first_due_ms(rules)
