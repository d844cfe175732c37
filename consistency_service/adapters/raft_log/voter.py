"""One voter's judgement: puts elections, replication, reads and the state of the disk together around the library.

Picture the chair of a meeting and a referee. The library is the chair: it holds term, vote and role. This is the
referee: every message passes here first, and nothing reaches the chair that the rules do not allow. Rules live in modules
of their own and know neither library nor sockets; what is here is only who is asked what, in which order.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Literal, Protocol

from consistency_service.adapters.raft_log import replication, wire
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.disk_health import DiskHealth
from consistency_service.adapters.raft_log.elections import Credentials, Elections
from consistency_service.adapters.raft_log.frames import NO_OP
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.membership import Members
from consistency_service.adapters.raft_log.read_index import ReadIndex
from consistency_service.adapters.raft_log.rejoin import Rejoin
from consistency_service.adapters.raft_log.replication import Replication
from consistency_service.adapters.raft_log.snapshots import Snapshot, SnapshotStore

MS: Final = 1_000_000
RETRY_FULL_DISK_NS: Final = 200 * MS
REJOINING: Final = 0
"""Number of the read by which a node that lost its memory asks what it must hold to vote again."""


class Library(replication.Host, Protocol):
    """The library's variables, as far as they may be touched."""

    @property
    def leader_id(self) -> str | None: ...
    @property
    def read_floor(self) -> int: ...

    def next_stamp(self) -> int: ...
    def step_down(self) -> None: ...
    def vote_requested(self, node_id: str, message: wire.VoteRequest) -> None: ...
    def vote_granted(self, node_id: str, *, term: int) -> None: ...
    def install(self, snapshot: Snapshot) -> bool: ...
    def give_grace(self, *, grace_ns: int) -> None: ...
    def speak(self) -> None: ...


