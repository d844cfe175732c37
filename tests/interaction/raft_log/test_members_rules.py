"""Votes are given and taken at random while the cluster falls apart and comes together: two majorities never decide.

With any one of the rules of membership switched off, some seed has two leaders in one term, two histories, or loses what
was acknowledged. Here leaders are told to change members even when too few can be heard, and just after they were elected:
the refusal that people meet first would hide the rules behind it. Messages are late by some ticks, so that a leader may be
cut off between any two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from consistency_service.adapters.raft_log import frames, membership
from consistency_service.adapters.raft_log.changes import refusal
from consistency_service.adapters.raft_log.library import Replica
from consistency_service.adapters.raft_log.membership import Member, Members
from consistency_service.adapters.raft_log.roster import Roster
from consistency_service.errors import LogStorageError
from tests.interaction.raft_log.test_measures import keep_torn_tables
from tests.interaction.raft_log.voters import TICK_MS, Seat, Voters

NAMES = ("n1", "n2", "n3", "n4", "n5")
EPISODES = 40
SEEDS = 12


def change(seat: Seat, random: Random) -> None:
    """A leader, old or new, gives somebody a vote or takes it."""
    replica = seat.replica
    assert replica is not None
    members = replica.roster.members
    name = random.choice([name for name in NAMES if name != seat.name])
    if not members.table or (members.table[name].votes and len(members.voters) <= 3):
        return
    member = members.table[name]
    table = Members({**members.table, name: Member(member.raft, member.url, votes=not member.votes)})
    refused = refusal(table, replica=replica, config=replica._config)
    if refused is None or refused.code == "quorum_at_risk":
        frame = frames.Frame(kind=frames.KIND_MEMBERS, life=0, number=0, payload=membership.encode(table))
        replica.append_members(frames.encode(frame))


def leaders(voters: Voters) -> list[Seat]:
    return [seat for seat in voters.alive() if seat.replica is not None and seat.replica.leading]


def split(voters: Voters, random: Random) -> None:
    """Two groups that hear nothing of each other."""
    part_from(voters, set(random.sample(NAMES, k=random.randint(1, len(NAMES) - 1))))


def part_from(voters: Voters, group: set[str]) -> None:
    """What was under way between the group and the others is lost."""
    voters.cut = {(one, other) for one in NAMES for other in NAMES if (one in group) != (other in group)}
    for link in voters.cut:
        voters.links[link].clear()


def run(voters: Voters, random: Random, *, ticks: int, shaken: bool = True) -> None:
    """Some messages arrive in each tick, and whoever is elected changes the table at once; not `shaken`, all arrive."""
    elected = {seat.name: seat.replica.term for seat in leaders(voters) if seat.replica is not None}
    for _ in range(ticks):
        voters.now_ms += TICK_MS
        for name in NAMES:
            voters.tick(name)
        if not shaken:
            voters.deliver()
        for _ in range(random.randint(4, 24) if shaken else 0):
            voters.deliver(count=1)
            for seat in leaders(voters):
                assert seat.replica is not None
                if elected.get(seat.name) != seat.replica.term:
                    elected[seat.name] = seat.replica.term
                    if random.random() < 0.7:
                        change(seat, random)
                    if random.random() < 0.5:
                        split(voters, random)


def stand(voters: Voters, seat: Seat) -> None:
    """At once, as an heir does, so that elections take no time."""
    replica = seat.replica
    if replica is not None and replica.voter._may_stand() and not replica.leading:
        replica.voter._standing = replica.voter._inherited = True


def gather(voters: Voters, random: Random) -> None:
    """Everybody is there, and somebody leads."""
    voters.cut.clear()
    for seat in voters.seats.values():
        if seat.replica is None:
            voters.start(seat.name)
    run(voters, random, ticks=6, shaken=False)
    stand(voters, voters.leader() or random.choice(voters.alive()))
    run(voters, random, ticks=4, shaken=False)
    for seat in leaders(voters):
        change(seat, random)
    run(voters, random, ticks=8, shaken=False)


def episode(voters: Voters, random: Random, *, number: int) -> None:
    """A leader is cut off with what it was told last; others lead and are told something else; and it comes back."""
    gather(voters, random)
    old = voters.leader() or random.choice(voters.alive())
    for part in range(random.randint(2, 5)):
        if part == 0 or random.random() < 0.7:
            split(voters, random)
        elif random.random() < 0.5:
            voters.cut.clear()
        for seat in leaders(voters):
            if random.random() < 0.6:
                change(seat, random)
            voters.propose(seat.name, f"c{number}-{part}-{seat.name}")
        run(voters, random, ticks=random.choice((1, 1, 2)))
        if random.random() < 0.1:
            voters.power_cut(random.choice(voters.alive()).name)
        stand(voters, old if random.random() < 0.4 else random.choice(list(voters.seats.values())))
        run(voters, random, ticks=3)
        agree(voters)


def duel(voters: Voters, random: Random, *, number: int) -> None:
    """A leader that nobody hears changes its table; the next leader does so too, heard by just enough; the first returns."""
    gather(voters, random)
    old = voters.leader()
    if old is None or old.replica is None:
        return
    learners = old.replica.roster.members.learners
    part_from(voters, {old.name, *learners})
    change(old, random)
    run(voters, random, ticks=1, shaken=False)
    new = random.choice([seat for seat in voters.seats.values() if seat is not old])
    stand(voters, new)
    voters.tick(new.name)
    for _ in range(20):
        voters.deliver(count=1)
        if new.replica is not None and new.replica.leading:
            if random.random() < 0.5:  # the first hears of the second, and what it did is torn off
                voters.cut.clear()
                run(voters, random, ticks=8, shaken=False)
            change(new, random)
            members = new.replica.roster.members
            others = [name for name in members.voters if name not in {old.name, new.name, *learners}]
            part_from(voters, {new.name, *random.sample(others, k=min(len(others), members.majority - 1))})
            break
    voters.propose(new.name, f"c{number}-new")
    run(voters, random, ticks=2, shaken=False)
    if old.replica.leading:
        old.replica.step_down()  # as it does by itself when it heard no majority for a while
    for _ in range(2):
        stand(voters, old)
        run(voters, random, ticks=2, shaken=False)
    voters.propose(old.name, f"c{number}-old")
    run(voters, random, ticks=2, shaken=False)
    agree(voters)


def agree(voters: Voters) -> None:
    histories = [seat.applied for seat in voters.alive()]
    longest = max(histories, key=len)
    for history in histories:
        assert history == longest[: len(history)]


def play(seed: int) -> Voters:
    """Raises `AssertionError`, or what a voter raises, for what must never be; returns the voters, healed."""
    random = Random(seed)
    voters = Voters(*NAMES, compaction_min_entries=40)
    with voters.clock():
        for name in NAMES:
            voters.start(name)
        voters.run(1_000)
        for number in range(EPISODES):
            (duel if random.random() < 0.5 else episode)(voters, random, number=number)
        voters.cut.clear()
        for seat in list(voters.seats.values()):
            if seat.replica is None:
                voters.start(seat.name)
        voters.run(3_000)
        agree(voters)
    final = max((seat.applied for seat in voters.alive()), key=len)
    assert set(voters.acknowledged) <= set(final)
    return voters


# Ways to switch a rule off.


def go_by_committed_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    look, apply, newest = Replica._look_at_members, Replica._SyncObj__applyLogEntries, vars(Roster)["members"]

    def look_at_committed(self: Replica) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Roster, "members", property(lambda roster: committed(roster, self.commit_index)))
            look(self)

    def committed(roster: Roster, index: int) -> Members:
        return roster.at(index) if roster.index else newest.fget(roster)

    def apply_and_look(self: Replica) -> bool:
        look_at_committed(self)
        return bool(apply(self))

    monkeypatch.setattr(Replica, "_look_at_members", look_at_committed)
    monkeypatch.setattr(Replica, "_SyncObj__applyLogEntries", apply_and_look)


def say(name: str, value: Callable[[Replica], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(Replica, name, property(value))


RULES = {
    "one change at a time": say("members_pending", lambda _: False),
    "an own entry first": say("settled", lambda replica: replica.leading),
    "in force at once": go_by_committed_tables,
    "torn off with its entry": keep_torn_tables,
}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whoever_has_a_vote_histories_agree_and_keep_what_was_acknowledged(seed):
    voters = play(seed)

    assert len(voters.acknowledged) > EPISODES // 2


@pytest.mark.parametrize("rule", RULES)
def test_without_this_rule_some_seed_breaks_a_promise(rule, monkeypatch):
    RULES[rule](monkeypatch)
    broken = 0
    for seed in range(SEEDS):
        try:
            play(seed)
        except (AssertionError, LogStorageError):
            broken += 1
            break

    assert broken, f"{SEEDS} seeds do not notice"
