"""A `Spool` in memory. A `Disk` outlives the process that writes to it, and can be full, damaged or in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_client.errors import FeatureSpoolError, FeatureSpoolTakenError
from edge_client.runtime.feature_ports import SpooledBatch, SpoolPart


@dataclass
class Disk:
    parts: list[SpoolPart] = field(default_factory=list)
    failing: bool = False
    unreadable: bool = False
    damaged: bool = False
    """Nothing can be read from the file."""
    set_aside: list[SpoolPart] = field(default_factory=list)
    owner: FakeSpool | None = None

    def batch(self, pipe: str, sequence: int) -> list[SpoolPart]:
        return [part for part in self.parts if (part.pipe, part.sequence) == (pipe, sequence)]

    def crash(self) -> None:
        """The process that had it is gone."""
        self.owner = None


class FakeSpool:
    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.set_aside = 0

    async def open(self) -> tuple[SpooledBatch, ...]:
        if self.disk.owner is not None:
            raise FeatureSpoolTakenError("another process has this spool open")
        self.disk.owner = self
        if self.disk.damaged:
            self.set_aside += 1
            self.disk.set_aside, self.disk.parts, self.disk.damaged = self.disk.parts, [], False
        found: dict[tuple[str, int], list[SpoolPart]] = {}
        for part in self.disk.parts:
            found.setdefault((part.pipe, part.sequence), []).append(part)
        return tuple(_joined(parts) for parts in found.values())

    async def commit(self, parts: Sequence[SpoolPart], *, done: Sequence[tuple[str, int]]) -> None:
        self._check()
        self.disk.parts = [part for part in (*self.disk.parts, *parts) if (part.pipe, part.sequence) not in done]

    async def read(self, *, pipe: str, sequence: int) -> list[tuple[bytes, int]]:
        self._check()
        if self.disk.unreadable:
            raise FeatureSpoolError("the disk cannot be read")
        return [(part.payload, part.count) for part in self.disk.batch(pipe, sequence)]

    async def close(self) -> None:
        if self.disk.owner is self:
            self.disk.owner = None

    def _check(self) -> None:
        if self.disk.owner is not self:
            raise FeatureSpoolError("the spool is not open")
        if self.disk.failing:
            raise FeatureSpoolError("the disk is full")


def _joined(parts: list[SpoolPart]) -> SpooledBatch:
    first = parts[0]
    return SpooledBatch(
        edge_id=first.edge_id,
        pipe=first.pipe,
        sequence=first.sequence,
        class_name=first.class_name,
        shards=first.shards,
        count=sum(part.count for part in parts),
        size_bytes=sum(len(part.payload) for part in parts),
        expires_at_unix_ms=max(part.expires_at_unix_ms for part in parts),
    )
