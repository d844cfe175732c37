"""The regional feature store in Redis or Valkey: a string for each critical key, blocks and an index for bulk ones.

Picture two shelves. Critical entries stand singly: forty decimal digits of stamp and writer, then the entry, and a script
that compares the digits lets each only move forward. Bulk entries come in blocks, one for each shard and flush, which Redis
cannot open; so each shard has an index, a string whose rows say which marks (four bytes of a key's hash) lie in which block.
A reader has a script search the index and fetches the blocks that it names, never the whole shard. (A stream would be
the natural index, and takes thirty times as long to search: Lua makes nine objects of each of its items.)

All keys of a shard share a hash tag, so that a cluster keeps them on one node and a script may touch them together. What
lies where, and what a person may delete: docs/reference/feature-store-layout.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from redis.exceptions import ResponseError

from edge_client.adapters.redis_address import address_of
from edge_client.adapters.redis_feature_scripts import FIND, PUT_BLOCK, PUT_ENTRY
from edge_client.adapters.redis_wire import ClusterWire, RedisWire, Wire, raise_first, run_scripts
from edge_client.errors import (
    FeatureCorruptError,
    FeatureStoreError,
    FeatureStoreRefusedError,
    FeatureStoreUnavailableError,
)
from edge_client.protocol.feature_classes import SHARDS_MAX, FeatureClass
from edge_client.protocol.feature_codec import decode_entry, encode_entry, find_in_block
from edge_client.protocol.features import Entry, key_mark
from edge_client.runtime.feature_ports import Batch, Block

DAY_MS: Final = 24 * 3_600_000
"""How long a tombstone that never expires is kept, and how long a batch is recognised when it comes again."""
INDEX_BYTES_MAX: Final = 4 << 20
"""Of a shard's index, some four octets for each entry: the oldest rows beyond go, and no reader looks at more."""
BLOCKS_FOUND_MAX: Final = 16
"""How many blocks, the newest by arrival, are looked into for one key."""
MARKS_MAX: Final = 32
"""Keys looked for by one script; more have Redis busy for too long at once."""
_GET_MAX: Final = 512
_LIFE_BYTES_MAX: Final = 900
"""Of edge and pipe, percent-encoded; an index has three digits for the length of a block's name."""
_BLOCKS_GET_MAX: Final = 16
_ORDER_BYTES: Final = 40


def unix_ms() -> int:
    """Wall time."""
    return time.time_ns() // 1_000_000


