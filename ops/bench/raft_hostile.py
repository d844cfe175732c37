"""Three voters with certificates under assault: do they go on committing, and what does it cost them?

    python -m ops.bench.raft_hostile --seconds 300 --connections 5000

Ends with exit code 1 if a bound is broken. One voter is killed and started again in the middle of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops.bench.processes import descriptor_count, resident_bytes
from ops.bench.raft_cluster import Voter, settled_leader, voters_in
from ops.bench.raft_strangers import Assault, give_certificates

DESCRIPTORS_MAX: Final = 150
"""Of one voter, at any moment: its files, its peers, and as many strangers as it allows."""
GROWTH_BYTES_MAX: Final = 64 << 20
"""Of one voter's memory, over what it had before."""
P99_RATIO_MAX: Final = 5.0
P99_FLOOR_MS: Final = 25.0
"""Below this a commit is good enough, whatever it took before: attackers and voters share this machine's cores."""
REJOIN_S_MAX: Final = 30.0


@dataclass(kw_only=True)
class Report:
    before: dict[str, Any] = field(default_factory=dict)
    during: list[dict[str, Any]] = field(default_factory=list)
    terms: tuple[int, int] = (0, 0)
    leaders: tuple[str, str] = ("", "")
    descriptors_max: int = 0
    growth_bytes_max: int = 0
    holding_max: int = 0
    rejoined_s: float | None = None
    attempts: dict[str, int] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def p50_ms(self) -> float:
        return sorted(float(window["p50_ms"] or 1e9) for window in self.during)[len(self.during) // 2]

    @property
    def p99_ms(self) -> float:
        """The usual window's; a single window is at the mercy of whatever else runs here."""
        return sorted(float(window["p99_ms"] or 1e9) for window in self.during)[len(self.during) // 2]

    def faults(self) -> list[str]:
        """Every bound that was broken; none is what should be."""
        allowed_ms = max(P99_FLOOR_MS, P99_RATIO_MAX * float(self.before["p99_ms"]))
        found = {
            f"an election: term and leader went from {self.terms[0]} {self.leaders[0]} to {self.terms[1]} {self.leaders[1]}": (
                self.terms[0] != self.terms[1] or self.leaders[0] != self.leaders[1]
            ),
            f"{self.descriptors_max} descriptors": self.descriptors_max > DESCRIPTORS_MAX,
            f"memory grew by {self.growth_bytes_max} bytes": self.growth_bytes_max > GROWTH_BYTES_MAX,
            f"commit p99 {self.p99_ms} ms, allowed {allowed_ms} ms": self.p99_ms > allowed_ms,
            "commits failed": any(window["failed"] for window in self.during),
            f"the voter that was killed came back after {self.rejoined_s} s": (
                self.rejoined_s is None or self.rejoined_s > REJOIN_S_MAX
            ),
        }
        return [what for what, broken in found.items() if broken]


async def assault(*, seconds: float, connections: int, per_s: int, directory: Path) -> Report:
    report = Report()
    voters = voters_in(directory)
    certs = give_certificates(directory / "certificates", voters=voters)
    attackers = None
    try:
        for voter in voters:
            await voter.start()
        leader = await settled_leader(voters)
        follower = next(voter for voter in voters if voter is not leader)
        await leader.ask("commit 2 8")
        report.before = await leader.ask("commit 3 1")
        term, usual = (
            (await leader.ask("status"))["term"],
            {voter.name: resident_bytes(_pid(voter)) for voter in voters},
        )
        storm = Assault(
            [("127.0.0.1", int(voter.settings["listen"].rpartition(":")[2])) for voter in voters],
            directory=certs,
            connections=connections,
            per_s=per_s,
        )
        attackers = asyncio.create_task(storm.run())
        watch = asyncio.create_task(_watch(report, storm=storm, voters=voters, usual=usual))
        deadline, halfway = time.monotonic() + seconds, time.monotonic() + seconds / 2
        rejoining: asyncio.Task[None] | None = None
        while time.monotonic() < deadline:
            report.during.append(await leader.ask("commit 2 1"))
            if rejoining is None and time.monotonic() > halfway:
                rejoining = asyncio.create_task(_restart(report, voter=follower))
        if rejoining is not None:
            await rejoining
        statuses = {voter.name: await voter.ask("status") for voter in voters}
        watch.cancel()
        report.attempts = dict(storm.attempts)
        report.terms = (term, max(status["term"] for status in statuses.values()))
        report.leaders = (leader.name, str(statuses[leader.name]["leader_id"]))
        report.counters = {name: status["counters"] for name, status in statuses.items()}
    finally:
        if attackers is not None:
            attackers.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attackers
        for voter in voters:
            await voter.kill()
    return report


async def _restart(report: Report, *, voter: Voter) -> None:
    """Killed, started, and following the leader again."""
    await voter.kill()
    await voter.start()
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * REJOIN_S_MAX:
        if (await voter.ask("status"))["leader_id"] is not None:
            report.rejoined_s = round(time.monotonic() - begun, 2)
            return
        await asyncio.sleep(0.05)


async def _watch(report: Report, *, storm: Assault, voters: list[Voter], usual: dict[str, int]) -> None:
    while True:
        await asyncio.sleep(0.2)
        report.holding_max = max(report.holding_max, storm.holding)
        for voter in voters:
            with contextlib.suppress(OSError, ValueError):
                report.descriptors_max = max(report.descriptors_max, descriptor_count(_pid(voter)))
                grown_bytes = resident_bytes(_pid(voter)) - usual[voter.name]
                report.growth_bytes_max = max(report.growth_bytes_max, grown_bytes)


def _pid(voter: Voter) -> int:
    assert voter.process is not None
    return voter.process.pid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--connections", type=int, default=5_000, help="held beside the attacks, or tried to be")
    parser.add_argument("--per-s", type=int, default=500, help="new connections of that kind a second")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = asyncio.run(
            assault(
                seconds=chosen.seconds,
                connections=chosen.connections,
                per_s=chosen.per_s,
                directory=Path(temporary),
            )
        )
    print(f"attempts              {sum(report.attempts.values())}, of which {report.attempts}")
    print(f"commit before         p50 {report.before['p50_ms']} ms, p99 {report.before['p99_ms']} ms")
    worst_ms = max(float(window["p99_ms"] or 0) for window in report.during)
    print(f"commit during         p50 {report.p50_ms} ms, p99 {report.p99_ms} ms, p99 of the worst 2 s {worst_ms} ms")
    print(f"term before, after    {report.terms}, leader {report.leaders}")
    print(
        f"descriptors at most   {report.descriptors_max} of one voter, {report.holding_max} connections attempted at once"
    )
    print(f"memory grew by        {report.growth_bytes_max / (1 << 20):.1f} MiB at most")
    print(f"killed voter back     after {report.rejoined_s} s")
    for name, counters in report.counters.items():
        print(f"{name:21} {json.dumps({key: count for key, count in counters.items() if count})}")
    for fault in report.faults():
        print(f"BROKEN: {fault}")
    return 1 if report.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
