"""What a read of a feature costs from each tier, beside what it would be compared with, and what a single put costs.

    python -m ops.bench.feature_reads

All in one process and one run, in turns. From memory: a whole call as an application makes it, `get` or
`await get`, of a small value. From the local Redis: distinct keys that memory does not have, beside a bare `GET` of the same
bytes by redis-py over the same kind of connection. `limit` is what must hold.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_client import AsyncEdgeClient, EdgeClient
from edge_client.protocol.envelope import trust_line
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from ops.bench.figures import Figure, median, percentile
from tests.support.servers import start_nats, start_redis

ROUNDS = 200
LOOPS = 400
"""A round ends before another process would have its turn; a longer one measures who else is on the machine."""
REMOTE_CALLS = 4_000
CLASS = FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=600_000, expire_ms=None)
VALUE = b"x" * 200


def measure() -> list[Figure]:
    """The figures of one run."""
    trust = trust_line(Ed25519PrivateKey.generate().public_key())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            start_nats(directory, jetstream=False) as bus,
            start_redis(directory / "store") as store,
            start_redis(directory / "box") as box,
        ):
            settings: dict[str, Any] = {"trust": trust, "local": box.url, "feature_store": store.url}
            with EdgeClient.connect(bus.url, edge_id="blocking", **settings) as edge:
                _know(_behind(edge))
                blocking = _blocking(edge, box.url)
            asynchronous = asyncio.run(_asynchronous(bus.url, box.url, settings))
    return blocking + asynchronous


def _behind(edge: EdgeClient) -> Any:
    return edge._life.client  # type: ignore[union-attr]  # noqa: SLF001


def _know(client: Any) -> None:
    """No region speaks here: the class that it would have said is put where its word would be."""
    client._state._follower.feature_classes = {CLASS.name: CLASS}  # noqa: SLF001
    client.features.copies.take_classes()


def _blocking(edge: EdgeClient, url: str) -> list[Figure]:
    features = edge.features
    features.put("user:1", VALUE)
    features.put("track:1", VALUE)
    table = {"user:1": features.get("user:1")}
    samples = _rounds(
        {
            "an empty turn": lambda: None,
            "dict lookup": lambda: table["user:1"],
            "blocking get, memory": lambda: features.get("user:1"),
            "blocking get, memory, with staleness_max_ms": lambda: features.get("user:1", staleness_max_ms=600_000),
            "blocking put, bulk": lambda: features.put("track:1", VALUE),
        }
    )
    assert features.get("user:1").tier == "memory"
    keys = [f"user:{number}" for number in range(REMOTE_CALLS)]
    features.put_many(dict.fromkeys(keys, VALUE))
    bare = redis.Redis.from_url(url, protocol=2)
    shown = [f"ccs:default:t:{key}" for key in keys]
    assert bare.get(shown[0]), "the local tier keeps its strings elsewhere now"
    ours: list[float] = []
    theirs: list[float] = []
    copies = _behind(edge).features.copies
    for key in keys:
        copies.forget(key)
    gc.disable()
    for place, key in enumerate(keys):
        theirs.append(_timed(lambda: bare.get(shown[place])))  # noqa: B023  (called here)
        ours.append(_timed(lambda: features.get(key)))  # noqa: B023
    gc.enable()
    assert copies.counters["served_from_local"] >= len(keys)
    return [*_local_figures(samples), *_box_figures("blocking", ours, theirs)]


async def _asynchronous(bus: str, box: str, settings: dict[str, Any]) -> list[Figure]:
    from redis.asyncio import Redis

    edge = await AsyncEdgeClient.connect(bus, edge_id="asynchronous", **settings)
    _know(edge)
    features = edge.features
    await features.put("user:1", VALUE)

    async def gets() -> None:
        for _ in range(LOOPS):
            await features.get("user:1")

    def puts() -> None:
        for _ in range(LOOPS):
            features.put("track:1", VALUE)

    get_ns: list[float] = []
    put_ns: list[float] = []
    gc.disable()
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        await gets()
        get_ns.append((time.perf_counter_ns() - began) / LOOPS)
        began = time.perf_counter_ns()
        puts()
        put_ns.append((time.perf_counter_ns() - began) / LOOPS)
    gc.enable()
    keys = [f"user:{number}" for number in range(REMOTE_CALLS)]
    await features.put_many(dict.fromkeys(keys, VALUE))
    shown = [f"ccs:default:t:{key}" for key in keys]
    bare = Redis.from_url(box, protocol=2)
    ours: list[float] = []
    theirs: list[float] = []
    for key in keys:
        features.copies.forget(key)
    gc.disable()
    for place, key in enumerate(keys):
        began = time.perf_counter_ns()
        await bare.get(shown[place])
        between = time.perf_counter_ns()
        await features.get(key)
        ours.append(float(time.perf_counter_ns() - between))
        theirs.append(float(between - began))
    gc.enable()
    assert features.copies.counters["served_from_local"] >= len(keys)
    await bare.aclose()
    await edge.close()
    return [
        Figure(name="async get, memory, p50 of rounds", value=median(get_ns), unit="ns", limit=1_000),
        Figure(name="async put, bulk, p50 of rounds", value=median(put_ns), unit="ns", limit=2_000),
        *_box_figures("async", ours, theirs),
    ]


def _rounds(subjects: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Nanoseconds a call, the call of a lambda included, by round."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name, call in subjects.items():
                began = time.perf_counter_ns()
                for _ in range(LOOPS):
                    call()
                samples[name].append((time.perf_counter_ns() - began) / LOOPS)
    finally:
        gc.enable()
    return samples


def _local_figures(samples: dict[str, list[float]]) -> list[Figure]:
    limits = {
        "blocking get, memory": 1_000.0,
        "blocking get, memory, with staleness_max_ms": 1_000.0,
        "blocking put, bulk": 2_000.0,
    }
    return [
        Figure(name=f"{name}, p50 of rounds", value=median(values), unit="ns", limit=limits.get(name))
        for name, values in samples.items()
    ]


def _box_figures(form: str, ours: list[float], theirs: list[float]) -> list[Figure]:
    return [
        Figure(name=f"{form}: redis-py GET, p50", value=median(theirs) / 1_000, unit="us"),
        Figure(name=f"{form}: get from the local Redis, p50", value=median(ours) / 1_000, unit="us"),
        Figure(name=f"{form}: get from the local Redis, p99", value=percentile(ours, 0.99) / 1_000, unit="us"),
        Figure(name=f"{form}: get / redis-py GET", value=median(ours) / median(theirs), unit="x", limit=1.3),
    ]


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    call()
    return float(time.perf_counter_ns() - began)


def main() -> int:
    """Exit code 0 if every limit held."""
    figures = measure()
    print("\n".join(figure.line() for figure in figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
