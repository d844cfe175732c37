"""How entries and snapshots get from the leader to its followers, and what an acknowledgement proves.

Picture two copies of a strip of paper. The leader names the place after which its piece goes; the follower tears off its
own paper only where the two really differ, glues, and answers how far the copies agree *and the glue is dry*: if it dries
later, it answers again. An answer counts in the term in which it was given and in no other, and gives back the instant at
which the leader spoke. A snapshot travels part by part, each acknowledged, so that a slow disk looks like a slow disk and
not like a dead peer.

Elections and terms are the host's; counting is `quorum`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from consistency_service.adapters.raft_log import wire
from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.journal import REMEDY, Journal
from consistency_service.adapters.raft_log.quorum import Quorum
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.retention import Retention
from consistency_service.adapters.raft_log.snapshots import Snapshot, SnapshotStore, Transfer
from consistency_service.errors import LogStorageError

TRANSFER_STUCK_NS: Final = 10_000_000_000
"""A snapshot of which no part was acknowledged for so long is sent again from its beginning."""


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

    def install(self, snapshot: Snapshot) -> bool:
        """The snapshot received is the newest; state, and journal as far as it disagreed, were replaced.

        False, and nothing changed, without room for the journal.
        """
        ...

    def next_stamp(self) -> int: ...

    def heard(self, node_id: str, *, stamp: int) -> None:
        """A follower confirmed our term, after this instant of ours."""
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
        begin_sync: Callable[[], None],
    ) -> None:
        self.refused_count = 0
        self.retention = Retention(config, journal=journal)
        self.quorum = Quorum(followers=())
        self._host = host
        self._config = config
        self._journal = journal
        self._snapshots = snapshots
        self._send = send
        self._backlog_bytes = backlog_bytes
        self._begin_sync = begin_sync
        self._next: dict[str, int] = {}
        self._rewound_at: dict[str, int] = {}
        self._transfers: dict[str, Transfer] = {}
        self._agreed: tuple[int, int] = (0, 0)
        """A term, and through which index our log is known to agree with the one of its leader."""
        self._owed: tuple[str, int] | None = None
        """Whom to tell when more is durable, and the newest stamp of theirs."""
        self._verifying: tuple[str, int, int] | None = None
        """Who sent a snapshot of which all parts are here, in which term, and the newest stamp of theirs."""

    # Following.

    def append_received(self, node_id: str, message: wire.Append) -> None:
        if not self._follow(node_id, term=message.term, stamp=message.stamp):
            return
        host, journal = self._host, self._journal
        previous = journal.entry_at(message.previous_index)
        if journal.full:
            self._acknowledge(node_id, accepted=False, next_index=0, stamp=message.stamp)
        elif previous is None:
            beyond = message.previous_index > journal[-1][1]
            wanted = journal[-1][1] + 1 if beyond else host.applied_index + 1
            self._acknowledge(node_id, accepted=False, next_index=wanted, stamp=message.stamp)
        elif previous[2] != message.previous_term:
            wanted = self._first_of_term(previous)
            self._acknowledge(node_id, accepted=False, next_index=wanted, stamp=message.stamp)
        else:
            self._keep(node_id, entries=message.entries)
            matched = message.previous_index + len(message.entries)
            self._agreed = (message.term, max(matched, self.agreed_through(term=message.term)))
            self._begin_sync()
            host.commit_through(min(message.commit_index, matched))
            self._owed = (node_id, message.stamp)
            if not message.entries or journal.durable_through >= matched:
                self.durable_changed()

    def durable_changed(self) -> None:
        """The leader knows how far our disk agrees with its log; it will hear again, if that will be more.

        While entries are on their way to a slow disk, the next heartbeat says that we live.
        """
        if self._owed is None:
            return
        node_id, stamp = self._owed
        agreed, durable = self.agreed_through(term=self._host.term), self._journal.durable_through
        if agreed <= durable:
            self._owed = None
        self._acknowledge(node_id, accepted=True, next_index=min(agreed, durable) + 1, stamp=stamp)

    def agreed_through(self, *, term: int) -> int:
        return self._agreed[1] if self._agreed[0] == term else 0

    def part_received(self, node_id: str, message: wire.SnapshotPart) -> None:
        if not self._follow(node_id, term=message.term, stamp=message.stamp):
            return
        host, stamp = self._host, message.stamp
        if message.last:
            self._verifying = (node_id, message.term, stamp)
        taken = self._snapshots.take_part(message.data, number=message.number, last=message.last)
        if isinstance(taken, Snapshot):
            self._install(taken)
        elif taken:
            counts = not self._journal.rejoining
            self._send(
                node_id,
                wire.SnapshotPartTaken(term=host.term, stamp=stamp, number=message.number, counts=counts),
            )
        elif taken is False:
            self._acknowledge(node_id, accepted=False, next_index=0, stamp=stamp)

    def verified(self) -> None:
        """A snapshot that the thread has read since is installed, and its sender knows."""
        verified = self._snapshots.verified_nowait()
        if isinstance(verified, Snapshot):
            self._install(verified)
        elif verified is False and self._verifying is not None:
            node_id, term, stamp = self._verifying
            if term == self._host.term:
                self._acknowledge(node_id, accepted=False, next_index=0, stamp=stamp)

    def _install(self, snapshot: Snapshot) -> None:
        """What it says is committed, whoever leads by now; only the leader who sent it hears of it."""
        host = self._host
        if host.leading or self._verifying is None:
            return
        (node_id, term, stamp), self._verifying = self._verifying, None
        accepted = snapshot.last[1] <= host.applied_index or host.install(snapshot)
        if term == host.term:
            through = min(host.applied_index, self._journal.durable_through)
            self._acknowledge(node_id, accepted=accepted, next_index=through + 1 if accepted else 0, stamp=stamp)

    def heartbeat_received(self, node_id: str, message: wire.Heartbeat) -> None:
        if self._follow(node_id, term=message.term, stamp=message.stamp):
            self._acknowledge(node_id, accepted=False, next_index=0, stamp=message.stamp)

    def _follow(self, node_id: str, *, term: int, stamp: int) -> bool:
        """Whether the sender leads the present term, and is followed. An older one is told of the newer term."""
        if term < self._host.term or (term == self._host.term and self._host.leading):
            self.refused_count += 1
            self._acknowledge(node_id, accepted=False, next_index=0, stamp=stamp)
            return False
        if self._owed is not None and (self._owed[0] != node_id or term != self._host.term):
            self._owed = None
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

    def _acknowledge(self, node_id: str, *, accepted: bool, next_index: int, stamp: int) -> None:
        message = wire.Acknowledgement(
            term=self._host.term,
            stamp=stamp,
            accepted=accepted,
            next_index=next_index,
            counts=not self._journal.rejoining,
        )
        self._send(node_id, message)

    # Leading.

    def begin_leading(self) -> None:
        """Nothing is known of anybody; everybody is offered what comes next."""
        self.forget_transfers()
        self.quorum.begin()
        self._rewound_at.clear()
        self._next = dict.fromkeys(self.quorum.everybody, self._journal[-1][1] + 1)

    def members_changed(self, followers: tuple[str, ...], learners: tuple[str, ...]) -> None:
        """Others are sent to and counted from here on; whoever is no member any more, at once not."""
        self.quorum.change(followers=followers, learners=learners)
        for former in [node_id for node_id in self._next if node_id not in self.quorum]:
            self.forget_transfer(former)
            self._rewound_at.pop(former, None)
            del self._next[former]
        for node_id in self.quorum.everybody:
            self._next.setdefault(node_id, self._journal[-1][1] + 1)

    def send_to(self, node_id: str) -> None:
        """Everything the follower lacks is on its way, as far as one message and its backlog allow."""
        host = self._host
        if node_id not in self.quorum or self._backlog_bytes(node_id) > self._config.backlog_bytes_max:
            return
        transfer, next_index = self._transfers.get(node_id), self._next[node_id]
        if transfer is not None and host.next_stamp() > transfer.sent_at + TRANSFER_STUCK_NS:
            self.forget_transfer(node_id)
            transfer = None
        previous = self._journal.entry_at(next_index - 1)
        if transfer is None and previous is None:
            transfer = self._transfers[node_id] = self._snapshots.open_transfer()
            self._send_part(node_id, transfer)
        elif transfer is not None or previous is None:
            self._send(node_id, wire.Heartbeat(term=host.term, stamp=host.next_stamp()))
        else:
            entries = self._journal.entries_from(next_index, bytes_max=self._config.batch_bytes_max)
            message = wire.Append(
                term=host.term,
                stamp=host.next_stamp(),
                commit_index=host.commit_index,
                previous_index=previous[1],
                previous_term=previous[2],
                entries=[wire.Entry(*entry) for entry in entries],
            )
            if self._send(node_id, message):
                self._next[node_id] = next_index + len(entries)

    def acknowledgement_received(self, node_id: str, message: wire.Acknowledgement) -> None:
        host, quorum = self._host, self.quorum
        if message.term > host.term:
            host.fall_back(term=message.term)
            return
        if not self._counts(node_id, term=message.term, stamp=message.stamp, counts=message.counts):
            return
        end = self._journal[-1][1] + 1
        if message.accepted and message.next_index <= end:
            self.forget_transfer(node_id)
            quorum.matched(node_id, index=message.next_index - 1)
            self._next[node_id] = max(self._next[node_id], message.next_index)
        elif message.next_index > 0 and message.stamp >= self._rewound_at.get(node_id, 0):
            self.refused_count += message.accepted
            self.forget_transfer(node_id)
            wanted = max(2, min(message.next_index, end))  # every journal begins with the same first entry
            self._next[node_id] = max(quorum.matched_through(node_id) + 1, wanted)
            self._rewound_at[node_id] = host.next_stamp()
            host.hurry()

    def part_taken(self, node_id: str, message: wire.SnapshotPartTaken) -> None:
        transfer = self._transfers.get(node_id)
        counted = self._counts(node_id, term=message.term, stamp=message.stamp, counts=message.counts)
        if counted and transfer is not None and message.number == transfer.number:
            transfer.number += 1
            self._send_part(node_id, transfer)

    def first_needed(self) -> int | None:
        """As a leader: the first entry of the journal that a follower within reach needs; None: nobody needs any.

        A follower goes on from what its disk is known to hold; with a snapshot on its way, from the end of that. Who has
        fallen out of the journal, and whoever was not heard of since it connected, needs no entry but a snapshot.
        """
        if not self._host.leading:
            return None
        quorum, transfers = self.quorum, self._transfers
        ends = [
            transfers[node_id].last_index if node_id in transfers else quorum.matched_through(node_id)
            for node_id in quorum.everybody
        ]
        return min((end for end in ends if self._journal.entry_at(end) is not None), default=None)

    def disconnected(self, node_id: str) -> None:
        """Nothing is believed of what it held: it may come back with less."""
        self.forget_transfer(node_id)
        self.quorum.forget(node_id)
        self._rewound_at.pop(node_id, None)
        if self._owed is not None and self._owed[0] == node_id:
            self._owed = None

    def forget_transfer(self, node_id: str) -> None:
        """No snapshot is on its way to this node."""
        transfer = self._transfers.pop(node_id, None)
        if transfer is not None:
            transfer.close()

    def forget_transfers(self) -> None:
        for node_id in list(self._transfers):
            self.forget_transfer(node_id)

    def counters(self) -> dict[str, int]:
        return {
            "messages_refused": self.refused_count,
            "snapshots_failed": self._snapshots.failure_count,
            "journal_rewrites_failed": self._journal.rewrite_failure_count,
            "needed_entries_given_up": self.retention.given_up_count,
        }

    def _counts(self, node_id: str, *, term: int, stamp: int, counts: bool) -> bool:
        """Whether this is an answer of a member to us as the leader of the present term."""
        if not self._host.leading or term != self._host.term or node_id not in self.quorum:
            return False
        self.quorum.answered(node_id, stamp=stamp, counts=counts)
        if counts:
            self._host.heard(node_id, stamp=stamp)
        return True

    def _send_part(self, node_id: str, transfer: Transfer) -> None:
        data = transfer.file.read(self._config.snapshot_part_bytes)
        host, last = self._host, len(data) < self._config.snapshot_part_bytes
        stamp = transfer.sent_at = host.next_stamp()
        message = wire.SnapshotPart(term=host.term, stamp=stamp, number=transfer.number, data=data, last=last)
        self._send(node_id, message)
