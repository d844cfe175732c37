"""Features in a Redis as others run it: with strange content, full, replicated, with users, with TLS, as a cluster."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from edge_client.adapters import redis_features
from edge_client.adapters.redis_feature_tier import BlockingFeatureTier, RedisFeatureTier
from edge_client.adapters.redis_features import DAY_MS, RedisFeatureStore, unix_ms
from edge_client.errors import ConfigError, FeatureStoreError, FeatureStoreRefusedError, FeatureStoreUnavailableError
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec
from edge_client.protocol.feature_codec import encode_block, encode_entry
from edge_client.protocol.features import Entry, key_mark
from edge_client.runtime.feature_ports import Batch, Block, Held
from tests.support.redis_kinds import RedisCluster, certified, tls_before
from tests.support.servers import RedisServer, free_port, start_redis

ONE = FeatureClass(name="track", shards=1)
INDEX = "{ccs:north:track:1:0}:i"
MAGIC = b"\0ccs-i1\n"
SECRET = "s3cr3t/p@ss:w#rd"
QUOTED = "s3cr3t%2Fp%40ss%3Aw%23rd"


@pytest.fixture
async def store(redis_server: RedisServer, redis_raw: redis.Redis) -> AsyncIterator[RedisFeatureStore]:
    async with opened(redis_server.url) as made:
        yield made


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[RedisFeatureStore]:
    made = RedisFeatureStore(url, region="north", **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def entry(stamp: int, value: bytes | None = b"value", *, expires: int = 0) -> Entry:
    return Entry(value, stamp, 1, expires)


def batch(entries: dict[str, Entry], *, sequence: int, edge_id: str = "e", payload: bytes | None = None) -> Batch:
    """One block, for `ONE`."""
    block = Block(
        class_name="track",
        shard=0,
        shards=1,
        marks=b"".join(key_mark(key).to_bytes(4, "big") for key in entries),
        payload=encode_block(entries, codec=FeatureCodec.LZ4) if payload is None else payload,
        count=len(entries),
        expires_at_unix_ms=max(each.expires_at_unix_ms for each in entries.values()),
    )
    return Batch(edge_id=edge_id, pipe="p", sequence=sequence, blocks=(block,))


def soon(stamp: int = 1, *, after_ms: int = 30_000) -> Entry:
    return entry(stamp, expires=unix_ms() + after_ms)


def row(marks: bytes, *, name: str, size: int | None = None) -> bytes:
    """Of an index, as a script writes it."""
    return marks + MAGIC + b"%08d%016d%03d%b" % (size or len(marks), unix_ms() + 60_000, len(name), name.encode())


def rows_in(redis_raw: redis.Redis) -> int:
    index = redis_raw.get(INDEX)
    assert isinstance(index, bytes)
    return index.count(MAGIC)


async def test_strange_strings_under_our_keys_are_absent_and_counted(
    store: RedisFeatureStore, redis_raw: redis.Redis
) -> None:
    planted = {
        "empty": b"",
        "short": b"123",
        "text": b"x" * 200,
        "digits": b"0" * 200,
        "another's": b"%020d%020d" % (9, 1) + encode_entry(entry(8)),
        "cut": b"%020d%020d" % (8, 1) + encode_entry(entry(8))[:-1],
        "flipped": b"%020d%020d" % (8, 1) + encode_entry(entry(8))[:-1] + b"E",
    }
    for name, content in planted.items():
        redis_raw.set(f"ccs:north:f:{name}", content)
    redis_raw.rpush("ccs:north:f:list", b"a")

    assert [None] * 8 == await store.get_many([*planted, "list"])
    assert 7 == store.unreadable_count
    writable = ["empty", "short", "text", "digits"]
    assert [True] * 4 == await store.put_many([(name, entry(1)) for name in writable])
    assert [entry(1)] * 4 == await store.get_many(writable)
    with pytest.raises(FeatureStoreRefusedError, match="WRONGTYPE"):
        await store.put_many([("list", entry(1))])


async def test_strange_blocks_and_index_items_are_absent_and_counted(
    store: RedisFeatureStore, redis_raw: redis.Redis
) -> None:
    mark = key_mark("track:1").to_bytes(4, "big")
    assert 1 == await store.put_batch(batch({"track:1": soon(5)}, sequence=1))
    assert 1 == await store.put_batch(batch({"track:1": soon(9)}, sequence=2, payload=b"\x13garbage"))
    redis_raw.append(INDEX, mark + MAGIC + b"no digits")
    redis_raw.append(INDEX, row(mark, name="nothing:p:1"))
    redis_raw.append(INDEX, row(mark, name="listed:p:1"))
    redis_raw.rpush("{ccs:north:track:1:0}:b:listed:p:1", b"a")
    redis_raw.append(INDEX, mark + b"the end of a row that was cut")

    (found,) = await store.find_many(ONE, ["track:1"])
    assert found is not None and found.stamp == 5
    assert 2 == store.unreadable_count
    redis_raw.set(INDEX, b"text")
    assert [None] == await store.find_many(ONE, ["track:1"])
    assert 1 == await store.put_batch(batch({"track:1": soon(6)}, sequence=3))
    assert [6] == [each.stamp for each in await store.find_many(ONE, ["track:1"]) if each]

    redis_raw.delete(INDEX)
    redis_raw.rpush(INDEX, b"a")
    with pytest.raises(FeatureStoreRefusedError, match="WRONGTYPE"):
        await store.find_many(ONE, ["track:1"])
    with pytest.raises(FeatureStoreRefusedError, match="WRONGTYPE"):
        await store.put_batch(batch({"track:2": soon()}, sequence=4))
    assert 3 == await store.counted("track"), "a block that was refused was counted"
    assert 0 == redis_raw.exists("{ccs:north:track:1:0}:b:e:p:4")


async def test_strange_counters_are_not_believed(store: RedisFeatureStore, redis_raw: redis.Redis) -> None:
    await store.put_batch(batch({"track:1": soon()}, sequence=1))
    redis_raw.sadd("ccs:north:s:track", b"-1", b"0", b"99999999999", b"x", b"2")
    redis_raw.set("{ccs:north:track:2:0}:n", b"x")
    redis_raw.set("{ccs:north:track:1:0}:m:e:p", b"no digits here.......")

    assert 1 == await store.counted("track")
    assert 1 == await store.put_batch(batch({"track:1": soon()}, sequence=1)), "a marker that is none kept a batch out"


async def test_once_all_has_expired_only_counters_and_markers_are_left(
    store: RedisFeatureStore, redis_raw: redis.Redis
) -> None:
    await store.put_many([("k", soon(after_ms=250)), ("gone", entry(1, None)), ("kept", entry(1))])
    for sequence in range(1, 6):
        await store.put_batch(batch({"track:1": soon(after_ms=250)}, sequence=sequence))
    await store.put_batch(batch({"track:1": soon(after_ms=80)}, sequence=6))
    assert 6 == rows_in(redis_raw)
    assert 80 < redis_raw.pttl(INDEX) <= 250
    assert DAY_MS - 10_000 < redis_raw.pttl("ccs:north:f:gone") <= DAY_MS
    assert -1 == redis_raw.pttl("ccs:north:f:kept")
    await asyncio.sleep(0.35)

    left = {key if isinstance(key, str) else key.decode(): redis_raw.pttl(key) for key in redis_raw.keys("*")}
    assert {"ccs:north:f:gone", "ccs:north:f:kept", "ccs:north:s:track"} | {
        "{ccs:north:track:1:0}:m:e:p",
        "{ccs:north:track:1:0}:n",
    } == set(left)
    assert DAY_MS - 10_000 < left["{ccs:north:track:1:0}:m:e:p"] <= DAY_MS


async def test_an_index_in_use_shrinks_to_what_lives(store: RedisFeatureStore, redis_raw: redis.Redis) -> None:
    """Ten blocks of a tenth of a second, one that keeps the index, and others in the turn after."""
    for sequence in range(1, 11):
        await store.put_batch(batch({f"track:{sequence}": soon(after_ms=100)}, sequence=sequence))
    await store.put_batch(batch({"track:11": soon()}, sequence=11))
    await asyncio.sleep(0.15)
    assert 11 == rows_in(redis_raw)
    for sequence in range(12, 21):
        await store.put_batch(batch({f"track:{sequence}": soon()}, sequence=sequence))

    assert 10 == rows_in(redis_raw)
    found = await store.find_many(ONE, [f"track:{number}" for number in range(1, 21)])
    assert [None] * 10 == found[:10] and None not in found[10:]
    assert 29_000 < redis_raw.pttl(INDEX) <= 30_000


async def test_of_a_key_in_many_blocks_the_last_ones_are_looked_into(store: RedisFeatureStore) -> None:
    await store.put_batch(batch({"track:once": soon()}, sequence=1))
    for sequence in range(2, 102):
        await store.put_batch(batch({"track:often": soon(sequence)}, sequence=sequence))

    assert [1] == [each.stamp for each in await store.find_many(ONE, ["track:once"]) if each]
    assert 0 == store.cut_count
    assert [101] == [each.stamp for each in await store.find_many(ONE, ["track:often"]) if each]
    assert 1 == store.cut_count


async def test_an_index_stays_within_its_bound(
    store: RedisFeatureStore, redis_raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_features, "INDEX_BYTES_MAX", 4_096)
    for sequence in range(1, 301):
        await store.put_batch(batch({f"track:{sequence}": soon(), "track:all": soon(sequence)}, sequence=sequence))
        assert redis_raw.strlen(INDEX) <= 4_096

    found = await store.find_many(ONE, [f"track:{number}" for number in range(1, 301)])
    lasting = found.index(next(each for each in found if each is not None))
    assert 200 < lasting < 280, "half of the bound, or too little of it, is used"
    assert None not in found[lasting:]
    redis_raw.append(INDEX, bytes(20_000) + row(key_mark("track:x").to_bytes(4, "big"), name="x:p:1"))
    redis_raw.set("{ccs:north:track:1:0}:b:x:p:1", encode_block({"track:x": soon(7)}, codec=FeatureCodec.LZ4))
    assert [7] == [each.stamp for each in await store.find_many(ONE, ["track:x"]) if each]


async def test_a_mark_found_across_two_others_is_none(store: RedisFeatureStore, redis_raw: redis.Redis) -> None:
    """The block is not even fetched: it would be counted as unreadable. Nor is what a mark looks like in a trailer."""
    mark = key_mark("track:1").to_bytes(4, "big")
    redis_raw.set("{ccs:north:track:1:0}:b:x:p:1", b"\x13garbage")
    redis_raw.set(INDEX, b"9" * 16 + row(b"\x00" + mark + b"\x00\x00\x00", name="x:p:1"))
    redis_raw.append(INDEX, row(b"\x01" * 8, name="x" + mark.decode("latin-1") + "y"))
    redis_raw.append(INDEX, row(mark + b"\x00" * 8, name="x:p:1", size=8))
    assert ([None], 0) == (await store.find_many(ONE, ["track:1"]), store.unreadable_count)
    redis_raw.append(INDEX, row(b"\x00" + mark + b"\x00\x00\x00" + mark, name="x:p:1"))

    assert ([None], 1) == (await store.find_many(ONE, ["track:1"]), store.unreadable_count)


async def test_a_full_store_is_unavailable_and_takes_no_part_of_a_block(tmp_path: Path) -> None:
    with (
        start_redis(tmp_path, maxmemory="3mb") as redis_server,
        redis.Redis(port=redis_server.port, protocol=2) as client,
    ):
        async with opened(redis_server.url) as store:
            await store.put_many([("k", entry(1))])
            with pytest.raises(FeatureStoreUnavailableError, match="full"):
                await store.put_many([(f"k:{number}", entry(1, bytes(100_000))) for number in range(100)])
            client.config_set("maxmemory", "500kb")
            with pytest.raises(FeatureStoreUnavailableError, match="full"):
                await store.put_batch(batch({"track:1": soon()}, sequence=1))
            assert [entry(1)] == await store.get_many(["k"])
            client.config_set("maxmemory", "0")
            assert 0 == await store.counted("track")
            assert 1 == await store.put_batch(batch({"track:1": soon()}, sequence=1))


async def test_a_replica_is_unavailable_until_it_is_promoted(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis_server, redis.Redis(port=redis_server.port, protocol=2) as client:
        async with opened(redis_server.url) as store:
            client.execute_command("REPLICAOF", "127.0.0.1", free_port())
            for write in (
                lambda: store.put_many([("k", entry(1))]),
                lambda: store.put_batch(batch({"track:1": soon()}, sequence=1)),
            ):
                with pytest.raises(FeatureStoreUnavailableError):
                    await write()
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert [True] == await store.put_many([("k", entry(1))])
            assert 1 == await store.put_batch(batch({"track:1": soon()}, sequence=1))


async def test_a_store_that_hangs_is_given_up_in_time(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    async with opened(redis_server.url, timeout_ms=200) as store:
        await store.put_many([("k", entry(1))])
        redis_server.pause()
        started = time.monotonic()
        try:
            waited = await asyncio.gather(
                *(store.get_many(["k"]) for _ in range(20)),
                store.put_batch(batch({"track:1": soon()}, sequence=1)),
                return_exceptions=True,
            )
        finally:
            redis_server.resume()
        assert time.monotonic() - started < 1
        assert {FeatureStoreUnavailableError} == {type(each) for each in waited}
        assert [entry(1)] == await store.get_many(["k"])


USER = "ccs on >s3cr3t/p@ss:w#rd ~ccs:* ~{ccs:* +get +mget +getrange +set +del +sadd +smembers"
RIGHTS = f"{USER} +eval +evalsha +time +append +strlen +pttl +pexpire +incrby"


async def test_a_user_with_the_documented_rights_may_do_everything(
    redis_server: RedisServer, redis_raw: redis.Redis
) -> None:
    redis_raw.execute_command("ACL", "SETUSER", *RIGHTS.split(" "))
    url = f"redis://ccs:{QUOTED}@127.0.0.1:{redis_server.port}/0"
    async with opened(url) as store:
        await store.connect()
        assert [True] == await store.put_many([("k", entry(1))])
        assert 1 == await store.put_batch(batch({"track:1": soon(3)}, sequence=1))
        redis_raw.script_flush()
        assert [3] == [each.stamp for each in await store.find_many(ONE, ["track:1"]) if each]
        assert [entry(1)] == await store.get_many(["k"])
        assert 1 == await store.counted("track")
        assert f"<RedisFeatureStore redis://127.0.0.1:{redis_server.port}>" == repr(store)
    tier = RedisFeatureTier(url, region="north", boot_id="b")
    blocking = BlockingFeatureTier(url, region="north", boot_id="b")
    await tier.put_many([("k", entry(1), 5)])
    assert Held(entry(1), 5) == await tier.get("k") == blocking.get("k")
    await tier.drop_many([("k", 2)])
    assert [None] == blocking.get_many(["k"])
    assert "s3cr3t" not in repr(tier) + repr(blocking) + repr(vars(tier)["_wire"].address)
    await tier.close()
    blocking.close()
    docs = Path(__file__).parents[2] / "docs/reference/feature-store-layout.md"
    assert RIGHTS.partition("~")[2].replace("~", "") in docs.read_text(encoding="utf-8").replace("~", "")


async def test_what_a_user_may_not_is_refused(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    redis_raw.execute_command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~ccs:*", "+get", "+mget")
    async with opened(f"redis://reader:{QUOTED}@127.0.0.1:{redis_server.port}") as store:
        await store.connect()
        assert [None] == await store.get_many(["k"])
        for call in (
            lambda: store.put_many([("k", entry(1))]),
            lambda: store.put_batch(batch({"track:1": soon()}, sequence=1)),
            lambda: store.find_many(ONE, ["track:1"]),
            lambda: store.counted("track"),
        ):
            await refused(call, match="permissions")


async def test_a_wrong_password_is_refused_and_never_told(redis_server: RedisServer, redis_raw: redis.Redis) -> None:
    redis_raw.execute_command("ACL", "SETUSER", "ccs", "reset", "on", ">right", "~*", "+@all")
    for user in (f"ccs:{QUOTED}", f"nobody:{QUOTED}"):
        async with opened(f"redis://{user}@127.0.0.1:{redis_server.port}") as store:
            await refused(store.connect, match="refused user or password")
            await refused(lambda store=store: store.put_many([("k", entry(1))]), match="refused user or password")  # type: ignore[misc]
    redis_raw.execute_command("ACL", "SETUSER", "default", "resetpass", ">right")
    try:
        async with opened(redis_server.url) as store:
            await refused(lambda: store.get_many(["k"]), match="refused user or password")
    finally:
        with redis.Redis(port=redis_server.port, password="right", protocol=2) as client:
            client.execute_command("ACL", "SETUSER", "default", "nopass")


async def refused(call: Callable[[], object], *, match: str) -> None:
    with pytest.raises(FeatureStoreRefusedError, match=match) as caught:
        await call()  # type: ignore[misc]
    told = "".join(traceback.format_exception(caught.value))
    assert "s3cr3t" not in told and QUOTED not in told


async def test_a_server_that_repeats_the_password_does_not_have_it_told() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4_096):
            words = data.decode(errors="replace").split("\r\n")
            writer.write(f"-ERR unknown command, with args beginning with: {' '.join(words)}\r\n".encode())
        writer.close()

    liar = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = liar.sockets[0].getsockname()[1]
    for redis_cluster in (False, True):
        async with opened(f"redis://u:{QUOTED}@127.0.0.1:{port}", cluster=redis_cluster) as store:
            with pytest.raises(FeatureStoreError) as caught:
                await store.get_many(["k"])
            told = "".join(traceback.format_exception(caught.value))
            assert "s3cr3t" not in told and QUOTED not in told
    liar.close()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://u:p#s3cr3t@host:1", {}),
        (f"redis://u:{SECRET}@host:x", {}),
        ("s3cr3t", {}),
        ("amqp://u:s3cr3t@h", {}),
        ("redis://u:s3cr3t@h?protocol=3", {}),
        ("rediss://u:s3cr3t@h?ssl_cert_reqs=none", {}),
        ("redis://u:s3cr3t@h", {"ca": "ca.pem"}),
        ("unix://u:s3cr3t@", {}),
        ("unix:///a/socket", {"cluster": True}),
        ("redis://u:s3cr3t@h/3", {"cluster": True}),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_and_not_repeated(url: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisFeatureStore(url, region="north", **options)  # type: ignore[arg-type]

    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


async def test_tls_is_spoken_and_the_other_side_is_verified(
    redis_server: RedisServer, redis_raw: redis.Redis, tmp_path: Path
) -> None:
    files, strangers = certified(tmp_path / "ours"), certified(tmp_path / "theirs")
    async with tls_before(redis_server.port, files=files) as port:
        url = f"rediss://127.0.0.1:{port}"
        async with opened(url, ca=str(files.ca)) as store:
            await store.connect()
            assert [True] == await store.put_many([("k", entry(1))])
            assert 1 == await store.put_batch(batch({"track:1": soon(3)}, sequence=1))
            assert [3] == [each.stamp for each in await store.find_many(ONE, ["track:1"]) if each]
        for options in ({}, {"ca": str(strangers.ca)}):
            async with opened(url, **options) as store:
                with pytest.raises(FeatureStoreUnavailableError, match=r"(?i)certificate"):
                    await store.connect()
        async with opened(f"rediss://localhost:{port}", ca=str(files.ca)) as store:
            with pytest.raises(FeatureStoreUnavailableError, match=r"(?i)hostname"):
                await store.connect()


async def test_a_server_may_demand_our_certificate(
    redis_server: RedisServer, redis_raw: redis.Redis, tmp_path: Path
) -> None:
    files = certified(tmp_path / "ours")
    async with tls_before(redis_server.port, files=files, demand_certificate=True) as port:
        url = f"rediss://127.0.0.1:{port}"
        own = {"certificate": str(files.certificate), "certificate_key": str(files.key)}
        async with opened(url, ca=str(files.ca), **own) as store:
            await store.connect()
        async with opened(url, ca=str(files.ca)) as store:
            with pytest.raises(FeatureStoreUnavailableError):
                await store.connect()


async def test_a_cluster_has_its_shards_on_several_nodes(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    track = FeatureClass(name="track", shards=32)
    held = {f"track:{number}": soon(number + 1) for number in range(300)}
    blocks = []
    for shard in range(32):
        part = {key: each for key, each in held.items() if key_mark(key) % 32 == shard}
        blocks += [
            Block(
                class_name="track",
                shard=shard,
                shards=32,
                marks=b"".join(key_mark(key).to_bytes(4, "big") for key in part),
                payload=encode_block(part, codec=FeatureCodec.LZ4),
                count=len(part),
                expires_at_unix_ms=unix_ms() + 30_000,
            )
        ]
    async with opened(redis_cluster.url, cluster=True) as store:
        assert 300 == await store.put_batch(Batch(edge_id="e", pipe="p", sequence=1, blocks=tuple(blocks)))
        sizes: list[int] = []
        redis_cluster.each(lambda client: sizes.append(client.dbsize()))
        assert all(size > 10 for size in sizes), f"not spread: {sizes}"
        assert list(held.values()) == await store.find_many(track, list(held))
        assert 300 == await store.counted("track")
        assert f"<RedisFeatureStore {redis_cluster.url} cluster>" == repr(store)


async def test_a_cluster_that_is_not_called_one_is_refused_with_advice(redis_cluster: RedisCluster) -> None:
    async with opened(redis_cluster.url) as store:
        with pytest.raises(FeatureStoreRefusedError, match="cluster"):
            await store.put_many([(f"k:{number}", entry(1)) for number in range(30)])


async def test_a_cluster_without_one_of_its_nodes_is_unavailable_until_it_is_back(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    items = [(f"k:{number}", entry(1)) for number in range(30)]
    async with opened(redis_cluster.url, cluster=True) as store:
        assert [True] * 30 == await store.put_many(items)
        redis_cluster.nodes[2].kill()
        try:
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(FeatureStoreUnavailableError):
                    await store.put_many(items)
                assert time.monotonic() - started < 6
        finally:
            redis_cluster.nodes[2].start()
            redis_cluster.wait_settled()
        assert [True] * 30 == await store.put_many(items)
        assert [entry(1)] * 30 == await store.get_many([key for key, _ in items])


async def test_closed_connections_to_a_cluster_are_made_again_without_an_error(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    items = [(f"k:{number}", entry(1)) for number in range(30)]
    async with opened(redis_cluster.url, cluster=True) as store:
        for _ in range(3):
            assert [[True] * 30] * 20 == await asyncio.gather(*(store.put_many(items) for _ in range(20)))
            redis_cluster.each(lambda client: client.client_kill_filter(_type="normal", skipme=True))


async def test_a_slot_that_moves_is_followed(redis_cluster: RedisCluster) -> None:
    redis_cluster.flush()
    async with opened(redis_cluster.url, cluster=True) as store:
        await store.put_many([("{a}", entry(1))])
        with redis.Redis(port=redis_cluster.nodes[0].port, protocol=2) as client:
            slot = client.execute_command("CLUSTER KEYSLOT", "ccs:north:f:{a}")
        names: list[bytes] = []
        redis_cluster.each(lambda node: names.append(node.execute_command("CLUSTER MYID")))
        redis_cluster.flush()
        target = names[(slot * 3 // 16_384 + 1) % 3]
        try:
            redis_cluster.each(lambda node: node.execute_command("CLUSTER SETSLOT", slot, "NODE", target))
            assert [True] == await store.put_many([("{a}", entry(2))])
            assert [entry(2)] == await store.get_many(["{a}"])
        finally:
            redis_cluster.flush()
            redis_cluster.each(
                lambda node: node.execute_command("CLUSTER SETSLOT", slot, "NODE", names[slot * 3 // 16_384])
            )
