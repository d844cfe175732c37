"""The Redis that is shipped, with TLS and users: what our adapters do is allowed, everything else is refused; and as a cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client import AsyncEdgeClient
from edge_client.adapters.redis_feature_tier import BlockingFeatureTier, RedisFeatureTier
from edge_client.adapters.redis_features import RedisFeatureStore, unix_ms
from edge_client.adapters.redis_tier import RedisTier, edge_namespace
from edge_client.errors import ConfigError, FeatureStoreRefusedError, FeatureStoreUnavailableError, LocalTierError
from edge_client.protocol.envelope import trust_line
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec, FeatureKind
from edge_client.protocol.feature_codec import encode_block
from edge_client.protocol.features import Entry, key_mark
from edge_client.protocol.position import Position
from edge_client.runtime.feature_ports import Batch, Block, FeatureStore
from tests.support.redis_kinds import Certified, certified, free_ports
from tests.support.secured_redis import (
    PASSWORDS,
    QUOTED,
    SHIPPED,
    SecuredCluster,
    SecuredRedis,
    require_tls,
    start_secured_cluster,
)

ONE = FeatureClass(name="track", shards=1)
USER = FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=60_000, expire_ms=None)
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def _tls() -> None:
    require_tls()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return certified(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, files: Certified) -> Iterator[SecuredRedis]:
    server = SecuredRedis(port=free_ports(1)[0], directory=tmp_path_factory.mktemp("box"), kind="local", files=files)
    server.start()
    with server:
        yield server


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory, files: Certified) -> Iterator[SecuredRedis]:
    directory = tmp_path_factory.mktemp("central")
    server = SecuredRedis(port=free_ports(1)[0], directory=directory, kind="feature-store", files=files)
    server.start()
    with server:
        yield server


def local_url(server: SecuredRedis) -> str:
    return f"rediss://edge:{QUOTED['EDGE']}@127.0.0.1:{server.port}"


def store_url(server: SecuredRedis) -> str:
    return f"rediss://feature-writer:{QUOTED['FEATURE_WRITER']}@127.0.0.1:{server.port}"


def entry(stamp: int) -> Entry:
    return Entry(b"value", stamp, 1, unix_ms() + 60_000)


def batch() -> Batch:
    entries = {"track:1": entry(3)}
    block = Block(
        class_name="track",
        shard=0,
        shards=1,
        marks=key_mark("track:1").to_bytes(4, "big"),
        payload=encode_block(entries, codec=FeatureCodec.LZ4),
        count=1,
        expires_at_unix_ms=unix_ms() + 60_000,
    )
    return Batch(edge_id="e", pipe="p", sequence=1, blocks=(block,))


async def everything_of_a_store(store: FeatureStore) -> None:
    await store.connect()
    assert [True] == await store.put_many([("user:1", entry(1))])
    assert [1] == [each.stamp for each in await store.get_many(["user:1"]) if each]
    assert 1 == await store.put_batch(batch())
    assert [3] == [each.stamp for each in await store.find_many(ONE, ["track:1"]) if each]
    assert 1 == await store.counted("track")


async def everything_of_a_tier(url: str, *, ca: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a" * (9 << 20)

    tier = RedisTier(url, namespace=edge_namespace(region="north", edge_id="cam-17"), ca=ca)
    await tier.connect()
    assert await tier.set_if_newer("view", value=b"v", position=Position(1, 1))
    assert b"v" == await tier.get("view")
    await tier.put_blob("sha256:1", chunks=chunks())
    assert ("sha256:1",) == await tier.blobs()
    blob = await tier.get_blob("sha256:1")
    assert blob is not None and 9 << 20 == sum([len(chunk) async for chunk in blob])
    await tier.delete_blob("sha256:1")
    await tier.close()
    features = RedisFeatureTier(url, region="north", boot_id="b", ca=ca)
    blocking = BlockingFeatureTier(url, region="north", boot_id="b", ca=ca)
    await features.put_many([("user:1", entry(1), 5)])
    assert blocking.get("user:1") == await features.get("user:1") is not None
    assert [None, None] != blocking.get_many(["user:1", "user:2"]) == await features.get_many(["user:1", "user:2"])
    await features.drop_many([("user:1", 2)])
    assert await features.get("user:1") is None
    blocking.close()
    await features.close()


def acl_log(server: SecuredRedis) -> list[tuple[str, str]]:
    """Who was refused what, as the server wrote it down, but for what redis-py says of itself to servers that know it."""
    with server.operator() as client:
        found = [(line["reason"], line["object"]) for line in client.acl_log()]
        client.acl_log_reset()
    return [each for each in found if not each[1].startswith("client")]


async def test_everything_that_adapters_do_is_allowed(
    box: SecuredRedis, central: SecuredRedis, files: Certified
) -> None:
    ca = str(files.ca)
    for server in (box, central):
        server.flush()
        acl_log(server)
    await everything_of_a_tier(local_url(box), ca=ca)
    for url in (local_url(box), store_url(central)):  # the box's own is the store where there is no other
        store = RedisFeatureStore(url, region="north", ca=ca)
        await everything_of_a_store(store)
        await store.close()

    assert [] == acl_log(box) == acl_log(central)


ALLOWED = {
    "edge": {
        *(
            "get",
            "mget",
            "set",
            "del",
            "unlink",
            "strlen",
            "getrange",
            "append",
            "exists",
            "persist",
            "pttl",
            "pexpire",
        ),
        *("incrby", "hget", "hgetall", "hset", "hdel", "sadd", "smembers", "time", "eval", "evalsha", "script|load"),
    },
    "feature-writer": {
        *("get", "mget", "set", "strlen", "getrange", "append", "pttl", "pexpire", "incrby", "sadd", "smembers"),
        *("time", "eval", "evalsha", "command", "cluster|slots"),
    },
    "health": {"ping"},
    "replica": {"psync", "replconf", "ping"},
    "default": set(),
}
NEVER = {"auth", "hello", "quit", "reset"}
"""What needs no right, by the server's own rules."""


