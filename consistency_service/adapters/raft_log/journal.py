"""The log on disk, and the vote: what this node has promised, kept through power cuts.

Picture a strip of records that only grows at its end. Appending costs memory until `sync`, which makes everything before
it durable; nobody may be told of an entry earlier. A record torn by a crash at the very end was never acknowledged and is
cut off. Damage with whole records after it is something else, a disk that lies, and the node refuses to start on it.
There is no commit index here: an old one would be believed.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final, overload

import msgspec

from consistency_service.adapters.raft_log import disk
from consistency_service.errors import LogStorageError

MAGIC: Final = b"CCSLOG\x00\x01"
MARK: Final = b"\xc5REC"
HEAD: Final = struct.Struct(">4sII")  # mark, length and checksum of what follows
PLACE: Final = struct.Struct(">QQ")  # index, term
RECORD_BYTES_MAX: Final = 16 << 20
REMEDY: Final = "restore this node from its own copy, or replace it by a node with a new id"

Entry = tuple[bytes, int, int]
"""`(command, index, term)`, in the library's order."""


class Vote(msgspec.Struct, frozen=True, array_like=True):
    node_id: str
    term: int
    voted_for: str | None


class Journal:
    """Shaped as the library expects its journal, names included. Raises `LogStorageError` on damage, `OSError` as met.

    An `OSError` of `sync` must end the process: what the disk holds is not known after it.
    """

    def __init__(self, directory: Path, *, node_id: str) -> None:
        self._path = directory / "journal"
        self._vote_path = directory / "vote"
        self._entries: list[Entry] = []
        self._offsets: list[int] = []
        self._unsynced = bytearray()
        self._end = len(MAGIC)
        self.repaired_bytes = 0
        self._vote = self._read_vote(node_id)
        if not self._path.exists():
            self._publish_file(MAGIC)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._recover()
        except BaseException:
            os.close(self._descriptor)
            raise

    # What the library calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        record = _record((command, idx, term))
        self._entries.append((command, idx, term))
        self._offsets.append(self._end)
        self._unsynced += record
        self._end += len(record)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        return self._entries[place]

    def __len__(self) -> int:
        return len(self._entries)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """The end is gone, in the file too; the cut is durable with the next `sync`."""
        if entryFrom >= len(self._entries):
            return
        self._flush()
        self._end = self._offsets[entryFrom]
        del self._entries[entryFrom:]
        del self._offsets[entryFrom:]
        os.ftruncate(self._descriptor, self._end)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """The beginning is gone, durably."""
        if entryTo > 0:
            self.replace(self._entries[entryTo:])

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Not kept."""

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Durable on return, and so before any message speaks of it."""
        vote = Vote(node_id=self._vote.node_id, term=term, voted_for=votedForNodeId)
        if vote != self._vote:
            self._publish_vote(vote)
            self._vote = vote

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._vote.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._vote.voted_for

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Nothing is put off."""

    def _destroy(self) -> None:
        self.close()

    # What we call.

    def sync(self) -> None:
        """Everything added so far is durable."""
        if self._unsynced:
            self._flush()
            os.fdatasync(self._descriptor)

    def replace(self, entries: list[Entry]) -> None:
        """The journal holds exactly these entries, durably and in one step."""
        records = [_record(entry) for entry in entries]
        self._publish_file(MAGIC + b"".join(records))
        os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._unsynced.clear()
        self._entries = list(entries)
        self._offsets = []
        self._end = len(MAGIC)
        for record in records:
            self._offsets.append(self._end)
            self._end += len(record)

    def entry_at(self, index: int) -> Entry | None:
        """The entry of this log index, if it is held."""
        place = index - self._entries[0][1] if self._entries else -1
        return self._entries[place] if 0 <= place < len(self._entries) else None

    def entries_from(self, index: int, *, bytes_max: int) -> list[Entry]:
        """The entries from `index` on, the last of which is the first to reach `bytes_max` together."""
        entries: list[Entry] = []
        size_bytes = 0
        entry = self.entry_at(index)
        while entry is not None and size_bytes < bytes_max:
            entries.append(entry)
            size_bytes += len(entry[0])
            entry = self.entry_at(entry[1] + 1)
        return entries

    def close(self) -> None:
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        if self._unsynced:
            disk.write_all(self._descriptor, bytes(self._unsynced), offset=self._end - len(self._unsynced))
            self._unsynced.clear()

    def _publish_file(self, data: bytes) -> None:
        temporary = self._path.with_suffix(".new")
        disk.write_file(temporary, data)
        disk.publish(temporary, target=self._path)

    def _publish_vote(self, vote: Vote) -> None:
        temporary = self._vote_path.with_suffix(".new")
        disk.write_file(temporary, disk.sealed(msgspec.msgpack.encode(vote)))
        disk.publish(temporary, target=self._vote_path)

    def _read_vote(self, node_id: str) -> Vote:
        if not self._vote_path.exists():
            if self._path.exists():
                raise LogStorageError(f"{self._vote_path} is missing beside a journal; {REMEDY}")
            first = Vote(node_id=node_id, term=0, voted_for=None)
            self._publish_vote(first)
            return first
        body = disk.unsealed(self._vote_path.read_bytes(), path=self._vote_path, remedy=REMEDY)
        vote = msgspec.msgpack.decode(body, type=Vote)
        if vote.node_id != node_id:
            raise LogStorageError(f"{self._vote_path} belongs to node {vote.node_id!r}, this is {node_id!r}; {REMEDY}")
        if vote.term > 0 and not self._path.exists():
            raise LogStorageError(f"{self._path} is missing beside a vote of term {vote.term}; {REMEDY}")
        return vote

    def _recover(self) -> None:
        data = self._path.read_bytes()
        if data[: len(MAGIC)] != MAGIC:
            raise LogStorageError(f"{self._path}: offset 0: not a journal of this release; {REMEDY}")
        offset = len(MAGIC)
        while offset < len(data):
            found = _read_record(data, offset=offset)
            if found is None:
                self._repair(data, offset=offset)
                break
            entry, end = found
            if self._entries and entry[1] != self._entries[-1][1] + 1:
                raise LogStorageError(
                    f"{self._path}: offset {offset}: index {entry[1]} after {self._entries[-1][1]}; {REMEDY}"
                )
            self._entries.append(entry)
            self._offsets.append(offset)
            offset = end
        self._end = offset

    def _repair(self, data: bytes, *, offset: int) -> None:
        place = data.find(MARK, offset + 1)
        while place >= 0:
            if _read_record(data, offset=place) is not None:
                raise LogStorageError(f"{self._path}: offset {offset}: damaged, with whole records after it; {REMEDY}")
            place = data.find(MARK, place + 1)
        self.repaired_bytes = len(data) - offset
        os.ftruncate(self._descriptor, offset)
        os.fsync(self._descriptor)


def _record(entry: Entry) -> bytes:
    command, index, term = entry
    body = PLACE.pack(index, term) + command
    return HEAD.pack(MARK, len(body), zlib.crc32(body)) + body


def _read_record(data: bytes, *, offset: int) -> tuple[Entry, int] | None:
    if offset + HEAD.size > len(data):
        return None
    mark, length, crc = HEAD.unpack_from(data, offset)
    start, end = offset + HEAD.size, offset + HEAD.size + length
    if mark != MARK or not PLACE.size <= length <= RECORD_BYTES_MAX or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != crc:
        return None
    index, term = PLACE.unpack_from(body)
    return (body[PLACE.size :], index, term), end
