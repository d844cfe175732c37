# ruff: noqa: N802, N803 -- the names are the library's
"""The only module that knows what of pysyncobj is not public.

What is left to the library: terms, votes, who is candidate and leader, when a leader that hears nobody falls back, when
to speak. What is replaced, because stock it loses or invents acknowledged writes: its journal, snapshots and wire, how
entries are appended, acknowledged, counted and applied, how commands enter, when a node stands and when it compacts.
Private names do not keep still between releases; so the library's source is compared with the one this was written for,
and on any other the node does not start.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import pysyncobj.syncobj
from pysyncobj import SyncObj
from pysyncobj.node import Node

from consistency_service.adapters.raft_log import frames, membership, wire
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.frames import NO_OP
from consistency_service.adapters.raft_log.journal import REMEDY, Journal
from consistency_service.adapters.raft_log.library_parts import (
    Compaction,
    Link,
    NoPoller,
    kept_from_collector,
    monotonic_ns,
    monotonic_s,
    settings,
)
from consistency_service.adapters.raft_log.membership import Members
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.roster import Roster
from consistency_service.adapters.raft_log.snapshots import Snapshot, SnapshotStore, entries_beside
from consistency_service.adapters.raft_log.voter import Voter
from consistency_service.errors import ConfigError, LogStorageError

SYNCOBJ_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
"""Of `syncobj.py` in pysyncobj 0.3.17."""

# fmt: off
PRIVATE_NAMES: Final = (
    "_SyncObj__connectedNodes", "_SyncObj__lastResponseTime", "_SyncObj__newAppendEntriesTime", "_SyncObj__noopIDx",
    "_SyncObj__otherNodes", "_SyncObj__raftMatchIndex",
    "_SyncObj__raftCommitIndex", "_SyncObj__raftCurrentTerm", "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied", "_SyncObj__raftLeader", "_SyncObj__raftLog", "_SyncObj__raftState",
    "_SyncObj__serializer", "_SyncObj__votedForNodeId", "_poller", "_SyncObj__onMessageReceived",
    "_SyncObj__setCurrentTerm", "_onTick",
)
"""Read, set or called."""

OVERRIDDEN_NAMES: Final = (
    "_SyncObj__applyLogEntries", "_SyncObj__onBecomeLeader", "_SyncObj__onNodeDisconnected",
    "_SyncObj__sendAppendEntries", "_SyncObj__setState", "_checkCommandsToApply",
)
# fmt: on

FOLLOWER, LEADER = 0, 2
APPLY_ENTRIES_MAX: Final = 512
"""Applied in one tick, so that a long replay does not silence the node."""


def verify_library() -> None:
    """The installed library is the one whose private names are used here. Raises `ConfigError` otherwise."""
    path = inspect.getsourcefile(pysyncobj.syncobj)
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest() if path is not None else "no source"
    if found != SYNCOBJ_SHA256:
        raise ConfigError(
            f"pysyncobj's syncobj.py has sha256 {found}, not {SYNCOBJ_SHA256}: this node overrides private names of "
            "release 0.3.17 and would corrupt its log on another; install pysyncobj==0.3.17"
        )


class Replica(SyncObj):  # type: ignore[misc]
    """One voter's memory: the library's variables, and `voter` who judges what happens to them.

    Everything runs in `tick` and `receive`, on the event loop; what they raise is fatal. `apply` gets every committed
    entry once and in order, no-ops included.
    """

    _SyncObj__raftElectionDeadline: float

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        journal: Journal,
        snapshots: SnapshotStore,
        send: Callable[[str, wire.Message], bool],
        backlog_bytes: Callable[[str], int],
        apply: Callable[[Entry], None],
        state: Callable[[], bytes],
        restore: Callable[[bytes, int], None],
        take_proposals: Callable[[bool], list[bytes]],
        read_resolved: Callable[[int, int | None], None],
        members_changed: Callable[[Members], None],
        random: Random,
    ) -> None:
        verify_library()
        self._config = config
        self._journal = journal
        self._snapshots = snapshots
        self._apply_entry = apply
        self._restore = restore
        self._take_proposals = take_proposals
        self._stamp = 0
        self._committed = 1  # the first entry is the same in every journal
        self._nodes: dict[str, Node] = {}
        self._members_changed = members_changed
        founders = membership.NOBODY if config.join or journal.rejoining else membership.founders(config)
        self.roster = Roster(journal, founders=founders)
        self._in_force: Members | None = None
        self.voter = Voter(
            self,
            config=config,
            journal=journal,
            snapshots=snapshots,
            send=send,
            backlog_bytes=backlog_bytes,
            read_resolved=read_resolved,
            random=random,
            now_ns=monotonic_ns(),
        )
        self._link = Link(self.voter)
        super().__init__(self._node(config.node_id), [], conf=settings(config), transport=self._link)
        self._poller = NoPoller()
        self._SyncObj__serializer = Compaction(
            snapshots,
            journal=journal,
            replication=self.voter.replication,
            roster=self.roster,
            state=state,
            applied_index=lambda: self.applied_index,
        )
        self._recover()
        if self.roster.founding and founders.table and len(founders.voters) % 2 == 0:
            raise ConfigError(
                f"an odd number of voters founds a cluster, not {len(founders.voters)}; a node that others will add has "
                "join = true"
            )
        self._look_at_members()

    # What the log asks.

    @property
    def leading(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def leader_id(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def settled(self) -> bool:
        return self.leading and self.applied_index >= self.read_floor

    @property
    def behind(self) -> bool:
        """More is committed than was applied in the last tick."""
        return self.commit_index > self.applied_index

    def tick(self) -> None:
        """Whatever is due has been done."""
        self.voter.replication.verified()
        stand = self.voter.before_tick(now_ns=monotonic_ns())
        self._SyncObj__raftElectionDeadline = 0.0 if stand else math.inf
        self._onTick(0.0)
        self.voter.after_tick(now_ns=monotonic_ns())

    def connected(self, node_id: str) -> None:
        self._link._onNodeConnected(self._node(node_id))

    def disconnected(self, node_id: str) -> None:
        self._link._onNodeDisconnected(self._node(node_id))

    def receive(self, node_id: str, message: wire.Peer) -> None:
        """The message has been acted upon, and answered if it asks for an answer."""
        self.voter.receive(node_id, message, now_ns=monotonic_ns())
        self._look_at_members()

    @property
    def members_pending(self) -> bool:
        """The table of members in force is not known to be committed."""
        return self.roster.index > self.commit_index

    def append_members(self, command: bytes) -> None:
        """As a leader: the table is in force, and on its way to those whom it names.

        Whoever calls has seen that the one before is committed and, `settled`, that an entry of this term is: otherwise
        two leaders could go by tables of which the majorities share nobody.
        """
        assert self.leading
        self._journal.add(command, self._journal[-1][1] + 1, self.term)
        self._look_at_members()
        self.speak()
        self.voter.begin_sync()

    def close_files(self) -> None:
        self.voter.replication.forget_transfers()
        self._snapshots.close()
        self._journal.close()

    # What the voter needs of the library: see `voter.Library`.

    @property
    def read_floor(self) -> int:
        return int(self._SyncObj__noopIDx or 0)

    def next_stamp(self) -> int:
        self._stamp = max(self._stamp + 1, monotonic_ns())
        return self._stamp

    def follow(self, leader_id: str, *, term: int) -> None:
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = self._node(leader_id)
        self.voter.elections.leader_heard(now_ns=monotonic_ns())

    def fall_back(self, *, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self.step_down()

    def step_down(self) -> None:
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def commit_through(self, index: int) -> None:
        self._committed = self._SyncObj__raftCommitIndex = max(self._committed, index)

    def vote_requested(self, node_id: str, message: wire.VoteRequest) -> None:
        library_message = {
            "type": "request_vote",
            "term": message.term,
            "last_log_index": message.last_index,
            "last_log_term": message.last_term,
        }
        self._SyncObj__onMessageReceived(self._node(node_id), library_message)

    def vote_granted(self, node_id: str, *, term: int) -> None:
        self._SyncObj__onMessageReceived(self._node(node_id), {"type": "response_vote", "term": term})

    def install(self, snapshot: Snapshot) -> bool:
        kept = entries_beside(snapshot, journal=self._journal)
        if kept is not None and not self._journal.prepare(kept):
            return False
        self._snapshots.install()
        if kept is not None:
            self._journal.adopt(kept)
        self._restore_from(snapshot)
        return True

    def heard(self, node_id: str, *, stamp: int) -> None:
        times, node = self._SyncObj__lastResponseTime, self._node(node_id)
        if node in times:
            times[node] = max(times[node], stamp / 1e9)

    def give_grace(self, *, grace_ns: int) -> None:
        """As a leader that did not listen for a while, fall back no earlier than after `grace_ns`."""
        floor_s = monotonic_s() - self._config.election_timeout_max_ms / 1e3 + grace_ns / 1e9
        times = self._SyncObj__lastResponseTime
        for node in times:
            times[node] = max(times[node], floor_s)

    def hurry(self) -> None:
        self._SyncObj__newAppendEntriesTime = 0.0

    def speak(self) -> None:
        self._SyncObj__sendAppendEntries()

    # Inside.

    def _node(self, node_id: str) -> Node:
        return self._nodes.setdefault(node_id, Node(node_id))

    def _look_at_members(self) -> None:
        """Everybody concerned goes by the newest table of the journal."""
        members = self.roster.members
        if members == self._in_force:
            return
        self._in_force = members
        others = {self._node(node_id) for node_id in members.voters if node_id != self._config.node_id}
        self._SyncObj__otherNodes = others
        for node in others:
            self._SyncObj__raftMatchIndex.setdefault(node, 0)
            self._SyncObj__lastResponseTime.setdefault(node, monotonic_s())
        self.voter.members_changed(members)
        self._members_changed(members)

    def _recover(self) -> None:
        journal, snapshot = self._journal, self._snapshots.read()
        self._SyncObj__raftLog = journal
        if snapshot is not None:
            kept = entries_beside(snapshot, journal=self._journal)
            if kept is not None and not journal.replace(kept):
                raise LogStorageError(
                    "no room on the disk for a journal beside the snapshot; make room and start again"
                )
            self._restore_from(snapshot)
        elif len(journal) == 0:
            journal.add(NO_OP, 1, 0)
            journal.sync()
        elif journal[0][1] != 1:
            raise LogStorageError(f"the journal begins at index {journal[0][1]} and there is no snapshot; {REMEDY}")
        voted_in, last_term = journal.getCurrentTerm(), journal[-1][2]
        self._SyncObj__raftCurrentTerm = max(voted_in, last_term)
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId() if voted_in >= last_term else None

    def _restore_from(self, snapshot: Snapshot) -> None:
        with kept_from_collector(size_bytes=len(snapshot.state)):
            self._restore(snapshot.state, snapshot.last[1])
        self.roster.rebase(snapshot.members)
        self._SyncObj__raftLastApplied = snapshot.last[1]
        self.commit_through(snapshot.last[1])

    # What the library calls on itself, replaced.

    def _SyncObj__applyLogEntries(self) -> bool:
        """At most `APPLY_ENTRIES_MAX` committed entries are applied, without a gap.

        What the library counted as committed is not believed: it takes its own disk for granted.
        """
        self.commit_through(self.voter.committed_through() if self.leading else 0)
        applied = self.applied_index
        for index in range(applied + 1, min(self.commit_index, applied + APPLY_ENTRIES_MAX) + 1):
            entry = self._journal.entry_at(index)
            if entry is None:
                raise LogStorageError(f"entry {index} is committed and not held; {REMEDY}")
            self._apply_entry(entry)
            self._SyncObj__raftLastApplied = index
        return False

    def _checkCommandsToApply(self) -> None:
        """All waiting proposals are in the journal, sent in one message to each follower, and on their way to disk."""
        commands = self._take_proposals(self.leading)
        if not commands:
            return
        for index, command in enumerate(commands, start=self._journal[-1][1] + 1):
            self._journal.add(command, index, self.term)
        self.speak()
        self.voter.begin_sync()

    def _SyncObj__onBecomeLeader(self) -> None:
        self.voter.replication.begin_leading()
        super()._SyncObj__onBecomeLeader()
        self.voter.begin_sync()

    def _SyncObj__sendAppendEntries(self) -> None:
        """The first leader of all puts its table of members behind its first entry, before any command."""
        if self.roster.founding:
            payload = membership.encode(self.roster.members)
            frame = frames.Frame(kind=frames.KIND_MEMBERS, life=0, number=0, payload=payload)
            self._journal.add(frames.encode(frame), self._journal[-1][1] + 1, self.term)
        self._SyncObj__newAppendEntriesTime = monotonic_s() + self._config.heartbeat_ms / 1_000
        for node in sorted(self._SyncObj__connectedNodes, key=_node_id):
            self.voter.replication.send_to(str(node.id))

    def _SyncObj__setState(self, newState: int) -> None:
        """A leader that steps down waits as long as anybody else before it stands again."""
        was_leading = self.leading
        super()._SyncObj__setState(newState)
        if was_leading and newState != LEADER:
            self.voter.elections.wait(now_ns=monotonic_ns())
            self.voter.replication.forget_transfers()

    def _SyncObj__onNodeDisconnected(self, node: Any) -> None:
        super()._SyncObj__onNodeDisconnected(node)
        self.voter.disconnected(str(node.id), now_ns=monotonic_ns())


def _node_id(node: Any) -> str:
    return str(node.id)
