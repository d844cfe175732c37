"""What edges say to each other of features they wrote, over a bus that may be away, and what must not disturb it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from edge_client.errors import FeatureValueError
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import EDGE_FRAME_BYTES_MAX, FeatureChanges, decode_edge, encode_edge
from tests.fakes.bus import Message
from tests.fakes.feature_tier import FeatureBox
from tests.unit.edge.feature_worlds import World, told


async def test_announcements_make_others_forget_within_milliseconds():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        await one.put("user:1", 1)
        await other.get("user:1")
        await one.put("user:1", 2)
        assert 1 == (await other.get("user:1")).value, "nothing was said yet"
        await world.passes(60)

        assert 2 == (await other.get("user:1")).value
        assert 1 == other.counters["features_invalidated"]


async def test_what_was_announced_is_not_taken_from_the_box_again():
    world, box = World(), FeatureBox()
    async with world.edge("a") as one, world.edge("b", box=box) as other:
        await one.put("user:1", 1)
        await other.get("user:1")
        await world.passes(20)
        assert "user:1" in box.held
        await one.put("user:1", 2)
        await world.passes(60)

        assert (2, "store") == told(await other.get("user:1"))[:2]
        assert 1 == other.counters["features_local_out_of_date"]


async def test_writes_go_on_without_a_bus_and_what_could_not_be_said_is_counted():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1)
        await world.passes(60)
        world.hub.take_down()
        assert await features.put("user:1", 2)
        await world.passes(60)

        assert (1, 1) == tuple(features.counters[f"features_announcements_{name}"] for name in ("sent", "unsent"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\x02" + b"x" * 100,
        b"\x01" + b"\xc1" * 50,
        b"x" * (EDGE_FRAME_BYTES_MAX + 1),
        encode_edge(FeatureChanges(writer=5, changes=((1, 1),)))[:-1],
    ],
)
async def test_noise_on_the_bus_is_counted_and_changes_nothing(payload):
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1)
        await world.passes(60)
        world.hub.publish(Message(subject=features._announcing._subject, payload=payload, reply_to=None))
        await world.passes(60)

        assert (1, "memory") == told(await features.get("user:1"))[:2]
        refused = sum(
            features.counters[f"features_announcements_{name}"]
            for name in ("undecodable", "unknown_version", "oversized")
        )
        assert 1 == refused


async def test_invalidation_by_pattern_has_copies_fetched_here_and_elsewhere_and_deletes_nothing():
    world, box = World(), FeatureBox()
    async with world.edge("a", box=box) as one, world.edge("b", box=box) as other:
        await one.put_many({"user:1": 1, "user:2": 2})
        await other.get_many(["user:1", "user:2"])
        before = len(world.slow.calls)
        await world.passes(5)
        one.invalidate("user:1*")
        await world.passes(60)

        assert (1, "store") == told(await one.get("user:1"))[:2]
        assert (1, "store") == told(await other.get("user:1"))[:2]
        assert {"memory"} == {(await edge.get("user:2")).tier for edge in (one, other)}
        assert before + 2 == len(world.slow.calls)
        with pytest.raises(FeatureValueError):
            one.invalidate("")


async def test_bulk_classes_that_are_announced_are_so_when_they_are_flushed():
    world = World(FeatureClass(name="live", announced=True, flush_ms=1_000, window_base_ms=60_000))
    async with AsyncExitStack() as edges:
        one = await edges.enter_async_context(world.edge("a"))
        other = await edges.enter_async_context(world.edge("b"))
        one.put("live:1", 1)
        await world.ends(one.flush())
        assert 1 == (await other.get("live:1")).value
        one.put("live:1", 2)
        await world.clock.advance(500)
        assert 1 == (await other.get("live:1")).value
        await world.ends(one.flush())
        await world.passes(60)

        assert 2 == (await other.get("live:1")).value
        changes = [decode_edge(message.payload) for message in world.hub.published]
        assert all(isinstance(change, FeatureChanges) for change in changes) and len(changes) == 2
