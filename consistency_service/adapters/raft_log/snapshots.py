"""One file that stands for all the log before it, written beside the loop and swapped in on it.

The state is encoded on the event loop, where nothing changes meanwhile; a thread writes and syncs the bytes; the loop
renames. The rename is the decision, and it is taken where it can be refused: a snapshot that arrived from the leader in
the meantime is newer, and an older one must not replace it. One that arrived is synced, read and verified by the thread
as well. No process is forked, so a busy loop pays for the encoding and for taking a state in: keep the state below some
50 MB.

In the file: the length of a head, the head, the state as it is, and a checksum of it all.
"""

from __future__ import annotations

import logging
import struct
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

FORMAT: Final = 2
HEAD_BYTES: Final = struct.Struct(">I")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state after `last`. The entry before it is kept because the library's log begins with two. The head of its
    file is the same without the state.
    """

    format: int
    previous: Entry
    last: Entry
    state: bytes
    members: Members = NOBODY
    """In force at `last`. Of nobody: written before the log knew its members."""
    lineage: int = 0
    """The epoch of the restore with which this history began; 0: it was never restored. See `lineage`."""


@dataclass(slots=True)
class Transfer:
    """A snapshot on its way to one follower: one part at a time, the next when the last was acknowledged."""

    file: OpenFile
    last_index: int
    """Of the snapshot: what the follower will hold."""
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
        self._writing_through = self._verified_through = self._verified_lineage = self._through = 0
        self._renamed = False
        self.lineage = 0
        """Of the newest."""
        self._verification: _Verification | None = None
        self._incoming: OpenFile | None = None
        self._incoming_next = 0
        self._incoming_bytes = 0
        self.failure_count = 0
        for leftover in (self._written_path, self._received_path):
            files.unlink(leftover)

    def read(self) -> Snapshot | None:
        """The newest, or None if there is none. Raises `LogStorageError` on damage."""
        data = self._files.read(self._path)
        newest = None if data is None else decode(data, path=self._path)
        self._through, self.lineage = (0, 0) if newest is None else (newest.last[1], newest.lineage)
        return newest

    # Writing our own.

    def write_nowait(self, snapshot: Snapshot) -> None:
        """Writing has begun, unless one is under way already."""
        if self._job is not None:
            return
        self._writing_through, self._renamed = snapshot.last[1], False
        snapshot = msgspec.structs.replace(snapshot, lineage=self.lineage)
        self._job = self._worker.start(partial(write, snapshot, path=self._written_path, files=self._files))

    @property
    def writing(self) -> bool:
        return self._job is not None

    def finish_nowait(self) -> bool | None:
        """True once, when the written snapshot has become the newest, durably; False once, if that failed; None otherwise."""
        if self._job is None or not self._job.done:
            return None
        job, self._job = self._job, None
        if self._writing_through == 0:
            return False
        try:
            if job.error is not None:
                raise job.error
            if not self._renamed:
                self._files.rename(self._written_path, target=self._path)
                self._renamed, self._through = True, self._writing_through
                self._job = self._worker.start(partial(self._files.sync_directory, self._path.parent))
                return self.finish_nowait()
        except OSError as error:
            self.failure_count += 1
            self._files.unlink(self._written_path)
            logger.error("raft_snapshot_failed", extra={"reason": str(error)})
            return False
        return True

    # Sending and receiving.

    def open_transfer(self) -> Transfer:
        """Of the newest, which has been read or written in this life."""
        return Transfer(file=self._files.open(self._path), last_index=self._through)

    def take_part(self, data: bytes, *, number: int, last: bool) -> Snapshot | bool | None:
        """The part is kept: True; it is out of order, or there is no room: False; it was the last: see `verified_nowait`."""
        try:
            if not self._take_part(data, number=number):
                return False
        except OSError as error:
            return self._refuse(error)
        if not last:
            return True
        assert self._incoming is not None
        file, self._incoming = self._incoming, None
        self._verification = _Verification(file, path=self._received_path, files=self._files)
        self._verification.job = self._worker.start(self._verification.run)
        return self.verified_nowait()

    def verified_nowait(self) -> Snapshot | bool | None:
        """Once, what all the parts made: the snapshot, or False if it is damaged or there is no room; None otherwise.

        A complete one is on the disk, and not yet the newest: see `install`.
        """
        verification = self._verification
        if verification is None or verification.job is None or not verification.job.done:
            return None
        self._verification = None
        if verification.job.error is not None:
            return self._refuse(verification.job.error)
        assert verification.snapshot is not None
        self._verified_through, self._verified_lineage = verification.snapshot.last[1], verification.snapshot.lineage
        return verification.snapshot

    def install(self) -> None:
        """What was received is the newest; what is being written of our own will be thrown away."""
        self._writing_through = 0
        disk.publish(self._files, self._received_path, target=self._path)
        self._through, self.lineage = self._verified_through, self._verified_lineage

    def close(self) -> None:
        """A snapshot still being written is not used."""
        self._abandon()
        verifying = None if self._verification is None else self._verification.job
        for job in (self._job, verifying):
            if job is not None:
                job.wait()
        self._job = self._verification = None

    def _take_part(self, data: bytes, *, number: int) -> bool:
        if number == 0:
            self._abandon()
            self._verification = None
            self._incoming = self._files.open(self._received_path, empty=True)
            self._incoming_next = self._incoming_bytes = 0
        if self._incoming is None or number != self._incoming_next:
            return False
        self._incoming.write(data, offset=self._incoming_bytes)
        self._incoming_bytes += len(data)
        self._incoming_next += 1
        return True

    def _refuse(self, error: Exception) -> bool:
        """False, unless neither lack of room nor damage explains the error: then it is raised."""
        if not isinstance(error, LogStorageError) and getattr(error, "errno", None) not in disk.FULL:
            raise error
        self._abandon()
        self._files.unlink(self._received_path)
        self.failure_count += 1
        logger.warning("raft_snapshot_refused", extra={"reason": str(error)})
        return False

    def _abandon(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None


class _Verification:
    """Work for the thread: everything received is durable, and read again."""

    def __init__(self, file: OpenFile, *, path: Path, files: Files) -> None:
        self._file = file
        self._path = path
        self._files = files
        self.job: Job | None = None
        self.snapshot: Snapshot | None = None

    def run(self) -> None:
        """Raises `LogStorageError` on damage."""
        try:
            self._file.sync()
        finally:
            self._file.close()
        self.snapshot = decode(self._files.read(self._path) or b"", path=self._path)


def decode(data: bytes, *, path: Path) -> Snapshot:
    """Raises `LogStorageError` naming the file."""
    body = disk.unsealed(memoryview(data), path=path, remedy=REMEDY)
    try:
        (length,) = HEAD_BYTES.unpack_from(body)
        state_start = HEAD_BYTES.size + length
        head = msgspec.msgpack.decode(body[HEAD_BYTES.size : state_start], type=Snapshot)
    except (struct.error, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LogStorageError(f"{path}: not a snapshot of this release: {error}; {REMEDY}") from error
    snapshot = msgspec.structs.replace(head, state=bytes(body[state_start:]))
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


def write(snapshot: Snapshot, *, path: Path, files: Files) -> None:
    """A file of it is on the disk. Its name is not yet: see `disk.publish`."""
    head = msgspec.msgpack.encode(msgspec.structs.replace(snapshot, state=b""))
    pieces = disk.sealed_pieces(HEAD_BYTES.pack(len(head)), head, snapshot.state)
    disk.write_pieces(files, path, pieces=pieces)
