"""One voter of the replicated log as a process of its own, told what to do line by line; for the benchmarks beside it.

    python ops/bench/raft_voter.py <config as JSON>

`status`, `commit <seconds> <in flight>`, `read <seconds> <in flight>` and `once` are answered by one JSON object each.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from consistency_service.adapters.raft_log import RaftLog, RaftLogConfig, RaftTls
from consistency_service.core.outcomes import Outcome
from consistency_service.runtime.ports import Committed

COMMAND = bytes(200)


class CountingMachine:
    """A state machine that counts."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, *, index: int, command: bytes) -> Outcome:
        self.count += 1
        return Outcome(revision=self.count)

    def snapshot(self) -> bytes:
        return self.count.to_bytes(8, "big")

    def restore(self, *, state: bytes, index: int) -> None:
        self.count = int.from_bytes(state, "big")


async def load(call: Callable[[], Awaitable[Any]], *, seconds: float, in_flight: int) -> dict[str, Any]:
    """Each of `in_flight` callers asks again as soon as it was answered."""
    taken: Counter[int] = Counter()  # by 10 us: sorting a million numbers at the end would stall the node
    failed = 0
    end, cpu = time.monotonic() + seconds, time.process_time()

    async def caller() -> None:
        nonlocal failed
        while (begun := time.monotonic()) < end:
            if isinstance(await call(), Committed):
                taken[int((time.monotonic() - begun) * 100_000)] += 1
            else:
                failed += 1
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    count = taken.total()
    cpu_us = round((time.process_time() - cpu) * 1e6 / max(1, count))
    found = {"p50_ms": at_share(taken, share=0.5), "p99_ms": at_share(taken, share=0.99)}
    return {"per_s": round(count / seconds), "failed": failed, "cpu_us": cpu_us, **found}


def at_share(taken: Counter[int], *, share: float) -> float | None:
    """Milliseconds within which this share was answered."""
    left = share * taken.total()
    for bucket in sorted(taken):
        left -= taken[bucket]
        if left <= 0:
            return bucket / 100
    return None


async def main(settings: dict[str, Any]) -> None:
    settings["data_dir"] = Path(settings["data_dir"])
    if settings.get("tls") is not None:
        settings["tls"] = RaftTls(**{name: Path(path) for name, path in settings["tls"].items()})
    log = RaftLog(RaftLogConfig(**settings))
    await log.start(CountingMachine())
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while words := (await reader.readline()).decode().split():
        match words:
            case ["status"]:
                status = log.status()
                answer = {"leading": status.leading, "settled": status.term_settled, "term": status.term}
                answer |= {"leader_id": status.leader_id, "counters": log.counters()}
            case ["once"]:
                committed = isinstance(await log.propose(COMMAND, timeout_ms=1_000), Committed)
                answer = {"committed": committed, "at_s": time.monotonic()}
            case ["resign"]:
                log.resign()
                answer = {"at_s": time.monotonic()}
            case ["commit", seconds, in_flight]:
                answer = await load(
                    lambda: log.propose(COMMAND, timeout_ms=2_000), seconds=float(seconds), in_flight=int(in_flight)
                )
            case ["read", seconds, in_flight]:
                answer = await load(
                    lambda: log.barrier(timeout_ms=2_000), seconds=float(seconds), in_flight=int(in_flight)
                )
            case _:
                answer = {"error": words}
        print(json.dumps(answer), flush=True)
    await log.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main(json.loads(sys.argv[1])))
