"""The metadata log: drives one replica from the event loop and turns proposals into answers that can be believed.

Picture a heart and a doorbell. The heart is a timer; the doorbell is rung by every message and proposal, and however often
it rings before the loop comes round, the door is opened once: that makes batches. Whoever proposed waits for its own
entry to be applied here, recognised by its id, for its deadline, or for news that makes the answer unknowable. Whoever
reads waits for the place that a majority confirmed, at any node. If anything in here raises, what the memory holds is no
longer certain and the process ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from consistency_service.adapters.raft_log import frames, membership, recovery, wire
from consistency_service.adapters.raft_log.changes import Changes
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.library import Replica, verify_library
from consistency_service.adapters.raft_log.library_parts import monotonic_ns
from consistency_service.adapters.raft_log.lineage import Lineage
from consistency_service.adapters.raft_log.membership import Members
from consistency_service.adapters.raft_log.process import end_process, wake
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.snapshots import SnapshotStore
from consistency_service.adapters.raft_log.surroundings import SYSTEM, Claim, Surroundings
from consistency_service.adapters.raft_log.transport import PeerTransport
from consistency_service.adapters.raft_log.worker import Worker
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import LogStorageError, SnapshotError
from consistency_service.runtime.ports import (
    Committed,
    LogStatus,
    MembershipChange,
    MembershipOutcome,
    NotLeader,
    ProposalOutcome,
    StateMachine,
    Unknown,
)

logger = logging.getLogger(__name__)

MEMBERS_TIMEOUT_MS: Final = 10_000
"""A table of members that nobody confirms for so long is *unknown* to whoever asked for it."""
Waiter = asyncio.Future[ProposalOutcome]


class RaftLog:
    """A `MetadataLog` replicated by raft. Used on one event loop only. Started once, closed once."""

    def __init__(
        self,
        config: RaftLogConfig,
        *,
        on_fatal: Callable[[str], None] = end_process,
        surroundings: Surroundings = SYSTEM,
    ) -> None:
        """Raises `ConfigError` if the installed library is not the one this was written for."""
        verify_library()
        self._config = config
        self._on_fatal = on_fatal
        self._surroundings = surroundings
        self._changes = Changes(
            config,
            replica=lambda: self._replica if self._running else None,
            append=self._append_members,
            hand_over=lambda: self.transfer(None),
        )
        self._life = surroundings.random.getrandbits(64)
        self._number = 0
        self._queue: deque[tuple[int, bytes]] = deque()
        self._waiters: dict[int, Waiter] = {}
        self._readers: dict[int, Waiter] = {}
        self._listeners: list[Callable[[LogStatus], None]] = []
        self._announced: tuple[str | None, bool, bool] = (None, False, False)
        self._running = False
        self._tick_due = False
        self._proposals_refused_count = self._reads_refused_count = 0
        self._machine: StateMachine | None = None
        self._replica: Replica | None = None
        self._transport: PeerTransport | None = None
        self._workers: tuple[Worker, ...] = ()
        self._lock: Claim | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # The port.

    async def start(self, machine: StateMachine) -> None:
        """Also raises `LogStorageError` when the address or the directory is taken."""
        self._loop = asyncio.get_running_loop()
        self._machine = machine
        self._lock = self._surroundings.claim(self._config.data_dir)
        self._transport = self._surroundings.transport(
            self._config,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_message=self._on_message,
        )
        try:
            self._replica = self._recover(machine, transport=self._transport)
            self._running = True
            await self._transport.start()
        except BaseException:
            await self.close()
            raise
        self._beat()

    async def close(self) -> None:
        """A leader hands over first."""
        self.resign()
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        for waiters in (self._waiters, self._readers):
            self._resolve_all(Unknown(reason="the log was closed"), waiters=waiters)
        if self._transport is not None:
            await self._transport.close()
        if self._replica is not None:
            replica, self._replica = self._replica, None
            try:
                replica.close_files()
            except OSError:
                logger.exception("raft_close_failed")
        for worker in self._workers:
            worker.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self._announce()

    async def propose(self, command: bytes, *, timeout_ms: int) -> ProposalOutcome:
        """Raises `ValueError` for a command above `command_bytes_max`."""
        if len(command) > self._config.command_bytes_max:
            raise ValueError(f"a command has at most {self._config.command_bytes_max} bytes, this one {len(command)}")
        if not self._running or self._replica is None or not self._replica.leading:
            return NotLeader(leader_id=self.status().leader_id)
        if len(self._waiters) >= self._config.proposals_max:
            self._proposals_refused_count += 1
            return Unknown(reason="too many proposals are under way")
        number = self._next_number()
        frame = frames.Frame(kind=frames.KIND_COMMAND, life=self._life, number=number, payload=command)
        self._queue.append((number, frames.encode(frame)))
        return await self._answer(number, waiters=self._waiters, timeout_ms=timeout_ms)

    async def barrier(self, *, timeout_ms: int) -> ProposalOutcome:
        """At any node, without a log entry: a follower asks its leader what to wait for."""
        replica = self._replica
        if not self._running or replica is None or replica.leader_id is None:
            return NotLeader(leader_id=None)
        reads = replica.voter.reads
        if max(len(self._readers), reads.waiting_count) >= self._config.proposals_max:
            self._reads_refused_count += 1
            return Unknown(reason="too many reads are under way")
        number = self._next_number()
        reads.begin(number)
        return await self._answer(number, waiters=self._readers, timeout_ms=timeout_ms)

    async def change_membership(self, change: MembershipChange, *, timeout_ms: int) -> MembershipOutcome:
        return await self._changes.make(change, timeout_ms=timeout_ms)

    def status(self) -> LogStatus:
        replica = self._replica
        members = membership.founders(self._config) if replica is None else replica.roster.members
        believing = replica if self._running else None
        return LogStatus(
            node_id=self._config.node_id,
            leader_id=None if believing is None else believing.leader_id,
            leading=believing is not None and believing.leading,
            term_settled=believing is not None and believing.settled,
            term=0 if replica is None else replica.term,
            commit_index=0 if replica is None else replica.commit_index,
            applied_index=0 if replica is None else replica.applied_index,
            voters=members.voters,
            members=membership.shown(members),
            standing="member" if replica is None else replica.voter.standing,
            storage_fault=None if replica is None else replica.voter.storage_fault(now_ns=monotonic_ns()),
        )

    def resign(self) -> None:
        """Also names an heir, so that the next leader is there within some milliseconds."""
        self.transfer(None)

    def transfer(self, heir: str | None) -> str | None:
        """As a leader: step down in favour of `heir`, or of the follower that holds most; returns whom.

        None: this node did not lead, or nobody could be named. Whether the heir wins is for the others to say. Raises
        `ValueError` for an heir that is no other voter.
        """
        voters = self.status().voters
        if heir is not None and (heir == self._config.node_id or heir not in voters):
            raise ValueError(f"{heir!r} is no other voter of {', '.join(voters)}")
        named: list[str | None] = []
        replica = self._replica
        if replica is not None:
            hold_ns = self._config.resign_hold_ms * 1_000_000

            def step() -> None:
                named.append(replica.voter.hand_over(heir=heir, hold_ns=hold_ns, now_ns=monotonic_ns()))

            self._guarded(step)
            self._ring()
        return named[0] if named else None

    def on_status_change(self, listener: Callable[[LogStatus], None]) -> None:
        """What a listener raises is logged, and its own affair."""
        self._listeners.append(listener)

    def counters(self) -> dict[str, int]:
        """What was refused, dropped or cut so far in this life."""
        counted = dict(self._transport.counters) if self._transport is not None else {}
        counted |= {"proposals_refused": self._proposals_refused_count, "reads_refused": self._reads_refused_count}
        if self._replica is not None:
            counted |= self._replica.voter.counters()
        return counted

    def check_invariants(self) -> None:
        assert len(self._waiters) <= self._config.proposals_max
        assert all(number in self._waiters or number <= self._number for number, _ in self._queue)
        assert len(self._readers) <= self._config.proposals_max
        if self._replica is not None:
            self._replica.voter.check_invariants()
            assert self._replica.applied_index <= self._replica.commit_index

    def _recover(self, machine: StateMachine, *, transport: PeerTransport) -> Replica:
        assert self._loop is not None
        files = self._surroundings.files(self._config)
        wake_loop = partial(wake, self._loop, ring=self._ring)
        make_worker, names = self._surroundings.worker, ("raft-journal", "raft-snapshot")
        self._workers = writers = tuple(make_worker(name=name, wake=wake_loop) for name in names)
        data_dir, node_id = self._config.data_dir, self._config.node_id
        recovery.begin(self._config, files=files)
        journal = Journal(data_dir, node_id=node_id, files=files, worker=writers[0], rewriter=writers[1])
        if journal.repaired_bytes > 0:
            logger.warning("raft_journal_tail_cut", extra={"size_bytes": journal.repaired_bytes})
        snapshots = SnapshotStore(data_dir, files=files, worker=writers[1])
        transport.lineage = Lineage(journal, snapshots=snapshots)
        try:
            return Replica(
                self._config,
                journal=journal,
                snapshots=snapshots,
                send=transport.send_nowait,
                backlog_bytes=transport.backlog_bytes,
                apply=self._apply,
                state=machine.snapshot,
                restore=self._restore,
                take_proposals=self._take_proposals,
                read_resolved=self._read_resolved,
                members_changed=self._members_changed,
                random=self._surroundings.random,
            )
        except BaseException:
            journal.close()
            raise

    def _members_changed(self, members: Members) -> None:
        assert self._transport is not None
        self._transport.set_peers(membership.peers_of(members, config=self._config), removed=members.removed)

    async def _append_members(self, members: Members) -> ProposalOutcome:
        """Called on a leader that may change its members now."""
        assert self._replica is not None
        number = self._next_number()
        payload = membership.encode(members)
        frame = frames.Frame(kind=frames.KIND_MEMBERS, life=self._life, number=number, payload=payload)
        self._guarded(partial(self._replica.append_members, frames.encode(frame)))
        return await self._answer(number, waiters=self._waiters, timeout_ms=MEMBERS_TIMEOUT_MS)

    # Proposals.

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    async def _answer(self, number: int, *, waiters: dict[int, Waiter], timeout_ms: int) -> ProposalOutcome:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        waiters[number] = waiter
        self._ring()
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                return await waiter
        except TimeoutError:
            return Unknown(reason=f"not applied within {timeout_ms} ms")
        finally:
            waiters.pop(number, None)

    def _take_proposals(self, leading: bool) -> list[bytes]:
        """Everything queued that somebody still waits for; if we do not lead, they hear so: nothing was proposed."""
        queued = [(number, entry) for number, entry in self._queue if number in self._waiters]
        self._queue.clear()
        if leading:
            return [entry for _, entry in queued]
        for number, _ in queued:
            self._resolve(number, NotLeader(leader_id=self.status().leader_id))
        return []

    def _apply(self, entry: Entry) -> None:
        command, index, _ = entry
        frame = frames.decode(command)
        if frame is None:
            return
        assert self._machine is not None
        outcome = Outcome()
        if frame.kind == frames.KIND_COMMAND:
            outcome = self._machine.apply(index=index, command=frame.payload)
        if frame.life == self._life:
            self._resolve(frame.number, Committed(index=index, outcome=outcome))

    def _restore(self, state: bytes, index: int) -> None:
        assert self._machine is not None
        try:
            self._machine.restore(state=state, index=index)
        except SnapshotError as error:
            raise LogStorageError(f"the snapshot at index {index} cannot be read: {error}") from error
        self._resolve_all(Unknown(reason="a snapshot took the place of the entries"))

    def _read_resolved(self, number: int, index: int | None) -> None:
        confirmed = Committed(index=index, outcome=Outcome()) if index is not None else None
        self._resolve(number, confirmed or NotLeader(leader_id=self.status().leader_id), waiters=self._readers)

    def _resolve(self, number: int, outcome: ProposalOutcome, *, waiters: dict[int, Waiter] | None = None) -> None:
        waiter = (self._waiters if waiters is None else waiters).pop(number, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(outcome)

    def _resolve_all(self, outcome: ProposalOutcome, *, waiters: dict[int, Waiter] | None = None) -> None:
        for number in list(self._waiters if waiters is None else waiters):
            self._resolve(number, outcome, waiters=waiters)

    # Driving.

    def _beat(self) -> None:
        if self._running and self._loop is not None:
            self._timer = self._loop.call_later(self._config.tick_ms / 1_000, self._beat)
            self._tick()

    def _ring(self) -> None:
        if not self._tick_due and self._running and self._loop is not None:
            self._tick_due = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        replica = self._replica
        if replica is None:
            return
        self._guarded(replica.tick)
        if not replica.leading:
            queued = {number for number, _ in self._queue}
            for number in [number for number in self._waiters if number not in queued]:
                self._resolve(number, Unknown(reason="this node does not lead any more"))
        if replica.behind:
            self._ring()
        self._announce()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Whatever `step` raises ends the process; nothing happens here any more, should it live on."""
        if not self._running:
            return
        try:
            step()
        except Exception as error:
            logger.exception("raft_step_failed")
            self._running = False
            self._resolve_all(Unknown(reason="the log failed"))
            self._resolve_all(Unknown(reason="the log failed"), waiters=self._readers)
            self._on_fatal(f"{type(error).__name__}: {error}")

    def _on_connected(self, node_id: str) -> None:
        if self._replica is not None:
            self._guarded(partial(self._replica.connected, node_id))
            self._ring()

    def _on_disconnected(self, node_id: str) -> None:
        if self._replica is not None:
            self._guarded(partial(self._replica.disconnected, node_id))

    def _on_message(self, node_id: str, message: wire.Peer) -> None:
        if (replica := self._replica) is not None:
            self._guarded(partial(replica.receive, node_id, message))
            self._ring()

    def _announce(self) -> None:
        replica = self._replica if self._running else None
        told = (None, False, False) if replica is None else (replica.leader_id, replica.leading, replica.settled)
        if told == self._announced:
            return
        self._announced = told
        status = self.status()
        for listener in self._listeners:
            try:
                listener(status)
            except Exception:
                logger.exception("raft_listener_failed")
