"""What an edge survives: a flushed, stopped or full Redis, corrupt artifacts, a region that is not there, suspension."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import redis

from edge_client import EdgeClient, EdgeIdTakenError
from edge_client.adapters.http_source import HttpSource
from edge_client.adapters.nats_bus import NatsBus
from edge_client.adapters.system_clock import FaultyClock, SystemClock
from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from tests.support.bed import CONTENT, MODEL, Bed, eventually, running

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with running(tmp_path_factory.mktemp("region")) as bed:
        yield bed


def other_version(bed: Bed) -> str:
    return "2.0.0" if bed.edge("edge-1").version == "1.0.0" else "1.0.0"


def connect(bed: Bed, edge_id: str, **settings: object) -> EdgeClient:
    return EdgeClient.connect(
        bed.testbed.state.urls("nats")[0],
        trust=str(bed.config.directory / "keys" / "region.pub"),
        region=bed.config.region,
        edge_id=edge_id,
        **settings,  # type: ignore[arg-type]
    )


def test_redis_flushed_then_stopped_then_back(bed: Bed) -> None:
    store = redis.Redis.from_url(bed.testbed.state.urls("redis-edge")[0])
    store.flushall()
    bed.quiet_for(1)
    bed.swap(other_version(bed))
    bed.testbed.kill("redis-edge")
    bed.quiet_for(1)
    bed.swap(other_version(bed))
    bed.testbed.restart("redis-edge")
    bed.swap(other_version(bed))


def test_redis_full(bed: Bed) -> None:
    store = redis.Redis.from_url(bed.testbed.state.urls("redis-edge")[0])
    store.config_set("maxmemory-policy", "noeviction")
    store.config_set("maxmemory", "1mb")
    try:
        bed.swap(other_version(bed))
        bed.quiet_for(1)
    finally:
        store.config_set("maxmemory", "256mb")


def test_an_artifact_corrupted_in_redis_is_fetched_again(bed: Bed) -> None:
    url = bed.testbed.state.urls("redis-edge")[0]
    with connect(bed, "corrupt-1", local=url) as edge:
        edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
    store = redis.Redis.from_url(url)
    spoiled = 0
    for key in store.scan_iter("*corrupt-1*blob*"):
        if store.type(key) == b"string" and store.strlen(key) > 1_000:
            store.setrange(key, 10, b"spoiled")
            spoiled += 1
    assert spoiled, "nothing was kept in the local tier"
    with connect(bed, "corrupt-1", local=url) as edge:
        model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
        reading = model.read_strong(timeout_ms=10_000)

    assert reading.value == CONTENT[reading.version]


def test_an_artifact_corrupted_on_the_wire_is_fetched_again(bed: Bed) -> None:
    class Noisy(HttpSource):
        """Flips one bit in each of the first two answers."""

        spoiled = 0

        async def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
            async for chunk in super().fetch(url=url, digest=digest, offset=offset):
                spoil = self.spoiled < 2 and bool(chunk)
                self.spoiled += spoil
                yield bytes((chunk[0] ^ 1,)) + chunk[1:] if spoil else chunk

    async def scenario() -> tuple[int, str, bytes]:
        source = Noisy()
        config = EdgeConfig(
            servers=(bed.testbed.state.urls("nats")[0],),
            trust=str(bed.config.directory / "keys" / "region.pub"),
            region=bed.config.region,
            edge_id="noisy-1",
        )
        bus = NatsBus(config.servers, name="noisy")
        async with await AsyncEdgeClient.over(config, bus=bus, source=source) as edge:
            model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
            reading = await model.read_strong(timeout_ms=20_000)
            return source.spoiled, reading.version, reading.value

    spoiled, version, value = asyncio.run(scenario())

    assert spoiled == 2 and value == CONTENT[version]


def test_an_artifact_corrupted_in_the_store_is_never_served(bed: Bed) -> None:
    """The edge goes on with the verified version before, as `fallback`, until the bytes are right again."""
    before = bed.edge("edge-1").version
    content = b"four" * 30_000
    bed.region.push(MODEL, "4.0.0", content)
    path = next(p for p in (bed.config.directory / "artifacts").rglob("*") if p.is_file() and p.read_bytes() == content)
    path.write_bytes(b"evil" + content[4:])
    bed.region.call(
        "POST", f"/v1/models/{MODEL}/activations", json={"version": "4.0.0", "force": True}
    ).raise_for_status()
    statuses = bed.all_edges(lambda s: s.guarantee == "fallback", within_s=10)
    assert {status.version for status in statuses} == {before}

    path.write_bytes(content)
    bed.all_strong("4.0.0", within_s=30)
    bed.swap("1.0.0")


def test_an_edge_id_is_held_by_one_living_process(bed: Bed) -> None:
    with pytest.raises(EdgeIdTakenError, match="edge-1"):
        connect(bed, "edge-1")


def test_an_edge_restarted_without_its_region_serves_what_it_has_and_says_so(bed: Bed) -> None:
    url = bed.testbed.state.urls("redis-edge")[0]
    with connect(bed, "alone-1", local=url) as edge:
        model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
        version = model.read_strong(timeout_ms=10_000).version
    bed.testbed.kill("nats")
    try:
        time.sleep(0.2)
        with connect(bed, "alone-1", local=url) as edge:
            model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
            reading = model.read()
            assert (reading.version, str(reading.guarantee)) == (version, "bounded")
            assert reading.staleness_bound_ms is None and reading.age_estimate_ms is not None
            bed.testbed.restart("nats")
            assert str(model.read_strong(timeout_ms=15_000).guarantee) == "strong"
    finally:
        if bed.testbed.state.process("nats").condition != "alive":
            bed.testbed.restart("nats")
    bed.all_strong(str(bed.edge("edge-1").version))


def test_a_suspension_longer_than_the_lease_ends_strong_at_once(bed: Bed, tmp_path: Path) -> None:
    """The clock counts suspended time: the first read after waking knows."""
    control = tmp_path / "clock.json"

    async def scenario() -> tuple[str, str]:
        clock = FaultyClock(SystemClock(), control_file=control)
        async with await AsyncEdgeClient.connect(
            bed.testbed.state.urls("nats")[0],
            trust=str(bed.config.directory / "keys" / "region.pub"),
            region=bed.config.region,
            edge_id="sleeper",
            clock=clock,
        ) as edge:
            model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes())
            await model.read_strong(timeout_ms=10_000)
            control.write_text(json.dumps({"jump_ns": 3_000_000_000}))
            time.sleep(0.05)  # nothing of ours runs: the machine sleeps
            woken = str(model.read().guarantee)
            return woken, str((await model.read_strong(timeout_ms=10_000)).guarantee)

    assert asyncio.run(scenario()) == ("bounded", "strong")


def test_an_upload_cut_in_the_middle_leaves_nothing(bed: Bed) -> None:
    artifacts = bed.config.directory / "artifacts"
    before = sorted(p.name for p in artifacts.rglob("*") if p.is_file())

    async def cut() -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"half" * 300_000
            raise ConnectionResetError

        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises((ConnectionResetError, httpx.TransportError)):
                await client.post(f"{bed.testbed.state.urls('node-')[0]}/v1/artifacts", content=body())

    asyncio.run(cut())
    eventually(lambda: sorted(p.name for p in artifacts.rglob("*") if p.is_file()) == before, within_s=5)


def test_an_edge_started_before_its_region(tmp_path: Path) -> None:
    with running(tmp_path, nodes=1, edges=0) as bed:
        bed.testbed.kill("nats")
        bed.testbed.kill("node-1")
        edge = connect(bed, "early-1")
        try:
            model = edge.model(MODEL, loader=lambda artifact: artifact.read_bytes(), wait=False)
            bed.testbed.restart("nats")
            bed.testbed.restart("node-1")
            assert model.read_strong(timeout_ms=30_000).version == "1.0.0"
        finally:
            edge.close()
