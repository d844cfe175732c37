"""One edge writes critical features, twenty read them, while their bus, their boxes and they themselves are hurt.

    python -m tests.support.feature_chaos reader SPEC

Processes are real, and so are the servers; all run on this machine, so that one clock tells every instant. A reader process
holds several edges that share a box's Redis, writes what it was told into a file, and is stopped and continued at will.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from edge_client import AsyncEdgeClient, FeatureStoreError, TooStaleError
from edge_client.protocol.envelope import trust_line
from edge_client.protocol.feature_classes import FeatureClass, FeatureKind
from tests.support.feature_history import Read, Violation, Write, judge
from tests.support.servers import NatsServer, RedisServer, start_nats, start_redis

KEYS = 1_000
CLASS = FeatureClass(name="user", kind=FeatureKind.CRITICAL, window_base_ms=400, window_floor_ms=10, expire_ms=None)


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass
class Outcome:
    """What one run came to."""

    write_count: int = 0
    read_count: int = 0
    vouched_count: int = 0
    refused_count: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


class Spec(msgspec.Struct, kw_only=True):
    """What a process is to do."""

    bus: str
    store: str
    local: str
    trust: str
    names: list[str]
    file: str
    seed: int
    seconds: float
    mutant: str = ""


async def edge_of(spec: Spec, name: str) -> AsyncEdgeClient:
    edge = await AsyncEdgeClient.connect(
        spec.bus, trust=spec.trust, edge_id=name, local=spec.local, feature_store=spec.store
    )
    # No region speaks here: the class that it would have said is put where its word would be.
    edge._state._follower.feature_classes = {CLASS.name: CLASS}
    edge.features.copies.take_classes()
    return edge


async def read(spec: Spec) -> None:
    """Every edge of this process reads until the time is up; each reading is a line of the file."""
    edges = await asyncio.gather(*(edge_of(spec, name) for name in spec.names))
    lines: list[Any] = []
    until_ns = now_ns() + int(spec.seconds * 1e9)
    async with asyncio.TaskGroup() as group:
        for name, edge in zip(spec.names, edges, strict=True):
            group.create_task(read_one(name, edge, Random(f"{spec.seed} {name}"), lines, until_ns=until_ns))
    Path(spec.file).write_bytes(msgspec.msgpack.encode(lines))
    await asyncio.gather(*(edge.close() for edge in edges))


async def read_one(name: str, edge: AsyncEdgeClient, rng: Random, lines: list[Any], *, until_ns: int) -> None:
    hot = [f"user:{rng.randrange(KEYS)}" for _ in range(20)]
    while now_ns() < until_ns:
        key = rng.choice(hot) if rng.random() < 0.7 else f"user:{rng.randrange(KEYS)}"
        invoked_ns = now_ns()
        try:
            reading = await edge.features.get(
                key,
                staleness_max_ms=rng.choice((None, None, 50, 2_000)),
                on_stale=rng.choice(("fetch", "fetch", "fetch", "serve", "raise")),
            )
        except TooStaleError:
            lines.append([name, key, None, invoked_ns, now_ns(), None, "refused"])
        else:
            lines.append(
                [name, key, reading.value, invoked_ns, now_ns(), reading.staleness_bound_ms, reading.tier or "none"]
            )
        await asyncio.sleep(rng.random() * 0.02)


async def write(spec: Spec) -> None:
    """One edge writes all keys once, then hot ones again and again."""
    edge = await edge_of(spec, spec.names[0])
    rng = Random(spec.seed)
    lines: list[Any] = []
    orders = [0] * KEYS
    until_ns = now_ns() + int(spec.seconds * 1e9)

    async def put(number: int) -> None:
        orders[number] += 1
        order, invoked_ns, acknowledged_ns = orders[number], now_ns(), None
        with suppress(FeatureStoreError):
            assert await edge.features.put(f"user:{number}", order)
            acknowledged_ns = now_ns()
        lines.append([f"user:{number}", order, invoked_ns, acknowledged_ns])

    async def some(numbers: range) -> None:
        for number in numbers:
            await put(number)
        while now_ns() < until_ns:
            await put(rng.choice(numbers))
            await asyncio.sleep(rng.random() * 0.01)

    async with asyncio.TaskGroup() as group:
        for start in range(0, KEYS, 250):
            group.create_task(some(range(start, start + 250)))
    Path(spec.file).write_bytes(msgspec.msgpack.encode(lines))
    await edge.close()


def mutate(name: str) -> None:
    """Break one rule in this process; the judge must notice."""
    if name == "known_when_found":
        from edge_client.runtime.feature_copies import FeatureCopies

        honest = FeatureCopies.copy_of_held

        def young(self: Any, key: Any, policy: Any, held: Any) -> Any:
            return honest(self, key, policy, held and held._replace(known_at_ns=now_ns()))

        FeatureCopies.copy_of_held = young  # type: ignore[method-assign]
    else:
        assert not name, name


# ---------------------------------------------------------------------------------------------------------- the nemesis


def run(
    directory: Path, *, seconds: float, readers: int = 20, processes: int = 4, seed: int = 1, mutant: str = ""
) -> Outcome:
    """The whole thing: servers, processes, blows, and the judge's word."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    outcome = Outcome()
    with ExitStack() as stack:
        bus = stack.enter_context(start_nats(directory, jetstream=False))
        store = stack.enter_context(start_redis(directory / "store"))
        boxes = [stack.enter_context(start_redis(directory / f"box-{number}")) for number in range(2)]
        per_process = readers // processes
        children = []
        for number in range(processes + 1):
            names = [f"reader-{number}-{index}" for index in range(per_process)] if number else ["writer"]
            spec = Spec(
                bus=bus.url,
                store=store.url,
                local=boxes[number % len(boxes)].url,
                trust=trust_line(key.public_key()),
                names=names,
                file=str(directory / f"told-{number}"),
                seed=seed * 1_000 + number,
                seconds=seconds,
                mutant=mutant if number else "",
            )
            role = "reader" if number else "writer"
            command = [sys.executable, "-m", "tests.support.feature_chaos", role, msgspec.json.encode(spec).decode()]
            log = stack.enter_context((directory / f"log-{number}").open("wb"))
            children.append(stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log)))
        try:
            _hurt(Random(seed), bus=bus, boxes=boxes, store=store, children=children, seconds=seconds, outcome=outcome)
            for number, child in enumerate(children):
                code = child.wait(timeout=30)
                assert code == 0, (directory / f"log-{number}").read_text()[-3_000:]
        finally:
            for child in children:
                if child.poll() is None:
                    child.send_signal(signal.SIGCONT)
                    child.kill()
        _judge(directory, processes=processes, outcome=outcome)
    return outcome


