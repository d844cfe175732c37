"""A region under hostile bytes on every port: does its authority stay, does its memory, and do strong reads go on?

    python -m ops.bench.assault --seconds 600 --connections 5000

Three nodes, a bus and three edges that read all the time. Strangers attack REST and raft (requests drawn at random, half a
head, slow bodies, readers that do not read, foreign certificates, thousands of idle connections), and an edge gone bad says
damaged things on every subject on which edges may speak. Exit code 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import nats
import nats.errors

from consistency_service.adapters import certificates
from consistency_service.testbed.edge_status import read_status
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from edge_client.protocol.messages import encode_edge
from edge_client.protocol.subjects import Subjects
from ops.bench import raft_strangers, rest_strangers
from ops.bench.figures import percentile
from ops.bench.processes import descriptor_count, resident_bytes
from ops.bench.strangers import Storm, Target
from tests.fuzz.mutation import inputs
from tests.unit.protocol.wire_messages import EDGE_MESSAGES

EDGES: Final = 3
MODEL: Final = "m"
GROWTH_BYTES_MAX: Final = 96 << 20
"""Of one node's memory over what it had before: 1,000 connections with the bodies that they are allowed."""
DESCRIPTORS_MAX: Final = 1_400
SAID_PER_S: Final = 500


@dataclass(kw_only=True)
class Report:
    seconds: float = 0.0
    authorities: set[tuple[str, int]] = field(default_factory=set)
    """Every node and assumption that was seen to have authority."""
    growth_bytes: dict[str, int] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    holding_max: int = 0
    reads: int = 0
    weak_reads: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    said: int = 0
    change_ms: list[float] = field(default_factory=list)
    unanswered: int = 0
    """Honest changes by REST that nobody answered: strangers take connections, as many as are allowed."""

    def faults(self) -> list[str]:
        """Every bound that was broken; none is what should be."""
        found = {
            f"authority changed hands: {sorted(self.authorities)}": len(self.authorities) != 1,
            f"{self.weak_reads} of {self.reads} readings were not strong": self.weak_reads or not self.reads,
            f"memory grew: {self.growth_bytes}": max(self.growth_bytes.values()) > GROWTH_BYTES_MAX,
            f"descriptors: {self.descriptors}": max(self.descriptors.values()) > DESCRIPTORS_MAX,
        }
        return [what for what, broken in found.items() if broken]


async def assault(*, seconds: float, connections: int, per_s: int, directory: Path, only: str = "") -> Report:
    config = TestbedConfig(
        directory=directory / "bed",
        edges=EDGES,
        models=(MODEL,),
        edge_options={"loader": "bytes", "workload": "read"},
    )
    report = Report(seconds=seconds)
    with Testbed(config, progress=lambda _: None) as bed:
        region = Region(bed.state.urls("node-"))
        await asyncio.to_thread(region.push, MODEL, "1.0.0", b"1" * 50_000)
        await asyncio.to_thread(region.activate, MODEL, "1.0.0")
        await asyncio.sleep(3)
        pids = {name: bed.state.process(name).pid for name in ("node-1", "node-2", "node-3")}
        rest, raft = _ports(bed, names=list(pids))
        files = [config.directory / "edges" / f"edge-{number}.json" for number in range(1, EDGES + 1)]
        usual = {name: resident_bytes(pid) for name, pid in pids.items()}
        read_before, weak_before = _reads(files)
        storm = _storm(rest, raft, directory=directory / "strangers", connections=connections, per_s=per_s, only=only)
        liar = asyncio.create_task(_lie(bed.state.process("nats").url or "", region=config.region, report=report))
        raging = asyncio.create_task(storm.run())
        caller = asyncio.create_task(_call(region, report=report))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await asyncio.sleep(1)
            _look(report, storm=storm, pids=pids, usual=usual)
            await _ask(report, urls=bed.state.urls("node-"))
        for task in (liar, raging, caller):
            task.cancel()
        await asyncio.gather(liar, raging, caller, return_exceptions=True)
        read_after, weak_after = _reads(files)
        report.reads, report.weak_reads = read_after - read_before, weak_after - weak_before
        report.attempts = dict(storm.attempts)
        region.close()
    return report


def _storm(
    rest: list[Target], raft: list[Target], *, directory: Path, connections: int, per_s: int, only: str
) -> Storm:
    directory.mkdir()
    papers = raft_strangers.give_certificates(directory, voters=[])
    for name in ("n1", "n2"):
        certificates.issue(papers / "good", node_id=name, now=datetime.now(tz=UTC))
    attacks = {
        **{f"rest: {name}": (a, rest) for name, a in rest_strangers.attacks(rng=random.Random(7)).items()},
        **{f"raft: {name}": (a, raft) for name, a in raft_strangers.attacks(papers, rng=random.Random(8)).items()},
    }
    attacks = {name: attack for name, attack in attacks.items() if only in name}
    return Storm(attacks, held=[*rest, *raft], connections=connections, per_s=per_s, seed=9, pause_s=0.5)


