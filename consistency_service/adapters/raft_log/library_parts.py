# ruff: noqa: N802 -- the names are the library's
"""What pysyncobj is given in place of its own parts: a clock, a transport, a poller, a serializer and settings.

All of it by public names; `library` puts them in.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pysyncobj.syncobj
from pysyncobj import SyncObjConf
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.transport import Transport

from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.replication import Replication
from consistency_service.adapters.raft_log.roster import Roster
from consistency_service.adapters.raft_log.snapshots import FORMAT, Snapshot, SnapshotStore
from consistency_service.adapters.raft_log.voter import Voter

COMPACTION_RETRY_S: Final = 5.0
"""A snapshot or a shorter journal that could not be written, for lack of room say, is tried again after this long."""

FROZEN_BYTES_MIN: Final = 1 << 20


def monotonic_s() -> float:
    """The clock that the library's deadlines are made of."""
    return float(pysyncobj.syncobj.monotonicTime())


def monotonic_ns() -> int:
    return int(monotonic_s() * 1e9)


@contextlib.contextmanager
def kept_from_collector(*, size_bytes: int) -> Iterator[None]:
    """What is made meanwhile, of so many bytes, is not looked through for garbage, now or ever, if it is large.

    It is a state, and stays, or is freed when nothing refers to it any more; to look through a million objects several
    times takes longer than to make them, and nothing else happens meanwhile.
    """
    if size_bytes < FROZEN_BYTES_MIN or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


class Link(Transport):  # type: ignore[misc]
    """What the library calls when it wants to speak: of all its messages only those of an election are left."""

    def __init__(self, voter: Voter) -> None:
        super().__init__(None, None, [])
        self._voter = voter

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "request_vote":
                return self._voter.ask_for_vote(str(node.id))
            case "response_vote":
                return self._voter.grant_vote(str(node.id), term=message["term"])
        raise AssertionError(f"the library sent {message['type']!r}")


class NoPoller:
    """Sockets belong to the event loop."""

    def poll(self, timeout: float) -> None:
        assert timeout == 0.0


class Compaction:
    """The library's serializer, as far as it is still asked: when to compact, and what to keep."""

    def __init__(
        self,
        store: SnapshotStore,
        *,
        journal: Journal,
        replication: Replication,
        roster: Roster,
        state: Callable[[], bytes],
        applied_index: Callable[[], int],
    ) -> None:
        self._store = store
        self._journal = journal
        self._replication = replication
        self._roster = roster
        self._state = state
        self._applied_index = applied_index
        self._first_kept = 0
        self._rewrite_failure_count = 0
        self._retry_at_s = 0.0

    def checkSerializing(self) -> tuple[int, int]:
        match self._store.finish_nowait():
            case True:
                needed = self._replication.first_needed()
                return SERIALIZER_STATE.SUCCESS, self._replication.retention.first_kept(self._first_kept, needed=needed)
            case False:
                self._retry_at_s = monotonic_s() + COMPACTION_RETRY_S
                return SERIALIZER_STATE.FAILED, self._first_kept
        if self._rewrite_failure_count < self._journal.rewrite_failure_count:
            self._rewrite_failure_count = self._journal.rewrite_failure_count
            self._retry_at_s = monotonic_s() + COMPACTION_RETRY_S
        return SERIALIZER_STATE.NOT_SERIALIZING if self._due() else SERIALIZER_STATE.SERIALIZING, self._first_kept

    def _due(self) -> bool:
        if self._store.writing or self._journal.trimming or monotonic_s() < self._retry_at_s:
            return False
        needed = self._replication.first_needed()
        return self._replication.retention.due(applied_index=self._applied_index(), needed=needed)

    def serialize(self, data: tuple[Any, Entry, Entry, Any], identity: int) -> None:
        _, last, previous, _ = data
        self._first_kept = identity
        members = self._roster.at(last[1])
        self._roster.rebase(members)
        snapshot = Snapshot(format=FORMAT, previous=previous, last=last, state=self._state(), members=members)
        self._store.write_nowait(snapshot)


def settings(config: RaftLogConfig) -> Any:
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
        logCompactionMinEntries=2,  # that is, always: `Compaction` decides
        useFork=False,
        bindAddress=config.listen,
    )
