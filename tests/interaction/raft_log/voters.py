"""Voters without sockets, threads or clocks: the real `Replica` over messages in memory, forgetful disks and virtual time.

Links are first in, first out, one for each direction, and a cut link loses what is said. Of several links the one goes on
whose message was sent first; of messages sent in one step, the one to the node that comes first by name. Nothing moves unless asked:
`run` lets time pass, `deliver` empties links. Each node draws its timeouts from its own seed, so that equal commands give
equal traces. Whatever a node does that others could notice is a line in `trace`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import pysyncobj.syncobj

from consistency_service.adapters.raft_log import RaftLogConfig, frames, membership, recovery, wire
from consistency_service.adapters.raft_log.frames import NO_OP
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.library import Replica
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.snapshots import SnapshotStore
from consistency_service.adapters.raft_log.worker import Job
from tests.support.forgetful_disk import ForgetfulDisk, PowerCut

TICK_MS = 10


class Worker:
    """Does its work at once, or, `slow`, when told to."""

    def __init__(self) -> None:
        self.slow = False
        self.jobs: deque[Job] = deque()

    def start(self, work: Callable[[], None]) -> Job:
        job = Job(work)
        self.jobs.append(job)
        if not self.slow:
            self.work()
        return job

    def work(self) -> None:
        while self.jobs:
            self.jobs.popleft().run()

    def close(self) -> None:
        self.work()


@dataclass
class Seat:
    """A node, running or not."""

    name: str
    disk: ForgetfulDisk
    worker: Worker = field(default_factory=Worker)
    replica: Replica | None = None
    applied: list[tuple[int, str]] = field(default_factory=list)
    queue: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    heard_ms: float = 0
    role: str = ""
    accepted_through: int = 0
    """What it said to be durable, to anybody."""
    spoken_term: int = 0
    votes: dict[int, str] = field(default_factory=dict)
    stalled: bool = False
    life: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    """Whom its settings name. Empty: the founders."""
    joins: bool = False
    peers: set[str] = field(default_factory=set)
    """With whom it would have a connection."""
    linked: set[str] = field(default_factory=set)
    moved: bool = False


class Voters:
    def __init__(self, *names: str, compaction_min_entries: int = 50, sync_inline_max_us: int = 1_000) -> None:
        self.now_ms = 0.0
        self.leaders: dict[int, str] = {}
        """By term: there is never more than one."""
        self.founders = dict.fromkeys(names, "127.0.0.1:1")
        self.trace: list[str] = []
        self.talk = False
        self.acknowledged: list[tuple[int, str]] = []
        self.seats = {name: Seat(name=name, disk=ForgetfulDisk()) for name in names}
        self.links: dict[tuple[str, str], deque[tuple[int, wire.Message]]] = {}
        self.moment = 0
        self.cut: set[tuple[str, str]] = set()
        self.kept: list[tuple[str, str, wire.Message]] = []
        self.replayed: list[tuple[str, str, wire.Message]] = []
        self.reads = 0
        self._settings = {
            "compaction_min_entries": compaction_min_entries,
            "sync_inline_max_us": sync_inline_max_us,
        }
        for name in names:
            for other in names:
                if name != other:
                    self.links[name, other] = deque()

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """The library reads this time while the context lasts."""
        before = pysyncobj.syncobj.monotonicTime
        pysyncobj.syncobj.monotonicTime = lambda: self.now_ms / 1_000
        try:
            yield
        finally:
            pysyncobj.syncobj.monotonicTime = before

    def say(self, line: str) -> None:
        self.trace.append(line)

    # Nodes.

    def start(self, name: str) -> None:
        """In the next life, from its disk."""
        try:
            self._start(name)
        except PowerCut:
            self._cut_off(self.seats[name])

    def _start(self, name: str) -> None:
        seat = self.seats[name]
        seat.life += 1
        seat.applied, seat.queue, seat.waiting, seat.role = [], [], [], ""
        seat.worker = Worker()
        config = RaftLogConfig(
            node_id=name,
            listen="127.0.0.1:1",
            peers=seat.settings or self.founders,
            join=seat.joins,
            data_dir=Path("/virtual"),
            snapshot_part_bytes=256,
            batch_bytes_max=1 << 20,
            **self._settings,  # type: ignore[arg-type]
        )
        journal = Journal(config.data_dir, node_id=name, files=seat.disk, worker=seat.worker)
        if journal.repaired_bytes:
            self.say(f"{name}: cuts a torn end of {journal.repaired_bytes} bytes")
        seat.replica = Replica(
            config,
            journal=journal,
            snapshots=SnapshotStore(config.data_dir, files=seat.disk, worker=seat.worker),
            send=lambda target, message: self._send(name, target, message),
            backlog_bytes=lambda _: 0,
            apply=lambda entry: self._apply(seat, entry),
            state=lambda: msgspec.msgpack.encode(seat.applied),
            restore=lambda state, index: self._restore(seat, state, index),
            take_proposals=lambda leading: self._take(seat, leading=leading),
            read_resolved=lambda number, index: self._read_resolved(seat, number, index),
            members_changed=lambda members: self._members_changed(seat, members),
            random=Random(f"{name} {seat.life}"),
        )
        seat.linked, seat.moved = set(), False
        for other in self.seats:
            if other != name and self.seats[other].replica is not None and self._acquainted(name, other):
                self.connect(name, other)
        self._look(seat)
        for peer in self.alive():
            removed = peer.replica.roster.members.removed if peer.replica is not None else ()
            apart = {(name, peer.name), (peer.name, name)} & self.cut
            if peer.name in seat.peers and name in removed and not apart:
                self._dismissed(name, by=peer.name)

    def join(self, name: str) -> None:
        """A node that others will add, and which knows them."""
        for other in self.seats:
            self.links[name, other], self.links[other, name] = deque(), deque()
        seat = self.seats[name] = Seat(name=name, disk=ForgetfulDisk())
        seat.joins, seat.settings = True, dict.fromkeys(self.seats, "127.0.0.1:1")
        recovery.forget(Path("/virtual"), node_id=name, files=seat.disk)
        self.start(name)

    def recover(self, name: str) -> None:
        """Its next life begins without memory, and knows: the vote file says so."""
        seat = self.seats[name]
        seat.disk, seat.votes, seat.accepted_through, seat.spoken_term = ForgetfulDisk(), {}, 0, 0
        recovery.forget(Path("/virtual"), node_id=name, files=seat.disk)

    def _dismissed(self, name: str, *, by: str) -> None:
        """Whoever greets a node that removed it is told so, and let go."""
        replica = self.seats[name].replica
        assert replica is not None
        replica.receive(by, wire.Dismissal())

    def _acquainted(self, name: str, other: str) -> bool:
        return other in self.seats[name].peers and name in self.seats[other].peers

    def _members_changed(self, seat: Seat, members: membership.Members) -> None:
        config = RaftLogConfig(
            node_id=seat.name, listen="127.0.0.1:1", peers=seat.settings or self.founders, data_dir=Path("/virtual")
        )
        seat.peers = set(membership.peers_of(members, config=config)) - {seat.name}
        seat.moved = True
        if set(members.table) != set(self.founders) or seat.replica is not None:
            listed = [name if member.votes else f"({name})" for name, member in sorted(members.table.items())]
            self.say(f"{seat.name}: goes by the members {' '.join(listed) or 'nobody'}")

    def _relink(self, seat: Seat) -> None:
        """Whoever became a stranger is cut off, whoever became an acquaintance connected."""
        seat.moved = False
        for other in self.seats.values():
            if other is seat or other.replica is None:
                continue
            linked, wanted = other.name in seat.linked, self._acquainted(seat.name, other.name)
            if linked and not wanted:
                self.deliver(only=(seat.name, other.name))  # a connection is ended after what was written to it
                self.disconnect(seat.name, other.name)
            elif wanted and not linked:
                self.connect(seat.name, other.name)

    def stop(self, name: str) -> None:
        """The process is gone, and the others notice."""
        self.seats[name].replica = None
        for other in self.seats:
            if other != name:
                self.links[name, other].clear()
                self.links[other, name].clear()
                self.seats[other].linked.discard(name)
                if (replica := self.seats[other].replica) is not None:
                    replica.disconnected(name)

    def power_cut(self, name: str, *, contents: str = "dropped", names: str = "synced") -> None:
        self.stop(name)
        seat = self.seats[name]
        seat.disk = seat.disk.after_power_cut(contents=contents, names=names)

    def connect(self, name: str, other: str) -> None:
        for one, two in ((name, other), (other, name)):
            if (replica := self.seats[one].replica) is not None:
                self.seats[one].linked.add(two)
                replica.connected(two)

    def disconnect(self, name: str, other: str) -> None:
        """Noticed by both; what was under way is lost."""
        for one, two in ((name, other), (other, name)):
            self.links[one, two].clear()
            self.seats[one].linked.discard(two)
            if (replica := self.seats[one].replica) is not None:
                replica.disconnected(two)

    def alive(self) -> list[Seat]:
        return [seat for seat in self.seats.values() if seat.replica is not None]

    def leader(self) -> Seat | None:
        leaders = [seat for seat in self.alive() if seat.replica is not None and seat.replica.leading]
        return max(leaders, key=lambda seat: seat.replica.term if seat.replica is not None else 0, default=None)

    # Time and messages.

    def tick(self, name: str) -> None:
        seat = self.seats[name]
        self.moment += 1
        if seat.replica is None or seat.stalled:
            return
        try:
            seat.replica.tick()
        except PowerCut:
            self._cut_off(seat)
            return
        self._look(seat)

    def run(self, ms: int) -> None:
        end = self.now_ms + ms
        while self.now_ms < end:
            self.now_ms += TICK_MS
            for name in self.seats:
                self.tick(name)
            self.deliver()

    def deliver(self, *, only: tuple[str, str] | None = None, count: int = 10_000) -> None:
        """Until every link (or this one) is empty; whoever received something acts on it at once."""
        for _ in range(count):
            ready = [
                link
                for link, messages in sorted(self.links.items())
                if messages and only in {None, link} and not self.seats[link[1]].stalled
            ]
            if not ready:
                return
            self._deliver_one(min(ready, key=lambda link: (self.links[link][0][0], link)))

    def _deliver_one(self, link: tuple[str, str]) -> None:
        source, target = link
        _, message = self.links[link].popleft()
        self.moment += 1
        seat = self.seats[target]
        if seat.replica is None:
            return
        if self.talk:
            self.say(f"{source} -> {target} {described(message)}")
        try:
            seat.replica.receive(source, wire.decode_peer(wire.encode(message)[4:]))
        except PowerCut:
            self._cut_off(seat)
            return
        self._look(seat)
        self.tick(target)

    def _send(self, source: str, target: str, message: wire.Message) -> bool:
        seat = self.seats[source]
        if isinstance(message, wire.Acknowledgement) and message.accepted:
            seat.accepted_through = max(seat.accepted_through, message.next_index - 1)
        if isinstance(message, wire.Vote | wire.Acknowledgement) and not getattr(message, "trial", False):
            seat.spoken_term = max(seat.spoken_term, message.term)
        if isinstance(message, wire.Vote) and message.granted and not message.trial:
            before = seat.votes.setdefault(message.term, target)
            assert before == target, f"{source} voted for {before} and {target} in term {message.term}"
        if self.seats[target].replica is None or not self._acquainted(source, target):
            return False
        if (source, target) not in self.cut:
            self.links[source, target].append((self.moment, message))
        return True

    def keep(self, source: str, target: str) -> None:
        """What is on this link comes later, by `replay`."""
        self.kept += [(source, target, message) for _, message in self.links[source, target]]
        self.links[source, target].clear()

    def replay(self) -> None:
        for source, target, message in self.kept:
            self.links[source, target].append((self.moment, message))
        self.replayed, self.kept = self.kept, []

    # What nodes do.

    def propose(self, name: str, text: str) -> None:
        self.seats[name].queue.append(text)
        self.tick(name)

    def read(self, name: str) -> None:
        self.reads += 1
        replica = self.seats[name].replica
        assert replica is not None
        replica.voter.reads.begin(self.reads)
        self.tick(name)

    def _take(self, seat: Seat, *, leading: bool) -> list[bytes]:
        texts, seat.queue = seat.queue, []
        if not leading:
            for text in texts:
                self.say(f"{seat.name}: proposes nothing, {text} was refused")
            return []
        seat.waiting += texts
        return [text.encode() for text in texts]

    def _apply(self, seat: Seat, entry: Entry) -> None:
        command, index, _ = entry
        if command == NO_OP:
            return
        if command.startswith(frames.MEMBERS_PREFIX):
            if index > 3:
                self.say(f"{seat.name}: members are settled at {index}")
            return
        text = command.decode()
        seat.applied.append((index, text))
        told = ""
        if text in seat.waiting and seat.replica is not None and seat.replica.leading:
            seat.waiting.remove(text)
            self.acknowledged.append((index, text))
            told = " and tells its proposer"
        self.say(f"{seat.name}: applies {text} at {index}{told}")

    def _restore(self, seat: Seat, state: bytes, index: int) -> None:
        seat.applied = msgspec.msgpack.decode(state, type=list[tuple[int, str]])
        self.say(f"{seat.name}: state is a snapshot at {index}")

    def _read_resolved(self, seat: Seat, number: int, index: int | None) -> None:
        seen = ",".join(text for _, text in seat.applied[-3:]) or "nothing"
        answer = f"answered at {index}, sees {seen}" if index is not None else "not confirmed"
        self.say(f"{seat.name}: read {number} {answer}")

    def _cut_off(self, seat: Seat) -> None:
        self.say(f"{seat.name}: power cut")
        self.stop(seat.name)

    def _look(self, seat: Seat) -> None:
        """A change of role is a line; a broken invariant is the end."""
        replica = seat.replica
        if replica is None:
            return
        if seat.moved:
            self._relink(seat)
        if not seat.worker.slow:
            replica.voter.check_invariants()
        state = ("follower", "candidate", "leader")[replica._SyncObj__raftState]
        whom = f" of {replica.leader_id}" if replica.leader_id not in {None, seat.name} else ""
        role = f"{state}{whom} in term {replica.term}"
        if state == "leader":
            first = self.leaders.setdefault(replica.term, seat.name)
            assert first == seat.name, f"{first} and {seat.name} lead in term {replica.term}"
        if role != seat.role:
            seat.role = role
            self.say(f"{seat.name}: {role}")

    def described_node(self, name: str) -> str:
        seat = self.seats[name]
        replica = seat.replica
        if replica is None:
            return f"{name}: down"
        journal = replica._journal
        voter = replica.voter
        notes = [voter.storage_fault(now_ns=int(self.now_ms * 1e6))]
        notes += [voter.standing if voter.standing != "member" else None]
        return (
            f"{name}: {seat.role}, log {journal[0][1]}..{journal[-1][1]}, durable {journal.durable_through}, "
            f"committed {replica.commit_index}, applied {replica.applied_index}"
            + "".join(f", {note}" for note in notes if note)
        )


def described(message: wire.Message) -> str:
    """Without stamps: they are instants."""
    match message:
        case wire.VoteRequest():
            asks = "would you vote" if message.trial else "vote"
            heir = ", handed over" if message.handed_over else ""
            return f"{asks} in term {message.term}? my log ends at {message.last_index}/{message.last_term}{heir}"
        case wire.Vote():
            verb = "would" if message.trial else "do"
            return f"{'I ' + verb if message.granted else 'no'}, term {message.term}"
        case wire.Append():
            entries = ",".join(str(entry.index) for entry in message.entries) or "none"
            after = f"{message.previous_index}/{message.previous_term}"
            return f"append {entries} after {after}, committed {message.commit_index}, term {message.term}"
        case wire.Acknowledgement():
            if message.next_index == 0:
                return f"alive, term {message.term}"
            verb = "durable before" if message.accepted else "go on from"
            return f"{verb} {message.next_index}, term {message.term}" + ("" if message.counts else ", not counting")
        case wire.SnapshotPart():
            return f"snapshot part {message.number}{' (last)' if message.last else ''}, term {message.term}"
        case wire.SnapshotPartTaken():
            return f"took part {message.number}, term {message.term}"
        case wire.Heartbeat():
            return f"heartbeat, term {message.term}"
        case wire.HandOver():
            return f"you are my heir, term {message.term}"
        case wire.ReadIndexRequest():
            return (
                f"question {message.number}: what must {'one without memory' if message.afresh else 'a read'} wait for?"
            )
        case wire.Dismissal():
            return "you were removed"
        case wire.ReadIndexAnswer():
            return f"answer {message.number}: " + (f"{message.index}" if message.confirmed else "not confirmed")
    return type(message).__name__
