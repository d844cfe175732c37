"""A `LocalTier` in a dictionary that several tiers may share, as edges of one box share its Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from edge_client.errors import LocalTierError
from edge_client.protocol.position import Position

PART_BYTES = 1024 * 1024


@dataclass
class Box:
    """What stands in for the Redis process: full beyond `capacity_bytes`, unreachable while `away`."""

    capacity_bytes: int = 1 << 30
    away: bool = False
    entries: dict[str, tuple[Position, bytes]] = field(default_factory=dict)
    blobs: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)

    def flush(self) -> None:
        self.entries.clear()
        self.blobs.clear()

    def take(self, size_bytes: int) -> None:
        """Raise unless the box is there and has room for so many bytes more."""
        self.check()
        held = sum(len(value) for _, value in self.entries.values())
        held += sum(len(part) for parts in self.blobs.values() for part in parts)
        if held + size_bytes > self.capacity_bytes:
            raise LocalTierError("Redis is full")

    def check(self) -> None:
        if self.away:
            raise LocalTierError("Redis failed: away")


class FakeLocalTier:
    def __init__(self, *, namespace: str, box: Box | None = None) -> None:
        self.box = box or Box()
        self._namespace = namespace

    async def connect(self) -> None:
        self.box.check()

    async def close(self) -> None:
        """Nothing to release."""

    async def get(self, key: str) -> bytes | None:
        self.box.check()
        held = self.box.entries.get(f"{self._namespace}:{key}")
        return None if held is None else held[1]

    async def set_if_newer(self, key: str, *, value: bytes, position: Position) -> bool:
        self.box.take(len(value))
        full_key = f"{self._namespace}:{key}"
        held = self.box.entries.get(full_key)
        if held is not None and held[0] >= position:
            return False
        self.box.entries[full_key] = (position, value)
        return True

    async def put_blob(self, name: str, *, chunks: AsyncIterator[bytes]) -> None:
        await self.delete_blob(name)
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            self.box.take(len(content))
        parts = [bytes(content[start : start + PART_BYTES]) for start in range(0, len(content), PART_BYTES)]
        self.box.blobs[self._namespace, name] = parts

    async def get_blob(self, name: str) -> AsyncIterator[bytes] | None:
        self.box.check()
        parts = self.box.blobs.get((self._namespace, name))
        return None if parts is None or b"" in parts else self._stream(name, parts=parts)

    async def delete_blob(self, name: str) -> None:
        self.box.check()
        self.box.blobs.pop((self._namespace, name), None)

    async def blobs(self) -> tuple[str, ...]:
        self.box.check()
        held = self.box.blobs.items()
        return tuple(sorted(name for (owner, name), parts in held if owner == self._namespace and b"" not in parts))

    async def _stream(self, name: str, *, parts: list[bytes]) -> AsyncIterator[bytes]:
        for part in parts:
            self.box.check()
            if self.box.blobs.get((self._namespace, name)) is not parts or part == b"" or part not in parts:
                raise LocalTierError(f"{name} lost a part while it was read")
            yield part
