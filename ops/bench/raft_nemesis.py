"""Three to five voters, clients that write everything down, and somebody who breaks processes, network and disks meanwhile.

    python -m ops.bench.raft_nemesis --minutes 30 --seed 7

Voters speak mutual TLS (`--plain`: they do not), and are added, removed and replaced while all this goes on. Nothing
acknowledged may be lost, nothing refused be done, nothing come from nowhere or twice, no read be stale, no voter
die by itself; when all is healed, everything commits again and all voters hold the same. Ends with exit code 1 on a
violation, and keeps the history. `--sabotage` shows that it would notice: `stale` reads without a barrier, `wipe` empties
the disk of whoever was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from consistency_service.adapters import raft_log
from ops.bench.raft_changes import Changes
from ops.bench.raft_servers import Cluster, Disk, Server
from ops.bench.raft_workload import Workload, final_reader

DISK_MIB: Final = 24
STARTING_S: Final = 3.0
OVERLAP_SHARE: Final = 0.3
"""Of the faults, how many begin before the one before has ended."""


@dataclass(kw_only=True)
class Verdict:
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    terms: int = 0
    states_restored: int = 0
    histories: Path | None = None
    disks: bool = False

    def lines(self) -> list[str]:
        done = sum(count for what, count in self.operations.items() if what.endswith(" ok"))
        kinds = {what: self.operations[what] for what in sorted(self.operations)}
        lines = [
            f"{self.seconds:.0f} s, {done} operations acknowledged, of {sum(self.operations.values())}: {kinds}",
            f"faults: {dict(sorted(self.faults.items()))}",
            f"term at the end {self.terms}, {self.states_restored} states restored from snapshots",
        ]
        if not self.disks:
            lines.append("disks were not filled: that needs the right to mount")
        lines += [f"VIOLATION: {violation}" for violation in self.violations[:20]]
        if self.violations:
            lines.append(f"{len(self.violations)} violations; history, logs and data are in {self.histories}")
        else:
            lines.append("no violation")
        return lines


class Nemesis:
    """Everything it breaks is whole again when `run` returns."""

    def __init__(self, cluster: Cluster, *, seed: int, workload: Workload, wipe: bool = False) -> None:
        self.faults: Counter[str] = Counter()
        self.deaths: list[str] = []
        self._cluster = cluster
        self._workload = workload
        self._wipe = wipe
        self._rng = random.Random(seed)
        self._down: set[str] = set()
        self._full: set[str] = set()
        self._excused: set[str] = set()
        self._forgetful: str | None = None
        self.changes = Changes(cluster, workload=workload, rng=self._rng)
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill one": (4, self._kill_one),
            "kill two": (1, self._kill_two),
            "kill all": (3, self._kill_all),
            "pause": (4, self._pause),
            "one-way partition": (4, self._one_way),
            "isolation": (4, self._isolate),
            "split": (1, self._split),
            "flapping": (1, self._flap),
            "lost disk": (2, self._lose_disk),
            "addition": (2, self.changes.add),
            "removal": (2, self.changes.remove),
            "replacement": (2, self.changes.replace),
            "transfer": (1, self.changes.transfer),
        }
        if wipe:
            self._kinds = {"kill all": (1, self._kill_all)}
        elif cluster.disks:
            self._kinds["full disk"] = (3, self._fill)

    async def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        await asyncio.sleep(1.0)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch())
            faults: set[asyncio.Task[None]] = set()
            while time.monotonic() < deadline:
                kind = self._rng.choices(list(self._kinds), weights=[weight for weight, _ in self._kinds.values()])[0]
                self.faults[kind] += 1
                fault = group.create_task(self._one(self._kinds[kind][1]))
                faults.add(fault)
                if self._rng.random() < OVERLAP_SHARE and len(faults) < 3:
                    await asyncio.sleep(self._rng.uniform(0, 1))
                else:
                    await asyncio.gather(*faults)
                    faults.clear()
                    await asyncio.sleep(self._rng.uniform(0.2, 2.0))
            await asyncio.gather(*faults)
            watch.cancel()
        self._cluster.network.heal()

    async def _one(self, fault: Callable[[], Awaitable[None]]) -> None:
        await fault()

    async def _watch(self) -> None:
        """A voter that ends by itself is a violation, unless it was starting while its disk was full."""
        while True:
            await asyncio.sleep(0.05)
            for name, server in list(self._cluster.servers.items()):
                if name in self._down or server.exit_code is None:
                    continue
                if name in self._excused:
                    self.faults["start refused on a full disk"] += 1
                else:
                    self.deaths.append(f"{name} ended by itself with {server.exit_code}: {server.log_tail()}")
                server.collect()
                self._down.add(name)
                if name not in self._full:
                    self._start(name)

    def _somebody(self) -> str:
        """Half of the time the leader."""
        hint, names = self._workload.leader_hint, self._names()
        return hint if hint in names and self._rng.random() < 0.5 else self._rng.choice(names)

    def _names(self) -> list[str]:
        """Of those who run, or would if they had not been killed."""
        return sorted(self._cluster.servers)

    def _server(self, name: str) -> Server:
        return self._cluster.servers[name]

    def _gone(self, name: str) -> bool:
        """It was removed while something was wrong with it."""
        return name not in self._cluster.servers

    async def _hold(self, *, longest_s: float = 4.0) -> None:
        """Mostly short, sometimes long."""
        await asyncio.sleep(min(longest_s, self._rng.expovariate(1.0)) + 0.05)

    def _stop(self, name: str) -> None:
        if self._gone(name):
            return
        self._down.add(name)
        self._server(name).kill()
        if self._wipe:
            shutil.rmtree(self._server(name).data_dir, ignore_errors=True)

    def _start(self, name: str) -> None:
        if self._gone(name):
            return
        if name in self._full:
            self._excused.add(name)
        else:
            self._excused.discard(name)
        if not self._server(name).running:
            self._server(name).start()
        self._down.discard(name)

    async def _kill(self, names: list[str]) -> None:
        for name in names:
            self._stop(name)
        await self._hold(longest_s=2.0)
        self._rng.shuffle(names)
        for name in names:
            self._start(name)
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.5)))
        await asyncio.sleep(0.5)

    async def _kill_one(self) -> None:
        await self._kill([self._somebody()])

    async def _kill_two(self) -> None:
        await self._kill(self._rng.sample(self._names(), 2))

    async def _kill_all(self) -> None:
        await self._kill(self._names())

    async def _pause(self) -> None:
        server = self._server(self._somebody())
        server.pause()
        await self._hold()
        server.resume()

    async def _cut_off(self, directions: list[tuple[str, str]]) -> None:
        """What was under way comes late, or never."""
        network = self._cluster.network
        links = [(network.link(source, target), network.tap(source, target)) for source, target in directions]
        for _, tap in links:
            tap.hold()
        await self._hold(longest_s=6.0)
        lost = self._rng.random() < 0.4
        for link, tap in links:
            if lost:
                link.cut()
            tap.release()

    async def _one_way(self) -> None:
        name = self._somebody()
        others = [other for other in self._names() if other != name]
        directions = (
            [(name, other) for other in others] if self._rng.random() < 0.5 else [(other, name) for other in others]
        )
        await self._cut_off(directions if self._rng.random() < 0.7 else [self._rng.choice(directions)])

    async def _isolate(self) -> None:
        name = self._somebody()
        await self._cut_off(
            [pair for other in self._names() if other != name for pair in ((name, other), (other, name))]
        )

    async def _split(self) -> None:
        names = self._names()
        await self._cut_off([(source, target) for source in names for target in names if source != target])

    async def _flap(self) -> None:
        for _ in range(8):
            source, target = self._rng.sample(self._names(), 2)
            tap = self._cluster.network.tap(source, target)
            tap.hold()
            await asyncio.sleep(self._rng.uniform(0.05, 0.7))
            tap.release()

    async def _lose_disk(self) -> None:
        """A voter comes back under its id and without memory, as `ccs cluster recover` has it: one at a time."""
        before, name = self._forgetful, self._rng.choice(self.changes.members)
        if before is not None and not self._gone(before) and not await self._remembers(before):
            return
        if self._forgetful != before or self._gone(name) or name in self._full or name in self._down:
            return
        self._forgetful = name
        self._stop(name)
        data_dir = self._server(name).data_dir
        with contextlib.suppress(FileNotFoundError):  # it was killed before it made any
            (data_dir / "journal").unlink()
            recovered = raft_log.recover(data_dir, node_id=name, others_hold_quorum=True)
            assert recovered.moved_to is not None
            self.faults["recovery"] += 1
            shutil.rmtree(recovered.moved_to)
            # The log named the members; without it the settings must, or nobody whom it knows may be left.
            self._server(name).settings["peers"] = self._cluster.peers_of(name)
        await self._hold(longest_s=2.0)
        self._start(name)

    async def _remembers(self, name: str) -> bool:
        status = await self._cluster.status(name)
        return status is not None and status["standing"] == "member" and status["storage_fault"] is None

    async def _fill(self) -> None:
        """The disk of one voter has no room; whoever does not start for that is started when there is."""
        name = self._somebody()
        if name == self._forgetful:
            return
        disk = self._cluster.disks[name]
        self._full.add(name)
        if self._server(name).age_s < STARTING_S:
            self._excused.add(name)
        disk.fill()
        await self._hold()
        disk.empty()
        self._full.discard(name)
        if not self._gone(name) and not self._server(name).running:
            self._start(name)


async def nemesis(
    *,
    seconds: float,
    seed: int,
    directory: Path,
    clients: int = 8,
    pace_s: float = 0.01,
    compaction_min_entries: int = 150,
    sabotage: str | None = None,
    plain: bool = False,
    **settings: Any,
) -> Verdict:
    """The verdict. `directory` is kept if there are violations."""
    verdict = Verdict(disks=Disk.possible(directory))
    cluster = Cluster(
        directory,
        disk_mib=DISK_MIB if verdict.disks else None,
        compaction_min_entries=compaction_min_entries,
        snapshot_part_bytes=4_096,
        certified=not plain,
        **settings,
    )
    begun = time.monotonic()
    try:
        await cluster.open()
        await cluster.leader()
        ports = {name: server.port for name, server in cluster.servers.items()}
        workload = Workload(ports, seed=seed, clients=clients, pace_s=pace_s, stale=sabotage == "stale")
        breaker = Nemesis(cluster, seed=seed, workload=workload, wipe=sabotage == "wipe")
        working = asyncio.create_task(workload.run())
        await breaker.run(seconds)
        verdict.violations += await breaker.changes.settle()
        await asyncio.sleep(1.0)
        workload.stopping = True
        await working
        verdict.seconds = time.monotonic() - begun
        verdict.faults, verdict.operations = breaker.faults + breaker.changes.made, workload.counts()
        verdict.violations += breaker.deaths
        verdict.violations += await _judge(cluster, workload)
        statuses = [await cluster.status(name) for name in cluster.servers]
        verdict.terms = max((status["term"] for status in statuses if status is not None), default=0)
        verdict.states_restored = sum(
            server.log_path.read_text(errors="replace").count("state_restored") for server in cluster.servers.values()
        )
        if verdict.violations:
            verdict.histories = directory
            workload.keep(directory / "history.jsonl")
            for name, server in cluster.servers.items():
                server.kill()
                shutil.copytree(server.data_dir, directory / f"{name}.kept")
    finally:
        await cluster.close()
    return verdict


async def _judge(cluster: Cluster, workload: Workload) -> list[str]:
    try:
        leader = await cluster.leader(timeout_s=30)
    except TimeoutError as error:
        return [f"healed, and {error}"]
    different = await cluster.equal()
    if different is not None:
        return [f"healed, and not equal: {different}"]
    client, read = await final_reader(cluster.servers[leader].port)
    try:
        return await workload.faults(read)
    finally:
        client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pace-ms", type=float, default=10, help="of one client, on average, between two requests")
    parser.add_argument("--plain", action="store_true", help="no TLS between the voters")
    parser.add_argument("--sabotage", choices=("stale", "wipe"))
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="raft-nemesis-"))
    verdict = asyncio.run(
        nemesis(
            seconds=chosen.minutes * 60,
            seed=chosen.seed,
            directory=directory,
            clients=chosen.clients,
            pace_s=chosen.pace_ms / 1_000,
            sabotage=chosen.sabotage,
            plain=chosen.plain,
        )
    )
    print("\n".join(verdict.lines()), flush=True)
    if not verdict.violations:
        shutil.rmtree(directory)
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