class RedisFeatureStore:
    """A `FeatureStore` at `url` (`redis://`, `rediss://` or `unix://`), a single server or a cluster.

    `ca` names a file of certificates to trust instead of the system's; `certificate` and `certificate_key` are what we show, if
    the server asks. Each call ends within `timeout_ms`, or within that for each 1,024 commands or 4 MiB that it sends.
    The constructor raises `ConfigError`.
    """

    def __init__(
        self,
        url: str,
        *,
        region: str,
        cluster: bool = False,
        ca: str | None = None,
        certificate: str | None = None,
        certificate_key: str | None = None,
        clock_unix_ms: Callable[[], int] = unix_ms,
        timeout_ms: int = 5_000,
        connect_timeout_ms: int = 1_000,
    ) -> None:
        address = address_of(url, what="feature store", ca=ca, certificate=certificate, certificate_key=certificate_key)
        self._wire: Wire = (ClusterWire if cluster else RedisWire)(
            address, raised=_error, timeout_ms=timeout_ms, connect_timeout_ms=connect_timeout_ms
        )
        self._is_cluster = cluster
        self._unix_ms = clock_unix_ms
        self._region = quote(region, safe="")
        self._prefix = f"ccs:{self._region}:f:"
        self._shown = f"{address.shown}{' cluster' if cluster else ''}"
        self.unreadable_count = 0
        """Entries, blocks and rows of an index that were not in our form, and were taken for absent."""
        self.cut_count = 0
        """Searches for which a key was in more blocks than are looked into: only those that came last were."""

    def __repr__(self) -> str:
        return f"<RedisFeatureStore {self._shown}>"

    async def connect(self) -> None:
        """The store answered, and lets us read. Later calls work all the same once it does."""
        await self._wire.call("GET", self._prefix)

    async def close(self) -> None:
        """Release the connections. Does not raise."""
        await self._wire.close()

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The newest written-through entry of each key, tombstones included; what is expired is None."""
        now_ms = self._unix_ms()
        return [self._entry(data, now_ms=now_ms) for data in await self._strings([self._prefix + key for key in keys])]

    async def put_many(self, items: Sequence[tuple[str, Entry]]) -> list[bool]:
        """Store each unless what is there has a greater order; say of each whether it was stored.

        What is expired is not stored. A tombstone that never expires is kept for a day.
        """
        now_ms = self._unix_ms()
        stored = [False] * len(items)
        calls, places = [], []
        for place, (key, entry) in enumerate(items):
            life_ms = lifetime_ms(entry, now_ms=now_ms)
            if life_ms is None:
                continue
            order = f"{entry.stamp:020d}{entry.writer:020d}".encode()
            assert len(order) == _ORDER_BYTES, f"no such order: {entry.order}"
            calls.append(((self._prefix + key,), (order, encode_entry(entry), life_ms)))
            places.append(place)
        for place, reply in zip(places, await run_scripts(self._wire, PUT_ENTRY, calls), strict=True):
            stored[place] = bool(reply)
        return stored

    async def put_batch(self, batch: Batch) -> int:
        """Store all blocks, each whole or not at all; return how many entries were counted now, which were not before.

        A block that has expired is counted, and not stored. No two blocks of a batch may be of one shard.
        """
        now_ms = self._unix_ms()
        sequence = f"{batch.sequence:020d}"
        life = f"{quote(batch.edge_id, safe='')}:{quote(batch.pipe, safe='')}"
        assert len(life) < _LIFE_BYTES_MAX, f"a name of {len(life)} octets"
        calls = []
        tags = set()
        for block in batch.blocks:
            tag = self._tag(block.class_name, shards=block.shards, shard=block.shard)
            tags.add(tag)
            left_ms = max(0, block.expires_at_unix_ms - now_ms)
            keys = (f"{tag}:i", f"{tag}:m:{life}", f"{tag}:n", f"{tag}:b:{life}:{batch.sequence}")
            calls.append((keys, (sequence, left_ms, max(DAY_MS, left_ms), INDEX_BYTES_MAX, *_content(block))))
        assert len(tags) == len(calls), "two blocks of one shard in a batch"
        shapes = {(block.class_name, block.shards) for block in batch.blocks}
        raise_first(
            self._wire,
            await self._wire.run([("SADD", self._shapes_key(name), shards) for name, shards in sorted(shapes)]),
        )
        return sum(await run_scripts(self._wire, PUT_BLOCK, calls))

    async def find_many(self, feature_class: FeatureClass, keys: Sequence[str]) -> list[Entry | None]:
        """The newest entry of each key in the blocks of its class, tombstones included; what is expired is None."""
        marks = {key: key_mark(key) for key in keys}
        shards: dict[int, list[str]] = {}
        for key, mark in marks.items():
            shards.setdefault(mark % feature_class.shards, []).append(key)
        searches = [
            (self._tag(feature_class.name, shards=feature_class.shards, shard=shard), part)
            for shard, wanted in shards.items()
            for part in _cut(wanted, MARKS_MAX)
        ]
        replies = await run_scripts(
            self._wire,
            FIND,
            [
                ((f"{tag}:i",), (INDEX_BYTES_MAX, BLOCKS_FOUND_MAX, *(marks[key].to_bytes(4, "big") for key in part)))
                for tag, part in searches
            ],
        )
        found: dict[str, Entry] = {}
        for (tag, part), (is_cut, unreadable, names) in zip(searches, replies, strict=True):
            self.cut_count += is_cut
            self.unreadable_count += unreadable
            blocks = [f"{tag}:b:".encode() + name for name in dict.fromkeys(names)]
            for some in _cut(blocks, _BLOCKS_GET_MAX):
                for payload in await self._strings(some, together=True):
                    self._take_newer(found, payload=payload, keys=part)
        now_ms = self._unix_ms()
        return [None if (entry := found.get(key)) is None or entry.expired(unix_ms=now_ms) else entry for key in keys]

    async def counted(self, class_name: str) -> int:
        """How many entries of batches were ever counted for a class; what Redis lost since is not."""
        shapes = await self._wire.call("SMEMBERS", self._shapes_key(class_name))
        shards_known = sorted(int(shards) for shards in shapes if shards.isdigit() and 0 < int(shards) <= SHARDS_MAX)
        keys = [
            f"{self._tag(class_name, shards=shards, shard=shard)}:n"
            for shards in shards_known
            for shard in range(shards)
        ]
        return sum(int(count) for count in await self._strings(keys) if count is not None and count.isdigit())

    async def _strings(self, keys: Sequence[str] | Sequence[bytes], *, together: bool = False) -> list[bytes | None]:
        """What is under each key; None for what is no string. `together`: they share a hash tag."""
        if together or not self._is_cluster:
            replies = [
                reply
                for part in await self._wire.run([("MGET", *part) for part in _cut(keys, _GET_MAX)])
                for reply in (part if isinstance(part, list) else [part])
            ]
        else:
            replies = await self._wire.run([("GET", key) for key in keys])
            replies = [None if _is_wrong_type(reply) else reply for reply in replies]
        raise_first(self._wire, replies)
        return replies

    def _entry(self, data: bytes | None, *, now_ms: int) -> Entry | None:
        if data is None:
            return None
        try:
            entry = entry_of(data)
        except FeatureCorruptError:
            self.unreadable_count += 1
            return None
        return None if entry.expired(unix_ms=now_ms) else entry

    def _take_newer(self, found: dict[str, Entry], *, payload: bytes | None, keys: Sequence[str]) -> None:
        if payload is None:
            return
        try:
            entries = find_in_block(payload, keys)
        except FeatureCorruptError:
            self.unreadable_count += 1
            return
        for key, entry in entries.items():
            held = found.get(key)
            if held is None or held.order < entry.order:
                found[key] = entry

    def _tag(self, class_name: str, *, shards: int, shard: int) -> str:
        return f"{{ccs:{self._region}:{class_name}:{shards}:{shard}}}"

    def _shapes_key(self, class_name: str) -> str:
        return f"ccs:{self._region}:s:{class_name}"


def lifetime_ms(entry: Entry, *, now_ms: int) -> int | None:
    """For how long to keep an entry; 0: for ever; None: not at all, it has expired."""
    if entry.expires_at_unix_ms == 0:
        return DAY_MS if entry.value is None else 0
    return None if entry.expired(unix_ms=now_ms) else entry.expires_at_unix_ms - now_ms


def entry_of(data: bytes, *, before: int = _ORDER_BYTES) -> Entry:
    """The entry behind the digits, if they are its own. Raises `FeatureCorruptError`."""
    entry = decode_entry(data[before:])
    if data[:_ORDER_BYTES] != b"%020d%020d" % (entry.stamp, entry.writer):
        raise FeatureCorruptError("an entry under another's digits")
    return entry


def _content(block: Block) -> tuple[Any, ...]:
    return (block.count, block.marks, block.payload)


def _error(text: str, passing: bool) -> FeatureStoreError:
    return FeatureStoreUnavailableError(text) if passing else FeatureStoreRefusedError(text)


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def _cut(things: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [things[start : start + size] for start in range(0, len(things), size)]
