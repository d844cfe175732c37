"""How entries and snapshots get from the leader to its followers, and what an acknowledgement proves.

Picture two copies of a strip of paper. The leader names the place after which its piece goes; the follower tears off its
own paper only where the two really differ, glues, waits until the glue is dry, and answers how far the copies agree. An
answer counts in the term in which it was given and in no other. A snapshot travels part by part, each acknowledged, so
that a slow disk looks like a slow disk and not like a dead peer.

Elections, terms and counting a majority are the host's, that is, the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.journal import REMEDY, Entry, Journal
from consistency_service.adapters.raft_log.snapshots import Snapshot, SnapshotStore, Transfer
from consistency_service.errors import LogStorageError


class Host(Protocol):
    """The voter whose entries these are."""

    @property
    def term(self) -> int: ...
    @property
    def leading(self) -> bool: ...
    @property
    def commit_index(self) -> int: ...
    @property
    def applied_index(self) -> int: ...

    def follow(self, leader_id: str, *, term: int) -> None:
        """`term` is durable and not below ours; its leader was heard just now."""
        ...

    def fall_back(self, *, term: int) -> None:
        """There is a newer term; we lead nobody."""
        ...

    def commit_through(self, index: int) -> None: ...

    def install(self, snapshot: Snapshot) -> None:
        """The state, and the journal as far as it disagreed, were replaced."""
        ...

    def matched_through(self, node_id: str) -> int: ...
    def next_index(self, node_id: str) -> int: ...
    def set_matched_through(self, node_id: str, *, index: int) -> None: ...
    def set_next_index(self, node_id: str, *, index: int) -> None: ...

    def heard(self, node_id: str) -> None:
        """A follower confirmed our term."""
        ...

    def hurry(self) -> None:
        """Speak to the followers in the next tick."""
        ...


class Replication:
    """Both ends of it. A journal error of any method is fatal to the node."""

    def __init__(
        self,
        host: Host,
        *,
        config: RaftLogConfig,
        journal: Journal,
        snapshots: SnapshotStore,
        send: Callable[[str, wire.Message], bool],
        backlog_bytes: Callable[[str], int],
    ) -> None:
        self.refused_count = 0
        self._host = host
        self._config = config
        self._journal = journal
        self._snapshots = snapshots
        self._send = send
        self._backlog_bytes = backlog_bytes
        self._transfers: dict[str, Transfer] = {}

    # Following.

    def append_received(self, node_id: str, message: wire.Append) -> None:
        if not self._follow(node_id, term=message.term):
            return
        host, journal = self._host, self._journal
        previous = journal.entry_at(message.previous_index)
        if previous is None:
            beyond = message.previous_index > journal[-1][1]
            wanted = journal[-1][1] + 1 if beyond else host.applied_index + 1
            self._acknowledge(node_id, accepted=False, next_index=wanted)
        elif previous[2] != message.previous_term:
            self._acknowledge(node_id, accepted=False, next_index=self._first_of_term(previous))
        else:
            self._keep(node_id, entries=message.entries)
            journal.sync()
            matched = message.previous_index + len(message.entries)
            host.commit_through(min(message.commit_index, matched))
            self._acknowledge(node_id, accepted=True, next_index=matched + 1)

    def part_received(self, node_id: str, message: wire.SnapshotPart) -> None:
        if not self._follow(node_id, term=message.term):
            return
        taken = self._snapshots.take_part(message.data, number=message.number, last=message.last)
        if isinstance(taken, Snapshot):
            if taken.last[1] > self._host.applied_index:
                self._snapshots.install()
                self._host.install(taken)
            self._acknowledge(node_id, accepted=True, next_index=self._host.applied_index + 1)
        elif taken:
            self._send(node_id, wire.SnapshotPartTaken(term=self._host.term, number=message.number))
        else:
            self._acknowledge(node_id, accepted=False, next_index=self._journal[-1][1] + 1)

    def heartbeat_received(self, node_id: str, message: wire.Heartbeat) -> None:
        if self._follow(node_id, term=message.term):
            self._acknowledge(node_id, accepted=False, next_index=0)

    def _follow(self, node_id: str, *, term: int) -> bool:
        """Whether the sender leads the present term, and is followed. An older one is told of the newer term."""
        if term < self._host.term or (term == self._host.term and self._host.leading):
            self.refused_count += 1
            self._acknowledge(node_id, accepted=False, next_index=0)
            return False
        self._host.follow(node_id, term=term)
        return True

    def _keep(self, node_id: str, *, entries: list[wire.Entry]) -> None:
        """The journal holds these entries; what it held already was not touched, what contradicted them is gone."""
        journal = self._journal
        for place, entry in enumerate(entries):
            held = journal.entry_at(entry.index)
            if held is not None and held[2] == entry.term:
                continue
            if held is not None:
                if entry.index <= self._host.commit_index:
                    raise LogStorageError(f"{node_id} contradicts the committed entry {entry.index}; {REMEDY}")
                journal.deleteEntriesFrom(entry.index - journal[0][1])
            for new in entries[place:]:
                journal.add(new.command, new.index, new.term)
            return

    def _first_of_term(self, entry: Entry) -> int:
        """Where the leader should try next: the start of the term it does not know, but nothing committed again."""
        index = entry[1]
        while index > self._host.commit_index + 1:
            before = self._journal.entry_at(index - 1)
            if before is None or before[2] != entry[2]:
                break
            index -= 1
        return index

    def _acknowledge(self, node_id: str, *, accepted: bool, next_index: int) -> None:
        message = wire.Acknowledgement(term=self._host.term, accepted=accepted, next_index=next_index)
        self._send(node_id, message)

    # Leading.

    def send_to(self, node_id: str) -> None:
        """Everything the follower lacks is on its way, as far as one message and its backlog allow."""
        host = self._host
        if self._backlog_bytes(node_id) > self._config.backlog_bytes_max:
            return
        transfer, next_index = self._transfers.get(node_id), host.next_index(node_id)
        previous = self._journal.entry_at(next_index - 1)
        if transfer is None and previous is None:
            transfer = self._transfers[node_id] = self._snapshots.open_transfer()
            self._send_part(node_id, transfer)
        elif transfer is not None or previous is None:
            self._send(node_id, wire.Heartbeat(term=host.term))
        else:
            entries = self._journal.entries_from(next_index, bytes_max=self._config.batch_bytes_max)
            message = wire.Append(
                term=host.term,
                commit_index=host.commit_index,
                previous_index=previous[1],
                previous_term=previous[2],
                entries=[wire.Entry(*entry) for entry in entries],
            )
            if self._send(node_id, message):
                host.set_next_index(node_id, index=next_index + len(entries))

    def acknowledgement_received(self, node_id: str, message: wire.Acknowledgement) -> None:
        host = self._host
        if message.term > host.term:
            host.fall_back(term=message.term)
            return
        if not self._counts(node_id, term=message.term):
            return
        end = self._journal[-1][1] + 1
        if message.accepted and message.next_index <= end:
            self.forget(node_id)
            host.set_matched_through(node_id, index=max(host.matched_through(node_id), message.next_index - 1))
            host.set_next_index(node_id, index=max(host.next_index(node_id), message.next_index))
        elif message.next_index > 0:
            self.refused_count += message.accepted
            self.forget(node_id)
            wanted = max(2, min(message.next_index, end))  # every journal begins with the same first entry
            host.set_next_index(node_id, index=max(host.matched_through(node_id) + 1, wanted))
            host.hurry()

    def part_taken(self, node_id: str, message: wire.SnapshotPartTaken) -> None:
        transfer = self._transfers.get(node_id)
        if self._counts(node_id, term=message.term) and transfer is not None and message.number == transfer.number:
            transfer.number += 1
            self._send_part(node_id, transfer)

    def forget(self, node_id: str) -> None:
        """No snapshot is on its way to this node."""
        transfer = self._transfers.pop(node_id, None)
        if transfer is not None:
            transfer.close()

    def forget_all(self) -> None:
        for node_id in list(self._transfers):
            self.forget(node_id)

    def _counts(self, node_id: str, *, term: int) -> bool:
        """Whether this is an answer to us as the leader of the present term."""
        if not self._host.leading or term != self._host.term:
            return False
        self._host.heard(node_id)
        return True

    def _send_part(self, node_id: str, transfer: Transfer) -> None:
        data = transfer.file.read(self._config.snapshot_part_bytes)
        last = len(data) < self._config.snapshot_part_bytes
        message = wire.SnapshotPart(term=self._host.term, number=transfer.number, data=data, last=last)
        self._send(node_id, message)
