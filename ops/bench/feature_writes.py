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
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import redis

from edge_client.adapters.redis_features import RedisFeatureStore
from edge_client.adapters.sqlite_spool import SqliteSpool
from edge_client.adapters.system_clock import SystemClock
from edge_client.blocking_features import Features
from edge_client.config import EdgeConfig
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from edge_client.runtime.features import AsyncFeatures, FeaturePorts
from edge_client.runtime.loop_thread import LoopThread
from edge_client.runtime.signals import Pulse
from ops.bench import feature_kill
from ops.bench.figures import Figure, median, percentile
from tests.fakes.bus import Hub
from tests.support.servers import start_redis

if TYPE_CHECKING:
    from edge_client.client import AsyncEdgeClient

CLASSES: Final = {
    "track": FeatureClass(name="track", when_full=WhenFull.BLOCK),
    "spooled": FeatureClass(name="spooled", when_full=WhenFull.BLOCK, spool=True),
}
SMALL: Final = {"x": 12.5, "label": "car", "score": 0.93}
BATCH: Final = 1_000
BATCHES: Final = 40
ENTRIES_PER_S_MIN: Final = 170_000
RATIO_MIN: Final = 2.0
MEMORY_MIB_MAX: Final = 256
PACED_PER_S: Final = 20_000
PACED_AT_ONCE: Final = 20
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


@dataclass
class Client:
    """As much of a client as features need, without a region: what `edge.features` is, and its drivers."""

    features: AsyncFeatures
    drivers: list[asyncio.Task[None]]

    @classmethod
    async def open(cls, url: str, *, spool: Path | None = None) -> Client:
        store = RedisFeatureStore(url, region="bench")
        await store.connect()
        features = AsyncFeatures(
            FeaturePorts(store=store, spool=None if spool is None else SqliteSpool(spool)),
            config=EdgeConfig(servers=("nats://127.0.0.1:1",), trust="ccs-region-key ed25519 x", edge_id="bench"),
            life_id=f"{time.time_ns():x}",
            classes=lambda: CLASSES,
            bus=Hub().edge_bus(),
            subject="bench.features",
            clock=SystemClock(),
            rng=Random(1),
            pulse=Pulse(),
        )
        await features.open()
        drivers = [asyncio.ensure_future(driver()) for driver in features.drivers().values()]
        await asyncio.sleep(0)
        return cls(features, drivers)

    async def close(self) -> None:
        await self.features.close()
        for driver in self.drivers:
            driver.cancel()
        await asyncio.gather(*self.drivers, return_exceptions=True)


@asynccontextmanager
async def some_features(url: str, *, spool: Path | None = None) -> AsyncIterator[AsyncFeatures]:
    client = await Client.open(url, spool=spool)
    try:
        yield client.features
    finally:
        await client.close()


@contextmanager
def blocking_features(url: str) -> Iterator[tuple[Features, AsyncFeatures]]:
    """The application's thread is this one; the client's loop has a thread of its own."""
    life = LoopThread(lambda _, __: Client.open(url), edge_id="bench")
    try:
        yield Features(lambda: cast("LoopThread[AsyncEdgeClient]", life)), life.client.features
    finally:
        life.stop()


def flushed(features: AsyncFeatures) -> int:
    return features.status().queue["flushed"]


async def write_behind(features: AsyncFeatures, batches: list[Records], *, seconds: float) -> float:
    """Entries a second that reached the store, the last flush included."""
    before, number = flushed(features), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        await features.put_many(batches[number % len(batches)])
        number += 1
        await asyncio.sleep(0)
    assert await features.flush(timeout_ms=30_000)
    return (flushed(features) - before) / (time.perf_counter() - began)


