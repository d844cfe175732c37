"""The box's own Redis as the local tier: small entries that only move forward, and large blobs that are whole or absent.

An entry is one string: forty decimal digits of its position, then the value. A script compares the digits inside Redis
(fixed width and digits alone, because Lua compares text by the locale), so that two processes of this edge cannot step
back behind each other.

A blob is many strings of 8 MiB and, written last and by one script, a field in the namespace's manifest. Chunks carry an
expiry until that moment: what an interrupted upload leaves goes away by itself. Redis may evict or lose anything at any
time; a blob that lost a chunk is absent. Nothing here verifies digests: whoever reads a blob does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from edge_client.adapters.redis_address import address_of, cause_of, described
from edge_client.errors import LocalTierError
from edge_client.protocol.position import Position

BLOB_CHUNK_BYTES: Final = 8 * 1024 * 1024
"""What one Redis string of a blob holds; an upload or a read has about two of them in memory."""

BLOB_YIELD_BYTES: Final = 1024 * 1024
"""The most that one step of reading a blob yields."""

PARTIAL_BLOB_EXPIRY_S: Final = 3600
"""How long chunks of an upload that has not ended are kept. An upload slower than this fails."""

_CONNECTIONS_MAX: Final = 8
_POSITION_DIGITS: Final = 20
_PREFIX_BYTES: Final = 2 * _POSITION_DIGITS

_SET_IF_NEWER: Final = """
local held = redis.call('GETRANGE', KEYS[1], 0, 39)
if #held == 40 and string.match(held, '^%d+$') and held >= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])
return 1
"""

_COMMIT_BLOB: Final = """
for index = 2, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for index = 2, #KEYS do redis.call('PERSIST', KEYS[index]) end
return 1
"""


def edge_namespace(*, region: str, edge_id: str) -> str:
    """The prefix of all keys of one edge of one region; two edges on one box never share a key."""
    return f"ccs:{quote(region, safe='')}:{quote(edge_id, safe='')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    chunk_count: int
    size_bytes: int

    def encoded(self) -> bytes:
        return b"%d %d" % (self.chunk_count, self.size_bytes)


class RedisTier:
    """A `LocalTier` at `url` (`redis://`, `rediss://` or `unix://`). Each call ends within `timeout_ms`, or once per chunk.

    `ca` names a file of certificates to trust instead of the system's. Every method raises `LocalTierError` when Redis is away, refuses, is full or is slow; the next call tries afresh, so
    that it works again as soon as Redis does. The constructor raises `ConfigError` for a URL that makes no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        ca: str | None = None,
        connect_timeout_ms: int = 1_000,
        timeout_ms: int = 5_000,
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._address = address_of(url, what="local tier", ca=ca)
        pool = BlockingConnectionPool(
            connection_class=self._address.connection_class,
            max_connections=_CONNECTIONS_MAX,
            timeout=self._timeout_s,
            socket_connect_timeout=connect_timeout_ms / 1000,
            socket_timeout=self._timeout_s,
            retry=Retry(NoBackoff(), 0),
            # With RESP3, redis-py listens for maintenance news and hands out connections that the server closed.
            protocol=2,
            **self._address.options,
        )
        self._redis: Any = Redis(connection_pool=pool)  # its annotations name answers that we never get
        self._pool = pool
        self._set_if_newer = self._redis.register_script(_SET_IF_NEWER)
        self._commit_blob = self._redis.register_script(_COMMIT_BLOB)
        self._namespace = namespace
        self._manifest_key = f"{namespace}:blobs"
        self.unreadable_count = 0
        """Entries and manifests that were not in our form, and were taken for absent."""

    def __repr__(self) -> str:
        return f"<RedisTier {self._address.shown}>"

    async def connect(self) -> None:
        """Redis answered, and lets us read. Raises `LocalTierError`; later calls work all the same once it does answer."""
        async with self._bounded():
            await self._redis.get(self._entry_key(""))

    async def close(self) -> None:
        """Release the connections. Does not raise."""
        with suppress(RedisError, OSError):
            await self._pool.disconnect()

    async def get(self, key: str) -> bytes | None:
        """The value under `key`, or None; what is there in another form is None too, and counted."""
        async with self._bounded():
            held: bytes | None = await self._redis.get(self._entry_key(key))
        if held is None:
            return None
        if not held[:_PREFIX_BYTES].isdigit() or len(held) < _PREFIX_BYTES:
            self.unreadable_count += 1
            return None
        return held[_PREFIX_BYTES:]

    async def set_if_newer(self, key: str, *, value: bytes, position: Position) -> bool:
        """Store unless the entry under `key` has a position not older than `position`; say whether it was stored.

        After a `LocalTierError` it may or may not have been stored.
        """
        prefix = f"{position.epoch:0{_POSITION_DIGITS}d}{position.revision:0{_POSITION_DIGITS}d}"
        assert len(prefix) == _PREFIX_BYTES and prefix.isdigit(), f"no such position: {position}"
        async with self._bounded():
            return bool(await self._set_if_newer(keys=[self._entry_key(key)], args=[prefix, value]))

    async def put_blob(self, name: str, *, chunks: AsyncIterator[bytes]) -> None:
        """Store a large immutable value, replacing one of that name; it is there whole afterwards, or absent.

        Raises `LocalTierError` or whatever `chunks` raised; then the name is absent.
        """
        await self.delete_blob(name)
        written = _Manifest(chunk_count=0, size_bytes=0)
        try:
            async for piece in _regrouped(chunks):
                key = self._chunk_key(name, index=written.chunk_count)
                written = _Manifest(chunk_count=written.chunk_count + 1, size_bytes=written.size_bytes + len(piece))
                async with self._bounded():
                    await self._redis.set(key, piece, ex=PARTIAL_BLOB_EXPIRY_S)
            keys = [self._manifest_key, *self._chunk_keys(name, count=written.chunk_count)]
            async with self._bounded():
                whole = await self._commit_blob(keys=keys, args=[name, written.encoded()])
            if not whole:
                raise LocalTierError(f"Redis dropped parts of {name} during the upload; give it more memory")
        except BaseException:
            with suppress(LocalTierError):
                await asyncio.shield(self._remove(name, count=written.chunk_count))
            raise

    async def get_blob(self, name: str) -> AsyncIterator[bytes] | None:
        """The chunks of a blob, or None when any of it is missing.

        Raises `LocalTierError`, the iterator too, if a chunk vanishes while it is read. What comes back must be verified.
        """
        manifest = await self._manifest(name)
        if manifest is None or not await self._is_whole(name, manifest=manifest):
            return None
        return self._stream(name, manifest=manifest)

    async def delete_blob(self, name: str) -> None:
        """The name is absent, and the memory of its chunks is given back."""
        manifest = await self._manifest(name)
        if manifest is not None:
            await self._remove(name, count=manifest.chunk_count)

    async def blobs(self) -> tuple[str, ...]:
        """The names of all blobs this edge's namespace holds whole, sorted."""
        async with self._bounded():
            held: dict[bytes, bytes] = await self._redis.hgetall(self._manifest_key)
        found: list[str] = []
        for name_bytes, encoded in sorted(held.items()):
            name, manifest = name_bytes.decode(errors="replace"), self._decoded(encoded)
            if manifest is not None and await self._is_whole(name, manifest=manifest):
                found.append(name)
        return tuple(found)

    async def _stream(self, name: str, *, manifest: _Manifest) -> AsyncIterator[bytes]:
        size_bytes = 0
        for key in self._chunk_keys(name, count=manifest.chunk_count):
            async with self._bounded():
                piece: bytes | None = await self._redis.get(key)
            if piece is None:
                raise LocalTierError(f"Redis dropped a part of {name} while it was read")
            size_bytes += len(piece)
            view = memoryview(piece)
            for start in range(0, len(view), BLOB_YIELD_BYTES):
                yield bytes(view[start : start + BLOB_YIELD_BYTES])
        if size_bytes != manifest.size_bytes:
            raise LocalTierError(f"{name} changed while it was read")

    async def _manifest(self, name: str) -> _Manifest | None:
        async with self._bounded():
            encoded: bytes | None = await self._redis.hget(self._manifest_key, name)
        return None if encoded is None else self._decoded(encoded)

    def _decoded(self, encoded: bytes) -> _Manifest | None:
        try:
            chunk_count, size_bytes = (int(number) for number in encoded.split(b" "))
        except ValueError:
            self.unreadable_count += 1
            return None
        if not 0 <= chunk_count <= size_bytes <= chunk_count * BLOB_CHUNK_BYTES:
            self.unreadable_count += 1
            return None
        return _Manifest(chunk_count=chunk_count, size_bytes=size_bytes)

    async def _is_whole(self, name: str, *, manifest: _Manifest) -> bool:
        async with self._bounded(), self._redis.pipeline(transaction=False) as pipeline:
            for key in self._chunk_keys(name, count=manifest.chunk_count):
                pipeline.strlen(key)
            sizes: list[int] = await pipeline.execute()
        return all(sizes) and sum(sizes) == manifest.size_bytes

    async def _remove(self, name: str, *, count: int) -> None:
        async with self._bounded():
            await self._redis.hdel(self._manifest_key, name)
            keys = self._chunk_keys(name, count=count)
            for start in range(0, len(keys), 1000):
                await self._redis.unlink(*keys[start : start + 1000])

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """The block ends in time, and nothing of redis-py's leaves it."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (TimeoutError, RedisError, OSError) as error:
            text, _ = described(error, address=self._address)
            raise LocalTierError(text) from cause_of(error, address=self._address)

    def _entry_key(self, key: str) -> str:
        return f"{self._namespace}:entry:{key}"

    def _chunk_key(self, name: str, *, index: int) -> str:
        return f"{self._namespace}:blob:{name}:{index}"

    def _chunk_keys(self, name: str, *, count: int) -> list[str]:
        return [self._chunk_key(name, index=index) for index in range(count)]


async def _regrouped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `BLOB_CHUNK_BYTES`, the last one shorter, none of them empty."""
    buffer = bytearray()
    async for chunk in chunks:
        view = memoryview(chunk)
        while view:
            taken = view[: BLOB_CHUNK_BYTES - len(buffer)]
            buffer += taken
            view = view[len(taken) :]
            if len(buffer) == BLOB_CHUNK_BYTES:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)
