# ruff: noqa: N802, N803 -- the names are the library's
"""The only module that knows pysyncobj, and everything of it that is not public.

What is left to the library: terms, votes, elections, when a leader falls back, counting a majority, when to compact. What
is replaced, because stock it loses or invents acknowledged writes: its journal, snapshots and wire, how entries are
appended and acknowledged, how they are applied, how commands enter. Private names do not keep still between releases;
so the library's source is compared with the one this was written for, and on any other the node does not start.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.frames import NO_OP
from consistency_service.adapters.raft_log.journal import REMEDY, Entry, Journal
from consistency_service.adapters.raft_log.replication import Replication
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot, SnapshotStore
from consistency_service.errors import ConfigError, LogStorageError

SYNCOBJ_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"
"""Of `syncobj.py` in pysyncobj 0.3.17."""

# fmt: off
PRIVATE_NAMES: Final = (
    "_SyncObj__connectedNodes", "_SyncObj__lastResponseTime", "_SyncObj__newAppendEntriesTime", "_SyncObj__noopIDx",
    "_SyncObj__raftCommitIndex", "_SyncObj__raftCurrentTerm", "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied", "_SyncObj__raftLeader", "_SyncObj__raftLog", "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex", "_SyncObj__raftState", "_SyncObj__serializer", "_SyncObj__votedForNodeId", "_poller",
    "_SyncObj__generateRaftTimeout", "_SyncObj__onMessageReceived", "_SyncObj__setCurrentTerm", "_onTick",
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


def monotonic_s() -> float:
    """The clock that the library's deadlines are made of."""
    return float(pysyncobj.syncobj.monotonicTime())


