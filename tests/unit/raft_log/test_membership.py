"""Tables of members: what may follow what, what is in force, and what survives."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service.adapters.raft_log import RaftLogConfig, frames, membership
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.membership import NOBODY, REMOVED_MAX, Member, Members
from consistency_service.adapters.raft_log.quorum import Quorum
from consistency_service.adapters.raft_log.roster import Roster
from tests.support.forgetful_disk import ForgetfulDisk

NAMES = ("a", "b", "c", "d", "e")


def table(*voters: str, learners: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> Members:
    listed = {name: Member("127.0.0.1:1", "", votes=True) for name in voters}
    return Members(listed | {name: Member("127.0.0.1:1", "", votes=False) for name in learners}, removed)


def entry(members: Members) -> bytes:
    payload = membership.encode(members)
    return frames.encode(frames.Frame(kind=frames.KIND_MEMBERS, life=1, number=1, payload=payload))


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.sets(st.sampled_from(NAMES), min_size=1))
def test_of_tables_that_may_follow_one_another_all_majorities_share_a_voter(before, after):
    old, new = table(*before), table(*after)
    majorities = [
        set(one) & set(two)
        for one in combinations(sorted(before), old.majority)
        for two in combinations(sorted(after), new.majority)
    ]

    if new.follows(old):
        assert all(majorities)
    assert old.follows(new) == new.follows(old)


def test_a_table_without_voters_follows_nothing():
    assert not table(learners=("a",)).follows(table("a"))


def test_a_newcomer_learns_then_votes_and_a_removed_name_is_remembered():
    grown = table("a").with_learner("b", raft="127.0.0.1:2", url="http://b")
    assert (("a",), ("b",), 1) == (grown.voters, grown.learners, grown.majority)
    voting = grown.with_vote("b")
    assert (("a", "b"), (), 2) == (voting.voters, voting.learners, voting.majority)
    assert Member("127.0.0.1:2", "http://b", votes=True) == voting.table["b"]
    assert (("b",), ("a",)) == (voting.without("a").voters, voting.without("a").removed)
    assert ((), ("b",)) == voting.beside("a")[::-1]


def test_the_memory_for_removed_names_is_bounded():
    members = table("a")
    for number in range(REMOVED_MAX + 5):
        members = members.with_learner(f"n{number}", raft="127.0.0.1:1", url="").without(f"n{number}")

    assert REMOVED_MAX == len(members.removed)
    assert "n4" not in members.removed


def test_what_is_encoded_comes_back_and_anything_else_is_refused():
    members = table("a", "b", learners=("c",), removed=("d",))

    assert members == membership.decode(membership.encode(members))
    for payload in (b"", b"\xc1", b"\x90", membership.encode(members) + b"x"):
        with pytest.raises(ValueError, match="no table of members"):
            membership.decode(payload)


def test_peers_are_members_and_whom_the_settings_name_but_nobody_who_was_removed():
    settings = RaftLogConfig(
        node_id="a",
        listen="127.0.0.1:1",
        peers={"a": "127.0.0.1:1", "b": "127.0.0.1:9", "x": "127.0.0.1:3", "y": "127.0.0.1:4"},
        data_dir=Path("/nowhere"),
    )
    members = table("a", "b", learners=("c",), removed=("y",))

    assert {"a": "127.0.0.1:1", "b": "127.0.0.1:9", "c": "127.0.0.1:1", "x": "127.0.0.1:3"} == membership.peers_of(
        members, config=settings
    )


@pytest.fixture
def journal():
    made = Journal(Path("/virtual"), node_id="a", files=ForgetfulDisk())
    made.add(frames.NO_OP, 1, 0)
    return made


def test_the_newest_table_is_in_force_and_torn_off_with_its_entry(journal):
    roster = Roster(journal, founders=table("a"))
    assert roster.founding
    journal.add(entry(table("a", "b")), 2, 1)
    journal.add(b"command", 3, 1)
    journal.add(entry(table("a", "b", "c")), 4, 1)

    assert (4, ("a", "b", "c")) == (roster.index, roster.members.voters)
    assert ("a", "b") == roster.at(3).voters
    assert ("a",) == roster.at(1).voters
    journal.deleteEntriesFrom(3)
    assert (2, ("a", "b")) == (roster.index, roster.members.voters)
    journal.add(entry(table("a", "d")), 4, 2)
    assert ("a", "d") == roster.members.voters
    journal.deleteEntriesFrom(1)
    assert table("a") == roster.members
    assert roster.founding


def test_what_a_journal_held_is_in_force_after_a_restart_and_below_a_snapshot():
    files = ForgetfulDisk()
    before = Journal(Path("/virtual"), node_id="a", files=files)
    before.add(frames.NO_OP, 1, 0)
    before.add(entry(table("a", "b", "c")), 2, 1)
    before.add(b"x", 3, 1)
    before.close()
    journal = Journal(Path("/virtual"), node_id="a", files=files)
    roster = Roster(journal, founders=NOBODY)

    assert ("a", "b", "c") == roster.members.voters
    roster.rebase(roster.at(3))
    journal.replace([(b"x", 3, 1), (b"y", 4, 1)])
    assert (0, ("a", "b", "c")) == (roster.index, roster.members.voters)
    assert not roster.founding


def test_a_learner_is_in_the_table_of_the_quorum_and_not_counted():
    quorum = Quorum(followers=("a", "b"), learners=("c",))
    for name in ("a", "c"):
        quorum.answered(name, stamp=5, counts=True)
        quorum.matched(name, index=9 if name == "c" else 3)

    assert (3, 5) == (quorum.held_through(own_through=9), quorum.heard_through(own_stamp=9))
    assert "a" == quorum.most_caught_up()
    assert frozenset({"a", "c"}) == quorum.heard_since(5)
    quorum.change(followers=("a", "b", "c"), learners=())
    assert (3, 3) == (quorum.majority, quorum.held_through(own_through=9))
    quorum.change(followers=("c",), learners=())
    assert (2, 9) == (quorum.majority, quorum.held_through(own_through=9))
    assert "a" not in quorum
    quorum.forget("a")
    assert "a" not in quorum
