"""What every `FeatureStore` does: the fake, a Redis, and a Redis Cluster."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import redis

from edge_client.adapters.redis_features import RedisFeatureStore, unix_ms
from edge_client.errors import FeatureStoreUnavailableError
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec
from edge_client.protocol.feature_codec import encode_block
from edge_client.protocol.features import Entry, key_mark
from edge_client.runtime.feature_ports import Batch, Block, FeatureStore
from tests.fakes.feature_store import FakeFeatureStore, Store
from tests.support.redis_kinds import RedisCluster
from tests.support.servers import RedisServer

TRACK = FeatureClass(name="track", shards=4)
EXPIRE_MS = 30_000


@dataclass
class WallClock:
    """The machine's wall clock and what a test adds to it; Redis goes by its own."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return unix_ms() + self.ahead_ms


@dataclass
class Rig:
    """Two edges at one store, and the levers to break what is under it."""

    make: Callable[[], FeatureStore]
    stop: Callable[[], None]
    start: Callable[[], None]
    flush: Callable[[], None]
    forget_scripts: Callable[[], None]
    clock: WallClock = field(default_factory=WallClock)
    made: list[FeatureStore] = field(default_factory=list)

    @property
    def store(self) -> FeatureStore:
        return self.made[0]

    @property
    def neighbour(self) -> FeatureStore:
        """Another edge's."""
        return self.made[1]


def fake_rig() -> Rig:
    store, clock = Store(), WallClock()

    def start() -> None:
        store.flush()
        store.away = False

    return Rig(
        make=lambda: FakeFeatureStore(store, clock_unix_ms=clock),
        stop=lambda: setattr(store, "away", True),
        start=start,
        flush=store.flush,
        forget_scripts=lambda: None,
        clock=clock,
    )


def redis_rig(redis_server: RedisServer) -> Rig:
    clock = WallClock()

    def forget_scripts() -> None:
        with redis.Redis(port=redis_server.port, protocol=2) as client:
            client.script_flush()

    return Rig(
        make=lambda: RedisFeatureStore(redis_server.url, region="north", clock_unix_ms=clock),
        stop=redis_server.stop,
        start=redis_server.start,
        flush=redis_server.flush,
        forget_scripts=forget_scripts,
        clock=clock,
    )


def cluster_rig(redis_cluster: RedisCluster) -> Rig:
    clock = WallClock()
    return Rig(
        make=lambda: RedisFeatureStore(redis_cluster.url, region="north", cluster=True, clock_unix_ms=clock),
        stop=redis_cluster.stop,
        start=redis_cluster.start,
        flush=redis_cluster.flush,
        forget_scripts=lambda: redis_cluster.each(lambda client: client.script_flush()),
        clock=clock,
    )


