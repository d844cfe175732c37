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


def touch(value: object) -> None:
    del value


def changed(change: Change) -> None:
    assert_type(change.current, str)
    assert_type(change.previous, str | None)
