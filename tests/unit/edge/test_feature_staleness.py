"""Nothing is older than it says: many edges on a store, boxes and a bus that misbehave, in hand-made time, judged exactly.

The same world with one rule of ages switched off must be caught, or the judge proves nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from random import Random

import pytest

from edge_client.core import freshness
from edge_client.errors import FeatureStoreError, TooStaleError
from edge_client.runtime.feature_copies import FeatureCopies
from edge_client.runtime.feature_fetch import FeatureFetch
from tests.fakes.feature_tier import FeatureBox
from tests.support.feature_history import Read, Write, judge
from tests.unit.edge.feature_worlds import USER, World
from tests.unit.edge.worlds import MS

KEYS = [f"user:{number}" for number in range(8)]
EDGES = 6
RUN_MS = 6_000


class History:
    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []


async def run(seed: int) -> History:
    """One writer, six readers on two boxes; announcements, answers and boxes are lost, and everything takes its time."""
    rng = Random(seed)
    world, history = World(USER, seed=seed), History()
    world.slow.before = world.slow.after = lambda: rng.choice((0, 0, 1, 3, 8, 60))
    world.slow.lost = lambda: rng.random() < 0.05
    world.hub.drop = lambda _: rng.random() < 0.7
    boxes = [FeatureBox(), FeatureBox()]
    async with AsyncExitStack() as edges:
        writer = await edges.enter_async_context(world.edge("writer", box=boxes[0]))
        readers = [
            await edges.enter_async_context(world.edge(f"reader-{number}", box=boxes[number % 2]))
            for number in range(EDGES)
        ]
        until_ns = world.clock.now_ns() + RUN_MS * MS
        async with asyncio.TaskGroup() as group:
            for key in KEYS:
                group.create_task(write(world, writer, key, Random(rng.random()), history, until_ns=until_ns))
            for number, reader in enumerate([writer, *readers]):
                group.create_task(
                    read(world, reader, Random(rng.random()), history, name=str(number), until_ns=until_ns)
                )
            while world.clock.now_ns() < until_ns:
                if rng.random() < 0.01:
                    rng.choice(boxes).flush()
                if rng.random() < 0.02:
                    box = rng.choice(boxes)
                    box.away = not box.away
                await world.clock.advance(rng.choice((1, 2, 5, 40)))
            await world.clock.advance(3_000)
    return history


async def write(world: World, writer, key: str, rng: Random, history: History, *, until_ns: int) -> None:
    order = 0
    while world.clock.now_ns() < until_ns:
        order += 1
        invoked_ns = world.clock.now_ns()
        acknowledged_ns = None
        with suppress(FeatureStoreError):
            assert await writer.put(key, order)
            acknowledged_ns = world.clock.now_ns()
        history.writes.append(Write(key, order, invoked_ns, acknowledged_ns))
        await world.clock.sleep_until(world.clock.now_ns() + rng.choice((1, 20, 100, 700)) * MS)


async def read(world: World, reader, rng: Random, history: History, *, name: str, until_ns: int) -> None:
    while world.clock.now_ns() < until_ns:
        key, invoked_ns = rng.choice(KEYS), world.clock.now_ns()
        with suppress(TooStaleError):
            reading = await reader.get(
                key,
                staleness_max_ms=rng.choice((None, None, 30, 400, 3_000)),
                on_stale=rng.choice(("fetch", "fetch", "serve", "raise")),
            )
            assert reading.verdict == "TOO_STALE" or reading.age_ms is not None
            history.reads.append(
                Read(key, reading.value, invoked_ns, world.clock.now_ns(), reading.staleness_bound_ms, name)
            )
        await world.clock.sleep_until(world.clock.now_ns() + rng.choice((1, 2, 5, 11)) * MS)


@pytest.mark.parametrize("seed", range(4))
async def test_no_reading_is_older_than_it_says(seed):
    history = await run(seed)

    assert [] == judge(history.writes, history.reads)[:3]
    vouched = [each for each in history.reads if each.bound_ms is not None and each.order is not None]
    assert len(vouched) > 1_000 and len(history.writes) > 50, "too little happened to prove anything"


def known_after_the_fetch(monkeypatch) -> None:
    """The clock is read when the store has answered."""
    taken = FeatureFetch._taken

    def late(self, key, entry, *, token, known_at_ns):
        return taken(self, key, entry, token=token, known_at_ns=self._clock.now_ns())

    monkeypatch.setattr(FeatureFetch, "_taken", late)


def known_when_found(monkeypatch) -> None:
    """What the local tier holds counts as known when it was found there."""
    copy_of_held = FeatureCopies.copy_of_held

    def young(self, key, policy, held):
        return copy_of_held(self, key, policy, held and held._replace(known_at_ns=self._clock.now_ns()))

    monkeypatch.setattr(FeatureCopies, "copy_of_held", young)


def age_of_the_reading(monkeypatch) -> None:
    """A copy in memory counts its age from when it came there."""
    init = freshness.Copy.__init__

    def fresh(self, *args, **kwargs):
        kwargs["known_at_ns"] = kwargs["known_at_ns"] and kwargs["now_ns"]
        init(self, *args, **kwargs)

    monkeypatch.setattr(freshness.Copy, "__init__", fresh)


@pytest.mark.parametrize("mutant", [known_after_the_fetch, known_when_found, age_of_the_reading])
async def test_ages_that_are_wrong_are_caught(mutant, monkeypatch):
    mutant(monkeypatch)

    for seed in range(8):
        history = await run(seed)
        if judge(history.writes, history.reads):
            return
    pytest.fail(f"{mutant.__name__} was not noticed")
