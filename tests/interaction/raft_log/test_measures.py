"""With any one measure switched off, something here goes wrong. So none of them is decoration, and no check is blind.

Each line names a measure of the design's table (1 journal, 2 snapshots, 3 message guard, 4 elections, 5 fail-stop, 6
request ids, 7 ReadIndex) and of what came with them, how it is switched off, and what must fail then: a transcript, or a
check below. Measure 8, certificates, has many more tests of its own (`test_raft_peers.py`); measure 9, one message and one
sync for all that waits, is speed, and `one_message_for_all` still counts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from consistency_service.adapters.raft_log import RaftLogConfig, disk, frames, records, snapshots, vote, wire
from consistency_service.adapters.raft_log.disk_health import DiskHealth
from consistency_service.adapters.raft_log.elections import Elections
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.library import Replica
from consistency_service.adapters.raft_log.log import RaftLog
from consistency_service.adapters.raft_log.quorum import Quorum
from consistency_service.adapters.raft_log.replication import Replication
from consistency_service.adapters.raft_log.retention import Retention
from consistency_service.adapters.raft_log.roster import Roster
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot, SnapshotStore
from consistency_service.adapters.raft_log.tls import CertificateRefusedError, Identity
from consistency_service.adapters.raft_log.transport import PeerTransport
from consistency_service.adapters.raft_log.voter import Voter
from consistency_service.errors import LogStorageError
from consistency_service.runtime.ports import Committed, NotLeader, Unknown
from tests.conformance.metadata_log_cluster import POISON, Cluster
from tests.interaction.raft_log import test_power_cuts
from tests.interaction.raft_log.transcript import performed
from tests.interaction.raft_log.voters import Voters
from tests.support.forgetful_disk import ForgetfulDisk

HERE = Path(__file__).parent
Switch = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[], None]


def transcript(name: str) -> Check:
    def check() -> None:
        path = HERE / f"{name}.txt"
        assert path.read_text() == performed(path)

    check.__name__ = f"transcript {name}"
    return check


# Checks that no transcript makes.


def new_names_survive_power_cuts() -> None:
    steps = test_power_cuts.played(cut_at=None).seats[test_power_cuts.VICTIM].disk.steps
    for cut_at in range(len(steps) - 1, 0, -5):
        seat = test_power_cuts.played(cut_at=cut_at).seats[test_power_cuts.VICTIM]
        test_power_cuts.promised(seat, seat.disk.after_power_cut(contents="kept", names="synced"))


def promises_survive_power_cuts() -> None:
    steps = test_power_cuts.played(cut_at=None).seats[test_power_cuts.VICTIM].disk.steps
    for cut_at in range(len(steps) - 1, 0, -5):
        seat = test_power_cuts.played(cut_at=cut_at).seats[test_power_cuts.VICTIM]
        for contents in ("dropped", "holed"):
            test_power_cuts.promised(seat, seat.disk.after_power_cut(contents=contents, names="latest"))


def snapshot(*, index: int = 10) -> Snapshot:
    return Snapshot(format=FORMAT, previous=(b"p", index - 1, 1), last=(b"l", index, 1), state=b"state")


def stored(disk_: ForgetfulDisk) -> SnapshotStore:
    store = SnapshotStore(Path("/virtual"), files=disk_)
    store.write_nowait(snapshot())
    assert store.finish_nowait() is True
    return store


def a_damaged_snapshot_is_refused() -> None:
    memory = ForgetfulDisk()
    stored(memory)
    memory.names["/virtual/snapshot"].data[-6] ^= 1
    with pytest.raises(LogStorageError, match="checksum"):
        SnapshotStore(Path("/virtual"), files=memory).read()


def an_older_snapshot_replaces_no_newer_one() -> None:
    memory, other = ForgetfulDisk(), ForgetfulDisk()
    store = stored(memory)
    store.write_nowait(snapshot(index=20))
    newer = stored(other)
    newer.write_nowait(snapshot(index=30))
    newer.finish_nowait()
    part = newer.open_transfer().file.read(1 << 20)
    assert isinstance(store.take_part(part, number=0, last=True), Snapshot)
    store.install()
    store.finish_nowait()
    assert store.read() == snapshot(index=30)


def a_gap_between_snapshot_and_journal_is_refused() -> None:
    memory = ForgetfulDisk()
    journal = Journal(Path("/virtual"), node_id="n1", files=memory)
    journal.replace([(b"x", index, 1) for index in range(15, 20)])
    with pytest.raises(LogStorageError, match="begins at 15"):
        snapshots.entries_beside(snapshot(), journal=journal)


def what_agrees_with_a_snapshot_and_goes_beyond_it_stays() -> None:
    journal = Journal(Path("/virtual"), node_id="n1", files=ForgetfulDisk())
    entries = [(b"x", index, 1) for index in range(1, 20)]
    journal.replace(entries)
    assert entries[8:] == snapshots.entries_beside(snapshot(), journal=journal)


def a_follower_commits_no_further_than_it_agrees() -> None:
    """A leader may know more committed than the message in hand reaches; what lies beyond may be of another log."""
    voters = Voters("n1", "n2", "n3")
    with voters.clock():
        for name in voters.seats:
            voters.start(name)
        voters.run(1_000)
        replica: Any = voters.seats["n2"].replica
        for index in (3, 4):
            replica._journal.add(b"own", index, 1)
        message = wire.Append(term=2, stamp=1, commit_index=4, previous_index=3, previous_term=1, entries=[])
        replica.receive("n3", message)
        assert replica.commit_index == 3


def an_unknown_message_is_refused() -> None:
    with pytest.raises(wire.WireError):
        wire.decode_peer(msgspec.msgpack.encode((99, "apply_command", b"")))


def a_certificate_of_another_name_is_refused() -> None:
    config = RaftLogConfig(
        node_id="n1", listen="127.0.0.1:1", peers={"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}, data_dir=Path("/virtual")
    )
    transport = PeerTransport(config, on_connected=always(None), on_disconnected=always(None), on_message=always(None))
    for cluster_id, node_id, expected in (("other", "n2", None), ("ccs", "n1", None), ("ccs", "n9", "n2")):
        stranger: Any = SimpleNamespace(
            identity=Identity(cluster_id=cluster_id, node_id=node_id, expires_at_unix_s=0), expected=expected
        )
        with pytest.raises(CertificateRefusedError):
            transport.identified(stranger)


def one_message_for_all() -> None:
    voters = Voters("n1", "n2", "n3")
    with voters.clock():
        for name in voters.seats:
            voters.start(name)
        voters.run(1_000)
        disk_ = voters.seats["n1"].disk
        before = disk_.steps.count("sync journal")
        voters.seats["n1"].queue += [f"c{number}" for number in range(50)]
        voters.tick("n1")
        assert len(voters.links["n1", "n2"]) == 1
        assert disk_.steps.count("sync journal") == before + 1


def with_one_voter(directory: Path, check: Callable[[RaftLog, Any], Any]) -> None:
    async def run() -> None:
        cluster = Cluster(kind="memory", directory=directory)
        await cluster.start()
        cluster.kind = "raft"
        seat = await cluster.open("n1")
        try:
            await cluster.leader()
            await check(seat.log, seat)  # type: ignore[arg-type]
        finally:
            await cluster.close_all()

    asyncio.run(run())


async def a_machine_that_raises_is_fatal(log: RaftLog, seat: Any) -> None:
    assert isinstance(await log.propose(POISON, timeout_ms=500), Unknown)
    assert len(seat.fatal) == 1


async def a_snapshot_in_place_of_entries_is_told(log: RaftLog, seat: Any) -> None:
    answer = asyncio.ensure_future(log.propose(b"mine", timeout_ms=2_000))
    await asyncio.sleep(0)
    log._restore(log._machine.snapshot(), 0)  # type: ignore[union-attr]
    assert isinstance(await answer, Unknown)


async def a_follower_takes_no_command(log: RaftLog, seat: Any) -> None:
    log._replica.step_down()  # type: ignore[union-attr]
    assert isinstance(await log.propose(b"mine", timeout_ms=300), NotLeader)
    log.check_invariants()


async def an_entry_of_another_life_answers_nobody_here(log: RaftLog, seat: Any) -> None:
    answer = asyncio.ensure_future(log.propose(b"mine", timeout_ms=500))
    await asyncio.sleep(0)
    theirs = frames.Frame(kind=frames.KIND_COMMAND, life=1, number=log._number, payload=b"theirs")
    log._apply((frames.encode(theirs), 1_000, 1))
    log._machine.applied.clear()  # type: ignore[union-attr]
    outcome = await answer
    assert isinstance(outcome, Committed)
    assert outcome.index < 1_000


# Ways to switch a measure off.


def replaced(owner: Any, name: str, value: Any) -> Switch:
    def switch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, name, value)

    return switch


def acknowledge_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "durable_through", property(lambda journal: journal._entries[-1][1]))


def write_vote_unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: vote.VoteFile, *, term: int, voted_for: str | None, rejoining: bool) -> None:
        self.value = vote.Vote(
            node_id=self.value.node_id,
            number=self.value.number + 1,
            term=term,
            voted_for=voted_for,
            rejoining=rejoining,
        )
        self._file.write(vote._copy(self.value), offset=0)

    monkeypatch.setattr(vote.VoteFile, "write", write)


def rewrite_unsynced(files: disk.Files, path: Path, *, pieces: Iterable[bytes]) -> int:
    file = files.open(path, empty=True)
    size_bytes = 0
    for piece in pieces:
        file.write(piece, offset=size_bytes)
        size_bytes += len(piece)
    file.close()
    return size_bytes


def rename_unsynced(files: disk.Files, path: Path, *, target: Path) -> None:
    files.rename(path, target=target)


def take_the_torn_end_for_damage(data: bytes, *, offset: int) -> None:
    raise records.DamageError("not whole", offset=offset)


def believe_a_commit_index_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = Replica._recover

    def believing(self: Any) -> None:
        recover(self)
        self.commit_through(self._journal.durable_through)

    monkeypatch.setattr(Replica, "_recover", believing)


def keep_nothing_beside(snapshot: Snapshot, *, journal: Journal) -> list[records.Entry]:
    return [snapshot.previous, snapshot.last]


def rewind_for_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    received = Replication.acknowledgement_received

    def acknowledgement_received(self: Replication, node_id: str, message: wire.Acknowledgement) -> None:
        self._rewound_at.clear()
        received(self, node_id, message)
        if not message.accepted and message.next_index > 0:
            self._next[node_id] = message.next_index

    monkeypatch.setattr(Replication, "acknowledgement_received", acknowledgement_received)


def rewrite_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: Replication, node_id: str, *, entries: list[wire.Entry]) -> None:
        if entries:
            self._journal.deleteEntriesFrom(entries[0].index - self._journal[0][1])
        for entry in entries:
            self._journal.add(entry.command, entry.index, entry.term)

    monkeypatch.setattr(Replication, "_keep", keep)


def stand_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_around(self: Voter, *, now_ns: int) -> None:
        self._standing = True

    monkeypatch.setattr(Voter, "_ask_around", ask_around)


def count_answers_of_any_term(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Replication._counts

    def count(self: Replication, node_id: str, *, term: int, stamp: int, counts_: bool) -> bool:
        return counts(self, node_id, term=self._host.term, stamp=stamp, counts=counts_)

    monkeypatch.setattr(
        Replication,
        "_counts",
        lambda self, node_id, *, term, stamp, counts: count(self, node_id, term=term, stamp=stamp, counts_=counts),
    )


def take_any_answer_for_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = Quorum.answered

    def fresh(self: Quorum, node_id: str, *, stamp: int, counts: bool) -> None:
        answered(self, node_id, stamp=1 << 60, counts=counts)

    monkeypatch.setattr(Quorum, "answered", fresh)


def apply_without_asking_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = RaftLog._apply

    def blind(self: RaftLog, entry: records.Entry) -> None:
        frame = frames.decode(entry[0])
        if frame is not None:
            ours = frames.Frame(kind=frame.kind, life=self._life, number=frame.number, payload=frame.payload)
            entry = (frames.encode(ours), *entry[1:])
        apply(self, entry)

    monkeypatch.setattr(RaftLog, "_apply", blind)


def swallow_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(self: RaftLog, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            return

    monkeypatch.setattr(RaftLog, "_guarded", guarded)


def believe_the_commit_index(monkeypatch: pytest.MonkeyPatch) -> None:
    received = Replication.append_received

    def append_received(self: Replication, node_id: str, message: wire.Append) -> None:
        received(self, node_id, message)
        self._host.commit_through(message.commit_index)

    monkeypatch.setattr(Replication, "append_received", append_received)


def publish_whatever_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(self: SnapshotStore) -> None:
        disk.publish(self._files, self._received_path, target=self._path)

    monkeypatch.setattr(SnapshotStore, "install", install)


def accept_any_bytes(data: bytes, *, path: Path, remedy: str) -> bytes:
    return data[: -disk.CRC_BYTES]


def keep_the_end(snapshot: Snapshot, *, journal: Journal) -> None:
    return None


def one_message_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Any) -> None:
        for index, command in enumerate(self._take_proposals(self.leading), start=self._journal[-1][1] + 1):
            self._journal.add(command, index, self.term)
            self.speak()
            self.voter.begin_sync()

    monkeypatch.setattr(Replica, "_checkCommandsToApply", check)


def keep_torn_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    delete = Journal.deleteEntriesFrom

    def keep(self: Journal, place: int) -> None:
        held = list(self.members_entries)
        delete(self, place)
        self.members_entries = held

    monkeypatch.setattr(Journal, "deleteEntriesFrom", keep)


def forget_tables_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = Journal._recover

    def forget(self: Journal, data: bytes) -> None:
        recover(self, data)
        self.members_entries = []

    monkeypatch.setattr(Journal, "_recover", forget)


def always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


ONE = "members_one_at_a_time"
TORN = transcript("torn_and_damaged")
MEASURES: list[tuple[str, Switch, Check]] = [
    ("1 synced before it is acknowledged", acknowledge_at_once, promises_survive_power_cuts),
    ("1 counted by its own disk", acknowledge_at_once, transcript("disk_slow")),
    ("1 term and vote synced", write_vote_unsynced, promises_survive_power_cuts),
    ("1 a new file is synced", replaced(disk, "write_pieces", rewrite_unsynced), promises_survive_power_cuts),
    ("1 its name too", replaced(disk, "publish", rename_unsynced), new_names_survive_power_cuts),
    ("1 a torn end is cut", replaced(records, "_refuse_damage", take_the_torn_end_for_damage), TORN),
    ("1 no commit index on disk", believe_a_commit_index_on_disk, transcript("members_rollback")),
    ("1 identical entries stay", rewrite_what_is_held, transcript("old_append")),
    ("1 damage refused", replaced(records, "_refuse_damage", always(None)), transcript("torn_and_damaged")),
    ("2 snapshots verified", replaced(disk, "unsealed", accept_any_bytes), a_damaged_snapshot_is_refused),
    ("2 no older snapshot", publish_whatever_was_written, an_older_snapshot_replaces_no_newer_one),
    (
        "2 gap refused",
        replaced(snapshots, "entries_beside", keep_the_end),
        a_gap_between_snapshot_and_journal_is_refused,
    ),
    ("2 what follows a snapshot stays", replaced(Replication, "first_needed", always(None)), transcript("far_behind")),
    ("2 and not for ever", replaced(Retention, "_overgrown", property(always(False))), transcript("far_behind")),
    (
        "2 the journal's end stays",
        replaced(snapshots, "entries_beside", keep_nothing_beside),
        what_agrees_with_a_snapshot_and_goes_beyond_it_stays,
    ),
    ("3 parts are answered", replaced(Replication, "part_taken", always(None)), transcript("snapshot")),
    ("3 no old answer rewinds", rewind_for_any_answer, transcript("members_add")),
    (
        "3 a closed list of messages",
        replaced(wire, "_peer_decoder", msgspec.msgpack.Decoder()),
        an_unknown_message_is_refused,
    ),
    ("3 answers of this term only", count_answers_of_any_term, transcript("stale_acks")),
    ("3 commit index clamped", believe_the_commit_index, a_follower_commits_no_further_than_it_agrees),
    ("4 asking around", stand_without_asking, transcript("pre_vote")),
    ("4 no vote beside a leader", replaced(Elections, "may_vote", always(True)), transcript("pre_vote")),
    ("4 no vote just woken", replaced(Elections, "may_vote", always(True)), transcript("just_woken")),
    ("4 sockets first after a stall", replaced(Elections, "stalled", always(None)), transcript("stall")),
    ("4 a leader listens first too", replaced(Replica, "give_grace", always(None)), transcript("stall")),
    ("4 a stale term is told", replaced(Replica, "fall_back", always(None)), transcript("stale_term")),
    ("4 leader hands over", replaced(Voter, "_hand_over_received", always(None)), transcript("transfer")),
    ("4 lost connection hints", replaced(Elections, "leader_lost", always(None)), transcript("pre_vote")),
    ("7 a majority confirms", replaced(Voter, "heard_through", property(always(1 << 60))), transcript("read_index")),
    ("7 by an answer to a later word", take_any_answer_for_a_fresh_one, transcript("late_echo")),
    ("7 own term's entry first", replaced(Replica, "read_floor", property(always(0))), transcript("read_new_leader")),
    (
        "8 a peer is whom its certificate names",
        replaced(PeerTransport, "identified", always(None)),
        a_certificate_of_another_name_is_refused,
    ),
    ("9 one message and one sync", one_message_each, one_message_for_all),
    ("lost memory does not vote", replaced(Journal, "rejoining", property(always(False))), transcript("lost_memory")),
    ("lost memory: a fresh entry", replaced(Voter, "make_entry", always(0)), transcript("lost_vote")),
    ("members are told of their removal", replaced(Voter, "_dismiss", always(None)), transcript("members_remove")),
    ("members one at a time", replaced(Replica, "members_pending", property(always(False))), transcript(ONE)),
    ("members after an own entry", replaced(Replica, "settled", property(lambda r: r.leading)), transcript(ONE)),
    ("members learn uncounted", replaced(Quorum, "_counted", lambda q: [*q._rows.items()]), transcript("members_add")),
    ("members enough to decide", replaced(Quorum, "heard_since", always({"n2", "n3"})), transcript("members_replace")),
    ("members in the snapshot", replaced(Roster, "rebase", always(None)), transcript("members_snapshot")),
    ("members torn off", keep_torn_tables, transcript("members_rollback")),
    ("members not forgotten", forget_tables_at_start, transcript("members_add")),
    ("full disk is survived", replaced(disk, "FULL", frozenset()), transcript("disk_full")),
    ("slow disk gives up the lead", replaced(DiskHealth, "slow", always(False)), transcript("disk_slow")),
]


@pytest.mark.parametrize(("switch", "check"), [line[1:] for line in MEASURES], ids=[line[0] for line in MEASURES])
def test_without_this_measure_a_check_fails(switch, check, monkeypatch):
    check()
    switch(monkeypatch)
    failed = False
    try:
        check()
    except (Exception, pytest.fail.Exception):
        failed = True

    assert failed, f"{check.__name__} does not notice"


@pytest.mark.parametrize(
    ("switch", "check"),
    [
        (swallow_errors, a_machine_that_raises_is_fatal),
        (apply_without_asking_whose, an_entry_of_another_life_answers_nobody_here),
        (replaced(RaftLog, "_resolve_all", always(None)), a_snapshot_in_place_of_entries_is_told),
        (replaced(Replica, "leading", property(always(True))), a_follower_takes_no_command),
    ],
    ids=["5 fail-stop", "6 request ids", "6 a snapshot ends waiting", "6 proposed by the leader only"],
)
def test_without_this_measure_of_the_driver_a_check_fails(switch, check, monkeypatch, tmp_path):
    with_one_voter(tmp_path / "on", check)
    switch(monkeypatch)
    with pytest.raises(AssertionError):
        with_one_voter(tmp_path / "off", check)