@pytest.mark.parametrize(
    ("kind", "user"),
    [("box", user) for user in ("edge", "health", "default")]
    + [("central", user) for user in ("feature-writer", "health", "replica", "default")],
)
def test_everything_else_is_refused(kind: str, user: str, request: pytest.FixtureRequest) -> None:
    """Every command that the server knows, asked of the server itself."""
    server: SecuredRedis = request.getfixturevalue(kind)
    allowed: set[str] = set()
    refused: set[str] = set()
    with server.operator() as client:
        for name, command in client.command().items():
            words = ["ccs:north:f:k"] * (abs(command["arity"]) - 1)
            try:
                said = client.execute_command("ACL DRYRUN", user, name, *words)
            except redis.ResponseError:
                continue  # a command of commands, whose words these are not; the rules say which of them
            (allowed if said in (b"OK", "OK", True) else refused).add(name)
        (line,) = [line for line in map(text_of, client.acl_list()) if line.startswith(f"user {user} ")]
    said_allowed = {word[1:] for word in line.split() if word.startswith("+")}

    assert ALLOWED[user] == said_allowed
    assert allowed - NEVER <= ALLOWED[user]
    assert {"flushall", "keys", "scan", "rename", "shutdown", "monitor", "subscribe", "migrate"} <= refused


def text_of(line: bytes | str) -> str:
    return line.decode() if isinstance(line, bytes) else line


