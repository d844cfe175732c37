"""One file that stands for all the log before it, written beside the loop and swapped in on it.

The state is encoded on the event loop, where nothing changes meanwhile; a thread writes and syncs the bytes; the loop
renames. The rename is the decision, and it is taken where it can be refused: a snapshot that arrived from the leader in
the meantime is newer, and an older one must not replace it. No process is forked, so a busy loop pays for the encoding:
keep the state below some 50 MB.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from consistency_service.adapters.raft_log import disk
from consistency_service.adapters.raft_log.journal import REMEDY, Entry
from consistency_service.errors import LogStorageError

logger = logging.getLogger(__name__)

FORMAT: Final = 1
RETRY_AFTER_S: Final = 5.0
"""A snapshot that could not be written, for lack of room say, is tried again after this long."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state after `last`. The entry before it is kept because the library's log begins with two."""

    format: int
    previous: Entry
    last: Entry
    state: bytes


@dataclass(slots=True)
class Transfer:
    """A snapshot on its way to one follower: one part at a time, the next when the last was acknowledged."""

    file: BinaryIO
    number: int = 0

    def close(self) -> None:
        self.file.close()


class SnapshotStore:
    """The newest snapshot of this node, and at most one being written and one being received."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "snapshot"
        self._written_path = directory / "snapshot.written"
        self._received_path = directory / "snapshot.received"
        self._writer: threading.Thread | None = None
        self._writer_error: Exception | None = None
        self._writing_through = 0
        self._retry_at_s = 0.0
        self._incoming: BinaryIO | None = None
        self._incoming_next = 0
        self.failure_count = 0
        for leftover in (self._written_path, self._received_path):
            leftover.unlink(missing_ok=True)

    def read(self) -> Snapshot | None:
        """The newest, or None if there is none. Raises `LogStorageError` on damage."""
        return _read(self._path) if self._path.exists() else None

    # Writing our own.

    def write_nowait(self, snapshot: Snapshot) -> None:
        """Writing has begun, unless one is under way already."""
        if self._writer is not None:
            return
        self._writing_through = snapshot.last[1]
        self._writer_error = None
        self._writer = threading.Thread(target=self._write, args=(snapshot,), name="snapshot-writer", daemon=True)
        self._writer.start()

    @property
    def writing(self) -> bool:
        return self._writer is not None

    @property
    def held_off(self) -> bool:
        """A write failed a moment ago."""
        return time.monotonic() < self._retry_at_s

    def finish_nowait(self) -> bool | None:
        """True once, when the written snapshot has become the newest; False once, if that failed; None otherwise."""
        if self._writer is None or self._writer.is_alive():
            return None
        self._writer = None
        try:
            if self._writer_error is not None:
                raise self._writer_error
            if self._writing_through == 0:
                return False
            disk.publish(self._written_path, target=self._path)
        except OSError as error:
            self.failure_count += 1
            self._retry_at_s = time.monotonic() + RETRY_AFTER_S
            logger.error("raft_snapshot_failed", extra={"reason": str(error)})
            return False
        return True

    def _write(self, snapshot: Snapshot) -> None:
        try:
            disk.write_file(self._written_path, disk.sealed(msgspec.msgpack.encode(snapshot)))
        except Exception as error:
            self._writer_error = error

    # Sending and receiving.

    def open_transfer(self) -> Transfer:
        return Transfer(file=self._path.open("rb"))

    def take_part(self, data: bytes, *, number: int, last: bool) -> Snapshot | bool:
        """The part is kept: True; it is out of order or the whole is damaged: False; it was the last: the snapshot.

        A complete one is on the disk, and not yet the newest: see `install`.
        """
        if number == 0:
            self._abandon()
            self._incoming = self._received_path.open("wb")
            self._incoming_next = 0
        if self._incoming is None or number != self._incoming_next:
            return False
        self._incoming.write(data)
        self._incoming_next += 1
        if not last:
            return True
        self._incoming.flush()
        os.fsync(self._incoming.fileno())
        self._abandon()
        try:
            return _read(self._received_path)
        except LogStorageError as error:
            self.failure_count += 1
            logger.warning("raft_snapshot_refused", extra={"reason": str(error)})
            return False

    def install(self) -> None:
        """What was received is the newest; what is being written of our own will be thrown away."""
        self._writing_through = 0
        disk.publish(self._received_path, target=self._path)

    def close(self) -> None:
        """No thread is left. A snapshot still being written is finished on the disk and not used."""
        self._abandon()
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _abandon(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None


def _read(path: Path) -> Snapshot:
    body = disk.unsealed(path.read_bytes(), path=path, remedy=REMEDY)
    try:
        snapshot = msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise LogStorageError(f"{path}: not a snapshot of this release: {error}; {REMEDY}") from error
    if snapshot.format != FORMAT or snapshot.last[1] != snapshot.previous[1] + 1:
        raise LogStorageError(f"{path}: format {snapshot.format} is not {FORMAT}, or its entries disagree; {REMEDY}")
    return snapshot
