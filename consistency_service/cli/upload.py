"""A file becomes an artifact: hashed here, streamed once, skipped when the region has it already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consistency_service.cli.client import Client
from consistency_service.cli.errors import LocalError
from consistency_service.cli.render import Screen
from edge_client.protocol.digest import Hasher

CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An artifact of the region. `sent` is False when it was there before."""

    digest: str
    size_bytes: int
    sent: bool


def upload(client: Client, file: Path, *, screen: Screen) -> Stored:
    """The bytes of `file` are stored in the region. Never holds more than a chunk of them.

    Raises `LocalError` if the file cannot be read or is empty, and what `Client.upload` raises; a file that changes
    meanwhile is refused by its digest.
    """
    with screen.upload_progress() as progress:
        total = file.stat().st_size
        if total == 0:
            raise LocalError(f"{file} is empty")
        hasher = Hasher()
        task = progress.add_task("hashing", total=total)
        for chunk in _chunks(file):
            hasher.update(chunk)
            progress.advance(task, len(chunk))
        digest = str(hasher.digest())
        progress.remove_task(task)
        if client.exists(f"/v1/artifacts/{digest}"):
            return Stored(digest=digest, size_bytes=hasher.size_bytes, sent=False)
        task = progress.add_task("uploading", total=hasher.size_bytes)

        def content() -> Iterator[bytes]:
            progress.reset(task)
            for chunk in _chunks(file):
                yield chunk
                progress.advance(task, len(chunk))

        client.upload(content, digest=digest, size_bytes=hasher.size_bytes)
    return Stored(digest=digest, size_bytes=hasher.size_bytes, sent=True)


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