def _hurt(
    rng: Random,
    *,
    bus: NatsServer,
    boxes: list[RedisServer],
    store: RedisServer,
    children: list[subprocess.Popen[bytes]],
    seconds: float,
    outcome: Outcome,
) -> None:
    """Blow after blow, each over before the next."""
    time.sleep(2)

    def paused(pids: list[int], pause_s: float) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(pause_s)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    blows = {
        "bus restarted": bus.restart,
        "box flushed": lambda: rng.choice(boxes).flush(),
        "box restarted": lambda: rng.choice(boxes).restart(),
        "box paused": lambda: paused([rng.choice(boxes).pid], rng.uniform(0.1, 1.5)),
        "store paused": lambda: paused([store.pid], rng.uniform(0.1, 1.5)),
        "reader paused": lambda: paused([rng.choice(children[1:]).pid], rng.uniform(0.1, 2)),
        "writer paused": lambda: paused([children[0].pid], rng.uniform(0.1, 1)),
        "everybody paused": lambda: paused([child.pid for child in children], rng.uniform(0.1, 1)),
    }
    until = time.monotonic() + seconds - 2
    order = list(blows)
    while time.monotonic() < until:
        rng.shuffle(order)
        for name in order:
            if time.monotonic() >= until or any(child.poll() is not None for child in children):
                return
            blows[name]()
            outcome.faults[name] = outcome.faults.get(name, 0) + 1
            time.sleep(rng.uniform(0.05, 0.5))


def _judge(directory: Path, *, processes: int, outcome: Outcome) -> None:
    writes = [Write(*line) for line in msgspec.msgpack.decode((directory / "told-0").read_bytes())]
    reads = []
    for number in range(1, processes + 1):
        for name, key, order, invoked_ns, returned_ns, bound_ms, tier in msgspec.msgpack.decode(
            (directory / f"told-{number}").read_bytes()
        ):
            outcome.by_tier[tier] = outcome.by_tier.get(tier, 0) + 1
            if tier == "refused":
                outcome.refused_count += 1
            else:
                reads.append(Read(key, order, invoked_ns, returned_ns, bound_ms, name))
    outcome.write_count, outcome.read_count = len(writes), len(reads)
    outcome.vouched_count = sum(each.bound_ms is not None for each in reads)
    outcome.violations = judge(writes, reads)


def main() -> None:
    role, text = sys.argv[1:]
    spec = msgspec.json.decode(text, type=Spec)
    mutate(spec.mutant)
    asyncio.run(write(spec) if role == "writer" else read(spec))


if __name__ == "__main__":
    main()
