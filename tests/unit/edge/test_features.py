"""`edge.features` on fakes, in hand-made time: which tier answers, what is promised, and what must not be served."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from edge_client.errors import (
    ClosedError,
    FeatureStoreRefusedError,
    FeatureStoreUnavailableError,
    FeatureValueError,
    TooStaleError,
)
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind, WhenFull
from edge_client.protocol.features import Entry
from edge_client.protocol.stamps import COUNTER_BITS
from tests.fakes.feature_tier import FeatureBox
from tests.unit.edge.feature_worlds import TRACK, USER, World, told
from tests.unit.edge.worlds import turns


async def test_a_critical_feature_is_in_the_store_when_put_returns_and_in_memory_and_the_box():
    world, box = World(), FeatureBox()
    async with world.edge(box=box) as features:
        assert await features.put("user:1", {"n": [1]})

        assert "user:1" in world.store.entries and "user:1" in box.held
        reading = await features.get("user:1")
        assert ({"n": [1]}, "memory", "MEMORY", "FRESH", 0) == told(reading)
        assert 0 == reading.staleness_bound_ms and "user" == reading.feature_class
        assert [("put_many", 1)] == world.slow.calls


async def test_the_age_of_a_write_counts_from_before_it_began():
    world = World()
    world.slow.before = world.slow.after = lambda: 30
    async with world.edge() as features:
        await world.ends(features.put("user:1", 1))

        assert (await features.get("user:1")).age_ms >= 60


async def test_the_age_of_a_fetch_counts_from_before_it_began_and_goes_on_in_the_box():
    world, box = World(), FeatureBox()
    async with world.edge("a", box=box) as one, world.edge("b", box=box) as other:
        await one.put("user:1", 1)
        box.flush()
        world.slow.after = lambda: 50
        fetched = await world.ends(other.get("user:1"))
        assert "store" == fetched.tier and fetched.age_ms >= 50
        await world.clock.advance(100)
        one.copies.forget("user:1")
        reading = await one.get("user:1")

        assert ("local", "LOCAL") == (reading.tier, str(reading.reason))
        assert fetched.age_ms + 100 <= reading.age_ms <= fetched.age_ms + 105


async def test_beyond_its_window_a_critical_copy_is_fetched_refused_or_marked():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1)
        await world.clock.advance(1_001)
        world.store.away = True

        with pytest.raises(TooStaleError, match="1001 ms old, and 1000 ms are allowed"):
            await features.get("user:1", on_stale="raise")
        with pytest.raises(TooStaleError):
            await features.get("user:1")
        marked = await features.get("user:1", on_stale="serve")
        assert (1, "memory", "STALE", "TOO_STALE", 1_001) == told(marked)
        assert (1, "memory", "MEMORY", "STALE_WITHIN_BOUND", 1_001) == told(
            await features.get("user:1", staleness_max_ms=2_000)
        )
        world.store.away = False
        await world.clock.advance(20_000)  # the breaker lets a probe through
        assert (1, "store", "FETCHED", "FRESH") == told(await features.get("user:1"))[:4]


async def test_what_is_read_is_fetched_again_before_its_window_ends():
    world = World()
    async with world.edge("a") as reader, world.edge("b") as writer:
        await writer.put("user:1", 1)
        await reader.get("user:1")
        world.hub.take_down()
        await writer.put("user:1", 2)
        values = []
        for _ in range(30):
            await world.clock.advance(50)
            reading = await reader.get("user:1")
            assert "memory" == reading.tier and reading.age_ms <= 1_000
            values.append(reading.value)

        assert 1 == values[0] and 2 == values[-1]
        gets = [call for call in world.slow.calls if call[0] == "get_many"]
        assert len(gets) <= 4, "one fetch at first, and one in each window"


async def test_many_who_miss_share_one_fetch():
    world = World()
    async with world.edge() as features:
        world.store.entries["user:1"] = Entry(encoded(7), 1, 1, 0)
        world.slow.after = lambda: 20
        readings = await world.ends(asyncio.gather(*(features.get("user:1") for _ in range(50))))

        assert {7} == {reading.value for reading in readings}
        assert [("get_many", 1)] == world.slow.calls


async def test_whoever_is_cancelled_does_not_take_the_others_along():
    world = World()
    async with world.edge() as features:
        world.store.entries["user:1"] = Entry(encoded(7), 1, 1, 0)
        world.slow.after = lambda: 20
        leader = asyncio.ensure_future(features.get("user:1"))
        await turns()
        follower = asyncio.ensure_future(features.get("user:1"))
        await turns()
        leader.cancel()

        assert 7 == (await world.ends(follower)).value
        assert leader.cancelled()


async def test_a_write_voids_fills_under_way_and_nobody_joins_them():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1)
        features.copies.forget("user:1")
        world.slow.after = lambda: 50
        slow = asyncio.ensure_future(features.get("user:1"))
        await world.clock.advance(10)
        world.slow.after = lambda: 0
        await features.put("user:1", 2)
        features._cache.pop("user:1")

        assert 2 == (await features.get("user:1")).value
        assert 1 == (await world.ends(slow)).value, "it began before the write"
        assert 2 == (await features.get("user:1")).value
        assert "memory" == (await features.get("user:1")).tier


async def test_nobody_is_served_from_a_fetch_that_is_too_old_for_him():
    world = World()
    async with world.edge() as features:
        world.store.entries["user:1"] = Entry(encoded(7), 1, 1, 0)
        world.slow.after = lambda: 100
        slow = asyncio.ensure_future(features.get("user:1"))
        await turns()
        await world.clock.advance(95)
        world.slow.after = lambda: 2
        reading = await world.ends(features.get("user:1", staleness_max_ms=10))

        assert reading.age_ms <= 10
        await world.ends(slow)


async def test_absence_is_remembered_briefly():
    world = World()
    async with world.edge() as features:
        first = await features.get("user:1", default="none")
        assert ("none", False, "store", "DEFAULT") == (first.value, first.found, first.tier, str(first.reason))
        again = await features.get("user:1", default="nought")
        assert ("nought", False, "memory", "DEFAULT") == (again.value, again.found, again.tier, str(again.reason))
        assert 1 == len(world.slow.calls)
        await world.clock.advance(1_001)
        await features.get("user:1")

        assert 2 == len(world.slow.calls)


async def test_deletion_is_seen_here_at_once_and_elsewhere_soon():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        await one.put("user:1", 1)
        assert (await other.get("user:1")).found
        await one.delete("user:1")
        assert not (await one.get("user:1")).found
        await world.passes(60)

        assert not (await other.get("user:1")).found


async def test_a_write_whose_fate_is_unknown_leaves_no_copy_here():
    world, box = World(), FeatureBox()
    async with world.edge(box=box) as features:
        await features.put("user:1", 1)
        world.slow.lost = lambda: True
        with pytest.raises(FeatureStoreUnavailableError):
            await features.put("user:1", 2)
        world.slow.lost = lambda: False
        await world.clock.advance(5)

        assert (2, "store") == told(await features.get("user:1"))[:2]


async def test_a_write_that_lost_to_a_newer_one_is_not_kept():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", "oldest")
        world.store.entries["user:1"] = Entry(encoded("newer"), (world.clock.unix_ms() + 5_000) << COUNTER_BITS, 1, 0)

        assert not await features.put("user:1", "older")
        assert "newer" == (await features.get("user:1")).value
        assert await features.put("user:1", "newest"), "what was read pushes our stamps"
        assert ("user:2",) == await lost_one(features, world)


async def lost_one(features, world) -> Any:
    world.store.entries["user:2"] = Entry(encoded("newer"), (world.clock.unix_ms() + 50_000) << COUNTER_BITS, 1, 0)
    return await features.put_many({"user:2": 1, "user:3": 2, "track:1": 3})


async def test_a_bulk_feature_is_read_from_the_queue_and_by_others_after_its_flush():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        vector = np.arange(4, dtype="f4")
        one.put("track:1", vector)
        vector[:] = 9
        reading = await one.get("track:1")
        assert [0, 1, 2, 3] == list(reading.value) and reading.tier == "queue"
        assert reading.staleness_bound_ms is None, "a wall clock is nothing to vouch for"
        assert not (await other.get("track:1")).found
        assert await world.ends(one.flush())
        await world.clock.advance(1_100)
        fetched = await other.get("track:1")
        assert [0, 1, 2, 3] == list(fetched.value) and ("store", "FETCHED") == (fetched.tier, str(fetched.reason))
        again = await other.get("track:1")

        assert "memory" == again.tier
        with pytest.raises(ValueError, match="read-only"):
            again.value[0] = 5


async def test_a_queued_write_is_read_before_an_older_copy_in_memory():
    world = World()
    async with world.edge("a") as one, world.edge("b") as features:
        one.put("track:1", 1)
        await world.ends(one.flush())
        await world.clock.advance(5)
        for write, expected in (
            (lambda: features.put("track:1", 2), 2),
            (lambda: features.put_many({"track:1": 3}), 3),
            (lambda: features.delete("track:1"), None),
        ):
            features.copies.find = lambda *_: None
            await features.get("track:1")
            assert "memory" == (await features.get("track:1")).tier
            features.copies.find = features._writer.find
            write()
            assert expected == (await features.get("track:1")).value


async def test_a_fill_that_ends_after_a_bulk_write_does_not_hide_it():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        one.put("track:1", 1)
        await world.ends(one.flush())
        world.slow.after = lambda: 50
        slow = asyncio.ensure_future(other.get("track:1"))
        await world.clock.advance(10)
        other.put("track:1", 2)
        await world.ends(slow)

        assert 2 == (await other.get("track:1")).value


async def test_a_write_queued_in_the_very_moment_of_a_fill_is_not_hidden_by_it():
    """Another thread queues it when the fill's token is settled and the copy not yet there: it sees neither."""
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        one.put("track:1", 1)
        await world.ends(one.flush())
        put = other._cache.put

        def meanwhile(key, copy, *, size_bytes) -> None:
            other._cache.put = put
            policy, row = other.writing.row("track:1", 2, None)
            assert other.writing.queue(policy, "track:1", row)
            put(key, copy, size_bytes=size_bytes)

        other._cache.put = meanwhile
        await other.get("track:1")

        assert 2 == (await other.get("track:1")).value


