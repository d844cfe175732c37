"""Who changes things, and who asks nodes: each caller does as the API would, at whatever node, and may never hear.

A caller that hears nothing asks again with the same request id, at another node perhaps, while the first attempt may
still be on its way. An activation that a caller is told of is a promise; what it was never told of may be true all the
same.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from consistency_service.core import commands as c
from consistency_service.core.machine import NOT_CONSUMED
from consistency_service.errors import (
    NotStrongError,
    RefusedError,
    ServiceError,
    UnknownModelError,
)
from consistency_service.runtime.node import Node
from edge_client.protocol.digest import Digest
from edge_client.protocol.models import Assignment, Policy, Version
from edge_client.protocol.position import Position
from tests.simulation.shell.node import AskNode, Machine

if TYPE_CHECKING:
    from tests.simulation.shell.world import World

ATTEMPTS_MAX = 8
SETTLE_S = 1.0


class Callers:
    """Draws what somebody wants, and tells the judge what became of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.callers_rng
        self._count = 0
        self.versions: dict[str, list[str]] = {model: [] for model in world.models}

    async def furnish(self) -> None:
        """Every model is there, with a version active."""
        for model in self.world.models:
            await self._insist(lambda node, own, model=model: self._create(node, own, model), patience_s=60)
            for _ in range(2):
                await self.register(model, patience_s=60)
            await self.activate(model, patience_s=60)

    async def work(self) -> None:
        """Callers come, one after the other or together, until the time is over."""
        world, rng = self.world, self.rng
        while world.loop.now_ns < world.work_until_ns:
            await asyncio.sleep(rng.uniform(0.2, 1.8) * world.knobs.work_every_ns / 1e9)
            model, chance = rng.choice(world.models), rng.random()
            if chance < 0.45:
                world.background(self.activate(model))
            elif chance < 0.55:
                world.background(self.register(model))
            elif chance < 0.62:
                world.background(self.roll_back(model))
            elif chance < 0.70:
                world.background(self.change_policy(model))
            elif chance < 0.85:
                world.background(self.read(model))
            else:
                world.background(self.barrier())

    # What they want.

    async def register(self, model: str, *, patience_s: float = 3.0) -> None:
        world = self.world
        name = f"{len(self.versions[model]) + 1}.0.0"
        content = self.rng.randbytes(self.rng.choice((100, 900, 3_000)))
        digest = str(Digest.of(content))
        self.versions[model].append(name)
        world.digests[model, name] = digest

        async def step(node: Node, own: dict[str, Any]) -> None:
            await node.artifacts.put(_chunks(content), size_max_bytes=1 << 20, digest=digest)
            size_bytes = await node.artifacts.size(digest)
            version = Version(version=name, digest=digest, size_bytes=size_bytes)
            await node.propose(c.RegisterVersion(model=model, version=version, **own))

        if await self._insist(step, patience_s=patience_s) is None:
            world.judge.seen["registrations_lost"] += 1

    async def activate(self, model: str, *, patience_s: float = 3.0) -> None:
        rng = self.rng
        stable = rng.choice(self.versions[model])
        assignment = Assignment(stable=stable)
        others = [name for name in self.versions[model] if name != stable]
        if others and rng.random() < 0.4:
            assignment = Assignment(
                stable=stable, candidate=rng.choice(others), share_bp=rng.choice((2_500, 5_000)), salt="s"
            )
        change = c.Change(model=model, assignment=assignment)
        force, immediate = rng.random() < 0.5, rng.random() < 0.15

        async def step(node: Node, own: dict[str, Any]) -> Any:
            await _overdue_settled(node)
            return await node.activations.activate(
                changes=(change,), force=force, immediate=immediate, wait_effective=True, **own
            )

        await self._promised(model, step, patience_s=patience_s)

    async def roll_back(self, model: str) -> None:
        async def step(node: Node, own: dict[str, Any]) -> Any:
            await _overdue_settled(node)
            return await node.activations.rollback(model, generation_expected=None, wait_effective=True, **own)

        await self._promised(model, step, patience_s=3.0)

    async def change_policy(self, model: str) -> None:
        policy = Policy(versions_kept=self.rng.choice((2, 9)), prefetch_ms=self.rng.choice((500, 2_000)))

        async def step(node: Node, own: dict[str, Any]) -> Any:
            return await node.propose(c.ChangePolicy(model=model, policy=policy, **own))

        await self._insist(step)

    async def read(self, model: str) -> None:
        """Somebody asks any node which generation is active."""
        world = self.world
        invoked_ns = world.loop.now_ns
        machine = self.rng.choice(list(world.machines.values()))

        async def step(node: Node) -> Any:
            return await node.reads.active(model, consistency="strong", timeout_ms=2_000)

        try:
            active = await world.ask(machine, step, timeout_s=3.0)
        except (NotStrongError, UnknownModelError, ServiceError) as error:
            world.judge.seen[f"node_read_{type(error).__name__}"] += 1
            return
        if active is None:
            return
        world.judge.seen[f"node_read_{active.consistency}"] += 1
        era = world.truth.era_at(model, active.position, active.generation)
        now_ns = world.loop.now_ns
        world.judge.strong_call(era, invoked_ns=invoked_ns, returned_ns=now_ns, who=f"reader of {machine.name}")
        world.read_strong(f"reader of {machine.name} {invoked_ns}", era, invoked_ns, now_ns)

    async def barrier(self) -> None:
        """Somebody reads what no lease vouches for; `WatchedLog` judges."""
        machine = self.rng.choice(list(self.world.machines.values()))

        async def step(node: Node) -> Any:
            await node.metadata.barrier(timeout_ms=2_000)

        with suppress(ServiceError):
            await self.world.ask(machine, step, timeout_s=3.0)

    # How they ask.

    async def _create(self, node: Node, own: dict[str, Any], model: str) -> None:
        await node.propose(c.CreateModel(model=model, policy=Policy(prefetch_ms=1_000), **own))

    async def _promised(self, model: str, step: Any, *, patience_s: float) -> None:
        world = self.world
        began_ns = world.loop.now_ns
        own = self._own()
        world.activation_began_ns[own["request_id"]] = began_ns
        done = await self._insist(step, own=own, patience_s=patience_s)
        if done is None or done[1] is None:
            return
        machine, activation = done
        for name, generation in activation.generations.items():
            era = world.truth.era_at(name, Position(1, activation.revision), generation)
            world.judge.told(era, at_ns=world.loop.now_ns, who=machine.name)
            world.activation_told_ns[own["request_id"]] = world.loop.now_ns

    def _own(self) -> dict[str, Any]:
        self._count += 1
        return {"author": "caller", "request_id": f"q{self._count}", "fingerprint": f"q{self._count}"}

    async def _insist(
        self, step: Any, *, own: dict[str, Any] | None = None, patience_s: float = 3.0
    ) -> tuple[Machine, Any] | None:
        """What the first node answered that did; None when nobody did, or the request was refused."""
        world, rng = self.world, self.rng
        own = own or self._own()
        until_ns = world.loop.now_ns + int(patience_s * 1e9)
        attempts = 0
        while world.loop.now_ns < until_ns and (attempts < ATTEMPTS_MAX or patience_s > 10):
            attempts += 1
            machines = list(world.machines.values())
            believers = [m for m in machines if m.alive and m.node and m.node.authority.core.is_authority]
            machine = rng.choice(believers if believers and rng.random() < 0.9 else machines)
            asked: AskNode = lambda node: step(node, own)  # noqa: E731
            try:
                answer = await world.ask(machine, asked, timeout_s=rng.choice((1.0, 3.0, 8.0)), whole=True)
            except RefusedError as error:
                world.judge.seen[f"refused_{error.code}"] += 1
                if error.code not in NOT_CONSUMED:
                    return None
                answer = None
            except ServiceError:
                answer = None
            if answer is not None:
                world.answered[own["request_id"]] = machine.name
                return machine, answer[0]
            await asyncio.sleep(rng.uniform(0.02, 0.6))
        return None


async def _chunks(content: bytes):
    yield content


async def _overdue_settled(node: Node) -> None:
    """As the API waits before it changes anything."""
    core = node.authority.core

    def overdue() -> bool:
        now_ns = node.clock.now_ns()
        return any(
            p.clock_id == core.clock_id and p.effective_at_ns <= now_ns for p in node.metadata.state.pendings().values()
        )

    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            await node.metadata.wait_until(lambda: not overdue())