@pytest.fixture(params=["fake", "redis", "cluster"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    match request.param:
        case "fake":
            rig = fake_rig()
        case "redis":
            rig = redis_rig(request.getfixturevalue("redis_server"))
        case _:
            rig = cluster_rig(request.getfixturevalue("redis_cluster"))
    rig.flush()
    rig.made = [rig.make(), rig.make()]
    await rig.store.connect()
    yield rig
    for store in rig.made:
        await store.close()


def entry(stamp: int, value: bytes | None = b"value", *, writer: int = 1, expires: int = 0) -> Entry:
    return Entry(value, stamp, writer, expires)


def bulk(rig: Rig, stamp: int, value: bytes | None = b"value", *, writer: int = 1, expire_ms: int = EXPIRE_MS) -> Entry:
    return Entry(value, stamp, writer, rig.clock() + expire_ms)


def batch(
    entries: dict[str, Entry], *, sequence: int, edge_id: str = "edge-1", pipe: str = "p1", track: FeatureClass = TRACK
) -> Batch:
    shards: dict[int, dict[str, Entry]] = {}
    for key, each in entries.items():
        shards.setdefault(key_mark(key) % track.shards, {})[key] = each
    return Batch(
        edge_id=edge_id,
        pipe=pipe,
        sequence=sequence,
        blocks=tuple(
            Block(
                class_name=track.name,
                shard=shard,
                shards=track.shards,
                marks=b"".join(key_mark(key).to_bytes(4, "big") for key in held),
                payload=encode_block(held, codec=FeatureCodec.LZ4),
                count=len(held),
                expires_at_unix_ms=max(each.expires_at_unix_ms for each in held.values()),
            )
            for shard, held in shards.items()
        ),
    )


async def get(store: FeatureStore, key: str) -> Entry | None:
    (found,) = await store.get_many([key])
    return found


async def find(store: FeatureStore, key: str, track: FeatureClass = TRACK) -> Entry | None:
    (found,) = await store.find_many(track, [key])
    return found


async def found(store: FeatureStore, key: str, track: FeatureClass = TRACK) -> Entry:
    held = await find(store, key, track)
    assert held is not None
    return held


async def test_what_is_put_is_read_by_everybody_in_the_order_of_the_keys(rig: Rig) -> None:
    first, second = entry(5, b"\x00first\r\n"), entry(6, b"second")

    assert [True, True] == await rig.store.put_many([("user:1", first), ("user:{2} ö", second)])
    assert [second, None, first] == await rig.neighbour.get_many(["user:{2} ö", "user:3", "user:1"])
    assert [] == await rig.store.get_many([])
    assert [] == await rig.store.put_many([])


@pytest.mark.parametrize(
    "held, offered, stored",
    [
        ((7, 1), (8, 1), True),
        ((8, 1), (7, 1), False),
        ((7, 9), (8, 1), True),
        ((8, 1), (7, 9), False),
        ((7, 1), (7, 2), True),
        ((7, 2), (7, 1), False),
        ((7, 1), (7, 1), True),
        ((9, 1), (10, 1), True),
        ((10, 1), (9, 1), False),
        ((2**53, 1), (2**53 + 1, 1), True),
        ((2**53 + 1, 1), (2**53, 1), False),
        ((2**63, 2**64 - 1), (2**63, 2**64 - 2), False),
        ((2**63, 2**64 - 2), (2**63, 2**64 - 1), True),
        ((2**64 - 1, 0), (0, 2**64 - 1), False),
    ],
)
async def test_only_a_greater_order_replaces_and_an_equal_one_is_the_same_write(
    rig: Rig, held: tuple[int, int], offered: tuple[int, int], stored: bool
) -> None:
    await rig.store.put_many([("k", Entry(b"held", *held, 0))])

    assert [stored] == await rig.neighbour.put_many([("k", Entry(b"offered", *offered, 0))])
    assert (Entry(b"offered", *offered, 0) if stored else Entry(b"held", *held, 0)) == await get(rig.store, "k")


async def test_a_tombstone_keeps_out_what_is_older_for_a_day(rig: Rig) -> None:
    await rig.store.put_many([("k", entry(5))])

    assert [True] == await rig.store.put_many([("k", entry(8, None))])
    assert [False] == await rig.neighbour.put_many([("k", entry(7))])
    assert entry(8, None) == await get(rig.neighbour, "k")
    assert [True] == await rig.neighbour.put_many([("k", entry(9))])
    assert entry(9) == await get(rig.store, "k")


async def test_what_expired_is_absent_and_is_not_stored(rig: Rig) -> None:
    now_ms = rig.clock()
    await rig.store.put_many(
        [("short", entry(5, expires=now_ms + 10_000)), ("long", entry(5, expires=now_ms + 20_000))]
    )
    rig.clock.ahead_ms = 10_001

    assert [None, entry(5, expires=now_ms + 20_000)] == await rig.store.get_many(["short", "long"])
    assert [False, True] == await rig.store.put_many([("k", entry(5, expires=now_ms)), ("j", entry(6))])
    assert [None, entry(6)] == await rig.store.get_many(["k", "j"])


async def test_of_many_writers_the_greatest_order_stays(rig: Rig) -> None:
    rig.made += [rig.make() for _ in range(4)]
    orders = random.Random(3).sample([(stamp, writer) for stamp in range(1, 41) for writer in (1, 2, 3)], 120)

    await asyncio.gather(
        *(
            rig.made[place % len(rig.made)].put_many([("k", entry(stamp, b"%d" % stamp, writer=writer))])
            for place, (stamp, writer) in enumerate(orders)
        )
    )

    assert entry(40, b"40", writer=3) == await get(rig.store, "k")


async def test_more_than_a_pipeline_holds(rig: Rig) -> None:
    items = [(f"k:{number}", entry(number + 1, b"%d" % number)) for number in range(2_500)]

    assert [True] * 2_500 == await rig.store.put_many(items)
    assert [each for _, each in items] == await rig.store.get_many([key for key, _ in items])


async def test_entries_of_a_batch_are_found_one_by_one(rig: Rig) -> None:
    entries = {f"track:{number}": bulk(rig, number + 1, b"%d" % number) for number in range(200)}

    assert 200 == await rig.store.put_batch(batch(entries, sequence=1))
    assert entries["track:17"] == await find(rig.neighbour, "track:17")
    assert None is await find(rig.neighbour, "track:999")
    assert [*entries.values(), None] == await rig.neighbour.find_many(TRACK, [*entries, "track:none"])
    assert [] == await rig.store.find_many(TRACK, [])
    assert 200 == await rig.neighbour.counted("track")
    assert 0 == await rig.store.counted("other")


async def test_a_batch_that_comes_again_is_counted_once(rig: Rig) -> None:
    sent = batch({f"track:{number}": bulk(rig, 1) for number in range(50)}, sequence=1)

    assert [50, 0, 0] == [await store.put_batch(sent) for store in (rig.store, rig.store, rig.neighbour)]
    assert 50 == await rig.store.counted("track")


async def test_a_batch_of_which_some_shards_had_theirs_is_completed(rig: Rig) -> None:
    sent = batch({f"track:{number}": bulk(rig, 1) for number in range(50)}, sequence=1)
    first, *rest = sent.blocks
    assert len(rest) == 3
    cut = Batch(edge_id=sent.edge_id, pipe=sent.pipe, sequence=1, blocks=(first, rest[0]))
    assert first.count + rest[0].count == await rig.store.put_batch(cut)

    assert rest[1].count + rest[2].count == await rig.store.put_batch(sent)
    assert 0 == await rig.store.put_batch(sent)
    assert 50 == await rig.store.counted("track")
    assert None not in await rig.store.find_many(TRACK, [f"track:{number}" for number in range(50)])


async def test_pipes_and_edges_count_for_themselves(rig: Rig) -> None:
    entries = {f"track:{number}": bulk(rig, 1) for number in range(10)}
    lives = [("edge-1", "p1"), ("edge-1", "p2"), ("edge-2", "p1"), ("edge:1", "p1"), ("edge", "1:p1")]

    for edge_id, pipe in lives:
        assert 10 == await rig.store.put_batch(batch(entries, sequence=1, edge_id=edge_id, pipe=pipe))
    assert 0 == await rig.store.put_batch(batch(entries, sequence=1, edge_id="edge-2"))
    assert 10 == await rig.store.put_batch(batch(entries, sequence=2, edge_id="edge-2"))
    assert 60 == await rig.store.counted("track")


async def test_a_batch_before_one_that_was_counted_is_an_old_one(rig: Rig) -> None:
    await rig.store.put_batch(batch({"track:1": bulk(rig, 5, b"five")}, sequence=10))

    assert 0 == await rig.store.put_batch(batch({"track:1": bulk(rig, 4, b"four")}, sequence=9))
    assert b"five" == (await found(rig.store, "track:1")).value


async def test_the_newest_of_several_blocks_counts_whenever_it_came(rig: Rig) -> None:
    newest = bulk(rig, 30, b"newest", writer=2)
    await rig.store.put_batch(batch({"track:1": bulk(rig, 10, b"old")}, sequence=1))
    await rig.neighbour.put_batch(batch({"track:1": newest}, sequence=1, edge_id="edge-2"))
    await rig.store.put_batch(batch({"track:1": bulk(rig, 20, b"late")}, sequence=2))
    await rig.store.put_batch(batch({"track:1": bulk(rig, 30, b"tie", writer=1)}, sequence=3))

    assert newest == await find(rig.store, "track:1")


async def test_a_tombstone_in_a_block_is_found(rig: Rig) -> None:
    gone = bulk(rig, 20, None)
    await rig.store.put_batch(batch({"track:1": bulk(rig, 10)}, sequence=1))
    await rig.store.put_batch(batch({"track:1": gone}, sequence=2))

    assert gone == await find(rig.neighbour, "track:1")


async def test_expiry_is_honoured_entry_by_entry(rig: Rig) -> None:
    short, long = bulk(rig, 1, expire_ms=5_000), bulk(rig, 1, expire_ms=20_000)
    await rig.store.put_batch(
        batch({"track:1": short, "track:2": long}, sequence=1, track=FeatureClass(name="track", shards=1))
    )
    rig.clock.ahead_ms = 5_001

    assert [None, long] == await rig.store.find_many(FeatureClass(name="track", shards=1), ["track:1", "track:2"])


async def test_a_batch_that_comes_after_its_expiry_is_counted_and_not_stored(rig: Rig) -> None:
    sent = batch({"track:1": bulk(rig, 1)}, sequence=1)
    rig.clock.ahead_ms = EXPIRE_MS + 1

    assert [1, 0] == [await rig.store.put_batch(sent), await rig.store.put_batch(sent)]
    rig.clock.ahead_ms = 0
    assert None is await find(rig.store, "track:1")


async def test_classes_and_numbers_of_shards_lie_apart(rig: Rig) -> None:
    other, wider = FeatureClass(name="other", shards=4), FeatureClass(name="track", shards=8)
    await rig.store.put_batch(batch({"track:1": bulk(rig, 1)}, sequence=1))

    assert None is await find(rig.store, "track:1", other)
    assert None is await find(rig.store, "track:1", wider)
    await rig.store.put_batch(batch({"track:1": bulk(rig, 2)}, sequence=2, track=wider))
    assert 2 == (await found(rig.store, "track:1", wider)).stamp
    assert 2 == await rig.store.counted("track")


async def test_scripts_that_the_server_forgot_are_told_again(rig: Rig) -> None:
    for sequence in (1, 2):
        rig.forget_scripts()
        assert [True] * 3 == await rig.store.put_many([(f"k:{number}", entry(sequence)) for number in range(3)])
        assert 40 == await rig.store.put_batch(
            batch({f"track:{number}": bulk(rig, sequence) for number in range(40)}, sequence=sequence)
        )
        rig.forget_scripts()
        assert sequence == (await found(rig.store, "track:7")).stamp
    assert 80 == await rig.store.counted("track")


async def test_flushed_is_empty_and_works(rig: Rig) -> None:
    await rig.store.put_many([("k", entry(9))])
    await rig.store.put_batch(batch({"track:1": bulk(rig, 9)}, sequence=9))
    rig.flush()

    assert [None, None] == [await get(rig.store, "k"), await find(rig.store, "track:1")]
    assert [True] == await rig.store.put_many([("k", entry(1))])
    assert 1 == await rig.store.put_batch(batch({"track:1": bulk(rig, 1)}, sequence=1))
    assert 1 == await rig.store.counted("track")


async def test_away_is_said_at_once_and_over_when_it_is_back(rig: Rig) -> None:
    sent = batch({"track:1": bulk(rig, 1)}, sequence=1)
    await rig.store.put_batch(sent)
    rig.stop()
    calls: list[Callable[[], object]] = [
        rig.store.connect,
        lambda: rig.store.get_many(["k"]),
        lambda: rig.store.put_many([("k", entry(1))]),
        lambda: rig.store.put_batch(sent),
        lambda: rig.store.find_many(TRACK, ["track:1"]),
        lambda: rig.store.counted("track"),
    ]
    started = time.monotonic()
    for call in calls:
        with pytest.raises(FeatureStoreUnavailableError):
            await call()  # type: ignore[misc]
    assert time.monotonic() - started < 10
    rig.start()

    assert [True] == await rig.store.put_many([("k", entry(1))])
    assert 1 == await rig.neighbour.put_batch(sent)
    assert 1 == (await found(rig.store, "track:1")).stamp


async def test_writers_of_batches_side_by_side_lose_nothing(rig: Rig) -> None:
    rig.made += [rig.make() for _ in range(2)]

    async def write(number: int) -> int:
        counted = 0
        for sequence in range(1, 11):
            entries = {f"track:{each}": bulk(rig, sequence, writer=number) for each in range(20)}
            sent = batch(entries, sequence=sequence, edge_id=f"edge-{number}")
            counted += await rig.made[number].put_batch(sent)
            counted += await rig.made[(number + 1) % 4].put_batch(sent)
        return counted

    assert [200] * 4 == list(await asyncio.gather(*map(write, range(4))))
    assert 800 == await rig.store.counted("track")
    held = await rig.store.find_many(TRACK, [f"track:{each}" for each in range(20)])
    assert {(10, 3)} == {each.order for each in held if each is not None}
