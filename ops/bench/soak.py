"""Half an hour of ordinary work: do memory, files, sockets, threads and tasks stay what they are?

    python -m ops.bench.soak --seconds 1800

Before that, as many changes as a region remembers at most: whatever is bounded by number has met its bound when the time begins.

Three nodes, a bus, a local tier and three edges that read all the time; versions change, policies change, people list and
subscribe and go away, artifacts come and are collected, and edges connect, write features and leave. Every process is looked
at every few seconds. What it has in the last fifth of the time is compared with what it had in the second fifth: by then
whatever is bounded should have met its bound. Exit code 1 if something grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from consistency_service.core.machine import AUDIT_MAX, REQUESTS_MAX
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig, key_paths
from edge_client import AsyncEdgeClient
from ops.bench.figures import median
from ops.bench.processes import resident_bytes, status_of

MODEL: Final = "m"
EDGES: Final = 3
LOOKS: Final = 200
GUEST_PAUSE_S: Final = 3
"""Each life of an edge leaves a marker a shard in the store, for a day."""
GROWTH_MAX: Final = 0.08
GROWTH_FREE: Final = {"bytes": 12 << 20, "files": 4, "sockets": 4, "threads": 4, "tasks": 6}
"""What may come on top of `GROWTH_MAX`: allocators round, pools breathe."""
FILL: Final = max(REQUESTS_MAX, AUDIT_MAX) + 1_000
FILLERS: Final = 8
NODE_OPTIONS: Final = {
    "compaction_entries": 2_000,
    "garbage_interval_ms": 5_000,
    "requests_per_s": 2_000,
    "requests_burst": 2_000,
}
TASKS: Final = re.compile(r"^asyncio_tasks(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What one process had of something, early and late."""

    process: str
    what: str
    early: float
    late: float

    @property
    def holds(self) -> bool:
        return self.late <= self.early * (1 + GROWTH_MAX) + GROWTH_FREE[self.what]


