"""What a `get` from the local Redis costs, decoded and with its age, beside a bare `GET` of redis-py.

All against one server over loopback TCP, in one process and one run, interleaved round by round, so that a slow moment of
the machine hits all alike. The bare clients are used as their documentation shows, with their defaults. The order within a
round turns, so that nobody always follows the same neighbour.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
import redis.asyncio

from edge_client.adapters.redis_feature_tier import BlockingFeatureTier, RedisFeatureTier
from edge_client.protocol.feature_classes import FeatureCodec
from edge_client.protocol.feature_codec import decode_value, encode_value
from edge_client.protocol.features import Entry
from ops.bench.figures import Figure, median
from tests.support.servers import start_redis

ROUNDS = 40
CALLS = 100
RATIO_MAX = 1.3
KEY = "profile:17"
RECORD = {
    "camera": "north-17",
    "track": 4711,
    "speed": 13.25,
    "heading": 271.5,
    "class": "truck",
    "seen": [3, 5, 8, 13],
}


def measure() -> list[Figure]:
    """The figures of one run."""
    with tempfile.TemporaryDirectory() as directory, start_redis(Path(directory)) as server:
        samples = asyncio.run(_measure(server.url))
    figures = [Figure(name=f"{name}, p50", value=median(values) / 1_000, unit="us") for name, values in samples.items()]
    middle = {name: median(values) for name, values in samples.items()}
    return [
        *figures,
        *(
            Figure(name=f"{ours} / {bare}", value=middle[ours] / middle[bare], unit="x", limit=RATIO_MAX)
            for ours, bare in (
                ("local tier get, async", "redis.asyncio GET"),
                ("local tier get, blocking", "redis-py GET"),
            )
        ),
    ]


async def _measure(url: str) -> dict[str, list[float]]:
    """Nanoseconds of each call. All of them fetch what is as long as the tier's string."""
    value = encode_value(RECORD, codec=FeatureCodec.LZ4)
    entry = Entry(value, time.time_ns() // 1_000_000 << 20, 7, time.time_ns() // 1_000_000 + 3_600_000)
    tier = RedisFeatureTier(url, region="bench", boot_id="boot")
    blocking = BlockingFeatureTier(url, region="bench", boot_id="boot")
    bare, bare_async = redis.Redis.from_url(url), redis.asyncio.Redis.from_url(url)
    await tier.put_many([(KEY, entry, 1)])
    stored = f"ccs:bench:t:{KEY}"
    assert bare.get(stored) == await bare_async.get(stored)

    async def tier_get() -> object:
        held = await tier.get(KEY)
        return held and decode_value(held.entry.value or b"")

    def blocking_get() -> object:
        held = blocking.get(KEY)
        return held and decode_value(held.entry.value or b"")

    assert RECORD == await tier_get() == blocking_get()
    waiting: dict[str, Callable[[], Awaitable[object]]] = {
        "redis.asyncio GET": lambda: bare_async.get(stored),
        "local tier get, async": tier_get,
    }
    direct: dict[str, Callable[[], object]] = {
        "redis-py GET": lambda: bare.get(stored),
        "local tier get, blocking": blocking_get,
    }
    samples: dict[str, list[float]] = {name: [] for name in (*waiting, *direct)}
    gc.disable()
    try:
        for turn in range(ROUNDS):
            for name in _turned(list(waiting), turn):
                call = waiting[name]
                for _ in range(CALLS):
                    began = time.perf_counter_ns()
                    await call()
                    samples[name].append(float(time.perf_counter_ns() - began))
            for name in _turned(list(direct), turn):
                now = direct[name]
                for _ in range(CALLS):
                    began = time.perf_counter_ns()
                    now()
                    samples[name].append(float(time.perf_counter_ns() - began))
    finally:
        gc.enable()
    await tier.close()
    await bare_async.aclose()
    blocking.close()
    bare.close()
    return samples


def _turned(names: list[str], turn: int) -> list[str]:
    return names if turn % 2 == 0 else names[::-1]


def main() -> int:
    figures = measure()
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
