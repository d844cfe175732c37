"""Term and vote, kept where no full disk and no torn write can take them.

Picture the same line written twice on a page printed in advance. A new line is written over the first copy, made
durable, then over the second. Whatever stops in between, one whole copy is left, and it is either the old vote, which
nobody was told the new one in place of, or the new. One copy that cannot be read is repaired from the other. Nothing here
needs room that was not taken at the first start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from consistency_service.adapters.raft_log import disk
from consistency_service.adapters.raft_log.disk import Files, OpenFile
from consistency_service.errors import LogStorageError

COPY_BYTES: Final = 4_096
COPIES: Final = 2


class Vote(msgspec.Struct, frozen=True, array_like=True):
    node_id: str
    number: int
    """Grows by one with each change, so that of two copies the newer is known."""
    term: int
    voted_for: str | None
    rejoining: bool
    """This node lost its memory. It neither votes nor counts until it holds again all that may be committed."""


class VoteFile:
    """Raises `LogStorageError` if no copy can be read or it is another node's, `OSError` as met."""

    def __init__(self, path: Path, *, node_id: str, files: Files, remedy: str) -> None:
        self._path = path
        self._files = files
        data = files.read(path)
        self.is_new = data is None
        self.value = first(node_id, rejoining=False)
        if data is None:
            create(path, vote=self.value, files=files)
        else:
            self.value = newest(data, path=path, remedy=remedy)
        if self.value.node_id != node_id:
            raise LogStorageError(f"{path} belongs to node {self.value.node_id!r}, this is {node_id!r}; {remedy}")
        self._file: OpenFile = files.open(path)
        if data is not None:
            self._repair(data)

    def write(self, *, term: int, voted_for: str | None, rejoining: bool) -> None:
        """Durable on return, if it differs from what was."""
        old = self.value
        if (term, voted_for, rejoining) == (old.term, old.voted_for, old.rejoining):
            return
        vote = Vote(node_id=old.node_id, number=old.number + 1, term=term, voted_for=voted_for, rejoining=rejoining)
        data = _copy(vote)
        for place in range(COPIES):
            self._file.write(data, offset=place * COPY_BYTES)
            self._file.sync()
        self.value = vote

    def close(self) -> None:
        self._file.close()

    def _repair(self, data: bytes) -> None:
        copy = _copy(self.value)
        for offset in range(0, COPIES * COPY_BYTES, COPY_BYTES):
            if data[offset : offset + COPY_BYTES] != copy:
                self._file.write(copy, offset=offset)
                self._file.sync()


def first(node_id: str, *, rejoining: bool) -> Vote:
    return Vote(node_id=node_id, number=0, term=0, voted_for=None, rejoining=rejoining)


def create(path: Path, *, vote: Vote, files: Files) -> None:
    """The file is there, durably, with its final size."""
    temporary = path.with_suffix(".new")
    disk.write_file(files, temporary, data=_copy(vote) * COPIES)
    disk.publish(files, temporary, target=path)


def newest(data: bytes, *, path: Path, remedy: str) -> Vote:
    """Of the copies that can be read. Raises `LogStorageError` if none can."""
    votes: list[Vote] = []
    for place in range(COPIES):
        copy = data[place * COPY_BYTES : (place + 1) * COPY_BYTES]
        try:
            body = disk.unsealed(copy, path=path, remedy=remedy)
            votes.append(msgspec.msgpack.decode(body.rstrip(b"\xff"), type=Vote))
        except (LogStorageError, msgspec.MsgspecError, ValueError):
            continue
    if not votes:
        raise LogStorageError(f"{path}: offset 0: neither copy of term and vote can be read; {remedy}")
    return max(votes, key=lambda vote: vote.number)


def _copy(vote: Vote) -> bytes:
    body = msgspec.msgpack.encode(vote)
    return disk.sealed(body.ljust(COPY_BYTES - disk.CRC_BYTES, b"\xff"))