class Looks:
    """What every process had at every look."""

    def __init__(self, bed: Testbed) -> None:
        self._pids = {process.name: process.pid for process in bed.state.processes} | {"guests": os.getpid()}
        self._urls = {name: bed.state.process(name).url for name in self._pids if name.startswith("node-")}
        self._seen: dict[tuple[str, str], list[float]] = defaultdict(list)

    async def look(self) -> None:
        for name, pid in self._pids.items():
            self._seen[name, "bytes"].append(float(resident_bytes(pid)))
            self._seen[name, "threads"].append(float(status_of(pid, "Threads")))
            links = [_link(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            self._seen[name, "sockets"].append(float(sum(link.startswith("socket:") for link in links)))
            self._seen[name, "files"].append(float(len(links)) - self._seen[name, "sockets"][-1])
        self._seen["guests", "tasks"].append(float(len(asyncio.all_tasks())))
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            for name, url in self._urls.items():
                with contextlib.suppress(httpx.HTTPError):
                    if found := TASKS.search((await http.get(f"{url}/metrics")).text):
                        self._seen[name, "tasks"].append(float(found[1]))

    def growths(self) -> list[Growth]:
        """Of everything, for every process."""
        out = []
        for (process, what), values in sorted(self._seen.items()):
            fifth = max(1, len(values) // 5)
            out.append(
                Growth(
                    process=process,
                    what=what,
                    early=median(values[fifth : 2 * fifth] or values),
                    late=median(values[-fifth:]),
                )
            )
        return out


async def soak(*, seconds: float, fill: int, directory: Path) -> tuple[list[Growth], dict[str, int]]:
    config = TestbedConfig(
        directory=directory / "bed",
        edges=EDGES,
        models=(MODEL,),
        node_options=NODE_OPTIONS,
        edge_options={"loader": "bytes", "workload": "read"},
    )
    done: dict[str, int] = defaultdict(int)
    with Testbed(config, progress=lambda _: None) as bed:
        region = Region(bed.state.urls("node-"))
        for number in (1, 2):
            await asyncio.to_thread(region.push, MODEL, f"{number}.0.0", b"%d" % number * 200_000)
        await asyncio.to_thread(region.activate, MODEL, "1.0.0")
        looks, urls = Looks(bed), bed.state.urls("node-")
        await _fill(urls, count=fill)
        deadline = time.monotonic() + seconds
        work = [
            asyncio.create_task(coroutine)
            for coroutine in (
                _changes(region, done),
                _versions(Region(urls), done),
                _readers(urls, done),
                _subscribers(urls, done),
                _edges(bed, config, done),
            )
        ]
        try:
            while time.monotonic() < deadline:
                await asyncio.sleep(max(0.5, seconds / LOOKS))
                await looks.look()
                for task in work:
                    if task.done():
                        task.result()
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            region.close()
    return looks.growths(), dict(done)


async def _fill(urls: tuple[str, ...], *, count: int) -> None:
    """Changes of one policy by several callers at once, as fast as they go."""

    def some(share: int) -> None:
        region = Region(urls)
        for number in range(share):
            region.committed(MODEL, versions_kept=11 + number % 50)
        region.close()

    await asyncio.gather(*(asyncio.to_thread(some, count // FILLERS) for _ in range(FILLERS)))


async def _changes(region: Region, done: dict[str, int]) -> None:
    for number in range(1 << 40):
        await asyncio.to_thread(region.committed, MODEL, versions_kept=11 + number % 50)
        done["changes"] += 1
        await asyncio.sleep(0.1)


async def _versions(region: Region, done: dict[str, int]) -> None:
    """The active version changes, and another model's versions come and go, artifacts with them."""
    for number in range(1 << 40):
        await asyncio.to_thread(region.activate, MODEL, f"{1 + (number + 1) % 2}.0.0")
        done["activations"] += 1
        await asyncio.to_thread(region.push, "passing", f"{number}.0.0", b"%d" % number * 20_000)
        if number > 3:
            await asyncio.to_thread(region.call, "DELETE", f"/v1/models/passing/versions/{number - 3}.0.0")
        done["pushes"] += 1
        await asyncio.sleep(1)


async def _readers(urls: tuple[str, ...], done: dict[str, int]) -> None:
    paths = (
        "/v1/models",
        "/v1/edges?limit=100",
        "/v1/cluster",
        "/v1/audit?limit=50",
        "/",
        f"/v1/models/{MODEL}/history",
    )
    while True:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
            for number in range(60):
                with contextlib.suppress(httpx.HTTPError):
                    await http.get(urls[number % len(urls)] + paths[number % len(paths)])
                    done["reads"] += 1
                await asyncio.sleep(0.05)


async def _subscribers(urls: tuple[str, ...], done: dict[str, int]) -> None:
    """Event streams that end as people close their windows."""
    for number in range(1 << 40):
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(2), http.stream("GET", urls[number % len(urls)] + "/v1/events") as stream:
                    async for _ in stream.aiter_bytes():
                        done["event pieces"] += 1
        await asyncio.sleep(0.2)


async def _edges(bed: Testbed, config: TestbedConfig, done: dict[str, int]) -> None:
    """Edges that come, write, read and leave; each has an id that was used before."""
    bus, box = bed.state.process("nats").url or "", bed.state.process("redis-edge").url
    for number in range(1 << 40):
        async with await AsyncEdgeClient.connect(
            bus,
            trust=str(key_paths(config.directory)[1]),
            edge_id=f"guest-{number % 5}",
            region=config.region,
            local=box,
        ) as edge:
            await edge.features.put_many({f"track:{number % 7}-{n}": {"x": n, "y": 0.5} for n in range(500)})
            await edge.features.flush(timeout_ms=5_000)
            for n in range(200):
                await edge.features.get(f"track:{number % 7}-{n}")
        done["guests"] += 1
        await asyncio.sleep(GUEST_PAUSE_S)


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def main() -> int:
    """Exit code 0 if nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1_800)
    parser.add_argument("--fill", type=int, default=FILL, help="changes before the time begins")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        growths, done = asyncio.run(soak(seconds=given.seconds, fill=given.fill, directory=Path(directory)))
    print("done: " + ", ".join(f"{count:,} {what}" for what, count in done.items()))
    print(f"{'process':12}{'what':10}{'second fifth':>14}{'last fifth':>14}")
    for growth in growths:
        scale = 1 << 20 if growth.what == "bytes" else 1
        unit = "MiB" if growth.what == "bytes" else growth.what
        verdict = "" if growth.holds else "   GREW"
        print(f"{growth.process:12}{unit:10}{growth.early / scale:>14.1f}{growth.late / scale:>14.1f}{verdict}")
    return 0 if all(growth.holds for growth in growths) else 1


if __name__ == "__main__":
    sys.exit(main())
