"""Features on fakes: a store that takes its time, boxes, a bus, and a clock that only a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, TypeVar

from edge_client.config import EdgeConfig
from edge_client.errors import FeatureStoreUnavailableError
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from edge_client.protocol.features import Entry
from edge_client.protocol.subjects import Subjects
from edge_client.runtime.feature_ports import Batch
from edge_client.runtime.features import AsyncFeatures, FeaturePorts
from edge_client.runtime.signals import Pulse
from tests.fakes.bus import Hub
from tests.fakes.feature_store import FakeFeatureStore, Store
from tests.fakes.feature_tier import FakeFeatureTier, FeatureBox
from tests.unit.edge.worlds import MS, HandClock, turns

T = TypeVar("T")
USER = FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=1_000, window_floor_ms=10, expire_ms=None)
TRACK = FeatureClass(name="track", window_base_ms=5_000, expire_ms=30_000, flush_ms=1_000, shards=4)
TRUST = "ccs-region-key ed25519 x"


class SlowStore:
    """A `FeatureStore` whose calls take `before()` ms until they take effect, and `after()` ms until they return.

    The store of features never changes its mind: what it answers was true at the instant between the two. With `lost`
    a call takes effect and its caller hears that nobody answered.
    """

    def __init__(self, inner: FakeFeatureStore, clock: HandClock) -> None:
        self.inner = inner
        self.clock = clock
        self.before: Callable[[], int] = lambda: 0
        self.after: Callable[[], int] = lambda: 0
        self.lost: Callable[[], bool] = lambda: False
        self.calls: list[tuple[str, int]] = []

    async def connect(self) -> None:
        await self.inner.connect()

    async def close(self) -> None:
        await self.inner.close()

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        return await self._slowly("get_many", len(keys), lambda: self.inner.get_many(keys))

    async def put_many(self, items: Sequence[tuple[str, Entry]]) -> list[bool]:
        return await self._slowly("put_many", len(items), lambda: self.inner.put_many(items))

    async def find_many(self, feature_class: FeatureClass, keys: Sequence[str]) -> list[Entry | None]:
        return await self._slowly("find_many", len(keys), lambda: self.inner.find_many(feature_class, keys))

    async def put_batch(self, batch: Batch) -> int:
        return await self._slowly("put_batch", len(batch.blocks), lambda: self.inner.put_batch(batch))

    async def counted(self, class_name: str) -> int:
        return await self.inner.counted(class_name)

    async def _slowly(self, name: str, count: int, call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append((name, count))
        await self._pass(self.before())
        answer = await call()
        await self._pass(self.after())
        if self.lost():
            raise FeatureStoreUnavailableError("the answer was lost")
        return answer

    async def _pass(self, ms: int) -> None:
        if ms:
            await self.clock.sleep_until(self.clock.now_ns() + ms * MS)


class World:
    """One store, one bus, and edges."""

    def __init__(self, *classes: FeatureClass, seed: int = 1) -> None:
        self.hub = Hub()
        self.clock = HandClock()
        self.rng = Random(seed)
        self.store = Store()
        self.slow = SlowStore(FakeFeatureStore(self.store, clock_unix_ms=self.clock.unix_ms), self.clock)
        self.classes: Mapping[str, FeatureClass] = {each.name: each for each in classes or (USER, TRACK)}
        self.pulse = Pulse()

    def say(self, *classes: FeatureClass) -> None:
        """The region has other feature classes now."""
        self.classes = {**self.classes, **{each.name: each for each in classes}}

    @asynccontextmanager
    async def edge(
        self, edge_id: str = "edge-1", *, box: FeatureBox | None = None, life_id: str = "life", **settings: object
    ) -> AsyncIterator[Any]:
        config = EdgeConfig(
            servers=("nats://x",),
            trust=TRUST,
            edge_id=edge_id,
            local="redis://x",
            **settings,  # type: ignore[arg-type]
        )
        bus = self.hub.edge_bus()
        await bus.connect()
        tier = None if box is None else FakeFeatureTier(box, clock_unix_ms=self.clock.unix_ms)
        features: Any = AsyncFeatures(
            FeaturePorts(store=self.slow, tier=tier),
            config=config,
            life_id=life_id,
            classes=lambda: self.classes,
            bus=bus,
            subject=Subjects("default").features,
            clock=self.clock,
            rng=Random(self.rng.random()),
            pulse=self.pulse,
        )
        features.bus = bus
        await features.open()
        tasks = [asyncio.create_task(driver(), name=name) for name, driver in features.drivers().items()]
        await turns()
        try:
            yield features
            features.copies.check_invariants()
            assert not [task for task in tasks if task.done() and not task.cancelled()], "a driver ended"
        finally:
            closing = asyncio.create_task(features.close())
            for _ in range(100):
                await self.clock.advance(20)
                if closing.done():
                    break
            await closing
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def passes(self, ms: int) -> None:
        """So much time, in small steps, so that whoever sets himself a deadline meanwhile meets it."""
        for _ in range(-(-ms // 5)):
            await turns()
            await self.clock.advance(5)

    async def ends(self, awaitable: Awaitable[T], *, step_ms: int = 1) -> T:
        """What it returns or raises; time passes as far as it must."""
        task = asyncio.ensure_future(awaitable)
        for _ in range(100_000):
            await turns()
            if task.done():
                return await task
            await self.clock.advance(step_ms)
        raise AssertionError("it does not end")


def told(reading: Any) -> tuple[object, ...]:
    """What matters of a reading."""
    return reading.value, reading.tier, str(reading.reason), str(reading.verdict), reading.age_ms
