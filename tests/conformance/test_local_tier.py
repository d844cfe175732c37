"""What every `LocalTier` does: the fake, and Redis itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from edge_client.adapters.redis_tier import BLOB_CHUNK_BYTES, PARTIAL_BLOB_EXPIRY_S, RedisTier, edge_namespace
from edge_client.errors import ConfigError, LocalTierError
from edge_client.protocol.position import Position
from edge_client.runtime.ports import LocalTier
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.support.servers import RedisServer, start_redis

MIB = 1024 * 1024
NAMESPACE = edge_namespace(region="north", edge_id="edge-1")
LARGE = random.Random(5).randbytes(2 * BLOB_CHUNK_BYTES + 4_321)
NAME = "sha256:" + "ab" * 32


@dataclass
class Rig:
    """A tier and the levers to break what is under it."""

    tier: LocalTier
    neighbour: LocalTier
    """Another edge on the same box."""
    stop: Callable[[], None]
    start: Callable[[], None]
    flush: Callable[[], None]
    lose_part: Callable[[], None]
    """Make one part of the blob `NAME` vanish."""


def fake_rig(*, capacity_bytes: int | None) -> Rig:
    box = Box() if capacity_bytes is None else Box(capacity_bytes=capacity_bytes)

    def stop() -> None:
        box.away = True
        box.flush()

    return Rig(
        tier=FakeLocalTier(namespace=NAMESPACE, box=box),
        neighbour=FakeLocalTier(namespace="other", box=box),
        stop=stop,
        start=lambda: setattr(box, "away", False),
        flush=box.flush,
        lose_part=lambda: box.blobs[NAMESPACE, NAME].__setitem__(1, b""),
    )


def redis_rig(server: RedisServer) -> Rig:
    def lose_part() -> None:
        with redis.Redis(port=server.port) as raw:
            assert raw.delete(f"{NAMESPACE}:blob:{NAME}:1") == 1

    return Rig(
        tier=RedisTier(server.url, namespace=NAMESPACE),
        neighbour=RedisTier(server.url, namespace=edge_namespace(region="north", edge_id="edge-2")),
        stop=server.stop,
        start=server.start,
        flush=server.flush,
        lose_part=lose_part,
    )


async def made(kind: str, *, tmp_path: Path, capacity_mib: int | None) -> AsyncIterator[Rig]:
    if kind == "fake":
        yield fake_rig(capacity_bytes=None if capacity_mib is None else capacity_mib * MIB)
        return
    with start_redis(tmp_path, maxmemory=None if capacity_mib is None else f"{capacity_mib}mb") as server:
        rig = redis_rig(server)
        yield rig
        await rig.tier.close()
        await rig.neighbour.close()


@pytest.fixture(params=["fake", "redis"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async for each in made(request.param, tmp_path=tmp_path, capacity_mib=None):
        await each.tier.connect()
        yield each


@pytest.fixture(params=["fake", "redis"])
async def small_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """One with room for 48 MiB."""
    async for each in made(request.param, tmp_path=tmp_path, capacity_mib=48):
        yield each


async def stream(content: bytes, *, chunk_bytes: int = 700_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), chunk_bytes):
        yield content[start : start + chunk_bytes]


async def read(tier: LocalTier, name: str) -> bytes | None:
    chunks = await tier.get_blob(name)
    return None if chunks is None else b"".join([chunk async for chunk in chunks])


async def test_a_value_is_there_until_a_newer_one_is(rig: Rig) -> None:
    assert await rig.tier.get("model/vision") is None
    assert await rig.tier.set_if_newer("model/vision", value=b"first", position=Position(3, 7))
    assert await rig.tier.get("model/vision") == b"first"
    assert await rig.tier.set_if_newer("model/vision", value=b"second", position=Position(3, 8))
    assert await rig.tier.get("model/vision") == b"second"
    assert await rig.tier.get("model/speech") is None


@pytest.mark.parametrize(
    "held, offered, stored",
    [
        (Position(3, 7), Position(3, 7), False),
        (Position(3, 7), Position(3, 6), False),
        (Position(3, 9), Position(3, 10), True),
        (Position(3, 10), Position(3, 9), False),
        (Position(3, 99), Position(4, 0), True),
        (Position(4, 0), Position(3, 99), False),
        (Position(0, 0), Position(0, 1), True),
        (Position(1, 2**53), Position(1, 2**53 + 1), True),
        (Position(1, 2**53 + 1), Position(1, 2**53), False),
        (Position(2**63, 2**64 - 2), Position(2**63, 2**64 - 1), True),
    ],
)
async def test_only_a_newer_position_replaces(rig: Rig, held: Position, offered: Position, *, stored: bool) -> None:
    assert await rig.tier.set_if_newer("key", value=b"held", position=held)
    assert await rig.tier.set_if_newer("key", value=b"offered", position=offered) is stored
    assert await rig.tier.get("key") == (b"offered" if stored else b"held")


@pytest.mark.parametrize(
    "value", [b"", bytes(range(256)) * 10, b"0" * 40, b"\x00"], ids=["empty", "all", "digits", "nul"]
)
async def test_a_value_may_be_any_bytes(rig: Rig, value: bytes) -> None:
    await rig.tier.set_if_newer("a key: with\nodd bytes", value=value, position=Position(1, 1))

    assert await rig.tier.get("a key: with\nodd bytes") == value


async def test_of_writers_racing_the_newest_position_stays(rig: Rig) -> None:
    revisions = random.Random(1).sample(range(1, 201), 200)
    await asyncio.gather(
        *(
            rig.tier.set_if_newer("key", value=b"%d" % revision, position=Position(1, revision))
            for revision in revisions
        )
    )

    assert await rig.tier.get("key") == b"200"


@pytest.mark.parametrize(
    "content", [b"", b"few", LARGE[:BLOB_CHUNK_BYTES], LARGE], ids=["empty", "few", "part", "large"]
)
async def test_a_blob_is_read_as_it_was_put(rig: Rig, content: bytes) -> None:
    assert await rig.tier.get_blob(NAME) is None
    await rig.tier.put_blob(NAME, chunks=stream(content))

    assert await read(rig.tier, NAME) == content
    assert await rig.tier.blobs() == (NAME,)


@pytest.mark.parametrize("chunk_bytes", [MIB + 1, len(LARGE)])
async def test_how_a_blob_was_cut_does_not_matter(rig: Rig, chunk_bytes: int) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE, chunk_bytes=chunk_bytes))

    assert await read(rig.tier, NAME) == LARGE


async def test_a_blob_is_read_in_chunks_of_at_most_a_mebibyte(rig: Rig) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    chunks = await rig.tier.get_blob(NAME)
    assert chunks is not None

    assert max([len(chunk) async for chunk in chunks]) == MIB


@pytest.mark.parametrize("content", [b"shorter", LARGE + b"longer"], ids=["shorter", "longer"])
async def test_a_blob_put_again_is_replaced_whole(rig: Rig, content: bytes) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    await rig.tier.put_blob(NAME, chunks=stream(content))

    assert await read(rig.tier, NAME) == content
    assert await rig.tier.blobs() == (NAME,)


async def test_a_deleted_blob_is_absent_and_the_others_stay(rig: Rig) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    await rig.tier.put_blob(NAME + ":1", chunks=stream(b"other"))
    await rig.tier.delete_blob(NAME)
    await rig.tier.delete_blob(NAME)

    assert await rig.tier.get_blob(NAME) is None
    assert await read(rig.tier, NAME + ":1") == b"other"
    assert await rig.tier.blobs() == (NAME + ":1",)


@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
async def test_an_upload_cut_in_the_middle_is_absent(rig: Rig, *, replacing: bool) -> None:
    class CutError(Exception):
        pass

    async def cut() -> AsyncIterator[bytes]:
        async for chunk in stream(LARGE):
            yield chunk
        raise CutError

    if replacing:
        await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    with pytest.raises(CutError):
        await rig.tier.put_blob(NAME, chunks=cut())

    assert await rig.tier.get_blob(NAME) is None
    assert await rig.tier.blobs() == ()


async def test_a_blob_that_lost_a_part_is_absent(rig: Rig) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    rig.lose_part()

    assert await rig.tier.get_blob(NAME) is None
    assert await rig.tier.blobs() == ()
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    assert await read(rig.tier, NAME) == LARGE


async def test_a_part_lost_while_reading_ends_the_reading(rig: Rig) -> None:
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    chunks = await rig.tier.get_blob(NAME)
    assert chunks is not None
    await anext(chunks)
    rig.lose_part()

    async def rest() -> None:
        async for _ in chunks:
            pass

    with pytest.raises(LocalTierError):
        await rest()


async def test_edges_of_one_box_do_not_see_each_other(rig: Rig) -> None:
    await rig.tier.set_if_newer("key", value=b"mine", position=Position(9, 9))
    await rig.tier.put_blob(NAME, chunks=stream(b"mine"))

    assert await rig.neighbour.get("key") is None
    assert await rig.neighbour.get_blob(NAME) is None
    assert await rig.neighbour.blobs() == ()
    await rig.neighbour.delete_blob(NAME)
    assert await rig.neighbour.set_if_newer("key", value=b"theirs", position=Position(1, 1))
    assert await rig.tier.get("key") == b"mine"
    assert await read(rig.tier, NAME) == b"mine"


async def test_flushed_is_empty_and_works(rig: Rig) -> None:
    await rig.tier.set_if_newer("key", value=b"new", position=Position(9, 9))
    await rig.tier.put_blob(NAME, chunks=stream(LARGE))
    rig.flush()

    assert await rig.tier.get("key") is None
    assert await rig.tier.blobs() == ()
    assert await rig.tier.set_if_newer("key", value=b"old", position=Position(1, 1))


async def test_away_is_an_error_at_once_and_over_when_it_is_back(rig: Rig) -> None:
    await rig.tier.set_if_newer("key", value=b"before", position=Position(1, 1))
    rig.stop()
    calls: list[Callable[[], object]] = [
        rig.tier.connect,
        lambda: rig.tier.get("key"),
        lambda: rig.tier.set_if_newer("key", value=b"x", position=Position(2, 2)),
        lambda: rig.tier.put_blob(NAME, chunks=stream(b"x")),
        lambda: rig.tier.get_blob(NAME),
        lambda: rig.tier.delete_blob(NAME),
        rig.tier.blobs,
    ]
    started = time.monotonic()
    for call in calls:
        with pytest.raises(LocalTierError):
            await call()  # type: ignore[misc]
    assert time.monotonic() - started < 2
    rig.start()

    assert await rig.tier.set_if_newer("key", value=b"after", position=Position(1, 1))
    assert await rig.tier.get("key") == b"after"


async def test_full_is_said_and_what_was_written_of_the_blob_is_given_back(small_rig: Rig) -> None:
    tier = small_rig.tier
    await tier.put_blob("kept", chunks=stream(b"kept"))
    for _ in range(3):
        with pytest.raises(LocalTierError, match="full"):
            await tier.put_blob(NAME, chunks=stream(LARGE * 4))

    assert await tier.get_blob(NAME) is None
    assert await tier.blobs() == ("kept",)
    assert await read(tier, "kept") == b"kept"
    await tier.put_blob(NAME, chunks=stream(LARGE[: 4 * MIB]))
    assert await read(tier, NAME) == LARGE[: 4 * MIB]


async def test_a_full_tier_refuses_entries_and_still_reads(small_rig: Rig) -> None:
    tier = small_rig.tier
    await tier.set_if_newer("key", value=b"held", position=Position(1, 1))

    async def fill() -> None:
        for number in range(60):
            await tier.set_if_newer(f"filler/{number}", value=bytes(MIB), position=Position(1, 1))

    with pytest.raises(LocalTierError, match="full"):
        await fill()
    with pytest.raises(LocalTierError, match="full"):
        await tier.set_if_newer("key", value=bytes(MIB), position=Position(1, 2))
    assert await tier.get("key") == b"held"


@pytest.fixture
def server(tmp_path: Path) -> RedisServer:  # type: ignore[misc]
    with start_redis(tmp_path) as started:
        yield started


@pytest.fixture
def raw(server: RedisServer) -> redis.Redis:  # type: ignore[misc]
    with redis.Redis(port=server.port) as client:
        yield client


async def test_what_a_killed_upload_left_expires(server: RedisServer, raw: redis.Redis) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE)
    during: list[int] = []

    async def watched() -> AsyncIterator[bytes]:
        async for chunk in stream(LARGE):
            yield chunk
        during.extend(raw.ttl(key) for key in raw.keys(f"{NAMESPACE}:blob:*"))

    await tier.put_blob(NAME, chunks=watched())
    after = [raw.ttl(key) for key in raw.keys(f"{NAMESPACE}:blob:*")]
    await tier.close()

    assert len(during) == 2
    assert all(0 < ttl <= PARTIAL_BLOB_EXPIRY_S for ttl in during)
    assert after == [-1, -1, -1]


async def test_nothing_of_a_replaced_or_deleted_blob_stays(server: RedisServer, raw: redis.Redis) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE)
    await tier.put_blob(NAME, chunks=stream(LARGE))
    await tier.put_blob(NAME, chunks=stream(b"shorter"))

    assert sorted(raw.keys("*")) == [f"{NAMESPACE}:blob:{NAME}:0".encode(), f"{NAMESPACE}:blobs".encode()]
    await tier.delete_blob(NAME)
    await tier.close()
    assert raw.keys("*") == []


async def test_parts_that_vanish_during_the_upload_fail_it(server: RedisServer, raw: redis.Redis) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE)

    async def evicted() -> AsyncIterator[bytes]:
        async for chunk in stream(LARGE):
            yield chunk
        raw.delete(f"{NAMESPACE}:blob:{NAME}:0")

    with pytest.raises(LocalTierError, match="dropped"):
        await tier.put_blob(NAME, chunks=evicted())
    await tier.close()
    assert raw.keys("*") == []


async def test_foreign_values_are_absent_and_counted(server: RedisServer, raw: redis.Redis) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE)
    raw.set(f"{NAMESPACE}:entry:short", b"123")
    raw.set(f"{NAMESPACE}:entry:text", b"x" * 80)
    for number, manifest in enumerate([b"", b"nonsense", b"-1 5", b"1 99999999999", b"999999999999 1"]):
        raw.hset(f"{NAMESPACE}:blobs", f"blob-{number}", manifest)

    assert await tier.get("short") is None
    assert await tier.get("text") is None
    assert [await tier.get_blob(f"blob-{number}") for number in range(5)] == [None] * 5
    assert tier.unreadable_count == 7
    assert await tier.set_if_newer("text", value=b"ours", position=Position(1, 1))
    assert await tier.get("text") == b"ours"
    raw.delete(f"{NAMESPACE}:entry:text")
    raw.rpush(f"{NAMESPACE}:entry:text", b"a list")
    with pytest.raises(LocalTierError, match="WRONGTYPE"):
        await tier.get("text")
    await tier.close()


async def test_a_redis_that_hangs_is_given_up_in_time(server: RedisServer) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE, timeout_ms=300)
    await tier.set_if_newer("key", value=b"held", position=Position(1, 1))
    server.pause()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(LocalTierError, match="in time"):
            await tier.get("key")
    assert time.monotonic() - started < 1.5
    server.resume()

    assert await tier.get("key") == b"held"
    await tier.close()


async def test_a_restarted_redis_is_found_again_by_itself(server: RedisServer) -> None:
    tier = RedisTier(server.url, namespace=NAMESPACE)
    for revision in (1, 2, 3):
        await asyncio.gather(*(tier.get("key") for _ in range(20)))
        server.kill()
        server.start()
        await asyncio.sleep(0.05)  # the loop, blocked by the restart, hears that the connections were closed
        assert await tier.set_if_newer("key", value=b"%d" % revision, position=Position(1, 1))
        assert await tier.get("key") == b"%d" % revision
    await tier.close()


def test_namespaces_of_different_edges_differ() -> None:
    expected = 4
    pairs = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a", "b")]

    assert len({edge_namespace(region=region, edge_id=edge_id) for region, edge_id in pairs}) == expected


def test_a_url_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="local tier"):
        RedisTier("http://localhost", namespace=NAMESPACE)


def test_a_url_that_is_not_understood_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        RedisTier("redis://:hunter/2@localhost", namespace=NAMESPACE)

    assert "hunter" not in str(refused.value) and refused.value.__suppress_context__
