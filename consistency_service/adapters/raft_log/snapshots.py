"""One file that stands for all the log before it, written beside the loop and swapped in on it.

The state is encoded on the event loop, where nothing changes meanwhile; a thread writes and syncs the bytes; the loop
renames. The rename is the decision, and it is taken where it can be refused: a snapshot that arrived from the leader in
the meantime is newer, and an older one must not replace it. No process is forked, so a busy loop pays for the encoding:
keep the state below some 50 MB.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from consistency_service.adapters.raft_log import disk
from consistency_service.adapters.raft_log.disk import Files, OpenFile
from consistency_service.adapters.raft_log.journal import REMEDY, Journal
from consistency_service.adapters.raft_log.membership import NOBODY, Members
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.worker import Job, NoWorker, Worker
from consistency_service.errors import LogStorageError

logger = logging.getLogger(__name__)

FORMAT: Final = 1


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state after `last`. The entry before it is kept because the library's log begins with two."""

    format: int
    previous: Entry
    last: Entry
    state: bytes
    members: Members = NOBODY
    """In force at `last`. Of nobody: written before the log knew its members."""


@dataclass(slots=True)
class Transfer:
    """A snapshot on its way to one follower: one part at a time, the next when the last was acknowledged."""

    file: OpenFile
    number: int = 0
    sent_at: int = 0
    """The stamp of the newest part."""

    def close(self) -> None:
        self.file.close()


class SnapshotStore:
    """The newest snapshot of this node, and at most one being written and one being received."""

    def __init__(self, directory: Path, *, files: Files, worker: Worker | None = None) -> None:
        self._path = directory / "snapshot"
        self._written_path = directory / "snapshot.written"
        self._received_path = directory / "snapshot.received"
        self._files = files
        self._worker = worker or NoWorker()
        self._job: Job | None = None
        self._writing_through = 0
        self._incoming: OpenFile | None = None
        self._incoming_next = 0
        self._incoming_bytes = 0
        self.failure_count = 0
        for leftover in (self._written_path, self._received_path):
            files.unlink(leftover)

    def read(self) -> Snapshot | None:
        """The newest, or None if there is none. Raises `LogStorageError` on damage."""
        return self._read(self._path)

    # Writing our own.

    def write_nowait(self, snapshot: Snapshot) -> None:
        """Writing has begun, unless one is under way already."""
        if self._job is not None:
            return
        self._writing_through = snapshot.last[1]
        self._job = self._worker.start(partial(_write, snapshot, path=self._written_path, files=self._files))

    @property
    def writing(self) -> bool:
        return self._job is not None

    def finish_nowait(self) -> bool | None:
        """True once, when the written snapshot has become the newest; False once, if that failed; None otherwise."""
        if self._job is None or not self._job.done:
            return None
        job, self._job = self._job, None
        if self._writing_through == 0:
            return False
        try:
            if job.error is not None:
                raise job.error
            disk.publish(self._files, self._written_path, target=self._path)
        except OSError as error:
            self.failure_count += 1
            self._files.unlink(self._written_path)
            logger.error("raft_snapshot_failed", extra={"reason": str(error)})
            return False
        return True

    # Sending and receiving.

    def open_transfer(self) -> Transfer:
        return Transfer(file=self._files.open(self._path))

    def take_part(self, data: bytes, *, number: int, last: bool) -> Snapshot | bool:
        """The part is kept: True; it is out of order, the whole is damaged, or there is no room: False; it was the
        last: the snapshot.

        A complete one is on the disk, and not yet the newest: see `install`.
        """
        try:
            return self._take_part(data, number=number, last=last)
        except OSError as error:
            if error.errno not in disk.FULL:
                raise
            reason = str(error)
        except LogStorageError as error:
            reason = str(error)
        self._abandon()
        self._files.unlink(self._received_path)
        self.failure_count += 1
        logger.warning("raft_snapshot_refused", extra={"reason": reason})
        return False

    def install(self) -> None:
        """What was received is the newest; what is being written of our own will be thrown away."""
        self._writing_through = 0
        disk.publish(self._files, self._received_path, target=self._path)

    def close(self) -> None:
        """A snapshot still being written is not used."""
        self._abandon()
        if self._job is not None:
            self._job.wait()
            self._job = None

    def _take_part(self, data: bytes, *, number: int, last: bool) -> Snapshot | bool:
        if number == 0:
            self._abandon()
            self._incoming = self._files.open(self._received_path, empty=True)
            self._incoming_next = self._incoming_bytes = 0
        if self._incoming is None or number != self._incoming_next:
            return False
        self._incoming.write(data, offset=self._incoming_bytes)
        self._incoming_bytes += len(data)
        self._incoming_next += 1
        if not last:
            return True
        self._incoming.sync()
        self._abandon()
        received = self._read(self._received_path)
        assert received is not None
        return received

    def _abandon(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None

    def _read(self, path: Path) -> Snapshot | None:
        data = self._files.read(path)
        if data is None:
            return None
        return decode(data, path=path)


def decode(data: bytes, *, path: Path) -> Snapshot:
    """Raises `LogStorageError` naming the file."""
    body = disk.unsealed(data, path=path, remedy=REMEDY)
    try:
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise LogStorageError(f"{path}: not a snapshot of this release: {error}; {REMEDY}") from error
    if snapshot.format != FORMAT or snapshot.last[1] != snapshot.previous[1] + 1:
        raise LogStorageError(f"{path}: format {snapshot.format} is not {FORMAT}, or its entries disagree; {REMEDY}")
    return snapshot


def entries_beside(snapshot: Snapshot, *, journal: Journal) -> list[Entry] | None:
    """What a journal must hold to go with a snapshot: of its own entries, those that agree with the snapshot and go
    beyond it. None if it holds that already. Raises `LogStorageError` on a gap between the two.
    """
    first, (_, index, term) = snapshot.previous[1], snapshot.last
    if len(journal) > 0 and journal[0][1] > first:
        raise LogStorageError(f"the journal begins at {journal[0][1]}, after the snapshot's {index}; {REMEDY}")
    held, previous = journal.entry_at(index), journal.entry_at(first)
    if held is None or previous is None or held[2] != term:
        return [snapshot.previous, snapshot.last]
    return None if journal[0] == previous else journal[first - journal[0][1] :]


def _write(snapshot: Snapshot, *, path: Path, files: Files) -> None:
    disk.write_file(files, path, data=disk.sealed(msgspec.msgpack.encode(snapshot)))
