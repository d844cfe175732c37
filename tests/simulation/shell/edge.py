"""A box with an application that embeds the real edge client, and reads all the time.

Exact where it can be: whenever the client shows a strong reading until an instant, the judge is told the whole interval.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
from contextvars import Context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from edge_client.client import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.core.reading import Guarantee, Reading
from edge_client.errors import (
    ArtifactUnavailableError,
    ClosedError,
    EdgeError,
    EdgeIdTakenError,
)
from edge_client.protocol.digest import Digest
from edge_client.protocol.position import ORIGIN
from edge_client.runtime.artifact import Artifact
from edge_client.runtime.window import Window
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.simulation.clock import MS
from tests.simulation.shell.bus import SimBus
from tests.simulation.shell.loop import PortClock, Process
from tests.simulation.shell.node import REGION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.simulation.shell.world import World


class EdgeBox:
    """One edge, running or not. Its Redis and its files outlive its lives, unless chaos has them."""

    def __init__(self, world: World, name: str, *, site: str, with_tier: bool, directory: Path) -> None:
        self.world = world
        self.name = name
        self.site = site
        self.redis = Box() if with_tier else None
        self.old_redis: Box | None = None
        self.directory = directory
        self.process: Process = world.new_process(name)
        self.process.alive = False
        self.client: AsyncEdgeClient | None = None
        self.bus: SimBus | None = None
        self.life = 0
        self.position = ORIGIN
        self.read_ns = world.chaos.choice((8, 25, 60)) * MS
        self._shown: dict[str, tuple[int, Window]] = {}

    @property
    def alive(self) -> bool:
        return self.process.alive

    # Lives.

    def start(self) -> None:
        self.life += 1
        process = self.process = self.world.new_process(self.name)
        process.after_step = self._look
        self.client, self.position, self._shown = None, ORIGIN, {}
        self.world.say(f"{self.name}: starts life {self.life}")
        process.spawn(self._live(process), name=f"{self.name} app")

    def start_again(self) -> None:
        if not self.alive:
            self.start()

    def kill(self) -> None:
        if self.alive:
            self.world.say(f"{self.name}: killed")
            self._account_all()
            self.process.die()
            if self.bus is not None:
                self.world.hub.forget(self.bus)
            self.world.judge.seen["edge_crashes"] += 1

    def meddle(self) -> None:
        """Between two lives: what was kept is kept, lost, or as it was some time ago."""
        chaos = self.world.chaos
        if self.redis is not None:
            match chaos.choice(("kept", "lost", "stale")):
                case "lost":
                    self.redis.flush()
                case "stale" if self.old_redis is not None:
                    self.redis, self.old_redis = self.old_redis, None
                    self.world.judge.seen["stale_tiers"] += 1
            if self.old_redis is None or chaos.random() < 0.3:
                self.old_redis = copy.deepcopy(self.redis)
        if chaos.random() < 0.5:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _live(self, process: Process) -> None:
        world = self.world
        self.bus = SimBus(world.hub, process=process)
        config = EdgeConfig(
            servers=("nats://bus",),
            trust=world.trust,
            edge_id=self.name,
            region=REGION,
            site=self.site,
            download_dir=str(self.directory),
            local=None if self.redis is None else "redis://box",
        )
        try:
            client = await AsyncEdgeClient.over(
                config,
                bus=self.bus,
                source=SimSource(world, self),
                tier=None if self.redis is None else FakeLocalTier(namespace=self.name, box=self.redis),
                clock=PortClock(process),
                rng=Random(f"{world.knobs.seed} {self.name} {self.life}"),
            )
        except EdgeIdTakenError:
            world.judge.seen["edge_id_taken"] += 1
            self.kill()
            world.loop.at_ns(world.loop.now_ns + 500 * MS, self.start_again, context=Context())
            return
        self.client = client
        models = [client.model(name, loader=_load) for name in world.models]
        for model in models:
            window = client._state._windows[model.name]
            window._show = self._tapped(model.name, window._show)
        while True:
            for model in models:
                try:
                    reading = model.read()
                except ClosedError:
                    return
                except EdgeError as error:
                    world.judge.seen[f"read_{type(error).__name__}"] += 1
                else:
                    self._check(reading)
            await asyncio.sleep(self.read_ns * world.chaos.uniform(0.5, 1.5) / 1e9)

    # What it says.

    def _tapped(self, model: str, show):
        def shown(window: Window) -> None:
            self._account(model)
            self._shown[model] = (self.world.loop.now_ns, window)
            show(window)

        return shown

    def _account_all(self) -> None:
        for model in list(self._shown):
            self._account(model)

    def _account(self, model: str) -> None:
        """The window that is taken away was open until now, or until it ran out."""
        since_ns, window = self._shown.pop(model, (0, None))
        if window is None or window.reading is None:
            return
        world = self.world
        until_ns = min(world.loop.now_ns, self.process.clock.real_ns(window.until_ns))
        if until_ns >= since_ns:
            reading = window.reading
            era = world.truth.era_at(model, reading.position, reading.generation)
            world.judge.strong(era, begin_ns=since_ns, end_ns=until_ns, who=f"{self.name} window")
            world.read_strong(self.name, era, since_ns, until_ns)

    def _check(self, reading: Reading) -> None:
        world, model, now_ns = self.world, reading.model, self.world.loop.now_ns
        judge, truth = world.judge, world.truth
        judge.seen[f"read_{reading.guarantee}"] += 1
        era = truth.era_at(model, reading.position, reading.generation)
        if reading.guarantee is Guarantee.STRONG:
            judge.strong(era, begin_ns=now_ns, end_ns=now_ns, who=f"{self.name} read")
            world.read_strong(self.name, era, now_ns, now_ns)
        bound_ms = reading.staleness_bound_ms
        bound_ns = None if bound_ms is None else bound_ms * MS
        judge.bound(era, bound_ns=bound_ns, at_ns=now_ns, who=f"{self.name} read")
        digest = world.digests.get((model, reading.version))
        if reading.value != digest:
            world.accuse("digest", f"{self.name} serves {reading!r} made of {reading.value}, registered was {digest}")
        assignment = truth.assignments.get(model, {}).get(era.key)
        if assignment is None:
            world.accuse("cohort", f"{self.name} {reading!r} was never decided")
        elif reading.guarantee is not Guarantee.FALLBACK:
            own = assignment.version_for(edge_id=self.name, site=self.site, labels={})
            if reading.version != own:
                world.accuse("cohort", f"{self.name} serves {reading!r}, but {own} is for it")

    def _look(self) -> None:
        client = self.client
        if client is not None:
            position = client._state.position
            if position < self.position:
                self.world.accuse("position", f"{self.name} went from {self.position} to {position}")
            if position != self.position:
                self.position = position
                if client._state._follower.models != self.world.truth.views.get(position):
                    self.world.accuse("history", f"{self.name} at {position} believes in another history")
                self.world.say(f"{self.name}: at {position}")

    def is_current(self) -> bool:
        """Strong at the newest generation of every model that has one."""
        client, truth = self.client, self.world.truth
        if not self.alive or client is None or client._state.position != truth.position:
            return False
        for model, view in truth.views[truth.position].items():
            if view.assignment is not None:
                self.world.loop.current = self.process
                try:
                    reading = client._state.read_strong_nowait(model)
                except EdgeError:
                    return False
                finally:
                    self.world.loop.current = None
                if reading is None or reading.generation != view.generation:
                    return False
        return True

    def check_invariants(self) -> None:
        if self.client is not None and self.alive:
            self.client._state.check_invariants()


def _load(artifact: Artifact) -> str:
    """The model is the digest of the bytes that were given."""
    return str(Digest.of(artifact.read_bytes()))


class SimSource:
    """The region's artifacts by HTTP, from whichever node, and what can go wrong on the way."""

    def __init__(self, world: World, box: EdgeBox) -> None:
        self._world = world
        self._box = box

    async def fetch(self, *, url: str, digest: str, offset: int) -> AsyncIterator[bytes]:
        world, chaos, faults = self._world, self._world.chaos, self._world.source_faults
        machine = next(machine for machine in world.machines.values() if machine.url == url)
        await asyncio.sleep(world.network.travel_ns() / 1e9)
        store = world.store
        if not machine.alive or machine.process.paused or chaos.random() < faults.unavailable:
            raise ArtifactUnavailableError(f"{url}: away")
        content = store.shelf.get(digest, (b"", 0))[0]
        if not content or offset > len(content):
            raise ArtifactUnavailableError(f"{url}: nothing of {digest} from byte {offset}")
        body = bytearray(content[offset:])
        if body and chaos.random() < faults.corrupt:
            world.judge.seen["artifacts_corrupted"] += 1
            body[chaos.randrange(len(body))] ^= 1 << chaos.randrange(8)
        end = chaos.randrange(len(body) + 1) if chaos.random() < faults.cut else len(body)
        for start in range(0, end, 512):
            yield bytes(body[start : min(end, start + 512)])
            await asyncio.sleep(world.network.travel_ns() / 1e9)
        if end < len(body):
            raise ArtifactUnavailableError(f"{url}: cut short")

    async def close(self) -> None:
        """Nothing to release."""
