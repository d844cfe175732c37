"""The machine stops at every single step that touches its disk, and the disk then holds any of the things it may hold.

A life of one voter is played, with everything that journal, vote and snapshot code ever does: elections, entries torn off,
compaction, a snapshot from the leader, a full disk, a lost lead. It is played once for each step, up to that step. What
is left must be a disk that the voter starts on, with all it ever promised anybody; and the cluster goes on from there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.snapshots import SnapshotStore
from consistency_service.errors import LogStorageError
from tests.interaction.raft_log.voters import Seat, Voters
from tests.support.forgetful_disk import CONTENTS, NAMES, ForgetfulDisk

VICTIM = "n2"
STEPS_MIN = 100


class LifeEndedError(Exception):
    """The scenario ends here."""


def played(*, cut_at: int | None) -> Voters:
    """The life of the victim, up to this step of its disk."""
    voters = Voters("n1", "n2", "n3", compaction_min_entries=20)
    voters.seats[VICTIM].disk.cut_at = cut_at
    with voters.clock(), contextlib.suppress(LifeEndedError):
        live(voters)
    return voters


def live(voters: Voters) -> None:
    number = 0

    def step(ms: int = 10) -> None:
        voters.run(ms)
        if voters.seats[VICTIM].replica is None:
            raise LifeEndedError

    def lead(name: str) -> None:
        """This node leads."""
        for _ in range(20):
            leader = voters.leader()
            if leader is not None and leader.name == name and leader.replica is not None and leader.replica.settled:
                return
            if leader is not None and leader.replica is not None and leader.name != name:
                leader.replica.voter.hand_over(heir=name, hold_ns=0, now_ns=int(voters.now_ms * 1e6))
            step(100)
        raise AssertionError(f"{name} does not lead")

    def propose(name: str, count: int, *, apart: bool = True) -> None:
        nonlocal number
        for _ in range(count):
            number += 1
            voters.propose(name, f"c{number}")
            if apart:
                step()
        step()

    for name in voters.seats:
        voters.start(name)
        if voters.seats[VICTIM].replica is None and name >= VICTIM:
            raise LifeEndedError
    step(800)
    lead("n1")
    propose("n1", 4)
    propose("n1", 5, apart=False)
    lead(VICTIM)
    propose(VICTIM, 3)
    for other in ("n1", "n3"):
        voters.cut |= {(VICTIM, other), (other, VICTIM)}
    propose(VICTIM, 3, apart=False)  # nobody else hears of these
    step(1_500)
    other_leader = voters.leader()
    assert other_leader is not None and other_leader.name != VICTIM
    propose(other_leader.name, 2)
    voters.cut.clear()
    step(500)  # torn off
    lead("n1")
    propose("n1", 30)  # compaction
    step(200)
    voters.disconnect("n1", VICTIM)
    voters.disconnect("n3", VICTIM)
    propose("n1", 45)
    voters.connect("n1", VICTIM)
    voters.connect("n3", VICTIM)
    step(800)  # a snapshot arrives
    voters.seats[VICTIM].disk.full = True
    propose("n1", 3)
    voters.seats[VICTIM].disk.full = False
    step(500)
    lead(VICTIM)
    propose(VICTIM, 3)
    lead("n3")
    propose("n3", 1)


def promised(seat: Seat, disk: ForgetfulDisk) -> None:
    """A life on this disk begins with everything that was promised in the one before."""
    directory = Path("/virtual")
    snapshot = SnapshotStore(directory, files=disk).read()
    journal = Journal(directory, node_id=seat.name, files=disk)
    durable = max(journal.durable_through, snapshot.last[1] if snapshot is not None else 0)
    assert durable >= seat.accepted_through
    assert journal.getCurrentTerm() >= seat.spoken_term
    vote = seat.votes.get(journal.getCurrentTerm())
    assert vote in {None, journal.getVotedForNodeId()}
    journal.close()


def total_steps() -> list[str]:
    return played(cut_at=None).seats[VICTIM].disk.steps


STEPS = total_steps()


def test_the_life_touches_every_kind_of_step_and_file():
    kinds = set(STEPS)

    assert len(STEPS) > STEPS_MIN
    assert {"write journal", "sync journal", "truncate journal", "rename journal", "write vote", "sync vote"} <= kinds
    assert {"empty journal.new", "write journal.new", "sync journal.new", "sync_directory virtual"} <= kinds
    assert {"write snapshot.written", "sync snapshot.written", "rename snapshot"} <= kinds
    assert {"empty snapshot.received", "write snapshot.received", "sync snapshot.received"} <= kinds


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(4))
def test_after_a_power_cut_at_any_step_every_promise_is_kept_and_the_cluster_goes_on(part):
    for cut_at in range(part, len(STEPS), 4):
        voters = played(cut_at=cut_at)
        seat = voters.seats[VICTIM]
        assert seat.replica is None, f"no power cut at step {cut_at}, {STEPS[cut_at]}"
        for contents in CONTENTS:
            for names in NAMES:
                promised(seat, seat.disk.after_power_cut(contents=contents, names=names))
        goes_on(voters, contents=CONTENTS[cut_at // 4 % 4], names=NAMES[cut_at // 16 % 2])


def goes_on(voters: Voters, *, contents: str, names: str) -> None:
    seat = voters.seats[VICTIM]
    seat.disk = seat.disk.after_power_cut(contents=contents, names=names)
    voters.cut.clear()
    with voters.clock():
        for other in voters.seats:
            if voters.seats[other].replica is None:
                voters.start(other)
        voters.run(1_500)
        leader = voters.leader()
        assert leader is not None
        voters.propose(leader.name, "after")
        voters.run(300)
        states = [other.applied for other in voters.seats.values()]
    assert states[0] == states[1] == states[2]
    assert voters.acknowledged[-1][1] == "after"
    assert set(voters.acknowledged) <= set(map(tuple, states[0]))


@pytest.mark.parametrize("file", ["journal", "vote", "journal.new", "snapshot.written", "snapshot.received"])
def test_without_its_syncs_a_file_breaks_a_promise(monkeypatch, file):
    """The same, with a disk layer that forgets to sync one file: some power cut is noticed. So this test can fail."""
    sync = ForgetfulFileSync(file)
    monkeypatch.setattr("tests.support.forgetful_disk.ForgetfulFile.sync", sync)
    steps = played(cut_at=None).seats[VICTIM].disk.steps
    broken = 0
    for cut_at in range(len(steps) - 1, 0, -7):
        voters = played(cut_at=cut_at)
        seat = voters.seats[VICTIM]
        for contents in CONTENTS:
            try:
                promised(seat, seat.disk.after_power_cut(contents=contents, names="latest"))
            except (AssertionError, LogStorageError):
                broken += 1
        if broken:
            return
    raise AssertionError(f"nobody noticed that {file} is never synced")


class ForgetfulFileSync:
    def __init__(self, file: str) -> None:
        self._file = file

    def __get__(self, instance, owner):
        def sync() -> None:
            instance._disk.step("sync", instance._path)
            if instance._path.name != self._file:
                instance._inode.synced = bytes(instance._inode.data)
                instance._inode.unsynced.clear()

        return sync
