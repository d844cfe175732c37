"""The whole client on fakes, against a scripted region: what an application sees, and what must not disturb it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import msgspec
import pytest

from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.core.reading import Change
from edge_client.errors import (
    ClosedError,
    ConfigError,
    EdgeIdTakenError,
    FallbackRefusedError,
    ModelNotReadyError,
    NotStrongError,
    TooStaleError,
    UnknownModelError,
    UnsupportedRegionError,
)
from edge_client.protocol.envelope import Signer
from edge_client.protocol.messages import REGION_FRAME_BYTES_MAX, Beacon, SnapshotRefused, encode_region
from edge_client.protocol.models import Assignment, Policy, Terms
from edge_client.protocol.position import Position
from edge_client.runtime.artifact import Artifact
from tests.fakes.artifact_source import FakeArtifactSource
from tests.fakes.bus import FakeBus, Hub, Message
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.unit.edge.worlds import MS, HandClock, Region, turns, until


class World:
    """A region, and edges that follow it."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.clock = HandClock()
        self.region = Region(self.hub, self.clock)
        self.source = FakeArtifactSource(artifacts=self.region.artifacts)
        self.box = Box()
        self.buses: list[FakeBus] = []
        self.loads: list[Artifact] = []
        self.v1 = self.region.version("1.0.0", b"one" * 1000)
        self.v2 = self.region.version("2.0.0", b"two" * 1000)

    def load(self, artifact: Artifact) -> str:
        self.loads.append(artifact)
        return artifact.read_bytes()[:3].decode()

    @asynccontextmanager
    async def edge(
        self, *, local: bool = False, edge_id: str = "edge-1", **settings: object
    ) -> AsyncIterator[AsyncEdgeClient]:
        settings = {"trust": self.region.trust, **settings}
        config = EdgeConfig(servers=("nats://x",), edge_id=edge_id, **settings)  # type: ignore[arg-type]
        bus = self.hub.edge_bus()
        self.buses.append(bus)
        tier = FakeLocalTier(namespace=edge_id, box=self.box) if local else None
        opening = asyncio.ensure_future(
            AsyncEdgeClient.over(config, bus=bus, source=self.source, tier=tier, clock=self.clock, rng=Random(1))
        )
        while not opening.done():
            await turns()
            await self.clock.advance(20)
        edge = await opening
        try:
            yield edge
            edge._state.check_invariants()
            assert "messages_failed" not in edge.status().counters
            assert not [name for name in edge.status().counters if name.endswith("driver_failed")]
        finally:
            await edge.close()

    async def strong(self, edge: AsyncEdgeClient, version: str = "1.0.0") -> None:
        """Run until every model of the edge is strong at this version."""
        for _ in range(200):
            await self.region.run(100)
            await asyncio.sleep(0.001)
            if all((m.guarantee, m.version) == ("strong", version) for m in edge.status().models):
                return
        raise AssertionError(edge.status())


@pytest.fixture
async def world() -> World:
    world = World()
    await world.region.start()
    return world


async def test_reaches_strong_and_shares_one_reading(world):
    world.region.model("det", world.v1, stable="1.0.0")

    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        first = model.read()
        await world.region.run(300)
        with model.read() as second:
            assert second is first

    assert (first.value, first.guarantee, first.staleness_bound_ms, first.generation) == ("one", "strong", 0, 1)
    assert (first.reason, first.position) == ("MEMORY", (5, 10))
    assert world.loads[0].metadata == {"made": "here"}


