"""Voters that come and go while the nemesis is at work: added, removed, replaced, and told to lead.

A change asked for while something is broken may fail, or its outcome stay unknown. Then it is owed, and `settle` makes it
when all is healed: that it can still be made is part of what is tried.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any, Final

from ops.bench.raft_servers import FOUNDERS, Cluster
from ops.bench.raft_workload import Workload

MEMBERS_MIN, MEMBERS_MAX = 3, 5
PATIENCE_S: Final = 10.0
ASKED_MS: Final = 2_000
MAY_FAIL: Final = {"change_pending", "catching_up", "quorum_at_risk"}


class Changes:
    """`members` have a vote, and nobody asked for their removal."""

    def __init__(self, cluster: Cluster, *, workload: Workload, rng: random.Random) -> None:
        self.members = list(FOUNDERS)
        self._cluster = cluster
        self._workload = workload
        self._rng = rng
        self._count = 0
        self.made: Counter[str] = Counter()
        self._owed: dict[str, tuple[str, ...]] = {}
        """By name the verb and its arguments."""

    async def add(self) -> None:
        if len(self._cluster.servers) < MEMBERS_MAX:
            await self._add()

    async def remove(self) -> None:
        if len(self.members) > MEMBERS_MIN:
            await self._remove(self._rng.choice(self.members))

    async def replace(self) -> None:
        if len(self._cluster.servers) < MEMBERS_MAX:
            old = self._rng.choice(self.members)
            if await self._add() and old in self.members and len(self.members) > MEMBERS_MIN:
                await self._remove(old)

    async def transfer(self) -> None:
        leader = self._workload.leader_hint
        others = [name for name in self.members if name != leader]
        if leader is not None:
            await self._cluster.ask(leader, "transfer", self._rng.choice([*others, None]))

    async def settle(self) -> list[str]:
        """With everything healed, what is owed is done. Returns what cannot be."""
        failed = []
        for name, (verb, *arguments) in list(self._owed.items()):
            answer = await self._make(verb, name, *arguments, seconds=3 * PATIENCE_S)
            if answer[0] != "committed":
                failed.append(f"healed, and {verb} {name} was not made: {answer}")
            elif verb == "remove":
                await self._leave(name)
        return failed

    async def _add(self) -> bool:
        """Whether it is a voter already."""
        self._count += 1
        name = f"p{self._count:03}"
        raft = await self._cluster.join(name)
        self._workload.ports[name] = self._cluster.servers[name].port
        answer = await self._make("add", name, raft, seconds=PATIENCE_S)
        done = bool(answer[0] == "committed")
        if done:
            self.members.append(name)
        else:
            self._owed[name] = ("add", raft)
        return done

    async def _remove(self, name: str) -> None:
        self.members.remove(name)
        answer = await self._make("remove", name, seconds=PATIENCE_S)
        if answer[0] == "committed":
            await self._leave(name)
        else:
            self._owed[name] = ("remove",)

    async def _leave(self, name: str) -> None:
        self._workload.ports.pop(name, None)
        await self._cluster.leave(name)

    async def _make(self, verb: str, name: str, *arguments: Any, seconds: float) -> list[Any]:
        """The last answer; `committed` if it is done."""
        answer: list[Any] = ["nobody answered"]
        deadline = time.monotonic() + seconds
        asked = self._workload.leader_hint
        while time.monotonic() < deadline:
            asked = asked if asked in self._cluster.servers else self._rng.choice(sorted(self._cluster.servers))
            told = await self._cluster.ask(asked, verb, name, *arguments, ASKED_MS, timeout_s=ASKED_MS / 1_000 + 1)
            answer = told or answer
            match told:
                case ["committed", *_]:
                    self.made[f"{verb} made"] += 1
                    return answer
                case ["not_leader", hint] if hint is not None:
                    asked = hint
                case ["not_changed", code, _] if code not in MAY_FAIL:
                    raise AssertionError(f"{verb} {name}: {answer}")
                case ["not_changed" | "unknown", *_]:
                    pass
                case _:
                    asked = None
            await asyncio.sleep(0.1)
        return answer
