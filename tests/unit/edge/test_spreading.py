"""Downloads are spread over time and bounded, and what is served is never given up for what may come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from edge_client.core.fetch_plan import FetchPlan, Job, LetGo
from edge_client.core.pace import BURST_NS, SECOND_NS, Pace
from edge_client.core.served import Target
from edge_client.protocol.digest import Digest
from edge_client.protocol.models import Assignment, Version
from edge_client.runtime.downloads import Downloads
from edge_client.runtime.tier import Tier
from tests.fakes.artifact_source import CHUNK_BYTES, FakeArtifactSource
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.unit.edge.test_client import World
from tests.unit.edge.worlds import MS, HandClock, turns, until

CONTENT = bytes(range(256)) * 4_000
VERSION = Version(version="1.0.0", digest=str(Digest.of(CONTENT)), size_bytes=len(CONTENT))


def target(name: str, role: str, size_bytes: int = 10) -> Target:
    return Target(version=Version(version=name, digest=f"sha256:{name}", size_bytes=size_bytes), role=role)


def plan(*, memory: int = 100, download: int = 1_000, **more: int) -> FetchPlan:
    return FetchPlan(memory_bytes_max=memory, download_bytes_max=download, rng=Random(3), **more)


def step(core: FetchPlan, now_ns: int = 0) -> str | None:
    found = core.next_step(now_ns=now_ns)
    core.check_invariants()
    if isinstance(found, Job):
        return f"load {found.version.version}"
    return None if found is None else f"drop {found.digest.removeprefix('sha256:')}"


def get(core: FetchPlan, *names: str, now_ns: int = 0) -> None:
    for name in names:
        assert step(core, now_ns) == f"load {name}"
        assert core.ready("m", digest=f"sha256:{name}", now_ns=now_ns)


# ---- the plan


def test_only_what_may_come_next_waits_for_a_moment_of_its_own():
    moments = []
    for seed in range(200):
        core = FetchPlan(
            memory_bytes_max=100, download_bytes_max=100, prefetch_jitter_ms=1_000, rng=Random(seed)
        )  # fmt: skip
        core.targets_changed("m", targets=[target("1", "current"), target("0", "previous")], now_ns=0)
        get(core, "1", "0")
        core.targets_changed("m", targets=[target("1", "current"), target("2", "prefetch")], now_ns=0)
        core.try_again(now_ns=0)
        due_ns = core.next_deadline_ns()
        assert due_ns is not None and (due_ns == 0 or step(core, due_ns - 1) is None)
        moments.append(due_ns)
        core.targets_changed("m", targets=[target("1", "current"), target("2", "pending")], now_ns=1)
        assert step(core, 1) == "load 2"

    assert 0 <= min(moments) < 100 * MS and 900 * MS < max(moments) < 1_000 * MS
    assert 400 * MS < sum(moments) / 200 < 600 * MS


def test_what_must_be_served_does_not_queue_behind_what_may_give_way():
    core = plan(jobs_max=1)
    core.targets_changed("m", targets=[target("1", "current"), target("2", "prefetch")], now_ns=0)
    get(core, "1")
    assert [step(core), step(core)] == ["load 2", None]
    core.targets_changed("m", targets=[target("3", "current"), target("2", "prefetch")], now_ns=0)
    core.targets_changed("n", targets=[target("4", "current")], now_ns=0)

    assert [step(core), step(core)] == ["load 3", None]
    assert core.next_deadline_ns() is None


def test_a_disk_for_two_keeps_the_two_that_matter():
    core = plan(download=25)
    core.targets_changed("m", targets=[target("1", "current"), target("0", "previous")], now_ns=0)
    get(core, "1", "0")
    coming = [target("1", "current"), target("2", "prefetch"), target("0", "previous")]
    core.targets_changed("m", targets=coming, now_ns=0)
    assert step(core) == "drop 0"
    get(core, "2")
    assert core.held_digests() == ("sha256:1", "sha256:2")
    assert core.digests() == ("sha256:1", "sha256:2", "sha256:0")
    assert step(core, 60_000 * MS) is None

    gone = core.targets_changed("m", targets=[coming[0], coming[2]], now_ns=60_000 * MS)
    assert gone == (LetGo(model="m", digest="sha256:2"),)
    get(core, "0", now_ns=60_000 * MS)


def test_what_several_models_share_lies_on_the_disk_once():
    core = plan(download=15)
    for model in ("m", "n"):
        core.targets_changed(model, targets=[target("1", "current")], now_ns=0)
    assert [step(core), step(core)] == ["load 1", "load 1"]
    assert "memory_over_budget" not in core.counters


def test_what_is_served_meanwhile_stays_until_the_right_one_is_here():
    core = plan(memory=15)
    core.targets_changed("m", targets=[target("1", "current")], now_ns=0)
    get(core, "1")
    core.targets_changed("m", targets=[target("2", "current"), target("1", "serving")], now_ns=0)

    get(core, "2")
    assert core.held_digests() == ("sha256:2", "sha256:1")
    assert core.counters == {"memory_over_budget": 1}


# ---- the pace


@pytest.mark.parametrize("seed", range(20))
def test_no_time_sees_more_than_the_pace_allows(seed):
    rng = Random(seed)
    rate = rng.choice((1, 1_000, 10_000_000))
    pace, now_ns, taken = Pace(bytes_per_s_max=rate), 5 * SECOND_NS, []
    chunk_max = max(1, rate // 10)
    for _ in range(200):
        size_bytes = rng.randrange(1, chunk_max + 1)
        taken.append((now_ns, size_bytes))
        now_ns = max(now_ns, pace.taken(size_bytes, now_ns=now_ns)) + rng.choice((0, 0, 0, SECOND_NS))

    for begin, (began_ns, _) in enumerate(taken):
        sum_bytes = 0
        for at_ns, size_bytes in taken[begin:]:
            sum_bytes += size_bytes
            allowed = rate * (at_ns - began_ns + BURST_NS) / SECOND_NS + chunk_max
            assert sum_bytes <= allowed + 1e-6
    whole_s = (now_ns - taken[0][0]) / SECOND_NS
    assert whole_s >= sum(size_bytes for _, size_bytes in taken) / rate - 0.2
    assert repr(pace).startswith(f"<Pace {rate}B/s")


# ---- the driver


class Store:
    """Downloads at a pace, onto a disk and into a tier that may be small."""

    def __init__(self, directory: Path, *, rate: int | None = None, bytes_max: int = 1 << 30) -> None:
        self.clock = HandClock()
        self.source = FakeArtifactSource(artifacts={VERSION.digest: CONTENT})
        self.box = Box()
        self.tier = FakeLocalTier(namespace="e", box=self.box)
        self.ranking: tuple[str, ...] = ()
        self.held: tuple[str, ...] = ()
        self.downloads = Downloads(
            directory=directory,
            bytes_max=bytes_max,
            source=self.source,
            tier=Tier(self.tier),
            urls=lambda: ("http://a",),
            rng=Random(1),
            clock=self.clock,
            bytes_per_s_max=rate,
            ranking=lambda: self.ranking,
            held=lambda: self.held,
        )

    def version(self, name: str, content: bytes) -> Version:
        digest = str(Digest.of(content))
        self.source.artifacts[digest] = content
        return Version(version=name, digest=digest, size_bytes=len(content))


async def test_a_download_takes_its_time_and_a_cut_one_goes_on(tmp_path):
    store = Store(tmp_path, rate=100_000)
    store.source.cut_after_bytes = 6 * CHUNK_BYTES

    began_ns = store.clock.now_ns()
    obtaining = asyncio.ensure_future(store.downloads.obtain(VERSION))
    again = 0
    while True:
        await asyncio.sleep(0.001)
        if obtaining.done():
            if obtaining.exception() is None:
                break
            again += 1
            obtaining = asyncio.ensure_future(store.downloads.obtain(VERSION))
        await store.clock.advance(20)

    assert (await obtaining).read_bytes() == CONTENT
    took_s = (store.clock.now_ns() - began_ns) / SECOND_NS
    assert len(CONTENT) / 100_000 - 0.9 <= took_s <= len(CONTENT) / 100_000 * 1.5
    assert again == 2 and [0, 6 * CHUNK_BYTES, 12 * CHUNK_BYTES] == [offset for _, _, offset in store.source.fetches]


async def test_files_that_are_not_held_make_room_and_held_ones_do_not(tmp_path):
    store = Store(tmp_path, bytes_max=25)
    old, served, coming = (store.version(name, name.encode() * 10) for name in "123")
    for version in (old, served):
        await store.downloads.obtain(version)
    (tmp_path / "notes.txt").write_text("mine")
    store.held = (served.digest, coming.digest)
    with pytest.raises(Exception, match="no room") as refusal:
        await store.downloads.obtain(store.version("4", b"4" * 16))
    assert "download_bytes_max" in str(refusal.value)

    (tmp_path / "notes.txt").unlink()
    path = await store.downloads.obtain(coming)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / served.digest.removeprefix("sha256:")])
    assert store.downloads.counters["files_gave_way"] == 1


async def test_the_tier_keeps_what_is_needed_most(tmp_path):
    store = Store(tmp_path)
    old, served, coming = (store.version(name, name.encode() * 10) for name in "123")
    store.box.capacity_bytes = 25
    store.ranking = (served.digest, old.digest)
    for version in (old, served):
        await store.downloads.obtain(version)
    store.ranking = (served.digest, coming.digest, old.digest)
    await store.downloads.obtain(coming)
    assert set(await store.tier.blobs()) == {served.digest, coming.digest}
    assert store.downloads.counters["blobs_gave_way"] == 1

    await store.downloads.mend_tier(needed=store.ranking, named=store.ranking)
    assert set(await store.tier.blobs()) == {served.digest, coming.digest}


# ---- the whole edge


async def test_a_small_device_swaps_without_ever_being_without_a_model():
    """Memory and disk for two: serving and coming while something comes, serving and the one before afterwards."""
    world = World()
    await world.region.start()
    v3 = world.region.version("3.0.0", b"thr" * 1_000)
    size_bytes = 3_000
    world.region.model("det", world.v1, world.v2, stable="2.0.0", generation=2, previous=Assignment(stable="1.0.0"))
    async with world.edge(memory_bytes_max=2 * size_bytes, download_bytes_max=2 * size_bytes) as edge:
        model = edge.model("det", loader=world.load)
        await world.strong(edge, "2.0.0")
        await until(lambda: len(edge.status().models[0].ready) == 2)
        world.region.event(
            world.region.model(
                "det", world.v1, world.v2, v3, stable="2.0.0", generation=2,
                previous=Assignment(stable="1.0.0"), prefetch=Assignment(stable="3.0.0"),
            )
        )  # fmt: skip
        for _ in range(200):
            await world.region.run(40)
            assert model.read().version == "2.0.0"
            if v3.digest in edge.status().models[0].ready:
                break
            await turns()
        assert set(edge.status().models[0].ready) == {world.v2.digest, v3.digest}

        world.region.event(
            world.region.model("det", world.v2, v3, stable="3.0.0", generation=3, previous=Assignment(stable="2.0.0"))
        )
        await world.strong(edge, "3.0.0")
        assert set(edge.status().models[0].ready) == {world.v2.digest, v3.digest}
        assert edge.status().counters["evicted"] == 1


async def test_one_that_does_not_get_warm_is_not_ready_says_why_and_is_unloaded():
    world = World()
    await world.region.start()
    unloaded: list[object] = []

    class Model:
        def __init__(self, artifact: object) -> None:
            self.artifact = artifact

    def warm_up(model: Model) -> None:
        raise MemoryError("no room on the device")

    world.region.model("det", world.v1, stable="1.0.0")
    async with world.edge() as edge:
        edge.model("det", loader=Model, warm_up=warm_up, unload=lambda _: unloaded.append(1))
        await world.region.run(200)
        await until(lambda: bool(edge.status().models[0].failed))
        await world.region.run(1_100)
        (served,) = world.region.reports[-1].models
        assert served.ready == ()
        assert served.failed[world.v1.digest] == "warm_up raised MemoryError: no room on the device"
        assert unloaded
