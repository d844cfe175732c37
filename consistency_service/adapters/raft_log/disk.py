"""Small promises about files: written whole, there after a power cut, and never half replaced."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

from consistency_service.errors import LogStorageError

CRC_BYTES: Final = 4


def write_all(descriptor: int, data: bytes, *, offset: int) -> None:
    """Every byte is written at `offset`. Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """A file of these bytes is on the disk. Its name is not yet: see `publish`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data, offset=0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(path: Path, *, target: Path) -> None:
    """`path` has become `target`, in one step that survives a power cut."""
    path.rename(target)
    sync_directory(target.parent)


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "big")


def unsealed(data: bytes, *, path: Path, remedy: str) -> bytes:
    """The body of what `sealed` made. Raises `LogStorageError` naming the file and the remedy."""
    body, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if len(data) < CRC_BYTES or zlib.crc32(body).to_bytes(CRC_BYTES, "big") != crc:
        raise LogStorageError(f"{path}: checksum does not match its {len(data)} bytes; {remedy}")
    return body
