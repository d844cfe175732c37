"""A `FeatureStore` in memory that several edges may share, as the edges of a region share its Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_client.errors import FeatureCorruptError, FeatureStoreRefusedError, FeatureStoreUnavailableError
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.feature_codec import find_in_block
from edge_client.protocol.features import Entry, key_mark
from edge_client.runtime.feature_ports import Batch, Block

DAY_MS = 24 * 3_600_000
Life = tuple[str, str]
"""Edge and pipe."""


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Shard:
    """The blocks of one shard, in the order in which they came; how far each pipe has come; what was counted."""

    blocks: list[Block] = field(default_factory=list)
    through: dict[Life, int] = field(default_factory=dict)
    counted: int = 0


@dataclass
class Store:
    """What stands in for the Redis of a region."""

    away: bool = False
    refusing: bool = False
    fail_after: int | None = None
    """So many writes more are done, before it goes away."""
    entries: dict[str, Entry] = field(default_factory=dict)
    kept_until_unix_ms: dict[str, int] = field(default_factory=dict)
    shards: dict[tuple[str, int, int], Shard] = field(default_factory=dict)

    def flush(self) -> None:
        self.entries.clear()
        self.kept_until_unix_ms.clear()
        self.shards.clear()

    def check(self) -> None:
        if self.refusing:
            raise FeatureStoreRefusedError("the store refused")
        if self.away:
            raise FeatureStoreUnavailableError("the store is unreachable")

    def check_write(self) -> None:
        self.check()
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                self.fail_after, self.away = None, True
                self.check()


class FakeFeatureStore:
    def __init__(self, store: Store | None = None, *, clock_unix_ms: Callable[[], int] = unix_ms) -> None:
        self.store = store or Store()
        self._unix_ms = clock_unix_ms
        self.unreadable_count = 0

    async def connect(self) -> None:
        self.store.check()

    async def close(self) -> None:
        """Nothing to release."""

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        self.store.check()
        return [self._living(self.store.entries.get(key), key=key) for key in keys]

    async def put_many(self, items: Sequence[tuple[str, Entry]]) -> list[bool]:
        self.store.check()
        return [self._put(key, entry) for key, entry in items]

    async def put_batch(self, batch: Batch) -> int:
        self.store.check()
        shards = {(block.class_name, block.shards, block.shard) for block in batch.blocks}
        assert len(shards) == len(batch.blocks), "two blocks of one shard in a batch"
        return sum([self._put_block(block, batch=batch) for block in batch.blocks])

    async def find_many(self, feature_class: FeatureClass, keys: Sequence[str]) -> list[Entry | None]:
        self.store.check()
        return [self._find(feature_class, key) for key in keys]

    async def counted(self, class_name: str) -> int:
        self.store.check()
        return sum(shard.counted for (name, _, _), shard in self.store.shards.items() if name == class_name)

    def _put(self, key: str, entry: Entry) -> bool:
        self.store.check_write()
        now_ms = self._unix_ms()
        if entry.expired(unix_ms=now_ms):
            return False
        held = self._living(self.store.entries.get(key), key=key)
        if held is not None and held.order > entry.order:
            return False
        self.store.entries[key] = entry
        self.store.kept_until_unix_ms.pop(key, None)
        if entry.value is None and entry.expires_at_unix_ms == 0:
            self.store.kept_until_unix_ms[key] = now_ms + DAY_MS
        return True

    def _living(self, entry: Entry | None, *, key: str) -> Entry | None:
        now_ms = self._unix_ms()
        if entry is None or entry.expired(unix_ms=now_ms):
            return None
        return None if 0 < self.store.kept_until_unix_ms.get(key, 0) <= now_ms else entry

    def _put_block(self, block: Block, *, batch: Batch) -> int:
        self.store.check_write()
        shard = self.store.shards.setdefault((block.class_name, block.shards, block.shard), Shard())
        life = (batch.edge_id, batch.pipe)
        if shard.through.get(life, 0) >= batch.sequence:
            return 0
        shard.through[life] = batch.sequence
        shard.counted += block.count
        now_ms = self._unix_ms()
        shard.blocks = [each for each in shard.blocks if each.expires_at_unix_ms > now_ms]
        if block.expires_at_unix_ms > now_ms:
            shard.blocks.append(block)
        return block.count

    def _find(self, feature_class: FeatureClass, key: str) -> Entry | None:
        mark = key_mark(key)
        shard = self.store.shards.get((feature_class.name, feature_class.shards, mark % feature_class.shards), Shard())
        found: list[Entry] = []
        for block in shard.blocks:
            marks = [block.marks[start : start + 4] for start in range(0, len(block.marks), 4)]
            if mark.to_bytes(4, "big") not in marks:
                continue
            try:
                found += find_in_block(block.payload, [key]).values()
            except FeatureCorruptError:
                self.unreadable_count += 1
        newest = max(found, key=lambda entry: entry.order, default=None)
        return None if newest is None or newest.expired(unix_ms=self._unix_ms()) else newest