async def test_bulk_is_served_beyond_its_window_until_it_expires_unless_the_caller_minds():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        one.put("track:1", 1)
        await world.ends(one.flush())
        assert (await other.get("track:1")).found
        await world.clock.advance(10_000)
        late = await other.get("track:1")
        assert ("STALE_WITHIN_BOUND", "memory") == (str(late.verdict), late.tier) and late.age_ms >= 10_000
        with pytest.raises(TooStaleError):
            await other.get("track:1", staleness_max_ms=3_000)
        await world.clock.advance(20_001)

        assert not (await other.get("track:1")).found
        assert not (await one.get("track:1")).found


async def test_dicts_and_lists_are_each_readers_own():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", {"list": [1]})
        first = await features.get("user:1")
        first.value["list"].append(2)

        assert {"list": [1]} == (await features.get("user:1")).value


async def test_values_keep_their_types():
    world = World()
    values = {"b": b"\x00x", "s": "ü", "i": -(1 << 40), "f": 0.1, "t": True, "n": None, "l": [1, {"a": [b"x"]}]}
    async with world.edge("a") as one, world.edge("b") as other:
        await one.put_many({f"user:{name}": value for name, value in values.items()})
        readings = await other.get_many(f"user:{name}" for name in values)

        assert values == {key.removeprefix("user:"): reading.value for key, reading in readings.items()}
        assert {True} == {reading.found for reading in readings.values()}
        assert 1 == len([call for call in world.slow.calls if call[0] == "get_many"])


