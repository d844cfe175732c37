"""How long nothing commits after the leader is gone: killed, paused, or handing over; and whether load alone costs it.

    python ops/bench/raft_failover.py [--rounds 20] [--how kill|pause|resign]
    python ops/bench/raft_failover.py --how load [--seconds 60]

Counted from the signal to the first commit at whoever leads next, polled every few milliseconds. A killed leader's
connections break, and the others ask around at once; a paused one says nothing, like a machine that lost its power, and
the election timeouts decide. Load is 256 proposals in flight beside one process for each core that only counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
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


async def under_load(*, seconds: float, directory: Path) -> None:
    voters = voters_in(directory)
    burners: list[asyncio.subprocess.Process] = []
    try:
        for voter in voters:
            await voter.start()
        leader = await settled_leader(voters)
        before = await leader.ask("status")
        burn = (sys.executable, "-c", "while True: pass")
        burners += [await asyncio.create_subprocess_exec(*burn) for _ in range(os.cpu_count() or 1)]
        found = await leader.ask(f"commit {seconds} 256", timeout_s=seconds + 30)
        after = [await voter.ask("status") for voter in voters]
        elections = max(status["term"] for status in after) - before["term"]
        trials = [status["counters"]["trials"] for status in after]
        print(f"load: {seconds:.0f} s, {found['per_s']} commits/s, p99 {found['p99_ms']} ms, failed {found['failed']}")
        print(f"elections {elections}, trials {trials}, stalls {[status['counters']['stalls'] for status in after]}")
    finally:
        for burner in burners:
            burner.kill()
            await burner.wait()
        for voter in voters:
            await voter.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--how", choices=("kill", "pause", "resign", "load"), default="kill")
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.how == "load":
            asyncio.run(under_load(seconds=arguments.seconds, directory=Path(temporary)))
        else:
            asyncio.run(main(rounds=arguments.rounds, how=arguments.how, directory=Path(temporary)))
