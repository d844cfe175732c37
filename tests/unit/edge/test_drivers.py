"""The drivers one by one, where the whole client does not lead: full disks, lost files, long lists, failing drivers."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from random import Random

import pytest

from edge_client.config import EdgeConfig
from edge_client.core.reading import Change, Guarantee, Loaded, Reading
from edge_client.core.status import ModelStatus
from edge_client.errors import (
    ArtifactCorruptError,
    ArtifactUnavailableError,
    ClosedError,
    ConfigError,
    ModelNotReadyError,
    NotStrongError,
)
from edge_client.protocol.digest import Digest
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import (
    EDGE_FRAME_BYTES_MAX,
    EdgeReport,
    Event,
    Snapshot,
    SnapshotChunk,
    decode_edge,
    encode_snapshot,
)
from edge_client.protocol.models import Terms, Version
from edge_client.protocol.position import Position
from edge_client.protocol.subjects import Subjects
from edge_client.runtime import listeners as listeners_module
from edge_client.runtime.downloads import Downloads
from edge_client.runtime.listeners import Listeners
from edge_client.runtime.model import AsyncModel
from edge_client.runtime.report import Report
from edge_client.runtime.signals import Pulse, Signal
from edge_client.runtime.state import EdgeState, Wakes
from edge_client.runtime.supervision import Supervisor
from edge_client.runtime.tier import Tier
from edge_client.runtime.window import Window
from tests.fakes.artifact_source import FakeArtifactSource
from tests.fakes.bus import Hub
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.unit.edge.worlds import HandClock, turns

CONTENT = b"abc" * 1_000
VERSION = Version(version="1.0.0", digest=str(Digest.of(CONTENT)), size_bytes=len(CONTENT))
CONFIG = EdgeConfig(servers=("nats://x",), trust="x", edge_id="e", labels={"a": "b"})


def a_state(clock: HandClock) -> EdgeState:
    wakes = Wakes(send=lambda: None, targets=lambda: None, changes=lambda: None)
    return EdgeState(config=CONFIG, clock=clock, rng=Random(1), wakes=wakes)


# ---- downloads


class Store:
    def __init__(
        self, directory, *, bytes_max: int = 1 << 20, urls: tuple[str, ...] = ("http://a", "http://b")
    ) -> None:
        self.source = FakeArtifactSource(artifacts={VERSION.digest: CONTENT})
        self.box = Box()
        self.directory = directory
        self.downloads = Downloads(
            directory=directory,
            bytes_max=bytes_max,
            source=self.source,
            tier=Tier(FakeLocalTier(namespace="e", box=self.box)),
            urls=lambda: urls,
            rng=Random(1),
            clock=HandClock(),
        )


async def test_a_verified_file_is_not_fetched_again_and_a_rotten_one_is(tmp_path):
    store = Store(tmp_path)
    path = await store.downloads.obtain(VERSION)
    assert path.read_bytes() == CONTENT
    assert await store.downloads.obtain(VERSION) == path
    assert len(store.source.fetches) == 1

    path.write_bytes(b"rotten")
    store.box.flush()
    await store.downloads.obtain(VERSION)
    assert path.read_bytes() == CONTENT and len(store.source.fetches) == 2
    path.unlink()
    await store.downloads.obtain(VERSION)
    assert len(store.source.fetches) == 2 and store.downloads.counters["artifacts_from_tier"] == 1


async def test_a_tier_that_gives_too_much_or_fails_midway_is_no_help_and_no_harm(tmp_path):
    store = Store(tmp_path)
    tier = FakeLocalTier(namespace="e", box=store.box)

    async def too_much() -> AsyncIterator[bytes]:
        yield CONTENT + b"more"

    await tier.put_blob(VERSION.digest, chunks=too_much())
    assert (await store.downloads.obtain(VERSION)).read_bytes() == CONTENT
    assert len(store.source.fetches) == 1


@pytest.mark.parametrize("wire", [b"x" * len(CONTENT), CONTENT + b"more"])
async def test_what_does_not_match_is_thrown_away(tmp_path, wire):
    store = Store(tmp_path)
    store.source.artifacts[VERSION.digest] = wire
    with pytest.raises(ArtifactCorruptError):
        await store.downloads.obtain(VERSION)
    assert list(tmp_path.iterdir()) == [] and store.downloads.fetched_bytes == {}


async def test_without_nodes_or_room_it_is_unavailable(tmp_path):
    with pytest.raises(ArtifactUnavailableError, match="no service node"):
        await Store(tmp_path, urls=()).downloads.obtain(VERSION)
    store = Store(tmp_path, bytes_max=10)
    with pytest.raises(ArtifactUnavailableError, match="no room"):
        await store.downloads.obtain(VERSION)
    store = Store(tmp_path)
    store.source.down = True
    with pytest.raises(ArtifactUnavailableError):
        await store.downloads.obtain(VERSION)
    assert store.downloads.counters["downloads_cut"] == 2


async def test_a_part_goes_on_and_one_that_is_too_long_begins_anew(tmp_path):
    store = Store(tmp_path)
    part = (tmp_path / Digest.of(CONTENT).hex).with_suffix(".part")
    part.write_bytes(CONTENT[:1_000])
    await store.downloads.obtain(VERSION)
    assert store.source.fetches[-1][2] == 1_000
    await store.downloads.keep_only(())
    assert list(tmp_path.iterdir()) == []
    store.box.flush()
    part.write_bytes(CONTENT + b"!")
    await store.downloads.obtain(VERSION)
    assert store.source.fetches[-1][2] == 0
    part.write_bytes(CONTENT)
    (tmp_path / Digest.of(CONTENT).hex).unlink()
    store.box.flush()
    await store.downloads.obtain(VERSION)
    assert len(store.source.fetches) == 2


async def test_only_our_own_files_are_removed(tmp_path):
    store = Store(tmp_path)
    await store.downloads.obtain(VERSION)
    (tmp_path / "notes.txt").write_text("mine")
    await store.downloads.keep_only((VERSION.digest,))
    assert len(list(tmp_path.iterdir())) == 2
    await store.downloads.keep_only(())
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


async def test_the_tier_is_mended_and_swept(tmp_path):
    store = Store(tmp_path)
    await store.downloads.obtain(VERSION)
    store.box.flush()
    tier = FakeLocalTier(namespace="e", box=store.box)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"old"

    await tier.put_blob("sha256:old", chunks=chunks())
    await store.downloads.mend_tier(needed=(VERSION.digest, "sha256:absent"), named=(VERSION.digest,))
    assert await tier.blobs() == (VERSION.digest,)
    store.box.away = True
    await store.downloads.mend_tier(needed=(VERSION.digest,), named=())


async def test_a_full_disk_is_an_error_of_this_download_alone(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(file, chunk, hasher):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edge_client.runtime.downloads._append", full)
    with pytest.raises(OSError, match="No space left"):
        await store.downloads.obtain(VERSION)
    monkeypatch.undo()
    assert (await store.downloads.obtain(VERSION)).read_bytes() == CONTENT


# ---- supervision, listeners, signals, reports


async def test_a_failing_driver_is_begun_again_and_disturbs_nobody():
    clock, lives, steady = HandClock(), [], []

    async def failing() -> None:
        lives.append(clock.now_ns())
        if len(lives) == 4:
            await clock.sleep_until(clock.now_ns() + 6_000_000_000)
        if len(lives) < 6:
            raise RuntimeError("mistake")

    async def going_on() -> None:
        while True:
            steady.append(1)
            await clock.sleep_until(clock.now_ns() + 100_000_000)

    supervisor = Supervisor(clock=clock)
    running = asyncio.ensure_future(supervisor.run({"failing": failing, "going_on": going_on}))
    await turns()
    await clock.advance(10_000)
    gaps_ms = [(later - earlier) // 1_000_000 for earlier, later in pairwise(lives)]
    assert gaps_ms == [100, 200, 400, 6_100, 200]
    assert supervisor.counters["failing_driver_failed"] == 5 and len(steady) > 90
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_listeners_hear_of_their_model_alone_and_are_bounded(monkeypatch):
    clock = HandClock()
    listeners = Listeners(state=a_state(clock), clock=clock, wake=Signal(asyncio.get_running_loop()))
    reading = Reading(
        Loaded(1, version=VERSION),
        model="m",
        generation=1,
        guarantee=Guarantee.STRONG,
        staleness_bound_ms=0,
        position=Position(1, 1),
    )
    heard: list[str] = []
    stop = listeners.add("m", lambda change: heard.append(change.current))
    listeners.add("other", lambda _: heard.append("never"))
    listeners.tell(Change(model="m", previous=None, current="1.0.0", reading=reading))
    stop()
    stop()
    listeners.tell(Change(model="m", previous=None, current="2.0.0", reading=reading))
    assert heard == ["1.0.0"]
    monkeypatch.setattr(listeners_module, "LISTENERS_MAX", 1)
    with pytest.raises(ConfigError, match="listeners"):
        listeners.add("m", print)


async def test_a_signal_may_be_set_from_any_thread_and_after_the_loop_is_gone():
    clock, signal = HandClock(), Signal(asyncio.get_running_loop())
    waiting = asyncio.ensure_future(signal.wait(clock=clock, deadline_ns=None))
    await asyncio.to_thread(signal.set)
    assert await waiting
    waiting = asyncio.ensure_future(signal.wait(clock=clock, deadline_ns=clock.now_ns() + 1_000_000))
    await turns()
    await clock.advance(1)
    assert not await waiting
    loop = asyncio.new_event_loop()
    loop.close()
    await asyncio.to_thread(Signal(loop).set)


async def test_a_report_that_is_too_long_tells_of_fewer_models():
    clock, hub = HandClock(), Hub()
    bus = hub.edge_bus()
    await bus.connect()
    statuses = tuple(
        ModelStatus(name=f"m{n}", failed={f"sha256:{k:064x}": "x" * 300 for k in range(4)}) for n in range(100)
    )
    report = Report(
        config=CONFIG,
        life_id="l",
        state=a_state(clock),
        statuses=lambda: statuses,
        bus=bus,
        subjects=Subjects("default"),
        inbox="i",
        clock=clock,
        wake=Signal(asyncio.get_running_loop()),
        pulse=Pulse(),
    )
    await report.send()
    (message,) = hub.published
    assert len(message.payload) <= EDGE_FRAME_BYTES_MAX
    told = decode_edge(message.payload)
    assert isinstance(told, EdgeReport) and len(told.models) == 50 and told.labels == {"a": "b"}
    assert report.counters["reports_truncated"] == 1
    bus.cut()
    await report.send()
    assert report.counters["reports_unsent"] == 1


async def test_the_hot_path_looks_at_nothing_but_its_window():
    clock = HandClock()
    state = a_state(clock)
    listeners = Listeners(state=state, clock=clock, wake=Signal(asyncio.get_running_loop()))
    model = AsyncModel("m", state=state, clock=clock, pulse=Pulse(), listeners=listeners)
    state.register("m", show=model.show)
    reading = Reading(
        Loaded(1, version=VERSION),
        model="m",
        generation=1,
        guarantee=Guarantee.STRONG,
        staleness_bound_ms=0,
        position=Position(1, 1),
    )
    model.show(Window(1 << 62, reading))
    assert model.read() is reading and repr(model) == f"<AsyncModel m {reading!r}>"
    for passed in (Window(0, reading), Window(1 << 62, None)):
        model.show(passed)
        with pytest.raises(ModelNotReadyError):
            model.read()
    with pytest.raises(NotStrongError, match="nothing is known"):
        await model.read_strong(timeout_ms=0)
    with pytest.raises(ModelNotReadyError):
        await model.wait_ready(timeout_ms=0)
    state.close()
    with pytest.raises(ClosedError):
        await model.wait_ready(timeout_ms=0)


def test_feature_classes_are_those_of_the_region_or_of_the_life_before():
    track, plate = FeatureClass(name="track"), FeatureClass(name="plate", window_ms=700)
    data = encode_snapshot(
        Snapshot(epoch=5, revision=10, region="default", terms=Terms(), models=(), feature_classes=(track,))
    )
    kept = SnapshotChunk(epoch=5, nonce=b"", revision=10, index=0, count=1, data=data)
    state = a_state(HandClock())
    assert state.feature_classes == {}
    assert state.restored([(kept, b"f")], kept_unix_ms=None, now_ns=0)
    before = state.feature_classes
    event = Event(epoch=5, revision=11, name="FeatureClassSet", at_unix_ms=0, feature_classes=(plate,))
    state.event_received(event, frame=b"e", now_ns=0)
    state.check_invariants()

    assert (before, state.feature_classes) == ({"track": track}, {"track": track, "plate": plate})