async def test_switches_at_the_instant_and_is_bounded_in_the_open_switch(world):
    changes: list[Change] = []
    world.region.model("det", world.v1, stable="1.0.0")

    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        unsubscribe = model.on_change(changes.append)
        model.on_change(lambda _: 1 / 0)
        await world.strong(edge)
        pending = world.region.pending("2.0.0", generation=2, lead_ms=3_000)
        view = world.region.model("det", world.v1, world.v2, stable="1.0.0", pending=pending)
        world.region.event(view)
        await world.strong(edge)
        await until(lambda: len(edge.status().models[0].ready) == 2)

        left_ms = (pending.effective_at_ns - world.region.service_now_ns()) // MS
        await world.region.run(left_ms - 20)
        seen: list[tuple[int, str, str]] = []
        for _ in range(4_000):
            world.clock._now_ns += 10_000  # no task runs: the read itself must see the instant pass
            reading = model.read()
            if not seen or (reading.version, reading.guarantee) != seen[-1][1:]:
                seen.append(
                    (world.region.service_now_ns() - pending.effective_at_ns, reading.version, reading.guarantee)
                )
        await world.region.run(100)

        assert [(version, guarantee) for _, version, guarantee in seen] == [
            ("1.0.0", "strong"),
            ("1.0.0", "bounded"),
            ("2.0.0", "strong"),
        ]
        assert seen[1][0] <= 10_000 and seen[2][0] >= 0
        assert seen[2][0] < 8 * MS
        unsubscribe()
        assert [(change.previous, change.current) for change in changes] == [(None, "1.0.0"), ("1.0.0", "2.0.0")]
        assert edge.status().counters["listeners_failed"] == 2

        world.region.event(
            world.region.model(
                "det", world.v1, world.v2, stable="2.0.0", generation=2, previous=Assignment(stable="1.0.0")
            )
        )
        await world.strong(edge, "2.0.0")
        await world.region.run(1_500)
    switches = [switch for report in world.region.reports for switch in report.switches]
    assert len(switches) == 3 and len(set(switches)) == 1
    assert (switches[0].generation, switches[0].clock_id) == (2, "clock-a")
    assert 0 <= switches[0].late_ns <= switches[0].uncertainty_ns < 8 * MS
    assert world.region.reports[-1].leaving


async def test_a_listener_hears_of_the_switch_though_nobody_reads(world):
    changes: list[Change] = []
    world.region.model("det", world.v1, stable="1.0.0")

    async with world.edge() as edge:
        edge.model("det", loader=world.load).on_change(changes.append)
        await world.strong(edge)
        pending = world.region.pending("2.0.0", generation=2, lead_ms=2_400)
        world.region.event(world.region.model("det", world.v1, world.v2, stable="1.0.0", pending=pending))
        await until(lambda: len(edge.status().models[0].ready) == 2)
        await world.region.run(2_500)

        assert [change.current for change in changes] == ["1.0.0", "2.0.0"]


async def test_falls_back_when_the_load_fails_and_recovers(world):
    broken = True

    def load(artifact: Artifact) -> str:
        if artifact.version == "2.0.0" and broken:
            raise RuntimeError("no such operator")
        return str(world.load(artifact))

    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=load)
        await world.strong(edge)
        world.region.event(
            world.region.model(
                "det", world.v1, world.v2, stable="2.0.0", generation=2, previous=Assignment(stable="1.0.0")
            )
        )
        await turns()
        reading = model.read()
        assert (reading.version, reading.guarantee, reading.generation) == ("1.0.0", "fallback", 1)
        await until(lambda: bool(edge.status().models[0].failed))
        await world.region.run(1_100)
        assert "no such operator" in world.region.reports[-1].models[0].failed[world.v2.digest]

        waiting = asyncio.ensure_future(model.read_strong(timeout_ms=500))
        await world.region.run(600)
        with pytest.raises(NotStrongError):
            await waiting
        refusing = world.region.model(
            "det", world.v2, stable="2.0.0", generation=2, policy=Policy(fallback_allowed=False)
        )
        world.region.event(refusing)
        await turns()
        with pytest.raises(FallbackRefusedError):
            model.read()
        broken = False
        await world.strong(edge, "2.0.0")