async def test_get_many_asks_each_tier_once():
    world, box = World(), FeatureBox()
    async with world.edge("a", box=box) as one, world.edge("b", box=box) as other:
        await one.put_many({f"user:{number}": number for number in range(4)})
        box.held.pop("user:3")
        await other.get("user:0")
        readings = await other.get_many(["user:0", "user:1", "user:2", "user:3", "user:9", "user:1"])

        assert ["memory", "local", "local", "store", "store"] == [
            readings[f"user:{number}"].tier for number in (0, 1, 2, 3, 9)
        ]
        assert 5 == len(readings)


async def test_damaged_bytes_count_as_absent():
    world, box = World(), FeatureBox()
    async with world.edge(box=box) as features:
        now = world.clock.now_ns()
        box.held["user:1"] = (Entry(b"\xffrot", 5, 1, 0), now, "boot")
        world.store.entries["user:1"] = Entry(encoded(1), 5, 1, 0)
        world.store.entries["user:2"] = Entry(b"\xffrot", 5, 1, 0)

        assert (1, "store") == told(await features.get("user:1"))[:2]
        assert not (await features.get("user:2")).found
        assert 2 == features.counters["features_corrupt"]


async def test_of_what_another_life_of_the_machine_left_the_age_is_unknown():
    world, box = World(), FeatureBox()
    async with world.edge(box=box) as features:
        box.held["user:1"] = (Entry(encoded(1), 5, 1, 0), world.clock.now_ns(), "another boot")
        world.store.away = True
        with pytest.raises(TooStaleError, match="unknown age"):
            await features.get("user:1", on_stale="raise")
        reading = await features.get("user:1", on_stale="serve", staleness_max_ms=10**9)

        assert (1, "local", "STALE", "TOO_STALE", None) == told(reading)
        assert reading.staleness_bound_ms is None


