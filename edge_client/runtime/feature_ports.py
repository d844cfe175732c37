"""What features need from the world: a regional store, the box's own Redis, a disk. See `ports` for the rules of ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.features import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The entries of one flush that fall into one shard of one class, encoded."""

    class_name: str
    shard: int
    shards: int
    """The class's number of shards when this was cut; part of where it lies."""
    marks: bytes
    """`key_mark` of each entry, four bytes big-endian each, in the order of the entries."""
    payload: bytes
    """As `feature_codec.encode_block` made it."""
    count: int
    expires_at_unix_ms: int
    """When its last entry expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One flush. `(edge_id, pipe, sequence)` names it: given again, it is counted once."""

    edge_id: str
    pipe: str
    sequence: int
    """From 1 on, in order within a pipe."""
    blocks: tuple[Block, ...]
    """No two of one shard of a class."""


class FeatureStore(Protocol):
    """The regional store. An acknowledged write is readable; nothing is said about order between edges.

    Every method raises `FeatureStoreUnavailableError` when it may help to try again, and `FeatureStoreRefusedError` when it
    will not. After the first, a write may or may not have been done.
    """

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The newest written-through entry of each key, tombstones included; what is expired is None."""
        ...

    async def put_many(self, items: Sequence[tuple[str, Entry]]) -> list[bool]:
        """Store each unless what is there has a greater or equal order; say of each whether it was stored.

        An equal order is the same write again, and counts as stored. A tombstone that never expires is kept for a day.
        """
        ...

    async def put_batch(self, batch: Batch) -> int:
        """Store all blocks, each whole or not at all; return how many entries were counted now, which were not before."""
        ...

    async def find_many(self, feature_class: FeatureClass, keys: Sequence[str]) -> list[Entry | None]:
        """The newest entry of each key in the blocks of its class, tombstones included; what is expired is None."""
        ...

    async def counted(self, class_name: str) -> int:
        """How many entries of batches were ever counted for a class."""
        ...


class Held(NamedTuple):
    """What the local tier holds of a key."""

    entry: Entry
    known_at_ns: int | None
    """When this was known to be current, on this machine's clock (`Clock.now_ns`); None after a restart of the machine."""


class FeatureTier(Protocol):
    """The box's own Redis, shared by its processes: one string a key, which only moves forward. Raises `LocalTierError`."""

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    async def get(self, key: str) -> Held | None: ...

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]: ...

    async def put_many(self, items: Sequence[tuple[str, Entry, int]]) -> None:
        """Hold each `(key, entry, known_at_ns)` unless what is there is newer, or the same write known current later."""
        ...

    async def drop_many(self, keys: Sequence[tuple[str, int]]) -> None:
        """Let go of what each `(key, stamp)` has that is older than the stamp."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolPart:
    """Some entries of one batch, on their way to disk. A batch is all its parts, joined by order of its entries."""

    edge_id: str
    pipe: str
    sequence: int
    class_name: str
    shards: int
    payload: bytes
    """As `feature_codec.encode_block` made it."""
    count: int
    expires_at_unix_ms: int
    """When the last entry of the batch expires, as far as known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBatch:
    """What an earlier life of the edge left of one batch."""

    edge_id: str
    pipe: str
    sequence: int
    class_name: str
    shards: int
    count: int
    """Of all parts; a key in several parts is counted in each."""
    size_bytes: int
    expires_at_unix_ms: int


class Spool(Protocol):
    """A file on the edge's own disk, for one process at a time. What `commit` returned for outlives the process, not the
    machine's power. Every method raises `FeatureSpoolError`. A file that is damaged or not ours is moved aside, counted.
    """

    @property
    def set_aside(self) -> int:
        """How many files were moved aside because nothing could be read from them."""
        ...

    async def open(self) -> tuple[SpooledBatch, ...]:
        """Take the file; return what is in it, in the order of its first commit. Raises `FeatureSpoolTakenError`."""
        ...

    async def commit(self, parts: Sequence[SpoolPart], *, done: Sequence[tuple[str, int]]) -> None:
        """All parts are on disk and every `(pipe, sequence)` in `done` is gone from it; or neither is."""
        ...

    async def read(self, *, pipe: str, sequence: int) -> list[tuple[bytes, int]]:
        """Payload and count of each part of a batch, in the order of their commits."""
        ...

    async def close(self) -> None:
        """Leave the file to the next process."""
        ...
