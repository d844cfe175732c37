"""Code as users write it. It is never run; it must go on type-checking."""

from __future__ import annotations

from typing import assert_type

from edge_client import (
    Artifact,
    AsyncEdgeClient,
    AsyncModel,
    Change,
    ClientStatus,
    EdgeClient,
    EdgeError,
    FeatureReading,
    FeatureReason,
    FeatureStoreError,
    FeatureVerdict,
    Guarantee,
    Reading,
    TooStaleError,
)


def load(artifact: Artifact) -> bytes:
    return artifact.read_bytes()


def blocking() -> None:
    with EdgeClient.connect(
        "nats://gateway:4222", trust="region.pub", edge_id="cam-17", labels={"gpu": "orin"}
    ) as edge:
        detector = edge.model("text-detector", loader=load)
        unsubscribe = detector.on_change(changed)
        try:
            with detector.read() as m:
                assert_type(m, Reading)
                assert_type(m.version, str)
                assert_type(m.generation, int)
                assert_type(m.guarantee, Guarantee)
                assert_type(m.staleness_bound_ms, int | None)
                m.report(ok=True, latency_ms=12.5, score=0.93, label="cat")
                m.report(latency_ms=3, score=None)
                m.report(ok="yes")  # type: ignore[arg-type]
                m.report(label=7)  # type: ignore[arg-type]
            detector.read_strong(timeout_ms=500)
        except TooStaleError as error:
            assert_type(error, TooStaleError)
        except EdgeError as error:
            assert_type(error, EdgeError)
        unsubscribe()
        assert_type(edge.status(), ClientStatus)


async def asynchronous() -> None:
    async with await AsyncEdgeClient.connect(
        ["nats://a:4222", "nats://b:4222"],
        trust="region.pub",
        local="redis://localhost",
        edge_id="cam-17",
        site="dock-3",
        prefetch_jitter_ms=1_000,
        download_bytes_per_s_max=500_000,
        downloads_max=1,
    ) as edge:
        detector = edge.model("text-detector", loader=load, warm_up=touch, unload=touch)
        assert_type(detector, AsyncModel)
        await detector.wait_ready(timeout_ms=30_000)
        assert_type(detector.read(), Reading)
        assert_type(await detector.read_strong(timeout_ms=500), Reading)


def features() -> None:
    with EdgeClient.connect(
        "nats://gateway:4222",
        trust="region.pub",
        edge_id="cam-17",
        local="redis://localhost",
        feature_store="rediss://features:6379",
        feature_memory_bytes_max=1 << 28,
    ) as edge:
        assert_type(edge.features.put("track:9", [0.1, 0.2], expire_ms=30_000), bool)
        assert_type(edge.features.put_many({"track:9": b"", "user:1": {"age": 7}}), tuple[str, ...])
        reading = edge.features.get("user:17", staleness_max_ms=5_000, on_stale="serve", default=0)
        assert_type(reading, FeatureReading)
        assert_type(reading.verdict, FeatureVerdict)
        assert_type(reading.reason, FeatureReason)
        assert_type(reading.age_ms, int | None)
        assert_type(edge.features.get_many(["user:1", "user:2"]), dict[str, FeatureReading])
        edge.features.get("user:17", on_stale="hope")  # type: ignore[arg-type]
        if edge.features.admits():
            edge.features.report(reading, ok=True)
        edge.features.invalidate("user:*")
        assert_type(edge.features.delete("user:17"), bool)
        assert_type(edge.features.flush(timeout_ms=1_000), bool)


async def features_asynchronously(edge: AsyncEdgeClient) -> None:
    edge.features.put("track:9", 1.5)
    try:
        assert_type(await edge.features.put("user:17", "x"), bool)
    except FeatureStoreError:
        return
    assert_type(await edge.features.get("user:17"), FeatureReading)
    assert_type(await edge.features.put_many([("user:1", 1)]), tuple[str, ...])


def touch(value: object) -> None:
    del value


def changed(change: Change) -> None:
    assert_type(change.current, str)
    assert_type(change.previous, str | None)
