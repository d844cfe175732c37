"""Clients that append to lists and change registers at any of three voters, whatever happens, and write down what they saw.

A key is in use for a few seconds, then the next one is, so that what must be judged together stays small. Half of those
who append repeat a request without answer under its number, at another voter; the others never repeat anything, so that
whatever is there twice was applied twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ops.bench.raft_history import Operation, fault_of_register, faults_of_list
from ops.bench.raft_servers import Client, LostError, RefusedError, command

TIMEOUT_MS: Final = 1_500
ATTEMPTS_MAX: Final = 6
PUT_SHARE, CAS_SHARE = 0.25, 0.35


class Workload:
    def __init__(
        self,
        ports: dict[str, int],
        *,
        seed: int,
        clients: int,
        pace_s: float,
        key_life_s: float = 4.0,
        stale: bool = False,
    ) -> None:
        self.history: list[Operation] = []
        self.leader_hint: str | None = None
        self.ports = ports
        """Of whoever may be asked now."""
        self._seed = seed
        self._clients = clients
        self._pace_s = pace_s
        self._key_life_s = key_life_s
        self._read_verb = "peek" if stale else "read"
        self._value = 0
        self._begun_s = time.monotonic()
        self.stopping = False

    async def run(self) -> None:
        """Until `stopping`, and the last answers came."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number))

    def counts(self) -> Counter[str]:
        return Counter(f"{each.action} {each.status}" for each in self.history)

    async def faults(self, read: Callable[[str], Any]) -> list[str]:
        """Judged by what `read` says of each list now, when all is quiet."""
        by_key: dict[str, list[Operation]] = {}
        for each in self.history:
            by_key.setdefault(each.key, []).append(each)
        faults = []
        for key, operations in by_key.items():
            if key.startswith("list"):
                faults += [f"{key}: {fault}" for fault in faults_of_list(operations, final=await read(key) or [])]
            elif (fault := fault_of_register(operations)) is not None:
                faults.append(f"{key}: {fault}")
        return faults

    def keep(self, path: Path) -> None:
        with path.open("w") as file:
            for each in self.history:
                file.write(json.dumps(asdict(each)) + "\n")

    # One client.

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")
        connections: dict[str, Client] = {}
        asked = 0
        while not self.stopping:
            asked += 1
            operation = self._draw(rng, number=number)
            repeats = operation.action == "append" and number % 4 == 1
            session = f"{self._seed}-{number}" if repeats else ""
            self.history.append(operation)
            await self._perform(operation, rng=rng, connections=connections, session=session, number=asked)
            await asyncio.sleep(rng.expovariate(1 / self._pace_s))
        for client in connections.values():
            client.close()

    def _draw(self, rng: random.Random, *, number: int) -> Operation:
        now = time.monotonic()
        age = int((now - self._begun_s) / self._key_life_s)
        if number % 2:
            action: Any = "append" if rng.random() < 0.5 else "read"
            key = f"list-{age}"
        else:
            drawn = rng.random()
            action = "put" if drawn < PUT_SHARE else "cas" if drawn < PUT_SHARE + CAS_SHARE else "read"
            key = f"register-{age}-{number % 4}"
        if action == "read":
            return Operation(client=number, action=action, key=key, begun=now)
        self._value += 1
        expected = None
        if action == "cas":
            known = [each.value for each in self.history[-40:] if each.key == key and each.action != "read"]
            expected = rng.choice(known[-3:]) if known else None
        return Operation(client=number, action=action, key=key, value=self._value, expected=expected, begun=now)

    async def _perform(
        self, operation: Operation, *, rng: random.Random, connections: dict[str, Client], session: str, number: int
    ) -> None:
        """Asked until somebody does or may have done it; with a session, until somebody has."""
        status: Any = "failed"
        for _ in range(ATTEMPTS_MAX):
            node = self._choose(rng, operation=operation)
            port = self.ports[node]
            try:
                if (client := connections.get(node)) is None or not client.connected:
                    client = connections[node] = await Client.connect(port, timeout_s=0.5)
                answer = await self._ask(client, operation, session=session, number=number)
            except RefusedError:
                answer = ["refused"]
            except LostError:
                answer = ["unknown"]
                connections.pop(node).close()
            match answer:
                case ["committed", _, "ok" | "mismatch", _, detail]:
                    operation.found = detail.get("length", detail.get("held"))
                    status = "ok"
                    self.leader_hint = node
                    break
                case ["value", _, found]:
                    operation.found, status = [] if found is None and operation.key.startswith("list") else found, "ok"
                    break
                case ["not_leader", hint]:
                    self.leader_hint = hint
                case ["refused"]:
                    self.leader_hint = None
                case ["unknown", *_]:
                    status = "unknown"
                    if not session:
                        break
                case _:
                    raise AssertionError(answer)
            await asyncio.sleep(rng.uniform(0.01, 0.1))
            if operation.action == "read":
                break
        operation.status = status
        operation.ended = time.monotonic()
        if status == "unknown":
            operation.ended = float("inf")

    async def _ask(self, client: Client, operation: Operation, *, session: str, number: int) -> list[Any]:
        if operation.action == "read":
            return await client.call(self._read_verb, operation.key, TIMEOUT_MS, timeout_s=2.0)
        asked = command(
            operation.action,
            operation.key,
            operation.value,
            expected=operation.expected,
            session=session,
            number=number,
        )
        return await client.call("propose", asked, TIMEOUT_MS, timeout_s=2.0)

    def _choose(self, rng: random.Random, *, operation: Operation) -> str:
        hint = self.leader_hint
        if operation.action != "read" and hint in self.ports and rng.random() < 0.8:
            return hint
        return rng.choice(sorted(self.ports))


async def final_reader(port: int) -> tuple[Client, Callable[[str], Any]]:
    """Reads by barrier at one voter, for when all is quiet."""
    client = await Client.connect(port)

    async def read(key: str) -> Any:
        answer: list[Any] = []
        for _ in range(20):
            with contextlib.suppress(LostError):
                answer = await client.call("read", key, 2_000)
                if answer[0] == "value":
                    return answer[2]
            await asyncio.sleep(0.2)
        raise LostError(f"{key} cannot be read: {answer}")

    return client, read
