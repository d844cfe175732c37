"""An `ArtifactStore` in a dictionary; passes the same conformance suite as `ObjectStore`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from consistency_service.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ArtifactTooLargeError,
    DigestMismatchError,
    StoreFullError,
)
from edge_client.protocol.digest import Digest

CHUNK_BYTES = 1024 * 1024


class FakeArtifactStore:
    """Holds `capacity_bytes` at most. Tests break it through `shelf` and `partial`."""

    def __init__(
        self, *, capacity_bytes: int = 1 << 30, unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self._unix_ms = unix_ms
        self.shelf: dict[str, tuple[bytes, int]] = {}
        """Digest to content and when it was stored, in Unix milliseconds."""
        self.partial: dict[str, int] = {}
        """What a dead upload left, and when."""

    async def put(self, chunks: AsyncIterator[bytes], *, size_max_bytes: int, digest: str | None) -> tuple[str, int]:
        content = bytearray()
        held_bytes = sum(len(held) for held, _ in self.shelf.values())
        async for chunk in chunks:
            content += chunk
            if len(content) > size_max_bytes:
                raise ArtifactTooLargeError(f"larger than {size_max_bytes} bytes")
            if held_bytes + len(content) > self.capacity_bytes:
                raise StoreFullError("full")
        found = str(Digest.of(bytes(content)))
        if digest is not None and digest != found:
            raise DigestMismatchError(f"{found}, not {digest}", digest=found)
        self.shelf[found] = (bytes(content), self._unix_ms())
        return found, len(content)

    async def size(self, digest: str) -> int:
        return len(self._content(digest))

    async def read(self, digest: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: {offset}, {length}")
        content = self._content(digest)
        end = len(content) if length is None else min(len(content), offset + length)
        corrupt = offset == 0 and end == len(content) and str(Digest.of(content)) != digest
        for start in range(offset, end, CHUNK_BYTES):
            if corrupt and start + CHUNK_BYTES >= end:
                break
            yield content[start : min(start + CHUNK_BYTES, end)]
        if corrupt:
            raise ArtifactCorruptError("corrupt", digest=digest)

    async def delete(self, digest: str) -> None:
        self.shelf.pop(digest, None)

    async def digests(self) -> tuple[tuple[str, int], ...]:
        return tuple(sorted((digest, stored_at) for digest, (_, stored_at) in self.shelf.items()))

    async def sweep_partial(self, *, older_than_ms: int) -> int:
        before = self._unix_ms() - older_than_ms
        old = [name for name, left_at in self.partial.items() if left_at <= before]
        for name in old:
            del self.partial[name]
        return len(old)

    async def close(self) -> None:
        """Nothing to release."""

    def _content(self, digest: str) -> bytes:
        if digest not in self.shelf:
            raise ArtifactMissingError(f"no artifact is stored under {digest}", digest=digest)
        return self.shelf[digest][0]
