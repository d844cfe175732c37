"""What is promised about a feature, by the prefix of its key: values, equal on both sides (protocol, section 10).

The class of `track:17` is `track`: what stands before the first colon, if the region has a class of that name, and
`default` otherwise. Classes are replicated policy; edges learn them by events and snapshots like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from edge_client.protocol.models import NAME_PATTERN

DEFAULT_CLASS: Final = "default"
CLASSES_MAX: Final = 256
MS_MAX: Final = 7 * 24 * 3_600_000
SHARDS_MAX: Final = 1_024


class FeatureKind(StrEnum):
    """How a class is kept."""

    CRITICAL = "critical"
    """Written through; a reading is at most as old as its bound says, or it is not served."""
    BULK = "bulk"
    """Written behind, eventual, gone at its expiry."""


class FeatureCodec(StrEnum):
    """How values travel and rest; the last two lose precision, within a stated error."""

    PLAIN = "plain"
    LZ4 = "lz4"
    SHUFFLE = "shuffle"
    """LZ4 after the bytes of an array were sorted by significance."""
    FLOAT16 = "float16"
    """Floating arrays as half precision: relative error at most 2**-11 in the normal range."""
    INT8 = "int8"
    """Floating arrays as bytes and a scale: absolute error at most 1/254 of the largest magnitude."""


class WhenFull(StrEnum):
    """What `put` does when the write-behind queue is at its bound."""

    BLOCK = "block"
    """Waits for room."""
    DROP = "drop"
    """Takes the new entry and drops the oldest, counted."""
    RAISE = "raise"


class FeatureClass(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One class. Raises `ValueError` for what makes no sense."""

    name: str
    kind: FeatureKind = FeatureKind.BULK
    window_base_ms: int = 5_000
    """The staleness window while nothing is wrong: how old a reading may be before it counts as stale."""
    window_floor_ms: int = 500
    """What the window is never tightened below."""
    window_ms: int | None = None
    """The window now, set by the region as reported errors and drift grow or shrink; None: the base."""
    expire_ms: int | None = 30_000
    """How long after its writing a value exists; None: until it is deleted, for critical classes alone."""
    codec: FeatureCodec = FeatureCodec.LZ4
    flush_ms: int = 5_000
    """Bulk: how old a queued entry grows before it is flushed."""
    shards: int = 64
    """Bulk: over how many blocks one flush is spread. More make reading cheaper, fewer compress better."""
    spool: bool = False
    """Bulk: whether queued entries are kept on the edge's disk as well, where the edge has a spool."""
    when_full: WhenFull = WhenFull.DROP
    announced: bool | None = None
    """Whether writes are announced on the bus, so that others drop older copies at once. None: for critical classes."""

    def __post_init__(self) -> None:
        if NAME_PATTERN.fullmatch(self.name) is None:
            raise ValueError(f"a feature class needs a lower-case name of 1 to 128 of a-z 0-9 . _ -, not {self.name!r}")
        window_ms = self.window_base_ms if self.window_ms is None else self.window_ms
        if not 1 <= self.window_floor_ms <= window_ms <= self.window_base_ms <= MS_MAX:
            raise ValueError(f"1 <= window_floor_ms <= window_ms <= window_base_ms <= {MS_MAX} must hold")
        if self.expire_ms is None and self.kind is FeatureKind.BULK:
            raise ValueError("bulk features expire: expire_ms is needed")
        if self.expire_ms is not None and not 1 <= self.expire_ms <= MS_MAX:
            raise ValueError(f"expire_ms must lie in 1..{MS_MAX}, not {self.expire_ms}")
        if not 10 <= self.flush_ms <= 600_000:
            raise ValueError(f"flush_ms must lie in 10..600000, not {self.flush_ms}")
        if not 1 <= self.shards <= SHARDS_MAX:
            raise ValueError(f"shards must lie in 1..{SHARDS_MAX}, not {self.shards}")

    @property
    def window_now_ms(self) -> int:
        """The staleness window that holds now."""
        return self.window_base_ms if self.window_ms is None else self.window_ms

    @property
    def is_announced(self) -> bool:
        return self.kind is FeatureKind.CRITICAL if self.announced is None else self.announced


BULK_DEFAULT: Final = FeatureClass(name=DEFAULT_CLASS)
"""The class of keys whose prefix no class names, where the region has not set `default` itself."""


def class_of(key: str, classes: Mapping[str, FeatureClass]) -> FeatureClass:
    """The class of a key."""
    found = classes.get(key.partition(":")[0])
    return found if found is not None else classes.get(DEFAULT_CLASS, BULK_DEFAULT)
