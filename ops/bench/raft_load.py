"""Does load alone cause an election, and does a follower that catches up disturb the others?

    python -m ops.bench.raft_load [--seconds 60] [--state-mb 40] [--mbit 64]

First: clients that keep both cores busy with commits and reads, while snapshots are taken; nobody may stand for election.
Then: a follower is killed, comes back when its entries are gone from the others' logs, and fetches the state over a link of
so many megabits; commits meanwhile are compared with commits before. Ends with exit code 1 if either was not so.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import math
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from ops.bench.raft_servers import Client, Cluster, command, percentile

P99_RATIO_MAX: Final = 3.0
VALUE: Final = bytes(1_000)


async def main(*, seconds: float, state_mb: int, mbit: float, per_s: float, only: str | None) -> int:
    broken = 0
    if only in {None, "load"}:
        with tempfile.TemporaryDirectory() as temporary:
            broken += await no_election(Path(temporary), seconds=seconds)
    if only in {None, "catch-up"}:
        with tempfile.TemporaryDirectory() as temporary:
            broken += await catch_up(Path(temporary), state_mb=state_mb, mbit=mbit, per_s=per_s)
    return 1 if broken else 0


# Load.


async def no_election(directory: Path, *, seconds: float) -> int:
    cluster = Cluster(directory, proxied=False)
    try:
        await cluster.open()
        leader = await cluster.leader()
        await asyncio.sleep(1.0)
        before = await statuses(cluster)
        port, ports = cluster.servers[leader].port, [server.port for server in cluster.servers.values()]
        burner = multiprocessing.Process(target=_burn, daemon=True)
        burner.start()
        done = await asyncio.gather(
            _commits(port, seconds=seconds, in_flight=128),
            *(_reads(each, seconds=seconds, in_flight=16) for each in ports),
        )
        burner.kill()
        after = await statuses(cluster)
    finally:
        await cluster.close()
    terms = [{name: status["term"] for name, status in found.items()} for found in (before, after)]
    trials = sum(after[name]["counters"]["trials"] - before[name]["counters"]["trials"] for name in after)
    snapshots = after[leader]["applied_index"] // 5_000
    print(
        f"{seconds:.0f} s of load: {len(done[0]) / seconds:.0f} commits and "
        f"{sum(map(len, done[1:])) / seconds:.0f} reads a second; commit p50 {percentile(done[0], 0.5):.1f} ms, "
        f"p99 {percentile(done[0], 0.99):.1f} ms, worst {max(done[0]):.1f} ms; about {snapshots} snapshots"
    )
    stalls = {name: status["counters"]["stalls"] for name, status in after.items()}
    held = terms[0] == terms[1] and trials == 0
    print(
        f"terms {terms[0]} -> {terms[1]}, {trials} stood for election, stalls {stalls}: {'held' if held else 'MISSED'}"
    )
    return 0 if held else 1


async def statuses(cluster: Cluster) -> dict[str, dict[str, Any]]:
    found = {name: await cluster.status(name) for name in cluster.servers}
    return {name: status for name, status in found.items() if status is not None}


def _burn() -> None:
    while True:
        pass


async def _commits(port: int, *, seconds: float, in_flight: int) -> list[float]:
    """Milliseconds that each took."""
    client = await Client.connect(port)
    put = command("put", "key", VALUE)
    return await _load(client, ("propose", put, 5_000), seconds=seconds, in_flight=in_flight)


async def _reads(port: int, *, seconds: float, in_flight: int) -> list[float]:
    client = await Client.connect(port)
    return await _load(client, ("read", "key", 5_000), seconds=seconds, in_flight=in_flight)


async def _load(client: Client, request: tuple[Any, ...], *, seconds: float, in_flight: int) -> list[float]:
    taken_ms: list[float] = []
    end = time.perf_counter() + seconds
    failed = 0

    async def caller() -> None:
        nonlocal failed
        while (begun := time.perf_counter()) < end:
            answer = await client.ask(*request)
            if answer[0] in {"committed", "value"}:
                taken_ms.append((time.perf_counter() - begun) * 1_000)
            else:
                failed += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    client.close()
    if failed:
        print(f"{failed} of {request[0]} failed")
    return taken_ms


# Catching up.


async def catch_up(directory: Path, *, state_mb: int, mbit: float, per_s: float) -> int:
    cluster = Cluster(directory, proxied=True)
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        try:
            await cluster.open()
            leader = await cluster.leader()
            follower = next(name for name in cluster.servers if name != leader)
            port = cluster.servers[leader].port
            await _fill(port, state_mb=state_mb)
            cluster.servers[follower].kill()
            snapshot = cluster.servers[leader].data_dir / "snapshot"
            for _ in range(2):  # until its entries are gone from the log, and the next snapshot is far away
                before = _age(snapshot)
                while _age(snapshot) == before:
                    await _commits(port, seconds=0.5, in_flight=64)
            await asyncio.sleep(2.0)
            usual = await loop.run_in_executor(apart, paced_commits, port, 15.0, 1 / per_s)
            term = (await statuses(cluster))[leader]["term"]
            cluster.network.shape(follower, bytes_per_s=mbit * 1e6 / 8)
            expected_s = state_mb * 8 / mbit
            meanwhile = loop.run_in_executor(apart, paced_commits, port, 3 * expected_s + 10, 1 / per_s)
            await asyncio.sleep(1.0)
            begun = time.monotonic()
            cluster.servers[follower].start()
            taken_s = await _caught_up(cluster, follower=follower, leader=leader, timeout_s=3 * expected_s + 5)
            during = [(at, ms) for at, ms in await meanwhile if begun <= at <= begun + taken_s]
            after = await statuses(cluster)
            passed_mb = cluster.network.tap(leader, follower).passed_bytes / 1e6
        finally:
            await cluster.close()
    same = leader in after and after[leader]["leading"] and after[leader]["term"] == term
    print(
        f"{state_mb} MB over {mbit:.0f} Mbit/s: caught up after {taken_s:.1f} s, {passed_mb:.0f} MB passed in all; "
        f"restored {after[follower]['restored_count']} times; the leader {'stayed' if same else 'CHANGED'}, "
        f"stalls {_counted(after, 'stalls')}, asked around for votes {_counted(after, 'trials')}"
    )
    quantiles = {}
    for what, taken in (("usual", usual), ("meanwhile", during)):
        taken_ms = [ms for _, ms in taken]
        quantiles[what] = percentile(taken_ms, 0.99)
        print(
            f"commit {what:10} p50 {percentile(taken_ms, 0.5):.2f} ms, p99 {quantiles[what]:.2f} ms, "
            f"worst {max(taken_ms):.1f} ms, of {len(taken_ms)}"
        )
    ratio = quantiles["meanwhile"] / quantiles["usual"]
    held = ratio <= P99_RATIO_MAX and same and math.isfinite(taken_s) and after[follower]["restored_count"] > 0
    print(f"p99 meanwhile / usual: {ratio:.2f}, wanted ≤ {P99_RATIO_MAX}: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def _counted(found: dict[str, dict[str, Any]], counter: str) -> dict[str, int]:
    return {name: int(status["counters"][counter]) for name, status in found.items()}


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


async def _fill(port: int, *, state_mb: int) -> None:
    client = await Client.connect(port)
    for number in range(state_mb):
        filler = command("put", f"filler-{number}", random.Random(number).randbytes(1_000_000))
        answer = await client.call("propose", filler, 20_000, timeout_s=30)
        assert answer[0] == "committed", answer
    client.close()


async def _caught_up(cluster: Cluster, *, follower: str, leader: str, timeout_s: float) -> float:
    """Seconds until the follower had applied what the leader had when asked; infinite after the timeout."""
    begun = time.monotonic()
    ahead = behind = None
    while (taken_s := time.monotonic() - begun) < timeout_s:
        ahead, behind = await cluster.status(leader), await cluster.status(follower)
        if ahead is not None and behind is not None and behind["applied_index"] >= ahead["applied_index"] - 200:
            return taken_s
        await asyncio.sleep(0.1)
    print(f"not caught up: {ahead}, {behind}")
    return math.inf


def paced_commits(port: int, seconds: float, pace_s: float) -> list[tuple[float, float]]:
    """In a process of its own, so that the proxy does not hold it up: when each was due, and milliseconds from
    then on; infinitely many if it was not committed.
    """
    return asyncio.run(_paced_commits(port, seconds=seconds, pace_s=pace_s))


async def _paced_commits(port: int, *, seconds: float, pace_s: float) -> list[tuple[float, float]]:
    client = await Client.connect(port)
    put = command("put", "key", VALUE)
    taken: list[tuple[float, float]] = []

    async def one(due: float) -> None:
        answer = await client.ask("propose", put, 5_000)
        committed = answer[0] == "committed"
        taken.append((due, (time.monotonic() - due) * 1_000 if committed else math.inf))

    due, end = time.monotonic(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while due < end:
            group.create_task(one(due))
            due += pace_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    client.close()
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--state-mb", type=int, default=40)
    parser.add_argument("--mbit", type=float, default=64)
    parser.add_argument("--per-s", type=float, default=100, help="commits a second while the follower catches up")
    parser.add_argument("--only", choices=("load", "catch-up"))
    chosen = parser.parse_args()
    sys.exit(
        asyncio.run(
            main(
                seconds=chosen.seconds, state_mb=chosen.state_mb, mbit=chosen.mbit, per_s=chosen.per_s, only=chosen.only
            )
        )
    )
