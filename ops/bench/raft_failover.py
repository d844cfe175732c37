"""How long nothing commits after the leader is gone: killed, paused, or handing over.

    python ops/bench/raft_failover.py [--rounds 20] [--how kill|pause|resign]

Counted from the signal to the first commit at whoever leads next, polled every few milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from raft_cluster import Voter, settled_leader, voters_in


async def next_commit_s(others: list[Voter]) -> float:
    async with asyncio.timeout(20):
        while True:
            for voter in others:
                answer = await voter.ask("once")
                if answer["committed"]:
                    return float(answer["at_s"])
            await asyncio.sleep(0.002)
    raise AssertionError


async def one_round(voters: list[Voter], *, how: str) -> float:
    leader = await settled_leader(voters)
    others = [voter for voter in voters if voter is not leader]
    for _ in range(5):
        await leader.ask("once")
    begun = time.monotonic()
    if how == "resign":
        begun = float((await leader.ask("resign"))["at_s"])
    else:
        leader.signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    taken_ms = (await next_commit_s(others) - begun) * 1_000
    if how == "kill":
        await leader.kill()
        await leader.start()
    elif how == "pause":
        leader.signal(signal.SIGCONT)
    await asyncio.sleep(1.0)
    return taken_ms


async def main(*, rounds: int, how: str, directory: Path) -> None:
    voters = voters_in(directory)
    try:
        for voter in voters:
            await voter.start()
        taken_ms = []
        for _ in range(rounds):
            with contextlib.suppress(TimeoutError):
                taken_ms.append(await one_round(voters, how=how))
        median, worst = statistics.median(taken_ms), max(taken_ms)
        print(f"{how}: {len(taken_ms)} of {rounds} rounds, median {median:.0f} ms, worst {worst:.0f} ms", flush=True)
        print(" ".join(f"{value:.0f}" for value in sorted(taken_ms)))
    finally:
        for voter in voters:
            await voter.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--how", choices=("kill", "pause", "resign"), default="kill")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(rounds=arguments.rounds, how=arguments.how, directory=Path(temporary)))
