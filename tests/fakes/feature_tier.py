"""A `FeatureTier` in a dictionary that several tiers may share, as the processes of one box share its Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_client.errors import LocalTierError
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_ports import Held


@dataclass
class FeatureBox:
    """What stands in for the Redis of a box."""

    away: bool = False
    held: dict[str, tuple[Entry, int, str]] = field(default_factory=dict)
    """Entry, when it was known to be current, and in which life of the machine."""

    def flush(self) -> None:
        self.held.clear()

    def check(self) -> None:
        if self.away:
            raise LocalTierError("Redis is unreachable")


class FakeFeatureTier:
    def __init__(
        self,
        box: FeatureBox | None = None,
        *,
        boot_id: str = "boot",
        clock_unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.box = box or FeatureBox()
        self._boot_id = boot_id
        self._unix_ms = clock_unix_ms

    async def connect(self) -> None:
        self.box.check()

    async def close(self) -> None:
        """Nothing to release."""

    async def get(self, key: str) -> Held | None:
        self.box.check()
        if key not in self.box.held:
            return None
        entry, known_at_ns, boot_id = self.box.held[key]
        if entry.expired(unix_ms=self._unix_ms()):
            return None
        return Held(entry, known_at_ns if boot_id == self._boot_id else None)

    async def get_many(self, keys: Sequence[str]) -> list[Held | None]:
        return [await self.get(key) for key in keys]

    async def put_many(self, items: Sequence[tuple[str, Entry, int]]) -> None:
        self.box.check()
        for key, entry, known_at_ns in items:
            held = self.box.held.get(key)
            if entry.expired(unix_ms=self._unix_ms()):
                continue
            if held is not None and held[0].order > entry.order:
                continue
            if (
                held is not None
                and held[0].order == entry.order
                and held[2] == self._boot_id
                and held[1] >= known_at_ns
            ):
                continue
            self.box.held[key] = (entry, known_at_ns, self._boot_id)

    async def drop_many(self, keys: Sequence[tuple[str, int]]) -> None:
        self.box.check()
        for key, stamp in keys:
            if key in self.box.held and self.box.held[key][0].stamp < stamp:
                del self.box.held[key]
