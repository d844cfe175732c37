"""Commits and linearizable reads of three voters on this machine, in process at the leader and at a follower.

python ops/bench/raft_commit.py [--seconds 3] [--set durability=process] [--set sync_inline_max_us=0]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from raft_cluster import settled_leader, voters_in


async def main(*, seconds: float, directory: Path, settings: dict[str, Any]) -> None:
    voters = voters_in(directory, **settings)
    try:
        for voter in voters:
            await voter.start()
        leader = await settled_leader(voters)
        await leader.ask("commit 1 8")
        print(f"{'':34} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'failed':>7} {'cpu us':>7}")
        follower = next(voter for voter in voters if voter is not leader)
        for what, voter, line in (
            ("commit, 1 in flight", leader, "commit {} 1"),
            ("commit, 64 in flight", leader, "commit {} 64"),
            ("read at the leader, 1 in flight", leader, "read {} 1"),
            ("read at the leader, 64 in flight", leader, "read {} 64"),
            ("read at a follower, 1 in flight", follower, "read {} 1"),
            ("read at a follower, 64 in flight", follower, "read {} 64"),
        ):
            found = await voter.ask(line.format(seconds))
            p50, p99 = found["p50_ms"] or 0, found["p99_ms"] or 0
            print(
                f"{what:34} {found['per_s']:8} {p50:8.3f} {p99:8.3f} {found['failed']:7} {found['cpu_us']:7}",
                flush=True,
            )
        print(json.dumps((await leader.ask("status"))["counters"]))
    finally:
        for voter in voters:
            await voter.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of RaftLogConfig")
    parser.add_argument("--directory", type=Path, help="on the disk to be measured; a temporary one by default")
    arguments = parser.parse_args()
    chosen: dict[str, Any] = {}
    for pair in arguments.set:
        name, _, value = pair.partition("=")
        chosen[name] = int(value) if value.isdigit() else value
    with tempfile.TemporaryDirectory(dir=arguments.directory) as temporary:
        asyncio.run(main(seconds=arguments.seconds, directory=Path(temporary), settings=chosen))