class Voter:
    def __init__(
        self,
        library: Library,
        *,
        config: RaftLogConfig,
        journal: Journal,
        snapshots: SnapshotStore,
        send: Callable[[str, wire.Message], bool],
        backlog_bytes: Callable[[str], int],
        read_resolved: Callable[[int, int | None], None],
        random: Random,
        now_ns: int,
    ) -> None:
        self._library = library
        self._config = config
        self._journal = journal
        self._send = send
        self._read_resolved = read_resolved
        self._votes: tuple[int, list[str]] = (0, [])
        self._voting = self._standing = self._inherited = False
        self._now_ns = self._ticked_at_ns = now_ns
        self._retry_at_ns = self._trial_stamp = 0
        self._lead: tuple[int, str | None] = (0, None)
        self._grace_ns = 2 * config.heartbeat_ms * MS
        self.stall_count = self.trial_count = self.disk_hand_over_count = 0
        self.replication = Replication(
            library,
            config=config,
            journal=journal,
            snapshots=snapshots,
            send=send,
            backlog_bytes=backlog_bytes,
            begin_sync=self.begin_sync,
        )
        self.quorum = self.replication.quorum
        self.reads = ReadIndex(library, host=self, send=send, resolve=self._resolve_read)
        self._rejoin = Rejoin(journal, ask=lambda: self.reads.begin(REJOINING))
        self.dismissed = False
        """A peer said that this node was removed, and no leader has spoken to it since."""
        self.health = DiskHealth(
            slow_sync_ns=config.sync_slow_ms * MS,
            slow_for_ns=config.sync_slow_for_ms * MS,
            inline_ns_max=config.sync_inline_max_us * 1_000,
        )
        self.elections = Elections(
            majority=self.quorum.majority,
            timeout_min_ns=config.election_timeout_min_ms * MS,
            timeout_max_ns=config.election_timeout_max_ms * MS,
            grace_ns=self._grace_ns,
            random=random,
            now_ns=now_ns,
        )

    # Around the library's tick.

    def before_tick(self, *, now_ns: int) -> bool:
        """Whether the library is to stand for election now."""
        self._now_ns = now_ns
        self._notice_stall(now_ns=now_ns)
        self._watch_disk(now_ns=now_ns)
        library, elections = self._library, self.elections
        if not library.leading and elections.due(now_ns=now_ns):
            self._miss_leader(now_ns=now_ns)
        if elections.should_stand():
            self._standing = True
        standing, self._standing = self._standing, False
        if standing:
            elections.wait(now_ns=now_ns)
        return standing

    def after_tick(self, *, now_ns: int) -> None:
        self._inherited = False
        self._notice_lead()
        self.reads.step(now_ns=now_ns)
        self._rejoin.step(led=self._library.leader_id is not None)

    def members_changed(self, members: Members) -> None:
        """These are the members from here on, as the newest table of the log says."""
        self._voting = self._config.node_id in members.voters
        self._dismiss(set(self.quorum.everybody).intersection(members.removed))
        self.replication.members_changed(*members.beside(self._config.node_id))
        self.elections.majority = self.quorum.majority

    def _dismiss(self, removed: set[str]) -> None:
        for node_id in removed:
            self._send(node_id, wire.Dismissal())

    def committed_through(self) -> int:
        """As a leader: the last entry of our term that the disks of a majority hold; 0 if there is none."""
        held = self.quorum.held_through(own_through=self._journal.durable_through)
        entry = self._journal.entry_at(held)
        return held if entry is not None and entry[2] == self._library.term else 0

    # Messages.

    def receive(self, node_id: str, message: wire.Peer, *, now_ns: int) -> None:
        self._now_ns = now_ns
        match message:
            case wire.VoteRequest():
                self._vote_requested(node_id, message, now_ns=now_ns)
            case wire.Vote():
                self._vote_received(node_id, message)
            case wire.Append():
                self.replication.append_received(node_id, message)
            case wire.Acknowledgement():
                self.replication.acknowledgement_received(node_id, message)
            case wire.SnapshotPart():
                self.replication.part_received(node_id, message)
            case wire.SnapshotPartTaken():
                self.replication.part_taken(node_id, message)
            case wire.Heartbeat():
                self.replication.heartbeat_received(node_id, message)
            case wire.HandOver():
                self._hand_over_received(node_id, message)
            case wire.ReadIndexRequest():
                self.reads.request_received(node_id, message)
            case wire.ReadIndexAnswer():
                self.reads.answer_received(node_id, message)
        if isinstance(message, wire.Append | wire.Heartbeat | wire.SnapshotPart | wire.Dismissal):
            self.dismissed = isinstance(message, wire.Dismissal)
        self._notice_lead()

    def disconnected(self, node_id: str, *, now_ns: int) -> None:
        self.replication.disconnected(node_id)
        self.reads.disconnected(node_id)
        if node_id == self._library.leader_id:
            self.elections.leader_lost(now_ns=now_ns)

    # Elections.

    def ask_for_vote(self, node_id: str, *, trial: bool = False) -> bool:
        """The question is on its way, in our term; of a trial, in the next."""
        term, (last_term, last_index, _) = self._library.term, self._credentials()
        request = wire.VoteRequest(
            term=term + 1 if trial else term,
            last_index=last_index,
            last_term=last_term,
            trial=trial,
            handed_over=self._inherited,
            stamp=self._trial_stamp if trial else self._library.next_stamp(),
        )
        return self._send(node_id, request)

    def grant_vote(self, node_id: str, *, term: int) -> bool:
        """The library gave its vote, durably."""
        self.elections.wait(now_ns=self._now_ns)
        return self._send(node_id, wire.Vote(term=term, granted=True, trial=False, stamp=0))

    def hand_over(self, *, heir: str | None, hold_ns: int, now_ns: int) -> str | None:
        """Not the leader any more. The heir, by default the follower that holds most, is told to stand; None: nobody."""
        library = self._library
        if not library.leading:
            return None
        heir = heir or self.quorum.most_caught_up()
        if heir is not None:
            self.replication.send_to(heir)
            self._send(heir, wire.HandOver(term=library.term))
        library.step_down()
        self.elections.hold(until_ns=now_ns + hold_ns)
        self._notice_lead()
        return heir

    def _may_stand(self) -> bool:
        return self._voting and not self._journal.rejoining and not self._journal.full

    def _miss_leader(self, *, now_ns: int) -> None:
        if self._may_stand():
            self._ask_around(now_ns=now_ns)
        elif not self._voting:
            self._library.step_down()
            self.elections.wait(now_ns=now_ns)

    def _ask_around(self, *, now_ns: int) -> None:
        self._library.step_down()
        self.trial_count += 1
        self._trial_stamp = self._library.next_stamp()
        self.elections.begin_trial(stamp=self._trial_stamp, now_ns=now_ns)
        for node_id in self.quorum.followers:
            self.ask_for_vote(node_id, trial=True)

    def _vote_requested(self, node_id: str, message: wire.VoteRequest, *, now_ns: int) -> None:
        """An answer always goes out, unless the library grants: a refusal tells of our term, so that none is stranded."""
        library, elections = self._library, self.elections
        willing = message.term > library.term if message.trial else message.term >= library.term
        willing = willing and not self._journal.rejoining
        willing = willing and (message.handed_over or not library.leading)
        if message.trial:
            candidate = (message.last_term, message.last_index, node_id)
            willing = willing and elections.would_vote(candidate, own=self._credentials(), now_ns=now_ns)
        else:
            willing = willing and elections.may_vote(handed_over=message.handed_over, now_ns=now_ns)
        if willing and not message.trial:
            library.vote_requested(node_id, message)
        elif not willing or message.trial:
            term = message.term if willing else library.term
            self._send(node_id, wire.Vote(term=term, granted=willing, trial=message.trial, stamp=message.stamp))

    def _vote_received(self, node_id: str, message: wire.Vote) -> None:
        """A vote is counted once for each voter and term; a refusal from a later term ends our own."""
        library = self._library
        if not message.granted:
            if message.term > library.term:
                library.fall_back(term=message.term)
        elif message.trial and node_id in self.quorum.followers:
            self.elections.willing(node_id, stamp=message.stamp)
        elif message.term == library.term and node_id in self.quorum.followers:
            term, voters = self._votes
            voters = voters if term == message.term else []
            if node_id not in voters:
                self._votes = (message.term, [*voters, node_id])
                library.vote_granted(node_id, term=message.term)

    def _hand_over_received(self, node_id: str, message: wire.HandOver) -> None:
        library = self._library
        named = node_id == library.leader_id and message.term == library.term and not library.leading
        if named and self._may_stand():
            self._standing = self._inherited = True

    def _credentials(self) -> Credentials:
        _, index, term = self._journal[-1]
        return term, index, self._config.node_id

    # Reads: see `read_index.ReadHost`.

    @property
    def rejoining(self) -> bool:
        return self._journal.rejoining

    @property
    def heard_through(self) -> int:
        return self.quorum.heard_through(own_stamp=self._library.next_stamp())

    def confirm_lead(self) -> int:
        stamp = self._library.next_stamp()
        self._library.speak()
        return stamp

    def make_entry(self) -> int:
        index = self._journal[-1][1] + 1
        self._journal.add(NO_OP, index, self._library.term)
        self._library.speak()
        self.begin_sync()
        return index

    def commit_agreed(self, index: int, *, leader_id: str, term: int) -> None:
        library = self._library
        if (term, leader_id) == (library.term, library.leader_id):
            library.commit_through(min(index, self.replication.agreed_through(term=term)))

    def _notice_lead(self) -> None:
        lead = (self._library.term, self._library.leader_id)
        if lead != self._lead:
            self._lead = lead
            self._rejoin.lead_changed()
            self.reads.lead_changed()

    def _resolve_read(self, number: int, index: int | None) -> None:
        if number == REJOINING:
            self._rejoin.answered(index)
        else:
            self._read_resolved(number, index)

    # The disk, and the time.

    def begin_sync(self) -> None:
        """What the journal was given is on its way to the disk, or there."""
        journal = self._journal
        if not journal.syncing and journal.waiting:
            self.health.sync_started(now_ns=self._library.next_stamp())
            journal.begin_sync(inline=self.health.inline)
            if not journal.syncing:
                self._sync_ended()

    def _sync_ended(self) -> None:
        now_ns = self._library.next_stamp()
        self.health.sync_ended(now_ns=now_ns)
        if self._journal.full:
            self._retry_at_ns = now_ns + RETRY_FULL_DISK_NS

    def _watch_disk(self, *, now_ns: int) -> None:
        """A leader whose disk is full, or slower than a follower's and slow for long, hands over."""
        journal, library = self._journal, self._library
        if journal.finish_nowait():
            self._sync_ended()
            self.replication.durable_changed()
        if journal.waiting and not journal.syncing and (not journal.full or now_ns >= self._retry_at_ns):
            self.begin_sync()
            self.replication.durable_changed()
        slow = self.health.slow(now_ns=now_ns)
        if library.leading and (journal.full or (slow and self._outrun())):
            self.disk_hand_over_count += 1
            hold_ns = 0 if journal.full else self._config.disk_hold_ms * MS
            self.hand_over(heir=None, hold_ns=hold_ns, now_ns=now_ns)

    def _outrun(self) -> bool:
        """A follower's disk holds more than ours."""
        heir = self.quorum.most_caught_up()
        return heir is not None and self.quorum.matched_through(heir) > self._journal.durable_through

    def _notice_stall(self, *, now_ns: int) -> None:
        """Nothing was read for a while: that nobody was heard says nothing yet."""
        if now_ns - self._ticked_at_ns > self._config.election_timeout_min_ms * MS // 2:
            self.stall_count += 1
            self.elections.stalled(now_ns=now_ns)
            if self._library.leading:
                self._library.give_grace(grace_ns=self._grace_ns)
        self._ticked_at_ns = now_ns

    # What people see.

    @property
    def standing(self) -> Literal["member", "joining", "removed"]:
        """See `ports.LogStatus`. Who is joining never had a vote, as far as it knows."""
        if self.dismissed:
            return "removed"
        joining = self._config.join and self._journal.rejoining and not self._voting
        return "joining" if joining else "member"

    def storage_fault(self, *, now_ns: int) -> str | None:
        """What keeps this node from acknowledging, or from leading; None if nothing does."""
        if self._journal.rejoining and self.standing != "joining":
            return "lost its memory: neither votes nor counts before it holds again what is committed"
        if self._journal.full:
            return "no room on the disk: nothing new is acknowledged until there is"
        if self.health.slow(now_ns=now_ns):
            return f"slow disk: no sync took less than {self._config.sync_slow_ms} ms lately"
        return None

    def counters(self) -> dict[str, int]:
        return {
            **self.replication.counters(),
            "trials": self.trial_count,
            "stalls": self.stall_count,
            "leads_given_up_for_disk": self.disk_hand_over_count,
            "syncs_slow": self.health.slow_sync_count,
        }

    def check_invariants(self) -> None:
        self._journal.check_invariants()
        assert self._library.commit_index >= self._library.applied_index
        assert not (self._library.leading and (self._journal.rejoining or not self._voting))