def write_behind_blocking(
    features: Features, behind: AsyncFeatures, batches: list[Records], *, seconds: float
) -> float:
    """The same from the application's own thread."""
    before, number = flushed(behind), 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        features.put_many(batches[number % len(batches)])
        number += 1
    assert features.flush(timeout_ms=30_000)
    return (flushed(behind) - before) / (time.perf_counter() - began)


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
    """A sustained run, then turns of both; then with a spool, and from a thread."""
    batches = records("track")
    async with some_features(url) as features:
        await write_behind(features, batches, seconds=min(2.0, seconds))
        sustained = await write_behind(features, batches, seconds=seconds)
        # What the process takes for writing, before redis-py's pipelines add theirs.
        memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        client = redis.Redis.from_url(url)
        plain_pipeline(client, batches, seconds=min(1.0, seconds))
        ours, plain = [], []
        for _ in range(rounds):
            plain.append(plain_pipeline(client, batches, seconds=min(3.0, seconds)))
            ours.append(await write_behind(features, batches, seconds=min(3.0, seconds)))
        client.close()
    with tempfile.TemporaryDirectory() as directory:
        async with some_features(url, spool=Path(directory) / "spool.db") as features:
            spooled = await write_behind(features, records("spooled"), seconds=min(5.0, seconds))
    return {"sustained": sustained, "memory_mib": memory_mib, "ours": ours, "plain": plain, "spooled": spooled}


def threaded(url: str, *, seconds: float) -> dict[str, Any]:
    """Throughput of the blocking form."""
    with blocking_features(url) as (features, behind):
        write_behind_blocking(features, behind, records("track"), seconds=1.0)
        return {"blocking": write_behind_blocking(features, behind, records("track"), seconds=min(10.0, seconds))}


def single(url: str) -> dict[str, Any]:
    """What one `put` costs, with the encoding of its value, while nothing else goes on; less what reading the clock costs."""
    with blocking_features(url) as (features, _):
        samples: list[int] = []
        put, clock = features.put, time.perf_counter_ns
        clock_ns = median([-(clock() - clock()) for _ in range(100_000)])
        for turn in range(20):
            for key in [f"track:{number}" for number in range(turn * 5_000, turn * 5_000 + 5_000)]:
                began = clock()
                put(key, SMALL)
                samples.append(clock() - began)
            features.flush()
        return {"put_p50_ns": median(samples) - clock_ns}


def paced(url: str, *, seconds: float) -> dict[str, Any]:
    """Puts at 20,000 a second, twenty in every millisecond, while the loop's thread flushes."""
    with blocking_features(url) as (features, behind):
        put, clock = features.put, time.perf_counter_ns
        calls: list[int] = []
        late: list[int] = []
        before = behind.status().queue["batches"]
        began = clock()
        for number in range(int(seconds * PACED_PER_S)):
            due = began + number // PACED_AT_ONCE * PACED_AT_ONCE * 1_000_000_000 // PACED_PER_S
            while (wait_ns := due - clock()) > 0:
                time.sleep(wait_ns / 1e9)
            key = f"track:{number}"
            start = clock()
            put(key, SMALL)
            end = clock()
            calls.append(end - start)
            late.append(end - due)
        first = len(calls) // 10
        return {
            "calls_us": {f"{share}": percentile(calls[first:], share) / 1000 for share in (0.5, 0.99, 0.999)},
            "late_us": {f"{share}": percentile(late[first:], share) / 1000 for share in (0.5, 0.99, 0.999)},
            "batches": behind.status().queue["batches"] - before,
        }


PARTS: Final[dict[str, Callable[[str, argparse.Namespace], Any]]] = {
    "throughput": lambda url, given: asyncio.run(throughput(url, seconds=given.seconds, rounds=given.rounds)),
    "threaded": lambda url, given: threaded(url, seconds=given.seconds),
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
        Figure(name="with a spool", value=rate["spooled"], unit="1/s"),
        Figure(
            name="by the blocking form, its loop in another thread", value=found["threaded"]["blocking"], unit="1/s"
        ),
        Figure(name="one put, p50", value=one["put_p50_ns"] / 1000, unit="us", limit=2.0),
        Figure(name="put at 20,000/s while flushing, p50", value=pace["calls_us"]["0.5"], unit="us"),
        Figure(name="put at 20,000/s while flushing, p99", value=pace["calls_us"]["0.99"], unit="us", limit=100.0),
        Figure(name="put at 20,000/s while flushing, p99.9", value=pace["calls_us"]["0.999"], unit="us", limit=6_000.0),
        Figure(name="the same from when it was due, p99", value=pace["late_us"]["0.99"], unit="us"),
        Figure(name="the same from when it was due, p99.9", value=pace["late_us"]["0.999"], unit="us"),
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
        print(json.dumps(PARTS[given.only](given.url, given)))
    elif given.what == "kill":
        sys.exit(asyncio.run(feature_kill.main(rounds=given.rounds, seed=given.seed, mutant=given.mutant)))
    else:
        sys.exit(main(given))
