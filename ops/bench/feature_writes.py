"""What writing bulk features costs, how many a second get there, and whether any is lost or counted twice.

    python -m ops.bench.feature_writes --seconds 60
    python -m ops.bench.feature_writes kill --rounds 200

The first: from `put_many` through encoding, LZ4 and a real redis-server, with expiry, beside a plain redis-py pipeline of
`SET … EX` of the same records, in turns; then what a single `put` costs, alone and at 20,000 a second while flushing. The
writing process is a child of its own, so that its memory is its own. Counted is what the store has acknowledged.

The second: see `ops.bench.feature_kill`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import redis

from edge_client.adapters.redis_features import RedisFeatureStore
from edge_client.adapters.sqlite_spool import SqliteSpool
from edge_client.adapters.system_clock import SystemClock
from edge_client.core.generation import WriteBehindConfig
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from edge_client.protocol.feature_codec import encode_value
from edge_client.protocol.features import Entry, writer_of
from edge_client.runtime.feature_writer import FeatureWriter
from ops.bench import feature_kill
from ops.bench.figures import Figure, median, percentile
from tests.support.servers import start_redis

CLASS: Final = FeatureClass(name="track", when_full=WhenFull.BLOCK)
SPOOLED: Final = FeatureClass(name="spooled", when_full=WhenFull.BLOCK, spool=True)
WRITER: Final = writer_of("bench", life_id="life")
BATCH: Final = 1_000
BATCHES: Final = 40
ENTRIES_PER_S_MIN: Final = 170_000
RATIO_MIN: Final = 2.0
MEMORY_MIB_MAX: Final = 256
PACED_PER_S: Final = 20_000
Records = dict[str, dict[str, Any]]


def records(prefix: str) -> list[Records]:
    """What cameras say of what they track: 40,000 keys, each with a record of ten fields."""
    rng = Random(7)
    labels = ("car", "truck", "bus", "bicycle", "pedestrian")

    def record(number: int) -> dict[str, Any]:
        return {
            "camera": f"cam-{number % 200:03}",
            "frame": 1_000_000 + number // 50,
            "label": rng.choice(labels),
            "score": round(rng.random(), 3),
            "x": round(rng.uniform(0, 1_920), 1),
            "y": round(rng.uniform(0, 1_080), 1),
            "w": rng.randrange(12, 300),
            "h": rng.randrange(12, 300),
            "speed": round(rng.gauss(11, 4), 2),
            "lane": rng.randrange(4),
        }

    return [
        {f"{prefix}:{number}": record(number) for number in range(first, first + BATCH)}
        for first in range(0, BATCH * BATCHES, BATCH)
    ]


@asynccontextmanager
async def a_writer(url: str, *, spool: Path | None = None) -> AsyncIterator[FeatureWriter]:
    store = RedisFeatureStore(url, region="bench")
    await store.connect()
    writer = FeatureWriter(
        store=store,
        clock=SystemClock(),
        rng=Random(1),
        edge_id="bench",
        life_id=f"{time.time_ns():x}",
        config=WriteBehindConfig(spool_bytes_max=0 if spool is None else 1 << 30),
        spool=None if spool is None else SqliteSpool(spool),
    )
    await writer.open()
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0)
    try:
        yield writer
    finally:
        await writer.close(timeout_ms=10_000)
        await running
        await store.close()


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


async def write_behind(writer: FeatureWriter, batches: list[Records], *, of: FeatureClass, seconds: float) -> float:
    """Entries a second that reached the store, the last flush included."""
    codec = of.codec
    before = writer.metrics()["flushed"]
    began = time.perf_counter()
    number = 0
    while time.perf_counter() - began < seconds:
        batch = batches[number % len(batches)]
        number += 1
        now_ms = unix_ms()
        values = {key: encode_value(value, codec=codec) for key, value in batch.items()}
        left = values
        while (
            taken := writer.put_many(of, left, stamp=now_ms << 20, writer=WRITER, expires_at_unix_ms=now_ms + 30_000)
        ) < len(left):
            left = dict(list(left.items())[taken:])
            await writer.wait_for_room()
        await asyncio.sleep(0)
    assert await writer.flush(timeout_ms=30_000)
    return (writer.metrics()["flushed"] - before) / (time.perf_counter() - began)


def plain_pipeline(client: redis.Redis, batches: list[Records], *, seconds: float) -> float:
    """The same records by redis-py as one would write it: a pipeline of `SET … EX` for each thousand."""
    encode = msgspec.msgpack.Encoder().encode
    began = time.perf_counter()
    number = 0
    while time.perf_counter() - began < seconds:
        pipeline = client.pipeline(transaction=False)
        for key, value in batches[number % len(batches)].items():
            pipeline.set(key, encode(value), ex=30)
        pipeline.execute()
        number += 1
    return number * BATCH / (time.perf_counter() - began)


async def throughput(url: str, *, seconds: float, rounds: int) -> dict[str, Any]:
    """A sustained run, then turns of both."""
    batches = records("track")
    async with a_writer(url) as writer:
        await write_behind(writer, batches, of=CLASS, seconds=min(2.0, seconds))
        sustained = await write_behind(writer, batches, of=CLASS, seconds=seconds)
        # What the process takes for writing, before redis-py's pipelines add theirs.
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        client = redis.Redis.from_url(url)
        plain_pipeline(client, batches, seconds=min(1.0, seconds))
        ours, plain = [], []
        for _ in range(rounds):
            plain.append(plain_pipeline(client, batches, seconds=min(3.0, seconds)))
            ours.append(await write_behind(writer, batches, of=CLASS, seconds=min(3.0, seconds)))
        client.close()
    with tempfile.TemporaryDirectory() as directory:
        async with a_writer(url, spool=Path(directory) / "spool.db") as writer:
            spooled = await write_behind(writer, records("spooled"), of=SPOOLED, seconds=min(5.0, seconds))
    return {"sustained": sustained, "memory_mib": memory_mib, "ours": ours, "plain": plain, "spooled": spooled}


def timed_puts(writer: FeatureWriter, *, count: int, number: int) -> list[int]:
    value, put, clock = {"x": 12.5, "label": "car", "score": 0.93}, writer.put, time.perf_counter_ns
    codec, samples = CLASS.codec, []
    keys = [f"track:{each}" for each in range(number, number + count)]
    for place, key in enumerate(keys):
        began = clock()
        put(CLASS, key, Entry(encode_value(value, codec=codec), (1 << 60) + number + place, WRITER, END_MS))
        samples.append(clock() - began)
    return samples


END_MS: Final = 1 << 43


async def single(url: str) -> dict[str, Any]:
    """What one `put` costs, with the encoding of its value, while nothing else goes on."""
    async with a_writer(url) as writer:
        samples: list[int] = []
        for turn in range(20):
            samples += timed_puts(writer, count=5_000, number=turn * 5_000)
            await writer.flush()
        return {"put_p50_ns": median(samples)}


async def paced(url: str, *, seconds: float) -> dict[str, Any]:
    """Puts at 20,000 a second from a thread of the application's, while the loop's thread flushes."""
    async with a_writer(url) as writer:
        loop = asyncio.get_running_loop()
        calls: list[int] = []
        late: list[int] = []
        done = asyncio.Event()

        def put_paced() -> None:
            value, codec, clock = {"x": 12.5, "label": "car", "score": 0.93}, CLASS.codec, time.perf_counter_ns
            gap_ns = 1_000_000_000 // PACED_PER_S
            began = clock()
            for number in range(int(seconds * PACED_PER_S)):
                due = began + number * gap_ns
                while (wait_ns := due - clock()) > 0:
                    if wait_ns > 500_000:
                        time.sleep(wait_ns / 1e9 - 400e-6)
                    elif number % 20 == 0:
                        time.sleep(0.0002)  # an application that tracks objects does other things as well
                start = clock()
                writer.put(
                    CLASS,
                    f"track:{number}",
                    Entry(encode_value(value, codec=codec), (1 << 60) + number, WRITER, END_MS),
                )
                end = clock()
                calls.append(end - start)
                late.append(end - due)
            loop.call_soon_threadsafe(done.set)

        thread = threading.Thread(target=put_paced)
        before = writer.metrics()["batches"]
        thread.start()
        await done.wait()
        thread.join()
        batches = writer.metrics()["batches"] - before
        steps = calls[len(calls) // 10 :]
        return {
            "paced": {f"{share}": percentile(steps, share) / 1000 for share in (0.5, 0.99, 0.999)},
            "late": {f"{share}": percentile(late[len(late) // 10 :], share) / 1000 for share in (0.5, 0.99, 0.999)},
            "batches": batches,
        }


PARTS: Final[dict[str, Callable[[str, argparse.Namespace], Any]]] = {
    "throughput": lambda url, given: throughput(url, seconds=given.seconds, rounds=given.rounds),
    "single": lambda url, _: single(url),
    "paced": lambda url, given: paced(url, seconds=given.paced_seconds),
}


def figures(found: dict[str, dict[str, Any]]) -> list[Figure]:
    rate, one, pace = found["throughput"], found["single"], found["paced"]
    ours, plain = median(rate["ours"]), median(rate["plain"])
    return [
        Figure(name="bulk entries a second, sustained (limit: at least)", value=rate["sustained"], unit="1/s"),
        Figure(name="170,000 a second / that", value=ENTRIES_PER_S_MIN / rate["sustained"], unit="", limit=1.0),
        Figure(
            name="memory of the writing process at its peak", value=rate["memory_mib"], unit="MiB", limit=MEMORY_MIB_MAX
        ),
        Figure(name="in turns: write-behind", value=ours, unit="1/s"),
        Figure(name="in turns: redis-py pipeline of SET … EX", value=plain, unit="1/s"),
        Figure(name="2 × the pipeline / write-behind", value=RATIO_MIN * plain / ours, unit="", limit=1.0),
        Figure(name="with a spool, entries a second", value=rate["spooled"], unit="1/s"),
        Figure(name="one put, p50", value=one["put_p50_ns"] / 1000, unit="us", limit=2.0),
        Figure(name="put at 20,000/s while flushing, p50", value=pace["paced"]["0.5"], unit="us"),
        Figure(name="put at 20,000/s while flushing, p99", value=pace["paced"]["0.99"], unit="us", limit=100.0),
        Figure(name="put at 20,000/s while flushing, p99.9", value=pace["paced"]["0.999"], unit="us", limit=6_000.0),
        Figure(name="the same from when it was due, p99", value=pace["late"]["0.99"], unit="us"),
        Figure(name="the same from when it was due, p99.9", value=pace["late"]["0.999"], unit="us"),
        Figure(name="batches flushed meanwhile", value=pace["batches"], unit=""),
    ]


def main(given: argparse.Namespace) -> int:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory, start_redis(Path(directory)) as server:
        for part in PARTS:
            command = [sys.executable, "-m", "ops.bench.feature_writes", "part", "--only", part, "--url", server.url]
            command += ["--seconds", str(given.seconds), "--rounds", str(given.rounds)]
            command += ["--paced-seconds", str(given.paced_seconds)]
            found[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            server.flush()
    lines = figures(found)
    for figure in lines:
        print(figure.line())
    return 0 if all(figure.holds for figure in lines) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("writes", "kill", "part"), default="writes")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the sustained run")
    parser.add_argument("--paced-seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5, help="turns of both writers; with kill, how many kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", choices=feature_kill.MUTANTS, help="with kill: show that the judge sees it")
    parser.add_argument("--only", choices=tuple(PARTS), help="with part: which")
    parser.add_argument("--url", help="with part: of the redis-server")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    if given.what == "part":
        gc.freeze()
        print(json.dumps(asyncio.run(PARTS[given.only](given.url, given))))
    elif given.what == "kill":
        sys.exit(asyncio.run(feature_kill.main(rounds=given.rounds, seed=given.seed, mutant=given.mutant)))
    else:
        sys.exit(main(given))
