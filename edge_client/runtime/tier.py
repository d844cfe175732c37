"""The local tier as the drivers see it: it may be missing, away, full or emptied, and nobody has to care.

Every failure is counted; when it begins to fail, and when it is back, one line says so. Only what is stored proves that
it is back: a full Redis still answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, TypeVar

from edge_client.errors import LocalTierError

if TYPE_CHECKING:
    from edge_client.protocol.position import Position
    from edge_client.runtime.ports import LocalTier

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Tier:
    """A `LocalTier` or none at all. No method raises `LocalTierError`."""

    def __init__(self, tier: LocalTier | None) -> None:
        self._tier = tier
        self._failing = False
        self.counters: Counter[str] = Counter()

    @property
    def present(self) -> bool:
        return self._tier is not None

    @property
    def state(self) -> str:
        """`none`, `ok` or `failing`."""
        if self._tier is None:
            return "none"
        return "failing" if self._failing else "ok"

    async def connect(self) -> None:
        if self._tier is None:
            _log.warning("local_tier_none consequence=memory_alone")
        else:
            await self._tried(self._tier.connect(), otherwise=None)

    async def close(self) -> None:
        if self._tier is not None:
            await self._tried(self._tier.close(), otherwise=None)

    async def get(self, key: str) -> bytes | None:
        return None if self._tier is None else await self._tried(self._tier.get(key), otherwise=None, proves=False)

    async def set_if_newer(self, key: str, *, value: bytes, position: Position) -> bool:
        if self._tier is None:
            return False
        return await self._tried(self._tier.set_if_newer(key, value=value, position=position), otherwise=False)

    async def put_blob(self, name: str, *, chunks: AsyncIterator[bytes]) -> bool:
        """False if it is not there now, though there is a tier."""
        return self._tier is None or await self._tried(self._put(self._tier, name, chunks), otherwise=False)

    async def delete_blob(self, name: str) -> None:
        if self._tier is not None:
            await self._tried(self._tier.delete_blob(name), otherwise=None, proves=False)

    async def blobs(self) -> tuple[str, ...] | None:
        """The names of all blobs; None when it cannot say."""
        return None if self._tier is None else await self._tried(self._tier.blobs(), otherwise=None, proves=False)

    async def blob(self, name: str) -> AsyncIterator[bytes]:
        """The chunks of a blob as far as they come; what comes must be verified, also for its end."""
        if self._tier is None:
            return
        chunks = await self._tried(self._tier.get_blob(name), otherwise=None, proves=False)
        if chunks is None:
            return
        try:
            async for chunk in chunks:
                yield chunk
        except LocalTierError as error:
            self._failed(error)

    @staticmethod
    async def _put(tier: LocalTier, name: str, chunks: AsyncIterator[bytes]) -> bool:
        await tier.put_blob(name, chunks=chunks)
        return True

    async def _tried(self, attempt: Awaitable[_T], *, otherwise: _T, proves: bool = True) -> _T:
        try:
            result = await attempt
        except LocalTierError as error:
            self._failed(error)
            return otherwise
        if self._failing and proves:
            self._failing = False
            _log.warning("local_tier_back")
        return result

    def _failed(self, error: LocalTierError) -> None:
        self.counters["local_tier_failures"] += 1
        if not self._failing:
            self._failing = True
            _log.warning("local_tier_failing consequence=memory_alone error=%s", error)
