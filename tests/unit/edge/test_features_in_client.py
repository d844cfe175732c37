"""Features inside the whole client: classes come from the region, and what was seen of them goes back to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.errors import ClosedError, ConfigError
from edge_client.protocol.messages import Event
from edge_client.runtime.features import FeaturePorts
from tests.fakes.artifact_source import FakeArtifactSource
from tests.fakes.bus import Hub
from tests.fakes.feature_store import FakeFeatureStore, Store
from tests.unit.edge.feature_worlds import USER
from tests.unit.edge.worlds import HandClock, Region, turns


class World:
    def __init__(self) -> None:
        self.hub = Hub()
        self.clock = HandClock()
        self.region = Region(self.hub, self.clock)
        self.store = Store()

    @asynccontextmanager
    async def edge(self, *, features: bool = True) -> AsyncIterator[AsyncEdgeClient]:
        await self.region.start()
        config = EdgeConfig(servers=("nats://x",), trust=self.region.trust, edge_id="edge-1")
        ports = FeaturePorts(store=FakeFeatureStore(self.store, clock_unix_ms=self.clock.unix_ms)) if features else None
        opening = asyncio.ensure_future(
            AsyncEdgeClient.over(
                config,
                bus=self.hub.edge_bus(),
                source=FakeArtifactSource(),
                clock=self.clock,
                rng=Random(1),
                features=ports,
            )
        )
        await self.until(opening.done)
        edge = await opening
        try:
            yield edge
        finally:
            closing = asyncio.ensure_future(edge.close())
            await self.until(closing.done)
            await closing

    async def until(self, condition) -> None:
        for _ in range(1_000):
            await turns()
            if condition():
                return
            await self.clock.advance(20)
        raise AssertionError("not within twenty seconds")


async def test_a_class_that_the_region_makes_holds_from_then_on_and_its_observations_go_back():
    world = World()
    async with world.edge() as edge:
        edge.features.put("user:1", "bulk")
        assert {} == world.store.entries
        await world.region.run(200)
        world.region.revision += 1
        world.region.say(
            world.region.subjects.event,
            Event(
                epoch=world.region.epoch,
                revision=world.region.revision,
                name="FeatureClassSet",
                at_unix_ms=0,
                feature_classes=(USER,),
            ),
        )
        await world.region.run(200)
        assert await edge.features.put("user:1", "critical")
        assert ["user:1"] == list(world.store.entries)
        reading = await edge.features.get("user:1")
        assert ("critical", "user") == (reading.value, reading.feature_class)
        edge.features.report(reading, ok=False)
        await world.region.run(2_000)

        (sheet,) = world.region.reports[-1].features
        assert ("user", 1, 1) == (sheet.class_name, sheet.judged_count, sheet.failed_count)
        status = edge.status()
        assert status.features is not None and status.features.hit_count == 1
        assert 1 == status.counters["features_announcements_sent"]
        assert not [name for name in status.counters if name.endswith("driver_failed")]
        features = edge.features
    with pytest.raises(ClosedError):
        await features.get("user:1")


async def test_without_anywhere_to_be_features_say_what_to_set():
    world = World()
    async with world.edge(features=False) as edge:
        assert edge.status().features is None
        with pytest.raises(ConfigError, match="feature_store, or local"):
            _ = edge.features


@pytest.mark.parametrize(
    "settings",
    [
        {"feature_store": "http://x"},
        {"feature_store_ca": "x"},
        {"feature_store_cluster": True},
        {"feature_memory_bytes_max": -1},
        {"feature_queue_bytes_max": 0},
        {"feature_spool_bytes_max": 0},
        {"feature_misses_bp_max": 10_000},
        {"feature_stale_bp_max": -1},
    ],
)
def test_settings_that_make_no_sense_are_named(settings):
    (setting,) = settings
    with pytest.raises(ConfigError, match=setting):
        EdgeConfig(servers=("nats://x",), trust="x", edge_id="e", **settings)
