"""What mutual TLS costs: commits of three voters on this machine with it and without it, in turns.

python -m ops.bench.raft_tls [--rounds 4] [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from ops.bench.raft_cluster import settled_leader, voters_in
from ops.bench.raft_strangers import give_certificates

KINDS = ("plain", "tls")
LOADS = {"1 in flight": 1, "64 in flight": 64}


async def one_round(directory: Path, *, kind: str, seconds: float) -> dict[str, dict[str, Any]]:
    voters = voters_in(directory)
    if kind == "tls":
        give_certificates(directory / "certificates", voters=voters)
    try:
        for voter in voters:
            await voter.start()
        leader = await settled_leader(voters)
        await leader.ask("commit 1 8")
        return {load: await leader.ask(f"commit {seconds} {count}") for load, count in LOADS.items()}
    finally:
        for voter in voters:
            await voter.kill()


async def main(*, rounds: int, seconds: float) -> None:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as temporary:
                for load, answer in (await one_round(Path(temporary), kind=kind, seconds=seconds)).items():
                    found.setdefault((load, kind), []).append(answer)
    print(f"median of {rounds} rounds of {seconds} s {'':8} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for load in LOADS:
        for kind in KINDS:
            per_s, p50, p99 = (
                statistics.median(float(answer[name]) for answer in found[load, kind])
                for name in ("per_s", "p50_ms", "p99_ms")
            )
            print(f"commit, {load:14} {kind:14} {per_s:8.0f} {p50:8.3f} {p99:8.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3)
    chosen = parser.parse_args()
    asyncio.run(main(rounds=chosen.rounds, seconds=chosen.seconds))
