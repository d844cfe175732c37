"""What a read costs: a bare `read()` and `with read()`, beside a dict, cachebox, one clock reading, Redis and NATS KV.

Everything in one process and one run, interleaved round by round, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
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
    base, turn = local["dict lookup"], local["an empty turn"]
    limits = {"strong read()": 6.0, "with strong read()": 15.0}
    figures = [Figure(name=f"{name}, p50", value=value, unit="ns") for name, value in local.items()]
    figures += [
        Figure(name=f"{name} / dict lookup", value=local[name] / base, unit="x", limit=limit)
        for name, limit in limits.items()
    ]
    figures += [
        Figure(name=f"{name} / dict lookup, both less the turn", value=(local[name] - turn) / (base - turn), unit="x")
        for name in limits
    ]
    figures += [Figure(name=f"{name}, p50", value=value / 1_000, unit="us") for name, value in remote.items()]
    figures += [
        Figure(name="redis-py GET / strong read()", value=remote["redis-py GET"] / local["strong read()"], unit="x")
    ]
    return figures + _etcd()


def _in_process(model: Any) -> dict[str, float]:
    """Nanoseconds a turn of a plain `for` loop in a function, as an application would write it; the turn is included.

    Medians over interleaved rounds. In this measure one clock reading is about three dict lookups.
    """
    table = {"bench": object()}
    lru: LRUCache[str, object] = LRUCache(1_000)
    lru["bench"] = table["bench"]
    subjects: dict[str, tuple[str, Any]] = {
        "an empty turn": ("pass", None),
        "dict lookup": ("x['bench']", table),
        "cachebox LRUCache get": ("x['bench']", lru),
        "one clock reading": ("x()", partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)),
        "strong read()": ("x()", model.read),
        "with strong read()": ("with x() as m: pass", model.read),
    }
    loops = {name: (_loop(statement), subject) for name, (statement, subject) in subjects.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, (loop, subject) in loops.items():
                began = time.perf_counter_ns()
                loop(LOOPS, subject)
                samples[name].append((time.perf_counter_ns() - began) / LOOPS)
    finally:
        gc.enable()
    assert str(model.read().guarantee) == "strong", "the reads measured were not strong"
    return {name: median(values) for name, values in samples.items()}


def _loop(statement: str) -> Callable[[int, Any], None]:
    names: dict[str, Any] = {}
    exec(f"def loop(n, x):\n for _ in range(n):\n  {statement}", names)
    return names["loop"]  # type: ignore[no-any-return]


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
