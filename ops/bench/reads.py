"""What a read costs: a bare `read()` and `with read()`, beside a dict, cachebox, one clock reading, Redis and NATS KV.

Everything in one process and one run, interleaved round by round, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nats
import redis
from cachebox import LRUCache

from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from edge_client import EdgeClient
from ops.bench.etcd import linearizable_get_us
from ops.bench.figures import Figure, median

ROUNDS = 41
LOOPS = 20_000
REMOTE_CALLS = 3_000


def measure() -> list[Figure]:
    """The figures of one run."""
    with tempfile.TemporaryDirectory() as directory:
        config = TestbedConfig(directory=Path(directory) / "bed", nodes=3, edges=0)
        with Testbed(config, progress=_quiet) as bed:
            state = bed.state
            region = Region(state.urls("node-"))
            region.push("bench", "1.0.0", b"1" * 1_000)
            region.activate("bench", "1.0.0")
            with EdgeClient.connect(
                state.urls("nats")[0],
                trust=str(config.directory / "keys" / "region.pub"),
                local=state.urls("redis-edge")[0],
                edge_id="bench",
                region=config.region,
            ) as edge:
                model = edge.model("bench", loader=lambda artifact: artifact.read_bytes())
                model.read_strong(timeout_ms=10_000)
                local = _in_process(model)
            remote = _redis(state.urls("redis-edge")[0]) | asyncio.run(_nats_kv(state.urls("nats")[0]))
    base = local["dict lookup"]
    limits = {"strong read()": 6.0, "with strong read()": 15.0}
    figures = [Figure(name=f"{name}, p50", value=value, unit="ns") for name, value in local.items()]
    figures += [
        Figure(name=f"{name} / dict lookup", value=local[name] / base, unit="x", limit=limit)
        for name, limit in limits.items()
    ]
    figures += [Figure(name=f"{name}, p50", value=value / 1_000, unit="us") for name, value in remote.items()]
    figures += [
        Figure(name="redis-py GET / strong read()", value=remote["redis-py GET"] / local["strong read()"], unit="x")
    ]
    return figures + _etcd()


def _in_process(model: Any) -> dict[str, float]:
    """Nanoseconds a call, the loop's own cost taken off; medians over interleaved rounds."""
    table = {"bench": object()}
    lru: LRUCache[str, object] = LRUCache(1_000)
    lru["bench"] = table["bench"]
    read = model.read
    clock = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    subjects = {
        "dict lookup": ("table['bench']", {"table": table}),
        "cachebox LRUCache get": ("lru['bench']", {"lru": lru}),
        "one clock reading": ("clock()", {"clock": clock}),
        "strong read()": ("read()", {"read": read}),
        "with strong read()": ("with read() as m: pass", {"read": read}),
    }
    timers = {name: timeit.Timer(code, globals=names) for name, (code, names) in subjects.items()}
    empty = timeit.Timer("pass")
    samples: dict[str, list[float]] = {name: [] for name in timers}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            overhead = empty.timeit(LOOPS)
            for name, timer in timers.items():
                samples[name].append(max(0.0, timer.timeit(LOOPS) - overhead) / LOOPS * 1e9)
    finally:
        gc.enable()
    assert str(read().guarantee) == "strong", "the reads measured were not strong"
    return {name: median(values) for name, values in samples.items()}


def _redis(url: str) -> dict[str, float]:
    client = redis.Redis.from_url(url)
    client.set("bench", b"1" * 200)
    samples = _timed(lambda: client.get("bench"))
    client.close()
    return {"redis-py GET": median(samples)}


def _timed(call: Callable[[], object]) -> list[float]:
    samples = []
    for _ in range(REMOTE_CALLS):
        began = time.perf_counter_ns()
        call()
        samples.append(float(time.perf_counter_ns() - began))
    return samples


async def _nats_kv(url: str) -> dict[str, float]:
    client = await nats.connect(url)
    bucket = await client.jetstream().create_key_value(bucket="bench")
    await bucket.put("bench", b"1" * 200)
    samples = []
    for _ in range(REMOTE_CALLS):
        began = time.perf_counter_ns()
        await bucket.get("bench")
        samples.append(float(time.perf_counter_ns() - began))
    await client.close()
    return {"NATS KV get": median(samples)}


def _etcd() -> list[Figure]:
    """The linearizable read of etcd, where it is installed."""
    value = linearizable_get_us(calls=500)
    return [] if value is None else [Figure(name="etcd linearizable get (HTTP/JSON), p50", value=value, unit="us")]


def _quiet(_: str) -> None:
    return None