async def test_a_store_that_does_not_answer_is_asked_rarely_and_a_box_that_does_not_is_passed_by():
    world, box = World(), FeatureBox()
    async with world.edge(box=box) as features:
        world.store.away = box.away = True
        for number in range(40):
            with pytest.raises(TooStaleError):
                await features.get(f"user:{number}")
        asked = len(world.slow.calls)
        assert asked <= 6
        status = features.status()
        assert ("open", "open") == (status.store, status.local_tier)
        with pytest.raises(FeatureStoreUnavailableError, match="lately"):
            await features.put("user:1", 1)
        world.store.away = box.away = False
        await world.clock.advance(1_000)
        assert await features.put("user:1", 1)

        assert "closed" == features.status().store


async def test_a_refusal_is_told_and_opens_nothing():
    world = World()
    async with world.edge() as features:
        world.store.refusing = True
        for _ in range(20):
            with pytest.raises(FeatureStoreRefusedError):
                await features.put("user:1", 1)

        assert "closed" == features.status().store


async def test_who_takes_whatever_there_is_gets_the_default_marked_when_nobody_answers():
    world = World()
    async with world.edge() as features:
        world.store.away = True
        reading = await features.get("user:1", on_stale="serve", default=3)

        assert (3, None, "DEFAULT", "TOO_STALE", None) == told(reading)
        assert not reading.found


async def test_a_window_that_the_region_tightens_holds_at_once():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1)
        await world.clock.advance(300)
        world.say(
            FeatureClass(
                name="user",
                kind=FeatureKind.CRITICAL,
                window_base_ms=1_000,
                window_floor_ms=10,
                window_ms=100,
                expire_ms=None,
            )
        )
        world.store.away = True
        await world.clock.advance(100)

        with pytest.raises(TooStaleError):
            await features.get("user:1")


async def test_keys_that_change_their_class_are_asked_for_anew():
    world = World(USER)
    async with world.edge() as features:
        features.put("late:1", 1)
        await world.ends(features.flush())
        await features.get("late:1")
        await features.put("user:1", 1)
        world.say(FeatureClass(name="late", kind=FeatureKind.CRITICAL, expire_ms=None))
        await world.clock.advance(100)

        assert not (await features.get("late:1")).found
        assert "memory" == (await features.get("user:1")).tier


