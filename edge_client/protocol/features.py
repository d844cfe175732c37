"""What a stored feature is, on every tier: an encoded value, a stamp that orders writes, and an end.

Two writes of one key are ordered by `(stamp, writer)`: the greater one wins, wherever they meet and in whatever order they
come. A tombstone is a write like any other, so that an older value cannot resurrect what was deleted.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

KEY_BYTES_MAX: Final = 512
VALUE_BYTES_MAX: Final = 1 << 20
"""An encoded value; larger things are artifacts."""


class Entry(NamedTuple):
    """One write of one key. A `NamedTuple`, because millions a minute are made."""

    value: bytes | None
    """As `feature_codec.encode_value` made it; None: a tombstone."""
    stamp: int
    """When it was written, on the writer's hybrid logical clock (`stamps`)."""
    writer: int
    """64 bits that name the life of the edge that wrote it; decides ties."""
    expires_at_unix_ms: int
    """Does not exist from this instant of wall time on; 0: never expires."""

    @property
    def order(self) -> tuple[int, int]:
        """Of two writes of a key the one with the greater order holds."""
        return (self.stamp, self.writer)

    def expired(self, *, unix_ms: int) -> bool:
        return 0 < self.expires_at_unix_ms <= unix_ms


def writer_of(edge_id: str, *, life_id: str) -> int:
    """The 64 bits that stand for one life of one edge."""
    return int.from_bytes(blake2b(f"{edge_id}\0{life_id}".encode(), digest_size=8).digest(), "big")


def key_hash(key: str) -> int:
    """64 bits that stand for a key in announcements; a collision costs a needless fetch, nothing more."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


def key_mark(key: str) -> int:
    """32 bits by which a key is spread over shards and looked for in them; the same everywhere, for ever."""
    return crc32(key.encode())
