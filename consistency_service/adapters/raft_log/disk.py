"""Small promises about files: written whole, there after a power cut, and never half replaced.

Everything that this package does to a disk goes through `Files`, which knows nothing of logs. So a test can put a disk
underneath that forgets whatever was not synced, at any step.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol, TypeVar

from consistency_service.errors import LogStorageError

CRC_BYTES: Final = 4
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that room cures. After any other, what the disk holds is not known."""

Buffer = TypeVar("Buffer", bytes, memoryview)


class OpenFile(Protocol):
    """Each method raises `OSError`."""

    def write(self, data: bytes, *, offset: int) -> None:
        """Every byte is written at `offset`, and durable after the next `sync`."""
        ...

    def read(self, size: int) -> bytes:
        """The next bytes from where the last `read` ended; fewer only at the end."""
        ...

    def truncate(self, size: int) -> None: ...
    def sync(self) -> None:
        """What was written and how long the file is are durable."""
        ...

    def close(self) -> None: ...


class Files(Protocol):
    """A directory's worth of operations, each a step at which a machine may stop."""

    def open(self, path: Path, *, empty: bool = False) -> OpenFile:
        """A file to read and write; with `empty`, created or emptied."""
        ...

    def read(self, path: Path) -> bytes | None:
        """All of it; None if there is no such file."""
        ...

    def rename(self, path: Path, *, target: Path) -> None:
        """Done, in one step; durable after `sync_directory`."""
        ...

    def sync_directory(self, path: Path) -> None: ...
    def unlink(self, path: Path) -> None:
        """There is no such file."""
        ...


class SystemFile:
    def __init__(self, path: Path, *, flags: int, durable: bool) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._durable = durable
        self._resized = False

    def write(self, data: bytes, *, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset += written
            view = view[written:]

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := os.read(self._descriptor, size - len(data))):
            data += more
        return data

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._resized = True

    def sync(self) -> None:
        if self._durable:
            (os.fsync if self._resized else os.fdatasync)(self._descriptor)
        self._resized = False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SystemFiles:
    """The operating system's. Without `durable` nothing is synced: what was written survives the process, not the
    machine.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable

    def open(self, path: Path, *, empty: bool = False) -> SystemFile:
        return SystemFile(path, flags=os.O_CREAT | os.O_TRUNC if empty else 0, durable=self._durable)

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def rename(self, path: Path, *, target: Path) -> None:
        path.rename(target)

    def sync_directory(self, path: Path) -> None:
        if self._durable:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def write_file(files: Files, path: Path, *, data: bytes) -> None:
    """A file of these bytes is on the disk. Its name is not yet: see `publish`."""
    write_pieces(files, path, pieces=(data,))


def write_pieces(files: Files, path: Path, *, pieces: Iterable[bytes]) -> int:
    """A file of these bytes, one piece after another, is on the disk; returns its length. Its name is not yet."""
    file = files.open(path, empty=True)
    size_bytes = 0
    try:
        for piece in pieces:
            file.write(piece, offset=size_bytes)
            size_bytes += len(piece)
        file.sync()
    finally:
        file.close()
    return size_bytes


def publish(files: Files, path: Path, *, target: Path) -> None:
    """`path` has become `target`, in one step that survives a power cut."""
    files.rename(path, target=target)
    files.sync_directory(target.parent)


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "big")


def sealed_pieces(*body: bytes) -> Iterator[bytes]:
    """What `sealed` would make of them joined, without a copy. The longer a piece, the longer others may run meanwhile."""
    crc = 0
    for piece in body:
        crc = zlib.crc32(piece, crc)
        yield piece
    yield crc.to_bytes(CRC_BYTES, "big")


def unsealed(data: Buffer, *, path: Path, remedy: str) -> Buffer:
    """The body of what `sealed` made. Raises `LogStorageError` naming the file and the remedy."""
    body, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) < CRC_BYTES or zlib.crc32(body).to_bytes(CRC_BYTES, "big") != crc:
        raise LogStorageError(f"{path}: offset 0: checksum does not match its {len(data)} bytes; {remedy}")
    return body