@pytest.mark.parametrize("key", ["", "x" * 513, "ü" * 257, "\ud800", 7, None])
async def test_what_is_no_key_is_refused_by_every_call(key):
    world = World()
    async with world.edge() as features:
        for call in (
            features.get,
            features.delete,
            lambda key: features.put(key, 1),
            lambda key: features.put_many([(key, 1)]),
        ):
            with pytest.raises((FeatureValueError, TypeError)):
                await call(key)
        with pytest.raises(FeatureValueError):
            await features.get_many([key])


async def test_what_cannot_be_asked_or_kept_is_refused():
    world = World()
    async with world.edge() as features:
        await features.get("x" * 512)
        for options in ({"on_stale": "hope"}, {"staleness_max_ms": -1}):
            with pytest.raises(ValueError):
                await features.get("user:1", **options)
        with pytest.raises(FeatureValueError):
            features.put("user:1", object())
        with pytest.raises(FeatureValueError):
            features.put("track:1", 1, expire_ms=30_001)
        with pytest.raises(FeatureValueError):
            features.put_many({"track:1": 1, "track:2": object()})
        assert not (await features.get("track:1")).found, "all or nothing"
        assert await features.put("user:1", 1, expire_ms=100)
        await world.clock.advance(101)
        assert not (await features.get("user:1")).found


async def test_a_full_queue_that_waits_goes_on_when_there_is_room():
    world = World(FeatureClass(name="track", when_full=WhenFull.BLOCK, flush_ms=10, shards=1))
    async with world.edge(feature_queue_bytes_max=1 << 20) as features:
        blob = world.rng.randbytes(16_384)
        world.store.away = True
        puts = [asyncio.ensure_future(features.put(f"track:{number}", blob + bytes([number]))) for number in range(100)]
        await world.clock.advance(100)
        assert not all(put.done() for put in puts), "it never filled"
        world.store.away = False
        await world.ends(asyncio.gather(*puts), step_ms=20)


async def test_reports_and_drift_reach_the_region():
    world = World()
    async with world.edge("a") as one, world.edge("b") as other:
        await one.put("user:1", 1.0)
        reading = await other.get("user:1")
        other.report(reading, ok=False)
        other.report("user", ok=True)
        world.hub.take_down()
        await one.put("user:1", 3.0)
        await world.clock.advance(1_001)
        await other.get("user:1")
        with pytest.raises(TypeError):
            other.report(reading, ok=1)

        (sheet,) = other.observations()
        assert ("user", 2, 1, 1, 0.5) == (
            sheet.class_name,
            sheet.judged_count,
            sheet.failed_count,
            sheet.fetched_count,
            sheet.drift_sum,
        )


async def test_nobody_listens_before_features_are_used():
    world = World()
    async with world.edge() as features:
        assert [] == features.bus.inflows
        await features.get("user:1")
        await turns()

        assert 1 == len(features.bus.inflows)


async def test_after_close_everything_raises_and_what_was_queued_is_stored():
    world = World()
    async with world.edge("a") as one:
        await one.put("user:1", 1)
        one.put("track:1", 1)
    for call in (
        lambda: one.get("user:1"),
        lambda: one.get_many(["user:1"]),
        lambda: asyncio.sleep(0, one.put("user:1", 1)),
        lambda: asyncio.sleep(0, one.put("track:1", 1)),
        lambda: asyncio.sleep(0, one.invalidate("x")),
    ):
        with pytest.raises(ClosedError):
            await call()
    async with world.edge("b") as other:
        assert 1 == (await other.get("track:1")).value


async def test_the_application_is_turned_away_while_nobody_answers():
    world = World()
    async with world.edge() as features:
        assert features.admits()
        world.store.away = True
        for number in range(100):
            await features.get(f"user:{number}", on_stale="serve")

        assert not features.admits()
        assert "open" == features.status().admission


async def test_what_expired_and_nobody_reads_leaves_memory():
    world = World()
    async with world.edge() as features:
        await features.put("user:1", 1, expire_ms=500)
        assert 1 == features.status().memory_count
        await world.clock.advance(1_000)

        assert 0 == features.status().memory_count
        assert 1 == features.counters["features_expired"]


def encoded(value) -> bytes:
    from edge_client.protocol.feature_codec import encode_value

    return encode_value(value, codec=TRACK.codec)