@pytest.mark.parametrize(
    ("kind", "user", "command"),
    [
        ("box", "edge", ("GET", "others")),
        ("box", "edge", ("EVAL", "return redis.call('GET', KEYS[1])", "1", "others")),
        ("box", "edge", ("EVAL", "return redis.call('FLUSHALL')", "0")),
        ("box", "edge", ("KEYS", "*")),
        ("box", "edge", ("CONFIG", "GET", "*")),
        ("box", "edge", ("SUBSCRIBE", "x")),
        ("central", "feature-writer", ("GET", "ccs:north:cam-17:entry:view")),
        ("central", "feature-writer", ("DEL", "ccs:north:f:k")),
        ("central", "feature-writer", ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "ccs:north:f:k")),
        ("central", "feature-writer", ("CLUSTER", "RESET")),
        ("central", "feature-writer", ("ACL", "LIST")),
    ],
)
def test_refused(kind: str, user: str, command: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    server: SecuredRedis = request.getfixturevalue(kind)
    password = PASSWORDS["EDGE" if user == "edge" else "FEATURE_WRITER"]
    with server.client(user, password) as client, pytest.raises(redis.RedisError, match=r"(?i)permission|can't run"):
        client.execute_command(*command)


def test_nobody_comes_in_without_tls_or_without_a_password(box: SecuredRedis) -> None:
    with redis.Redis(port=box.port, protocol=2) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()
    with box.client("default", "") as nobody, pytest.raises(redis.RedisError):
        nobody.ping()


async def test_faults_name_the_server_and_never_the_password(
    box: SecuredRedis, central: SecuredRedis, files: Certified, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    strange = str(certified(tmp_path / "strange").ca)
    name = edge_namespace(region="north", edge_id="cam-17")
    texts = []
    for url, ca, said in (
        (local_url(box), strange, "certificate verify failed"),
        (f"rediss://edge:wr0ng@127.0.0.1:{box.port}", str(files.ca), "refused user or password"),
        (f"rediss://health:any@127.0.0.1:{box.port}", str(files.ca), "refused"),
        (f"redis://edge:{QUOTED['EDGE']}@127.0.0.1:{box.port}", None, "unreachable"),
    ):
        tier = RedisTier(url, namespace=name, ca=ca)
        with pytest.raises(LocalTierError, match=said) as caught:
            await tier.connect()
        texts += [str(caught.value), repr(tier), repr(caught.value.__cause__)]
        assert f"127.0.0.1:{box.port}" in str(caught.value)
        await tier.close()
    store = RedisFeatureStore(
        f"rediss://feature-writer:wr0ng@127.0.0.1:{central.port}", region="north", ca=str(files.ca)
    )
    with pytest.raises(FeatureStoreRefusedError, match="refused user or password"):
        await store.connect()
    await store.close()
    with pytest.raises(ConfigError, match="a CA or a certificate needs rediss://"):
        RedisTier(f"redis://edge:{QUOTED['EDGE']}@h", namespace=name, ca=str(files.ca))

    told = "\n".join([*texts, caplog.text])
    assert not [secret for secret in (*PASSWORDS.values(), *QUOTED.values(), "wr0ng") if secret in told]


@pytest.mark.parametrize("missing", ["+strlen", "+evalsha", "+script|load", "~ccs:*"])
async def test_without_one_of_the_rights_something_of_ours_fails(
    missing: str, files: Certified, tmp_path: Path
) -> None:
    """None of them is there for nothing; those of the list that this leaves out are the scripts' own."""
    rules = (SHIPPED / "local.acl").read_text().replace(f" {missing}", "", 1)
    server = SecuredRedis(port=free_ports(1)[0], directory=tmp_path, kind="local", files=files, rules=rules)
    server.start()
    with server:
        url, ca = local_url(server), str(files.ca)
        with pytest.raises(Exception):  # noqa: B017, PT012 -- whichever adapter comes first
            await everything_of_a_tier(url, ca=ca)
            await everything_of_a_store(RedisFeatureStore(url, region="north", ca=ca))
        assert acl_log(server)


# ---- the facade


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, files: Certified) -> Iterator[SecuredCluster]:
    with start_secured_cluster(tmp_path_factory.mktemp("cluster"), files=files) as started:
        yield started


@asynccontextmanager
async def edge_at(box: SecuredRedis, store: str, files: Certified, **more: object) -> AsyncIterator[AsyncEdgeClient]:
    async with await AsyncEdgeClient.connect(
        "nats://127.0.0.1:1",
        trust=trust_line(Ed25519PrivateKey.generate().public_key()),
        edge_id="cam-17",
        local=local_url(box),
        local_ca=str(files.ca),
        feature_store=store,
        feature_store_ca=str(files.ca),
        **more,  # type: ignore[arg-type]
    ) as edge:
        edge._state._follower.feature_classes = {"user": USER}  # no region speaks here
        edge.features.copies.take_classes()
        yield edge


async def test_the_facade_over_tls_with_users(box: SecuredRedis, central: SecuredRedis, files: Certified) -> None:
    box.flush()
    central.flush()
    async with edge_at(box, store_url(central), files) as edge:
        assert await edge.features.put("user:1", 1)
        await edge.features.put("track:1", 2)
        assert await edge.features.flush(timeout_ms=10_000)

        assert "ok" == edge.status().local_tier and "closed" == edge.status().features.store  # type: ignore[union-attr]
        assert 1 == (await edge.features.get("user:1")).value
        with box.operator() as client:
            async with asyncio.timeout(20):  # what is written is put into the local tier a moment later
                while not client.exists("ccs:default:t:user:1"):
                    await asyncio.sleep(0.05)
    async with edge_at(box, store_url(central), files) as again:
        assert "local" == (await again.features.get("user:1")).tier
        reading = await again.features.get("track:1")
        assert 2 == reading.value and reading.tier in {"store", "local"}


@pytest.mark.slow
async def test_the_facade_over_a_cluster_that_loses_a_primary(
    box: SecuredRedis, cluster: SecuredCluster, files: Certified
) -> None:
    """TLS between clients, nodes and replicas, a user for each; every acknowledged write is there after the failover."""
    box.flush()
    url = store_url(cluster.nodes[0])
    async with edge_at(box, url, files, feature_store_cluster=True) as edge:
        for number in range(60):
            assert await edge.features.put(f"user:{number}", number)
        cluster.wait_replicated()  # what is looked at is the failover, not that Redis replicates after it has answered
        assert [] == [line for node in cluster.nodes for line in acl_log(node)]
        cluster.primaries[1].kill()
        began, failed = time.monotonic(), 0
        number = 60
        async with asyncio.timeout(60):
            while number < 120:
                try:
                    assert await edge.features.put(f"user:{number}", number)
                    number += 1
                except FeatureStoreUnavailableError:
                    failed += 1
                    await asyncio.sleep(0.1)
        took_s = time.monotonic() - began
        assert failed and took_s < 45
    box.flush()
    async with edge_at(box, url, files, feature_store_cluster=True) as again:
        found = [(await again.features.get(f"user:{number}")).value for number in range(120)]

        assert list(range(120)) == found