class _Link(Transport):  # type: ignore[misc]
    """What the library calls when it wants to speak: of all its messages only those of an election are left."""

    def __init__(self, send: Callable[[str, wire.Message], bool]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "request_vote":
                vote_request = wire.VoteRequest(
                    term=message["term"], last_index=message["last_log_index"], last_term=message["last_log_term"]
                )
                return self._send(node.id, vote_request)
            case "response_vote":
                return self._send(node.id, wire.Vote(term=message["term"]))
        raise AssertionError(f"the library sent {message['type']!r}")


class _NoPoller:
    """Sockets belong to the event loop."""

    def poll(self, timeout: float) -> None:
        assert timeout == 0.0


class _Compaction:
    """The library's serializer, as far as it is still asked."""

    def __init__(self, store: SnapshotStore, *, state: Callable[[], bytes]) -> None:
        self._store = store
        self._state = state
        self._first_kept = 0

    def checkSerializing(self) -> tuple[int, int]:
        match self._store.finish_nowait():
            case True:
                return SERIALIZER_STATE.SUCCESS, self._first_kept
            case False:
                return SERIALIZER_STATE.FAILED, self._first_kept
        busy = self._store.writing or self._store.held_off
        return SERIALIZER_STATE.SERIALIZING if busy else SERIALIZER_STATE.NOT_SERIALIZING, self._first_kept

    def serialize(self, data: tuple[Any, Entry, Entry, Any], identity: int) -> None:
        _, last, previous, _ = data
        self._first_kept = identity
        self._store.write_nowait(Snapshot(format=FORMAT, previous=previous, last=last, state=self._state()))


class Replica(SyncObj):  # type: ignore[misc]
    """One voter. Everything runs in `tick` and `receive`, on the event loop; what they raise is fatal.

    `apply` gets every committed entry once and in order, no-ops included.
    """

    _SyncObj__raftCommitIndex: int
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
    ) -> None:
        verify_library()
        self._config = config
        self._journal = journal
        self._snapshots = snapshots
        self._apply_entry = apply
        self._restore = restore
        self._take_proposals = take_proposals
        self._nodes = {node_id: Node(node_id) for node_id in sorted(config.peers)}
        self._votes: tuple[int, list[str]] = (0, [])
        self._hold_until_s = 0.0
        self._replication = Replication(
            self, config=config, journal=journal, snapshots=snapshots, send=send, backlog_bytes=backlog_bytes
        )
        others = [node for node_id, node in self._nodes.items() if node_id != config.node_id]
        self._link = _Link(send)
        super().__init__(self._nodes[config.node_id], others, conf=_settings(config), transport=self._link)
        self._poller = _NoPoller()
        self._SyncObj__serializer = _Compaction(snapshots, state=state)
        self._recover()

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
        return self.leading and self.applied_index >= self._SyncObj__noopIDx

    @property
    def refused_count(self) -> int:
        return self._replication.refused_count

    @property
    def behind(self) -> bool:
        """More is committed than was applied in the last tick."""
        return self.commit_index > self.applied_index

    def tick(self) -> None:
        """Whatever is due has been done."""
        if monotonic_s() < self._hold_until_s:
            self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, self._hold_until_s)
        self._onTick(0.0)

    def resign(self) -> None:
        """Not the leader, and not a candidate for a while."""
        if self.leading:
            self._hold_until_s = monotonic_s() + self._config.resign_hold_ms / 1_000
            self._step_down()

    def connected(self, node_id: str) -> None:
        self._link._onNodeConnected(self._nodes[node_id])

    def disconnected(self, node_id: str) -> None:
        self._link._onNodeDisconnected(self._nodes[node_id])

    def receive(self, node_id: str, message: wire.Peer) -> None:
        """The message has been acted upon, and answered if it asks for an answer."""
        match message:
            case wire.VoteRequest():
                library_message = {
                    "type": "request_vote",
                    "term": message.term,
                    "last_log_index": message.last_index,
                    "last_log_term": message.last_term,
                }
                self._SyncObj__onMessageReceived(self._nodes[node_id], library_message)
            case wire.Vote():
                self._vote_received(node_id, message)
            case wire.Append():
                self._replication.append_received(node_id, message)
            case wire.Acknowledgement():
                self._replication.acknowledgement_received(node_id, message)
            case wire.SnapshotPart():
                self._replication.part_received(node_id, message)
            case wire.SnapshotPartTaken():
                self._replication.part_taken(node_id, message)
            case wire.Heartbeat():
                self._replication.heartbeat_received(node_id, message)

    def close_files(self) -> None:
        self._replication.forget_all()
        self._snapshots.close()
        self._journal.close()

    # What replication needs of the library: see `replication.Host`.

    def follow(self, leader_id: str, *, term: int) -> None:
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = self._nodes[leader_id]
        self._SyncObj__raftElectionDeadline = monotonic_s() + self._SyncObj__generateRaftTimeout()

    def fall_back(self, *, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._step_down()

    def commit_through(self, index: int) -> None:
        self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, index)

    def install(self, snapshot: Snapshot) -> None:
        """The state is the snapshot's; of the journal, what agrees with the snapshot and goes beyond it is kept."""
        journal, (_, index, term) = self._journal, snapshot.last
        if len(journal) > 0 and journal[0][1] > snapshot.previous[1]:
            raise LogStorageError(f"the journal begins at {journal[0][1]}, after the snapshot's {index}; {REMEDY}")
        held, previous = journal.entry_at(index), journal.entry_at(snapshot.previous[1])
        if held is not None and previous is not None and held[2] == term:
            journal.deleteEntriesTo(snapshot.previous[1] - journal[0][1])
        else:
            journal.replace([snapshot.previous, snapshot.last])
        self._restore(snapshot.state, index)
        self._SyncObj__raftLastApplied = index
        self.commit_through(index)

    def matched_through(self, node_id: str) -> int:
        return int(self._SyncObj__raftMatchIndex[self._nodes[node_id]])

    def next_index(self, node_id: str) -> int:
        return int(self._SyncObj__raftNextIndex[self._nodes[node_id]])

    def set_matched_through(self, node_id: str, *, index: int) -> None:
        self._SyncObj__raftMatchIndex[self._nodes[node_id]] = index

    def set_next_index(self, node_id: str, *, index: int) -> None:
        self._SyncObj__raftNextIndex[self._nodes[node_id]] = index

    def heard(self, node_id: str) -> None:
        self._SyncObj__lastResponseTime[self._nodes[node_id]] = monotonic_s()

    def hurry(self) -> None:
        self._SyncObj__newAppendEntriesTime = 0.0

    # Inside.

    def _recover(self) -> None:
        journal, snapshot = self._journal, self._snapshots.read()
        self._SyncObj__raftLog = journal
        if snapshot is not None:
            self.install(snapshot)
        elif len(journal) == 0:
            journal.add(NO_OP, 1, 0)
            journal.sync()
        elif journal[0][1] != 1:
            raise LogStorageError(f"the journal begins at index {journal[0][1]} and there is no snapshot; {REMEDY}")
        voted_in, last_term = journal.getCurrentTerm(), journal[-1][2]
        self._SyncObj__raftCurrentTerm = max(voted_in, last_term)
        self._SyncObj__votedForNodeId = journal.getVotedForNodeId() if voted_in >= last_term else None

    def _vote_received(self, node_id: str, message: wire.Vote) -> None:
        """Counted once for each voter and term."""
        term, voters = self._votes
        if message.term != self.term or (term == message.term and node_id in voters):
            return
        self._votes = (message.term, [*voters, node_id] if term == message.term else [node_id])
        library_message = {"type": "response_vote", "term": message.term}
        self._SyncObj__onMessageReceived(self._nodes[node_id], library_message)

    def _step_down(self) -> None:
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    # What the library calls on itself, replaced.

    def _SyncObj__applyLogEntries(self) -> bool:
        """At most `APPLY_ENTRIES_MAX` committed entries are applied, without a gap."""
        applied = self.applied_index
        for index in range(applied + 1, min(self.commit_index, applied + APPLY_ENTRIES_MAX) + 1):
            entry = self._journal.entry_at(index)
            if entry is None:
                raise LogStorageError(f"entry {index} is committed and not held; {REMEDY}")
            self._apply_entry(entry)
            self._SyncObj__raftLastApplied = index
        return False

    def _checkCommandsToApply(self) -> None:
        """All waiting proposals are in the journal, sent in one message to each follower, and durable here."""
        commands = self._take_proposals(self.leading)
        if not commands:
            return
        for index, command in enumerate(commands, start=self._journal[-1][1] + 1):
            self._journal.add(command, index, self.term)
        self._SyncObj__sendAppendEntries()
        self._journal.sync()

    def _SyncObj__onBecomeLeader(self) -> None:
        super()._SyncObj__onBecomeLeader()
        self._journal.sync()

    def _SyncObj__sendAppendEntries(self) -> None:
        self._SyncObj__newAppendEntriesTime = monotonic_s() + self._config.heartbeat_ms / 1_000
        for node in sorted(self._SyncObj__connectedNodes, key=_node_id):
            self._replication.send_to(str(node.id))

    def _SyncObj__setState(self, newState: int) -> None:
        """A leader that steps down waits as long as anybody else before it stands again."""
        was_leading = self.leading
        super()._SyncObj__setState(newState)
        if was_leading and newState != LEADER:
            self._SyncObj__raftElectionDeadline = monotonic_s() + self._SyncObj__generateRaftTimeout()
            self._replication.forget_all()

    def _SyncObj__onNodeDisconnected(self, node: Any) -> None:
        """Nothing is believed of what it held: it may come back with less."""
        super()._SyncObj__onNodeDisconnected(node)
        self._replication.forget(str(node.id))
        if node in self._SyncObj__raftMatchIndex:
            self._SyncObj__raftMatchIndex[node] = 0


def _node_id(node: Any) -> str:
    return str(node.id)


def _settings(config: RaftLogConfig) -> Any:
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=config.heartbeat_ms / 1_000,
        appendEntriesBatchSizeBytes=config.batch_bytes_max,
        raftMinTimeout=config.election_timeout_min_ms / 1_000,
        raftMaxTimeout=config.election_timeout_max_ms / 1_000,
        leaderFallbackTimeout=config.election_timeout_max_ms / 1_000,
        connectionTimeout=config.connection_timeout_ms / 1_000,
        connectionRetryTime=config.connection_retry_ms / 1_000,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        logCompactionMinEntries=config.compaction_min_entries,
        useFork=False,
        bindAddress=config.listen,
    )