async def test_a_lease_ends_in_bounded_readings_with_a_growing_bound_and_policies_hold(world):
    world.region.model("det", world.v1, stable="1.0.0", policy=Policy(staleness_max_ms=5_000))
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        world.region.silent = True
        held = model.read()

        await world.clock.advance(1_800)
        assert model.read() is held
        await world.clock.advance(400)
        first = model.read()
        await world.clock.advance(1_000)
        second = model.read()
        assert (first.guarantee, second.guarantee) == ("bounded", "bounded")
        assert first.staleness_bound_ms and 2_200 <= first.staleness_bound_ms < 2_400
        assert second.staleness_bound_ms and second.staleness_bound_ms - first.staleness_bound_ms in (
            1_000,
            1_001,
            1_002,
        )
        await world.clock.advance(3_000)
        with pytest.raises(TooStaleError):
            model.read()

        world.region.silent = False
        await world.strong(edge)


async def test_a_suspension_ends_the_lease_at_once(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)

        world.clock.jump(60_000)

        assert model.read().guarantee == "bounded"
        await world.region.run(2_000)
        assert edge.status().counters["suspensions"] == 1
        await world.strong(edge)


async def test_a_slewed_clock_is_not_strong_until_it_agrees_again(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        for _ in range(30):
            world.clock.slew_ns += 1 * MS
            await world.region.run(500)
        assert not edge.status().clock_trusted
        assert model.read().guarantee == "bounded"
        await world.region.run(12_000)
        await world.strong(edge)


async def test_garbage_on_every_subject_is_counted_and_changes_nothing(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        stranger = Region(world.hub, world.clock).signer
        assert isinstance(stranger, Signer)
        beacon = Beacon(epoch=9, revision=1, clock_id="x", assumption=1, assumed_at_ns=0, t0_ns=0)
        frames = [
            b"",
            b"\x01" * 40,
            b"\x07" * 200,
            b"\x01" * (REGION_FRAME_BYTES_MAX + 1),
            encode_region(beacon, signer=stranger),
            world.region.signer.sign(b"\xc1 no message"),
            world.region.signer.sign(msgspec.msgpack.encode({"type": "snapshot_chunk"})),
        ]
        genuine = [
            message.payload for message in world.hub.published if message.subject != world.region.subjects.report
        ]
        tampered = bytearray(genuine[-1])
        tampered[-1] ^= 1
        for subject in (world.region.subjects.beacon, world.region.subjects.event, edge._follow.inbox):
            for payload in (*frames, bytes(tampered), *genuine):
                world.hub.publish(Message(subject=subject, payload=payload, reply_to=None))
        await turns(400)

        counters = edge.status().counters
        for reason in (
            "truncated",
            "unknown_version",
            "oversized",
            "unknown_key",
            "undecodable",
            "bad_signature",
            "misplaced",
        ):
            assert counters[f"messages_{reason}"] >= 3, (reason, counters)
        assert model.read().guarantee == "strong"
        assert edge.status().position == (5, 10)


async def test_lost_events_are_made_good_by_a_snapshot_and_a_new_epoch_by_another(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        world.hub.drop = lambda message: message.subject == world.region.subjects.event
        world.region.event(world.region.model("det", world.v1, world.v2, stable="2.0.0", generation=2))
        await world.strong(edge, "2.0.0")
        assert edge.status().counters["lags"] == 1

        world.region.epoch, world.region.revision = 9, 3
        world.region.model("det", world.v1, stable="1.0.0", generation=1)
        await world.strong(edge, "1.0.0")
        assert edge.status().position == (9, 3)


async def test_an_edge_started_before_the_region_waits_for_it(world):
    world.region.silent = True
    world.hub.take_down()
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        with pytest.raises(ModelNotReadyError):
            model.read()
        await world.clock.advance(10_000)
        assert not edge.status().connected and edge.status().source == "none"
        world.region.model("det", world.v1, stable="1.0.0")
        world.region.silent = False
        world.hub.bring_up()
        await world.strong(edge)
        await model.wait_ready(timeout_ms=0)


async def test_starts_from_the_local_tier_says_so_and_confirms_later(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge(local=True) as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        world.region.event(world.region.model("det", world.v1, world.v2, stable="2.0.0", generation=2))
        await world.strong(edge, "2.0.0")
        await until(lambda: len(world.box.blobs) == 2)
        await world.region.run(2_000)
        await turns(100)
    world.region.silent = True
    world.source.down = True
    await world.clock.advance(60_000)

    async with world.edge(local=True) as edge:
        model = edge.model("det", loader=world.load)
        for _ in range(40):
            await world.clock.advance(50)
            await asyncio.sleep(0.001)
        reading = model.read()
        assert (reading.version, reading.guarantee, reading.reason) == ("2.0.0", "bounded", "LOCAL")
        assert reading.staleness_bound_ms is None
        assert reading.age_estimate_ms is not None and 60_000 <= reading.age_estimate_ms < 70_000
        assert edge.status().source == "local"
        world.region.silent = False
        await world.strong(edge, "2.0.0")
        assert edge.status().source == "bus"


async def test_what_the_local_tier_kept_is_not_believed_unsigned(world):
    world.region.model("det", world.v1, stable="1.0.0")
    forger = Region(world.hub, world.clock, models=dict(world.region.models))
    frames = [encode_region(chunk, signer=forger.signer) for chunk in forger.chunks(nonce=b"n")]
    tier = FakeLocalTier(namespace="edge-1", box=world.box)
    await tier.set_if_newer("snapshot", value=msgspec.msgpack.encode((1, frames)), position=Position(5, 10))
    world.region.silent = True

    async with world.edge(local=True) as edge:
        await world.clock.advance(3_000)
        assert edge.status().source == "none"
        assert edge.status().counters["restores_unknown_key"] == 1


@pytest.mark.parametrize("fault", ["away", "full"])
async def test_goes_on_without_redis_and_says_so(world, fault):
    world.region.model("det", world.v1, stable="1.0.0")
    if fault == "away":
        world.box.away = True
    else:
        world.box.capacity_bytes = 10
    async with world.edge(local=True) as edge:
        edge.model("det", loader=world.load)
        await world.strong(edge)
        assert edge.status().local_tier == "failing"
        world.box.away, world.box.capacity_bytes = False, 1 << 30
        for _ in range(40):
            await world.region.run(1_000)
            await asyncio.sleep(0.001)
        assert edge.status().local_tier == "ok"
        assert len(world.box.blobs) == 1


async def test_a_corrupt_artifact_is_fetched_again_from_wire_and_tier(world):
    world.region.model("det", world.v1, stable="1.0.0")
    good = world.region.artifacts[world.v1.digest]
    world.region.artifacts[world.v1.digest] = b"x" * len(good)
    tier = FakeLocalTier(namespace="edge-1", box=world.box)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"rotten"

    await tier.put_blob(world.v1.digest, chunks=chunks())
    async with world.edge(local=True) as edge:
        edge.model("det", loader=world.load)
        await world.region.run(1_000)
        await until(lambda: "artifacts_corrupt" in edge.status().counters)
        world.region.artifacts[world.v1.digest] = good
        await world.strong(edge)
        assert edge.status().counters["artifacts_corrupt_in_tier"] == 1
        await until(lambda: b"".join(next(iter(world.box.blobs.values()), [])) == good)


async def test_a_cut_download_goes_on_where_it_stopped(world):
    big = world.region.version("3.0.0", bytes(range(256)) * 4_000)
    world.region.model("det", big, stable="3.0.0")
    world.source.cut_after_bytes = 400_000
    async with world.edge() as edge:
        edge.model("det", loader=lambda artifact: artifact.size_bytes)
        await world.strong(edge, "3.0.0")
        assert [offset for _, _, offset in world.source.fetches] == [0, 400_000, 800_000]


async def test_connecting_waits_for_what_the_region_has_decided(world):
    """A first write would otherwise be of the class `default`, whatever its key."""
    region, answer = world.region, world.region.chunks

    def refuse_once(*, nonce):
        region.chunks = answer
        return [SnapshotRefused(epoch=region.epoch, nonce=nonce, revision=0, reason="behind")]

    region.chunks = refuse_once
    async with world.edge() as edge:
        assert region.revision == edge.status().position.revision


async def test_an_id_that_is_taken_is_refused_on_connecting_and_reported_later(world):
    world.region.accepts = False
    with pytest.raises(EdgeIdTakenError, match="another life"):
        async with world.edge():
            pass
    world.region.accepts = True
    async with world.edge() as edge:
        world.region.accepts = False
        await world.region.run(1_100)
        assert edge.status().refused
        world.region.accepts = True
        await world.region.run(31_000)
        assert not edge.status().refused


async def test_readings_pin_their_model_until_the_last_one_is_gone(world):
    unloaded: list[object] = []

    class Model:
        def __init__(self, artifact: Artifact) -> None:
            self.version = artifact.version

    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=Model, unload=lambda value: unloaded.append(value.version))
        await world.strong(edge)
        held = model.read()
        world.region.event(world.region.model("det", world.v2, stable="2.0.0", generation=2))
        await world.strong(edge, "2.0.0")
        await turns(50)
        gc.collect()
        assert (held.value.version, unloaded) == ("1.0.0", [])
        del held
        gc.collect()
        assert unloaded == ["1.0.0"]
        last = model.read()
    with pytest.raises(ClosedError):
        model.read()
    assert last.value.version == "2.0.0"
    del last
    gc.collect()
    assert unloaded == ["1.0.0", "2.0.0"]


async def test_async_loaders_warm_up_and_wait_ready(world):
    steps: list[str] = []

    async def load(artifact: Artifact) -> str:
        steps.append("load")
        return "model"

    def warm_up(value: str) -> None:
        assert threading.current_thread() is not threading.main_thread()
        steps.append(f"warm {value}")

    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=load, warm_up=warm_up)
        with pytest.raises(ConfigError, match="registered already"):
            edge.model("det", loader=load)
        with pytest.raises(ConfigError, match="lower-case"):
            edge.model("Det", loader=load)
        waiting = asyncio.ensure_future(model.wait_ready(timeout_ms=5_000))
        await world.strong(edge)
        await waiting
        assert (await model.read_strong(timeout_ms=0)).value == "model"
        unknown = edge.model("nobody", loader=load)
        await turns()
        with pytest.raises(UnknownModelError):
            unknown.read()
    assert steps == ["load", "warm model"]


async def test_a_region_with_the_fast_barrier_is_refused(world):
    world.region.terms = Terms(fast_barrier=True)
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.region.run(1_000)
        with pytest.raises(UnsupportedRegionError):
            model.read()
        with pytest.raises(UnsupportedRegionError):
            await model.read_strong(timeout_ms=100)
        assert edge.status().unsupported


async def test_reads_from_many_threads_while_the_region_goes_on(world):
    world.region.model("det", world.v1, stable="1.0.0")
    stop = threading.Event()
    seen: set[tuple[str, int]] = set()
    failures: list[BaseException] = []
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)

        def reading() -> None:
            try:
                while not stop.is_set():
                    with model.read() as m:
                        assert (m.version, m.generation, m.value) in {("1.0.0", 1, "one"), ("2.0.0", 2, "two")}
                        seen.add((m.version, m.generation))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=reading) for _ in range(3)]
        for thread in threads:
            thread.start()
        pending = world.region.pending("2.0.0", generation=2, lead_ms=2_400)
        world.region.event(world.region.model("det", world.v1, world.v2, stable="1.0.0", pending=pending))
        await until(lambda: len(edge.status().models[0].ready) == 2)
        await world.strong(edge, "2.0.0")
        stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert failures == [] and seen == {("1.0.0", 1), ("2.0.0", 2)}


async def test_immediate_activations_are_served_bounded_before_their_instant(world):
    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge)
        pending = world.region.pending("2.0.0", generation=2, lead_ms=3_000, immediate=True)
        world.region.event(world.region.model("det", world.v1, world.v2, stable="1.0.0", pending=pending))
        await until(lambda: len(edge.status().models[0].ready) == 2)
        await world.region.run(200)
        reading, strong = model.read(), await model.read_strong(timeout_ms=0)
        assert (reading.version, reading.guarantee) == ("2.0.0", "bounded")
        assert (strong.version, strong.guarantee) == ("1.0.0", "strong")
        await world.strong(edge, "2.0.0")
