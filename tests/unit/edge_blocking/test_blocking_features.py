"""`edge.features` of the blocking client over fakes: whose thread asks what, and what happens at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edge_client.adapters.system_clock import SystemClock
from edge_client.blocking import EdgeClient
from edge_client.config import EdgeConfig
from edge_client.errors import ClosedError, ConfigError, FeatureStoreUnavailableError, TooStaleError
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind, WhenFull
from edge_client.runtime.features import AsyncFeatures, FeaturePorts
from edge_client.runtime.signals import Pulse
from tests.fakes.bus import Hub
from tests.fakes.feature_store import FakeFeatureStore, Store
from tests.fakes.feature_tier import FakeFeatureTier, FeatureBox

CLASSES = {
    "user": FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=60_000, expire_ms=None),
    "full": FeatureClass(name="full", when_full=WhenFull.BLOCK, flush_ms=10, shards=1),
}


class BlockingBox:
    """The box for callers' own threads; remembers which ones came."""

    def __init__(self, box: FeatureBox) -> None:
        self.tier = FakeFeatureTier(box)
        self.threads: list[str] = []
        self.closed = False

    def get(self, key):
        return self.get_many([key])[0]

    def get_many(self, keys):
        self.threads.append(threading.current_thread().name)
        asking = self.tier.get_many(keys)
        try:
            asking.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a fake does not wait")

    def close(self) -> None:
        self.closed = True


class Behind:
    """An asyncio client with features and nothing else."""

    def __init__(self, store: Store, box: FeatureBox | None) -> None:
        self.pulse = Pulse()
        self.blocking_box = None if box is None else BlockingBox(box)
        self.features = AsyncFeatures(
            FeaturePorts(
                store=FakeFeatureStore(store),
                tier=None if box is None else FakeFeatureTier(box),
                blocking_tier=self.blocking_box,
            ),
            config=EdgeConfig(
                servers=("nats://x",), trust="x", edge_id="e", local="redis://x", feature_queue_bytes_max=1 << 20
            ),
            life_id="life",
            classes=lambda: CLASSES,
            bus=Hub().edge_bus(),
            subject="ccs.default.features",
            clock=SystemClock(),
            rng=Random(1),
            pulse=self.pulse,
        )
        self.tasks = [asyncio.get_running_loop().create_task(driver()) for driver in self.features.drivers().values()]

    async def close(self) -> None:
        await self.features.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


@contextmanager
def edge(store: Store | None = None, box: FeatureBox | None = None) -> Iterator[EdgeClient]:
    async def opener(edge_id: str, directory: Path) -> Behind:
        return Behind(store or Store(), box)

    client = EdgeClient(opener, edge_id="e")  # type: ignore[arg-type]
    try:
        yield client
    finally:
        client.close()


def life(client: EdgeClient) -> Any:
    return client._life


def behind(client: EdgeClient) -> Any:
    return life(client).client


def test_the_box_is_asked_in_the_callers_thread_and_the_store_in_the_clients():
    store, box = Store(), FeatureBox()
    with edge(store, box) as writer, edge(store, box) as reader:
        assert writer.features.put("user:1", {"a": 1})
        reading = reader.features.get("user:1")
        assert ({"a": 1}, "local", "LOCAL") == (reading.value, reading.tier, str(reading.reason))
        assert [threading.current_thread().name] == behind(reader).blocking_box.threads
        assert "memory" == reader.features.get("user:1").tier
        box.flush()
        writer.features.put_many({"user:2": 2, "user:3": 3, "other": 4})
        box.held.pop("user:3")
        readings = reader.features.get_many(["user:1", "user:2", "user:3", "user:4"])

        assert ["memory", "local", "store", "store"] == [reading.tier for reading in readings.values()]
        assert [1, False] == [readings["user:1"].value["a"], readings["user:4"].found]
        assert 4 == writer.features.get("other").value


def test_a_box_that_is_away_is_passed_by_and_soon_not_asked():
    store, box = Store(), FeatureBox()
    with edge(store, box) as client:
        box.away = True
        client.features.put("user:0", 0)
        for number in range(20):
            assert not client.features.get(f"user:x{number}").found
        asked = len(behind(client).blocking_box.threads)

        assert asked < 10
        assert "open" == behind(client).features.status().local_tier


