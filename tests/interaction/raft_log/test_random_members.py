"""Members change at random while nodes are cut off, killed and started again: nothing acknowledged is ever lost."""

from __future__ import annotations

from random import Random

import pytest

from consistency_service.adapters.raft_log import frames, membership
from consistency_service.adapters.raft_log.changes import refusal
from tests.interaction.raft_log.voters import Voters

STEPS = 120
NODES_MAX = 8


def change(voters: Voters, random: Random) -> None:
    """Some leader, old or new, is told to add, promote or remove somebody."""
    leaders = [seat for seat in voters.alive() if seat.replica is not None and seat.replica.leading]
    if not leaders:
        return
    replica = random.choice(leaders).replica
    assert replica is not None
    members = replica.roster.members
    choices = [members.with_vote(node_id) for node_id in members.learners]
    choices += [members.without(node_id) for node_id in members.table if node_id != replica._config.node_id]
    fresh = [name for name in voters.seats if name not in members.table and name not in members.removed]
    choices += [members.with_learner(name, raft="127.0.0.1:1", url="") for name in fresh]
    if choices and refusal(table := random.choice(choices), replica=replica, config=replica._config) is None:
        frame = frames.Frame(kind=frames.KIND_MEMBERS, life=0, number=0, payload=membership.encode(table))
        replica.append_members(frames.encode(frame))


def step(voters: Voters, random: Random, *, number: int) -> None:
    alive = [seat.name for seat in voters.alive()]
    match random.randrange(12):
        case 0 | 1 | 2 | 3:
            change(voters, random)
        case 4 if len(voters.seats) < NODES_MAX:
            voters.join(f"n{len(voters.seats) + 1}")
        case 5 if len(alive) > 1:
            voters.power_cut(random.choice(alive))
        case 6 | 7:
            down = [seat.name for seat in voters.seats.values() if seat.replica is None]
            if down:
                voters.start(random.choice(down))
        case 8:
            for other in voters.seats:
                for name in random.sample(sorted(voters.seats), k=1):
                    voters.cut |= {(name, other), (other, name)} if name != other else set()
        case 9 | 10:
            voters.cut.clear()
    for seat in voters.alive():
        if seat.replica is not None and seat.replica.leading:
            voters.propose(seat.name, f"c{number}-{seat.name}")
    voters.run(random.choice((20, 60, 200, 900)))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_members_do_histories_agree_and_keep_what_was_acknowledged(seed):
    random = Random(seed)
    voters = Voters("n1", "n2", "n3", compaction_min_entries=30)
    with voters.clock():
        for name in ("n1", "n2", "n3"):
            voters.start(name)
        voters.run(1_000)
        for number in range(STEPS):
            step(voters, random, number=number)
            histories = [seat.applied for seat in voters.alive()]
            longest = max(histories, key=len)
            for history in histories:
                assert history == longest[: len(history)]
        voters.cut.clear()
        for seat in list(voters.seats.values()):
            if seat.replica is None:
                voters.start(seat.name)
        voters.run(3_000)
        final = max((seat.applied for seat in voters.alive()), key=len)

    assert set(voters.acknowledged) <= set(final)
    assert len(voters.acknowledged) > STEPS // 6
