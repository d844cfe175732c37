"""What one gateway of the case sends to the feature store in a minute, as a real Redis counts it at its socket.

The gateway's tracker rewrites each object's feature in each frame; what is queued under one key within a flush coalesces to
its last value. Where that helps too much to show the encoding, a second replay gives each frame a key of its own. Time is
the replay's own: a minute takes seconds.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from consistency_service.testbed.binaries import find_redis_server
from edge_client.adapters.redis_features import RedisFeatureStore
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import encode_block, encode_value
from edge_client.protocol.features import Entry, key_mark
from edge_client.runtime.feature_ports import Batch, Block
from ops.bench.feature_data import Write, embeddings, tracks
from ops.bench.figures import Figure

SECONDS = 60
SHARDS = 64
FLUSH_MS = 5_000
EXPIRE_MS = 30_000
SHARE_MAX = 0.2
START_MS = 1_795_000_000_000
WRITER = 0x5EED_F00D_CAFE_0117

LZ4 = FeatureCodec.LZ4
Keyed = Callable[[Write], str]


def track_key(write: Write) -> str:
    return f"track:{write.camera}:{write.track}"


def frame_key(write: Write) -> str:
    return f"track:{write.camera}:{write.track}:{write.frame}"


async def replay() -> list[Figure]:
    """Bytes to the store per entry written, by codec, as parts of the naive way; the default of classes has a limit."""
    rows = embeddings()["64 of ReLU"]
    workloads: dict[str, tuple[list[Write], Keyed, list[FeatureCodec]]] = {}
    naming: dict[str, Keyed] = {"a key a track": track_key, "a key a frame": frame_key}
    for name, keyed in naming.items():
        exact, fractions = (list(tracks(seconds=SECONDS, fractions=each)) for each in (False, True))
        vectors = [write._replace(value=rows[place % len(rows)]) for place, write in enumerate(exact)]
        workloads[f"records, {name}"] = (exact, keyed, [FeatureCodec.PLAIN, LZ4])
        workloads[f"records of fractions, {name}"] = (fractions, keyed, [FeatureCodec.PLAIN, LZ4])
        workloads[f"embeddings, {name}"] = (vectors, keyed, list(FeatureCodec))
    figures = []
    with _redis() as url:
        for name, (writes, keyed, codecs) in workloads.items():
            naive = _naive_bytes(url, writes, keyed)
            figures.append(Figure(name=f"{name}: SET EX", value=naive / len(writes), unit="B"))
            for codec in codecs:
                sent = await _sent_bytes(url, writes, keyed, codec=codec)
                limit = SHARE_MAX if codec is LZ4 and name.startswith("records") and keyed is track_key else None
                figures.append(Figure(name=f"{name}: {codec} / SET EX", value=sent / naive, unit="x", limit=limit))
        figures += await _shaped(url, *workloads["records, a key a track"][:2], name="records, a key a track")
        figures += await _shaped(url, *workloads["records, a key a frame"][:2], name="records, a key a frame")
    return figures


async def _shaped(url: str, writes: list[Write], keyed: Keyed, *, name: str) -> list[Figure]:
    """The same with other shards and flushes, and what coalescing does alone, without blocks."""
    naive = _naive_bytes(url, writes, keyed)
    last = {(write.at_ms // FLUSH_MS, keyed(write)): write for write in writes}
    alone = _naive_bytes(url, list(last.values()), keyed)
    figures = [Figure(name=f"{name}: entries of a flush", value=len(last) / (SECONDS * 1_000 / FLUSH_MS), unit="")]
    figures.append(Figure(name=f"{name}: coalesced SET EX / SET EX", value=alone / naive, unit="x"))
    for shards, flush_ms in ((16, 5_000), (4, 5_000), (1, 5_000), (64, 15_000), (1, 15_000)):
        sent = await _sent_bytes(url, writes, keyed, codec=LZ4, shards=shards, flush_ms=flush_ms)
        label = f"{name}: lz4, {shards} shards, {flush_ms // 1_000} s / SET EX"
        figures.append(Figure(name=label, value=sent / naive, unit="x"))
    return figures


def _naive_bytes(url: str, writes: list[Write], keyed: Keyed) -> int:
    with redis.Redis.from_url(url, protocol=2) as client:
        before = _received(client)
        pipeline = client.pipeline(transaction=False)
        for place, write in enumerate(writes):
            pipeline.set(keyed(write), encode_value(write.value, codec=FeatureCodec.PLAIN), ex=EXPIRE_MS // 1_000)
            if place % 1_000 == 999:
                pipeline.execute()
        pipeline.execute()
        return _received(client) - before


async def _sent_bytes(
    url: str,
    writes: list[Write],
    keyed: Keyed,
    *,
    codec: FeatureCodec,
    shards: int = SHARDS,
    flush_ms: int = FLUSH_MS,
) -> int:
    """What the feature store's own adapter sends, a flush each `flush_ms`; connecting is left out on both sides."""
    now_ms = [START_MS]
    store = RedisFeatureStore(url, region="eu-west", clock_unix_ms=lambda: now_ms[0])
    await store.connect()
    with redis.Redis.from_url(url, protocol=2) as client:
        client.flushall()
        before = _received(client)
        for sequence, (ends_ms, queued) in enumerate(_flushes(writes, keyed, codec=codec, flush_ms=flush_ms), start=1):
            now_ms[0] = START_MS + ends_ms
            blocks = _cut(queued, codec=codec, shards=shards)
            batch = Batch(edge_id="gateway-117", pipe="3f9a2c71d05e", sequence=sequence, blocks=blocks)
            assert len(queued) == await store.put_batch(batch)
        received = _received(client) - before
    await store.close()
    return received


def _flushes(
    writes: list[Write], keyed: Keyed, *, codec: FeatureCodec, flush_ms: int
) -> Iterator[tuple[int, dict[str, Entry]]]:
    """When each flush is, and what it has: of each key the last write."""
    queued: dict[str, Entry] = {}
    ends_ms = flush_ms
    for write in writes:
        while write.at_ms >= ends_ms:
            yield ends_ms, queued
            queued, ends_ms = {}, ends_ms + flush_ms
        at_ms = START_MS + write.at_ms
        queued[keyed(write)] = Entry(
            encode_value(write.value, codec=codec), at_ms << 20 | len(queued) % 8, WRITER, at_ms + EXPIRE_MS
        )
    yield ends_ms, queued


def _cut(queued: dict[str, Entry], *, codec: FeatureCodec, shards: int) -> tuple[Block, ...]:
    spread: dict[int, dict[str, Entry]] = {}
    for key, entry in queued.items():
        spread.setdefault(key_mark(key) % shards, {})[key] = entry
    return tuple(
        Block(
            class_name="track",
            shard=shard,
            shards=shards,
            marks=b"".join(key_mark(key).to_bytes(4, "big") for key in entries),
            payload=encode_block(entries, codec=codec),
            count=len(entries),
            expires_at_unix_ms=max(entry.expires_at_unix_ms for entry in entries.values()),
        )
        for shard, entries in spread.items()
    )


def _received(client: Any) -> int:
    """What the server has read from sockets; the question itself is in it, the same each time."""
    return int(client.info("stats")["total_net_input_bytes"])


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    """A Redis of its own on a socket in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "redis.sock"
        command = [str(find_redis_server()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not path.exists() and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"unix://{path}"
        finally:
            server.terminate()
            server.wait(timeout=10)