def test_what_the_box_raises_beside_that_leaves_no_token_behind():
    with edge(Store(), FeatureBox()) as client:
        client.features.put("user:1", 1)
        behind(client).features.copies.forget("user:1")
        blocking_box = behind(client).blocking_box

        def interrupted(keys):
            raise KeyboardInterrupt

        honest, blocking_box.get_many = blocking_box.get_many, interrupted
        with pytest.raises(KeyboardInterrupt):
            client.features.get("user:1")
        blocking_box.get_many = honest

        assert not behind(client).features.copies._tokens.live
        assert 1 == client.features.get("user:1").value


def test_every_call_by_its_other_name():
    with edge() as client:
        features = client.features
        features.put("user:1", 1)
        features.put("bulk", 1)
        assert features.flush(timeout_ms=5_000)
        assert features.delete("user:1") and features.delete("bulk")
        assert [False, False] == [reading.found for reading in features.get_many(["user:1", "bulk"]).values()]
        features.invalidate("user:*")
        features.report(features.get("user:1"), ok=True)
        assert features.admits()


def test_errors_come_through_as_they_are():
    store = Store()
    with edge(store) as client:
        store.away = True
        with pytest.raises(FeatureStoreUnavailableError):
            client.features.put("user:1", 1)
        with pytest.raises(TooStaleError) as raised:
            client.features.get("user:1")
        assert isinstance(raised.value.__cause__, FeatureStoreUnavailableError)
        assert 5 == client.features.get("user:1", on_stale="serve", default=5).value


def test_threads_write_and_read_the_same_keys():
    failures: list[BaseException] = []

    def work(number: int) -> None:
        rng = Random(number)
        try:
            for turn in range(300):
                key = f"{rng.choice(('user', 'bulk'))}:{rng.randrange(5)}"
                if rng.random() < 0.3:
                    client.features.put(key, [number, turn])
                elif client.features.get(key).found:
                    client.features.get_many([key, "user:0"])
        except BaseException as error:
            failures.append(error)

    with edge(Store(), FeatureBox()) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        behind(client).features.copies.check_invariants()
        for key in ("bulk:1", "user:1"):
            client.features.put(key, "last")
            assert "last" == client.features.get(key).value

    assert [] == failures


def test_a_full_queue_has_the_thread_wait_and_never_the_clients_own():
    store = Store()
    with edge(store) as client:
        client.features.put("full:0", 0)
        store.away = True
        blob = Random(1).randbytes(16_384)
        there = behind(client).features

        def fill() -> None:
            for number in range(100):
                client.features.put(f"full:{number}", blob)

        filling = threading.Thread(target=fill)
        filling.start()
        filling.join(1)
        assert filling.is_alive(), "it never filled"
        with pytest.raises(RuntimeError, match="another thread"):
            life(client).call(lambda: client.features.put("full:x", blob + blob))
        store.away = False
        filling.join(20)

        assert not filling.is_alive()
        assert there.status().queue["dropped"] == 0


def test_after_close_everything_raises():
    with edge(Store(), FeatureBox()) as client:
        features = client.features
        features.put("user:1", 1)
        there = behind(client)
    for call in (
        lambda: features.get("user:1"),
        lambda: features.get_many(["user:1"]),
        lambda: features.put("user:1", 1),
        lambda: features.put("bulk", 1),
        lambda: features.put_many({"bulk": 1}),
        lambda: features.delete("bulk"),
        features.flush,
        features.admits,
        lambda: features.invalidate("x"),
    ):
        with pytest.raises(ClosedError):
            call()
    assert there.blocking_box.closed


def test_a_client_without_any_redis_says_what_to_set():
    class Bare(Behind):
        features = property(lambda _: (_ for _ in ()).throw(ConfigError("set feature_store, or local")))

        def __init__(self) -> None:
            self.tasks = []

        async def close(self) -> None:
            """Nothing is there."""

    async def opener(edge_id: str, directory: Path) -> Bare:
        return Bare()

    client = EdgeClient(opener, edge_id="e")  # type: ignore[arg-type]
    try:
        with pytest.raises(ConfigError, match="feature_store"):
            client.features.get("x")
    finally:
        client.close()