async def _lie(url: str, *, region: str, report: Report) -> None:
    """What an edge with good credentials may say at worst: damaged messages with replies wanted in strange places."""
    subjects = Subjects(region)
    seeds = [encode_edge(message) for message in EDGE_MESSAGES.values()]
    places = (subjects.report, f"{subjects.report}.liar", subjects.clock, subjects.snapshot, subjects.features)
    replies = ("", "_INBOX.x", "_INBOX." + "y" * 60, subjects.event, subjects.beacon, "a..b", "\x7f")
    rng = random.Random(10)
    client = await nats.connect(url, allow_reconnect=True, max_reconnect_attempts=-1)
    for seed in range(1 << 30):
        for data in inputs(seeds, seed=seed, count=1_000):
            with contextlib.suppress(nats.errors.Error, OSError, ValueError):
                await client.publish(rng.choice(places), data[:60_000], reply=rng.choice(replies))
                report.said += 1
            await asyncio.sleep(1 / SAID_PER_S)


async def _call(region: Region, *, report: Report) -> None:
    """An honest release engineer, who changes a policy every second. Not a version: readings about its instant are not strong."""
    for number in range(1 << 30):
        began = time.monotonic()
        try:
            await asyncio.to_thread(region.committed, MODEL, versions_kept=11 + number % 50)
            report.change_ms.append((time.monotonic() - began) * 1_000)
        except (TimeoutError, httpx.HTTPError):
            report.unanswered += 1
        await asyncio.sleep(1)


async def _ask(report: Report, *, urls: list[str]) -> None:
    """Who has authority, as far as any node has a connection left to say so."""
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as http:
        for url in urls:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                status: dict[str, Any] = (await http.get(f"{url}/v1/cluster/self")).json()
                if status["is_authority"]:
                    report.authorities.add((status["node_id"], status["term"]))


def _look(report: Report, *, storm: Storm, pids: dict[str, int], usual: dict[str, int]) -> None:
    report.holding_max = max(report.holding_max, storm.holding)
    for name, pid in pids.items():
        grown_bytes = resident_bytes(pid) - usual[name]
        report.growth_bytes[name] = max(report.growth_bytes.get(name, 0), grown_bytes)
        report.descriptors[name] = max(report.descriptors.get(name, 0), descriptor_count(pid))


def _ports(bed: Testbed, *, names: list[str]) -> tuple[list[Target], list[Target]]:
    pairs = [bed.state.process(name).ports for name in names]
    return [("127.0.0.1", pair[0]) for pair in pairs], [("127.0.0.1", pair[1]) for pair in pairs]


def _reads(files: list[Path]) -> tuple[int, int]:
    statuses = [read_status(file) for file in files]
    known = [status for status in statuses if status is not None]
    assert len(known) == len(files), "an edge has no status"
    return sum(status.read_count for status in known), sum(status.not_strong_count for status in known)


def main() -> int:
    """Exit code 0 if every bound held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=5_000, help="held beside the attacks, or tried to be")
    parser.add_argument("--per-s", type=int, default=500, help="new connections of that kind a second")
    parser.add_argument("--only", default="", metavar="TEXT", help="attacks that have this in their name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(
            assault(seconds=given.seconds, connections=given.connections, per_s=given.per_s, directory=Path(directory))
        )
    print(
        f"attempts          {sum(report.attempts.values()):,} of {len(report.attempts)} kinds, {report.said:,} lies on the bus"
    )
    print(f"authority         {sorted(report.authorities)}")
    print(f"readings          {report.reads:,}, of which not strong: {report.weak_reads}")
    print("memory grew by    " + ", ".join(f"{n} {b / (1 << 20):.1f} MiB" for n, b in report.growth_bytes.items()))
    print(f"descriptors       {report.descriptors}, {report.holding_max:,} connections attempted at once")
    known_ms = report.change_ms or [0.0]
    print(
        f"honest changes    {len(report.change_ms)} answered, {report.unanswered} not, "
        f"p50 {percentile(known_ms, 0.5):.0f} ms, p99 {percentile(known_ms, 0.99):.0f} ms"
    )
    for fault in report.faults():
        print(f"BROKEN: {fault}")
    return 1 if report.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
