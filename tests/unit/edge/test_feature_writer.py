"""The drivers of the write-behind: what reaches the store, when, after what failures, and what `close` leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from edge_client.core.generation import DeadLetter, WriteBehindConfig
from edge_client.errors import ClosedError, FeatureSpoolTakenError, FeatureStoreUnavailableError
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_ports import Batch
from edge_client.runtime.feature_writer import FeatureWriter
from tests.fakes.feature_store import FakeFeatureStore, Store
from tests.fakes.spool import Disk, FakeSpool
from tests.unit.edge.worlds import HandClock, turns

TRACK = FeatureClass(name="track", flush_ms=1_000, shards=4, when_full=WhenFull.BLOCK)
POSE = FeatureClass(name="pose", flush_ms=1_000, shards=4)
SPOOLED = FeatureClass(name="kept", flush_ms=1_000, shards=4, spool=True)
MANY_TURNS = 60
STEP_MS = 50


class RecordingStore(FakeFeatureStore):
    """Remembers what came; refuses a class; loses answers."""

    def __init__(self, store: Store, *, clock: HandClock) -> None:
        super().__init__(store, clock_unix_ms=clock.unix_ms)
        self.numbers: list[tuple[str, int]] = []
        self.refused_class: str | None = None
        self.answers_lost = 0
        self.hold: asyncio.Event | None = None

    async def put_batch(self, batch: Batch) -> int:
        self.numbers.append((batch.pipe, batch.sequence))
        if self.hold is not None:
            await self.hold.wait()
        self.store.refusing = batch.blocks[0].class_name == self.refused_class
        try:
            counted = await super().put_batch(batch)
        finally:
            self.store.refusing = False
        if self.answers_lost:
            self.answers_lost -= 1
            raise FeatureStoreUnavailableError("the answer was lost")
        return counted


@dataclass
class World:
    clock: HandClock = field(default_factory=HandClock)
    regional: Store = field(default_factory=Store)
    disk: Disk = field(default_factory=Disk)
    letters: list[DeadLetter] = field(default_factory=list)
    lives: int = 0
    stamp: int = 0

    @asynccontextmanager
    async def life(self, *, spool: bool = False, **config: int) -> AsyncIterator[FeatureWriter]:
        """A writer and its drivers; at the end they are gone without a word, as after a crash."""
        self.lives += 1
        self.store = RecordingStore(self.regional, clock=self.clock)
        writer = FeatureWriter(
            store=self.store,
            clock=self.clock,
            rng=Random(1),
            edge_id="edge",
            life_id=f"life{self.lives}",
            config=WriteBehindConfig(spool_bytes_max=(1 << 20) if spool else 0, **config),
            spool=FakeSpool(self.disk) if spool else None,
            given_up=self.letters.append,
        )
        await writer.open()
        running = asyncio.create_task(writer.run())
        await turns()
        try:
            yield writer
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self.disk.crash()

    def entry(self, value: bytes = b"v", *, life_ms: int = 600_000) -> Entry:
        self.stamp += 1
        now_ms = self.clock.unix_ms()
        return Entry(value, (now_ms << 20) + self.stamp, 7, now_ms + life_ms)

    async def advance(self, ms: int) -> None:
        """Let time pass in steps, and all that can run without time passing run before and after each."""
        for start_ms in range(0, ms, STEP_MS):
            await turns(MANY_TURNS)
            await self.clock.advance(min(STEP_MS, ms - start_ms))
        await turns(MANY_TURNS)

    async def stored(self, feature_class: FeatureClass, key: str) -> bytes | None:
        (entry,) = await FakeFeatureStore(self.regional, clock_unix_ms=self.clock.unix_ms).find_many(
            feature_class, [key]
        )
        return None if entry is None else entry.value


@pytest.fixture
def world() -> World:
    return World()


async def test_what_is_put_is_stored_when_it_is_due_and_found_all_the_while(world):
    async with world.life() as writer:
        assert writer.put(TRACK, "track:1", world.entry(b"1"))
        assert writer.put_many(TRACK, {"track:2": b"2"}, stamp=1, writer=7, expires_at_unix_ms=1 << 45) == 1
        assert writer.find(TRACK, "track:1").value == b"1"
        await world.advance(990)
        assert world.store.numbers == []
        assert writer.metrics()["oldest_ms"] == 990
        await world.advance(20)

        assert world.store.numbers == [("life1-0", 1)]
        assert await world.stored(TRACK, "track:1") == b"1"
        assert writer.find(TRACK, "track:1").value == b"1"
        assert writer.metrics() == {
            **dict.fromkeys(("coalesced", "dropped", "expired", "dead_lettered", "lost", "blocked", "refused_full"), 0),
            **dict.fromkeys(("recovered_count", "retried", "depth", "spool_bytes", "oldest_ms"), 0),
            **dict.fromkeys(("accepted", "flushed", "counted"), 2),
            "batches": 1,
            "memory_bytes": 576,
        }


async def test_a_flush_returns_when_all_is_stored_or_at_its_timeout(world):
    async with world.life() as writer:
        writer.put(TRACK, "track:1", world.entry())
        assert await writer.flush()
        assert await world.stored(TRACK, "track:1") == b"v"
        assert await writer.flush(timeout_ms=0)

        world.regional.away = True
        writer.put(TRACK, "track:1", world.entry(b"2"))
        flushing = asyncio.create_task(writer.flush(timeout_ms=300))
        await world.advance(299)
        assert not flushing.done()
        await world.advance(2)
        assert await flushing is False


async def test_an_hour_without_a_store_stays_within_the_bound_and_all_that_was_promised_arrives_in_order(world):
    """Classes that wait lose nothing; those that drop say how much; nobody holds more than the bound."""
    async with world.life(bytes_max=400_000, batch_count_max=100) as writer:
        world.regional.away = True
        accepted: dict[str, bytes] = {}
        refused = 0
        for second in range(3_600):
            for number in range(4):
                key, value = f"track:{(second * 4 + number) % 1_500}", b"%d" % second
                if writer.put(TRACK, key, world.entry(value, life_ms=7_200_000)):
                    accepted[key] = value
                else:
                    refused += 1
            writer.put(POSE, f"pose:{second}", world.entry(life_ms=30_000))
            assert writer.metrics()["memory_bytes"] <= 300_000
            await world.clock.advance(1_000)
        assert refused > 0
        assert writer.metrics()["expired"] > 0
        world.regional.away = False
        await world.advance(10_000)
        flushing = asyncio.create_task(writer.flush())
        while not flushing.done():
            await world.advance(100)

        assert {key: await world.stored(TRACK, key) for key in accepted} == accepted
        assert writer.metrics()["retried"] >= 3_600 / 2
        for pipe in {pipe for pipe, _ in world.store.numbers}:
            sequences = [sequence for each, sequence in world.store.numbers if each == pipe]
            assert sequences == sorted(sequences)


async def test_an_answer_that_was_lost_counts_once(world):
    async with world.life() as writer:
        world.store.answers_lost = 3
        writer.put_many(TRACK, {f"track:{n}": b"v" for n in range(50)}, stamp=1, writer=7, expires_at_unix_ms=1 << 45)
        flushing = asyncio.create_task(writer.flush())
        await world.advance(2_000)
        assert await flushing

        assert world.store.numbers == [("life1-0", 1)] * 4
        assert await world.store.counted("track") == 50
        assert writer.metrics()["retried"] == 3


async def test_a_class_that_is_refused_is_told_as_dead_letters_and_others_go_on(world, caplog):
    async with world.life(refusals_max=3) as writer:
        world.store.refused_class = "track"
        writer.put(TRACK, "track:1", world.entry())
        writer.put(POSE, "pose:1", world.entry())
        await world.advance(1_010)
        assert await world.stored(POSE, "pose:1") == b"v"
        await world.advance(60_000)

        letter = DeadLetter(class_name="track", pipe="life1-0", sequence=1, count=1, reason="the store refused")
        assert world.letters == [letter]
        assert writer.dead_letters == (letter,)
        assert "features_dead_lettered" in caplog.text
        assert writer.metrics()["dead_lettered"] == 1


async def test_what_no_block_can_hold_is_given_up_and_told(world):
    async with world.life(refusals_max=1) as writer:
        writer.put(TRACK, "track:1", Entry(b"v", 1 << 70, 7, 1 << 45))
        assert await writer.flush()

        assert [letter.count for letter in world.letters] == [1]


async def test_who_waits_for_room_goes_on_when_there_is_some(world):
    async with world.life(bytes_max=80_000, batch_bytes_max=1 << 20) as writer:
        world.store.hold = asyncio.Event()
        number = 0
        while writer.put(TRACK, f"track:{number}", world.entry()):
            number += 1
        waiting = asyncio.create_task(writer.wait_for_room())
        in_thread = asyncio.create_task(asyncio.to_thread(put_in_thread, writer, world.entry()))
        await turns(MANY_TURNS)
        assert writer.metrics()["blocked"] >= 1
        world.store.hold.set()
        await waiting
        await asyncio.wait_for(in_thread, 5)

        assert writer.find(TRACK, "from:thread") is not None


def put_in_thread(writer: FeatureWriter, entry: Entry) -> None:
    while not writer.put(TRACK, "from:thread", entry):
        writer.wait_for_room_in_thread()


async def test_threads_may_put_while_the_loop_flushes(world):
    async with world.life(batch_count_max=200) as writer:
        writer_entries = [[world.entry() for _ in range(1_000)] for _ in range(3)]

        def put(number: int) -> None:
            for place, entry in enumerate(writer_entries[number]):
                while not writer.put(TRACK, f"track:{number}:{place}", entry):
                    writer.wait_for_room_in_thread()

        threads = [threading.Thread(target=put, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0)
        assert await writer.flush()

        assert await world.store.counted("track") == 3_000
        assert writer.metrics()["flushed"] == 3_000


async def test_after_close_nothing_is_taken_and_what_could_not_be_stored_is_counted(world, caplog):
    async with world.life() as writer:
        writer.put(TRACK, "track:1", world.entry())
        assert await writer.close() == 0
        assert await world.stored(TRACK, "track:1") == b"v"
        with pytest.raises(ClosedError):
            writer.put(TRACK, "track:1", world.entry())
        with pytest.raises(ClosedError):
            writer.put_many(TRACK, {"track:1": b""}, stamp=1, writer=1, expires_at_unix_ms=1)
        with pytest.raises(ClosedError):
            writer.wait_for_room_in_thread()

    world.regional.away = True
    async with world.life() as writer:
        writer.put(TRACK, "track:2", world.entry())
        closing = asyncio.create_task(writer.close(timeout_ms=500))
        await world.advance(1_000)
        assert await closing == 1
        assert "features_lost entries=1" in caplog.text


async def test_a_driver_that_was_cancelled_loses_nothing_and_may_run_again(world):
    async with world.life() as writer:
        world.store.hold = asyncio.Event()
        writer.put(TRACK, "track:1", world.entry())
        await world.advance(1_010)
        assert world.store.numbers == [("life1-0", 1)]
    world.store.hold = None
    again = asyncio.create_task(writer.run())
    await world.advance(10)

    assert await world.stored(TRACK, "track:1") == b"v"
    assert world.store.numbers == [("life1-0", 1)] * 2
    again.cancel()


async def test_what_a_commit_took_is_sent_by_the_next_life_under_its_number(world):
    async with world.life(spool=True) as writer:
        writer.put_many(SPOOLED, {f"kept:{n}": b"1" for n in range(30)}, stamp=1, writer=7, expires_at_unix_ms=1 << 45)
        writer.put(TRACK, "track:1", world.entry())
        await world.advance(150)
        writer.put(SPOOLED, "kept:1", world.entry(b"not committed"))
    assert [part.count for part in world.disk.parts] == [30]

    async with world.life(spool=True) as writer:
        assert await writer.flush()
        assert world.store.numbers == [("life1-0", 1)]
        assert await world.stored(SPOOLED, "kept:1") == b"1"
        assert await world.stored(TRACK, "track:1") is None
        await world.advance(200)
        assert world.disk.parts == []


async def test_a_batch_sent_before_the_crash_and_again_after_it_counts_once(world):
    async with world.life(spool=True) as writer:
        world.store.answers_lost = 1_000
        writer.put_many(SPOOLED, {f"kept:{n}": b"1" for n in range(30)}, stamp=1, writer=7, expires_at_unix_ms=1 << 45)
        await world.advance(3_000)
        assert await world.store.counted("kept") == 30
    async with world.life(spool=True) as writer:
        assert await writer.flush()

        assert await world.store.counted("kept") == 30
        assert writer.metrics()["recovered_count"] == 30


async def test_a_batch_goes_to_disk_before_it_goes_to_the_store(world):
    async with world.life(spool=True) as writer:
        writer.put(SPOOLED, "kept:1", world.entry())
        world.disk.failing = True
        await world.advance(3_000)
        assert world.store.numbers == []
        world.disk.failing = False
        await world.advance(1_000)
        assert world.store.numbers == [("life1-0", 1)]
        assert writer.metrics()["spool_failed"] > 1


async def test_a_disk_that_keeps_failing_is_given_up_and_features_go_on(world, caplog):
    async with world.life(spool=True) as writer:
        world.disk.failing = True
        writer.put(SPOOLED, "kept:1", world.entry())
        assert not await asyncio.wait_for(settled(world, writer.wait_spooled(timeout_ms=60_000)), 10)
        await world.advance(2_000)

        assert await world.stored(SPOOLED, "kept:1") == b"v"
        assert writer.metrics()["spool_given_up"] == 1
        assert "spool_given_up" in caplog.text


async def settled(world, waiting):
    task = asyncio.create_task(waiting)
    while not task.done():
        await world.advance(100)
    return await task


async def test_a_long_time_away_lives_on_disk_and_comes_back_from_there(world):
    patient = FeatureClass(name="kept", flush_ms=1_000, shards=4, spool=True, when_full=WhenFull.BLOCK)
    async with world.life(spool=True, bytes_max=80_000, batch_count_max=50) as writer:
        world.regional.away = True
        for first in range(0, 2_000, 20):
            values = {f"kept:{n}": b"%d" % n for n in range(first, first + 20)}
            assert writer.put_many(patient, values, stamp=first + 1, writer=7, expires_at_unix_ms=1 << 45) == 20
            await world.advance(120)
        assert writer.metrics()["memory_bytes"] <= 60_000
        assert writer.metrics()["depth"] == 2_000
        world.regional.away = False
        assert await settled(world, writer.flush())

        assert [await world.stored(patient, f"kept:{n}") for n in range(0, 2_000, 7)] == [
            b"%d" % n for n in range(0, 2_000, 7)
        ]
        assert await world.store.counted("kept") == 2_000


async def test_what_is_damaged_on_disk_is_counted_and_the_rest_arrives(world, caplog):
    async with world.life(spool=True) as writer:
        for number in range(3):
            writer.put(SPOOLED, f"kept:{number}", world.entry())
            await world.advance(150)
    damaged = world.disk.parts[1]
    object.__setattr__(damaged, "payload", damaged.payload[:-1])
    object.__setattr__(world.disk.parts[2], "class_name", "kept")
    async with world.life(spool=True) as writer:
        assert await writer.flush()
        assert [await world.stored(SPOOLED, f"kept:{n}") for n in range(3)] == [b"v", None, b"v"]
        assert (writer.metrics()["spool_corrupt"], writer.metrics()["lost"]) == (1, 1)
        assert "spool_part_damaged" in caplog.text


async def test_a_batch_of_an_impossible_class_is_counted_and_left_out(world):
    async with world.life(spool=True) as writer:
        writer.put(SPOOLED, "kept:1", world.entry())
        await world.advance(150)
    object.__setattr__(world.disk.parts[0], "shards", 1 << 20)
    async with world.life(spool=True) as writer:
        assert writer.metrics()["spool_lost"] == 1
        assert await writer.flush()


async def test_what_no_part_can_hold_does_not_keep_others_from_the_disk(world):
    async with world.life(spool=True, refusals_max=1) as writer:
        writer.put(SPOOLED, "kept:1", Entry(b"v", 1 << 70, 7, 1 << 45))
        await world.advance(150)
        assert (writer.metrics()["spool_unencodable"], world.disk.parts) == (1, [])
        assert await settled(world, writer.flush())
        writer.put(SPOOLED, "kept:2", Entry(b"v", 1 << 60, 7, 1 << 45))
        await world.advance(150)
        assert [part.count for part in world.disk.parts] == [1]
        assert [letter.count for letter in world.letters] == [1]


async def test_what_cannot_be_read_back_is_counted_and_forgotten(world, caplog):
    async with world.life(spool=True) as writer:
        writer.put(SPOOLED, "kept:1", world.entry())
        await world.advance(150)
    world.disk.unreadable = True
    async with world.life(spool=True) as writer:
        assert await settled(world, writer.flush())
        assert writer.metrics()["lost"] == 1
        assert "spool_unreadable" in caplog.text
        await world.advance(500)
        assert world.disk.parts == []


async def test_close_brings_to_disk_what_the_store_does_not_take(world):
    async with world.life(spool=True) as writer:
        world.regional.away = True
        writer.put(SPOOLED, "kept:1", world.entry())
        writer.put(TRACK, "track:1", world.entry())
        assert await settled(world, writer.close(timeout_ms=500)) == 1
        assert [part.count for part in world.disk.parts] == [1]
        assert world.disk.owner is None


async def test_a_spool_in_use_is_said_clearly(world):
    async with world.life(spool=True):
        with pytest.raises(FeatureSpoolTakenError):
            async with world.life(spool=True):
                pass
