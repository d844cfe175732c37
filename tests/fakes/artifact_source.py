"""An `ArtifactSource` in a dictionary, with the ways in which a region fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

from edge_client.errors import ArtifactUnavailableError

CHUNK_BYTES = 64 * 1024


class FakeArtifactSource:
    """Answers for every URL from `artifacts`; `down` refuses all, `cut_after_bytes` ends each answer early."""

    def __init__(self, *, artifacts: dict[str, bytes] | None = None) -> None:
        self.artifacts = {} if artifacts is None else artifacts
        self.down = False
        self.cut_after_bytes: int | None = None
        self.fetches: list[tuple[str, str, int]] = []
        """What was asked: `(url, digest, offset)`."""

    async def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        self.fetches.append((url, digest, offset))
        content = self.artifacts.get(digest)
        if self.down or content is None or offset > len(content):
            raise ArtifactUnavailableError(f"{url}: nothing to be had of {digest} from byte {offset}")
        end = len(content) if self.cut_after_bytes is None else min(len(content), offset + self.cut_after_bytes)
        for start in range(offset, end, CHUNK_BYTES):
            yield content[start : min(start + CHUNK_BYTES, end)]
        if end < len(content):
            raise ArtifactUnavailableError(f"{url}: cut short")

    async def close(self) -> None:
        """Nothing to release."""
