"""What is written together is sent together: a generation is the entries of one class that become one numbered batch.

Picture buckets under a tap. The open one fills, and a key put twice is in it once; sealed, it keeps its number and its
entries whatever happens, because a batch that changed between two attempts could be counted twice. When the store has it,
it is kept for a while as what this process can still answer from: the same dictionary, never copied.

The number is given when a generation opens, so that whatever of it lies on disk names its batch from the first byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.features import Entry

Row = tuple[bytes | None, int, int, int]
"""An `Entry`, or the plain tuple of its fields: the collector of garbage forgets plain tuples, and does not forget entries."""

ENTRY_OVERHEAD_BYTES: Final = 280
"""What an entry takes beside the characters of its key and the bytes of its value, at most: heads of objects, a tuple, a slot."""

FOREVER_MS: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBehindConfig:
    """The bounds of one edge's write-behind."""

    bytes_max: int = 64 << 20
    """What queue and kept generations take in memory. A quarter is set aside for the two batches being made and sent."""
    batch_bytes_max: int = 8 << 20
    """A generation is sealed at this size, or at an eighth of `bytes_max`. Larger ones compress better and lose more at a drop."""
    batch_count_max: int = 65_536
    """A generation is sealed at so many entries."""
    refusals_max: int = 5
    """A batch that was refused so often is given up, counted and told."""
    retry_first_ms: int = 50
    retry_max_ms: int = 2_000
    """The pauses while the store is unavailable: from the first, doubling, up to this."""
    spool_bytes_max: int = 0
    """What the spool takes on disk, beside what one commit adds; 0: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A batch that was given up."""

    class_name: str
    pipe: str
    sequence: int
    count: int
    reason: str


class Phase(StrEnum):
    """Where a generation is between the first `put` and the store."""

    OPEN = "open"
    SEALED = "sealed"
    ENCODING = "encoding"
    READY = "ready"
    """Encoded, and waiting for its turn."""
    SENDING = "sending"
    DONE = "done"
    """In the store, or given up and counted."""


class Generation:
    """The entries of one batch: `(edge_id, pipe, sequence)`, under one class as it was when this opened."""

    __slots__ = (
        "count",
        "edge_id",
        "expires_at_unix_ms",
        "feature_class",
        "made",
        "opened_at_ns",
        "phase",
        "pipe",
        "refusals",
        "rows",
        "sequence",
        "size_bytes",
        "spooled_bytes",
        "spooling",
        "unspooled",
    )

    def __init__(self, feature_class: FeatureClass, *, edge_id: str, pipe: str, sequence: int) -> None:
        self.feature_class = feature_class
        self.edge_id = edge_id
        self.pipe = pipe
        self.sequence = sequence
        self.phase = Phase.OPEN
        self.rows: dict[str, Row] | None = {}
        """None: they are on disk alone."""
        self.count = 0
        """How many entries it has; counted when it is sealed."""
        self.size_bytes = 0
        """What its rows take in memory."""
        self.expires_at_unix_ms = 0
        """When its last entry expires."""
        self.opened_at_ns: int | None = None
        """When the driver first saw it."""
        self.refusals = 0
        self.made: Any = None
        """What the driver made of it to be sent."""
        self.unspooled: dict[str, Row] | None = None
        """What no commit has taken yet; None: this generation is not spooled."""
        self.spooling = 0
        """Commits under way."""
        self.spooled_bytes = 0
        """What it takes on disk."""

    @property
    def depth(self) -> int:
        """How many entries it has now."""
        return len(self.rows) if self.phase is Phase.OPEN and self.rows is not None else self.count

    @property
    def durable(self) -> bool:
        """Whether all that was promised to be kept of it is on disk."""
        return not self.unspooled and not self.spooling

    def dead_letter(self, reason: str) -> DeadLetter:
        """What to tell of it when it is given up."""
        return DeadLetter(
            class_name=self.feature_class.name,
            pipe=self.pipe,
            sequence=self.sequence,
            count=self.count,
            reason=reason,
        )

    def __repr__(self) -> str:
        where = "disk" if self.rows is None else f"{self.size_bytes}B"
        return f"<Generation {self.feature_class.name} {self.pipe}/{self.sequence} {self.phase} {where}>"


def row_bytes(key: str, row: Row) -> int:
    """What one entry counts against the bound of memory."""
    value = row[0]
    return ENTRY_OVERHEAD_BYTES + len(key) + (0 if value is None else len(value))


def newer(rows: dict[str, Row], others: Mapping[str, Row]) -> None:
    """Join `others` into `rows`: of two writes of a key the one with the greater order stays."""
    for key, row in others.items():
        held = rows.get(key)
        if held is None or (row[1], row[2]) >= (held[1], held[2]):
            rows[key] = row


def as_entry(row: Row) -> Entry:
    """The same write, with names for its fields."""
    return row if isinstance(row, Entry) else Entry._make(row)
