"""All voters killed at once, again and again: is everything there that was acknowledged, and does everybody start?

    python -m ops.bench.raft_kill --rounds 100

Half of the rounds strike at any moment; a quarter while a voter replaces its log by a snapshot (`snapshot.written` or
`journal.new` is there), a quarter while a follower receives one. Ends with exit code 1 if anything was lost, invented or
doubled, or if a voter did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from ops.bench.raft_history import Operation, faults_of_list
from ops.bench.raft_servers import Client, Cluster, LostError, RefusedError, command

KINDS: Final = ("any", "compaction", "any", "transfer")
CALLERS: Final = 16
BALLAST_BYTES: Final = 512 << 10
BALLAST_COUNT: Final = 8
"""Makes the snapshot large enough to be struck while it is written."""
PATIENCE_S: Final = 8.0


class Striker(threading.Thread):
    """Kills every voter as soon as one of the files is there, and a little later; or when patience is at its end."""

    def __init__(self, cluster: Cluster, *, paths: list[Path], delay_s: float, patience_s: float) -> None:
        super().__init__(daemon=True)
        self._pids = [server.pid for server in cluster.servers.values()]
        self._paths = [str(path) for path in paths]
        self._delay_s = delay_s
        self._patience_s = patience_s
        self.seen = False
        self.still_there = False

    def run(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline and not self.seen:
            self.seen = any(os.path.exists(path) for path in self._paths)  # noqa: PTH110 - as fast as can be
            time.sleep(0.0001)
        if self.seen:
            time.sleep(self._delay_s)
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        self.still_there = any(os.path.exists(path) for path in self._paths)  # noqa: PTH110


class Round:
    def __init__(self, cluster: Cluster, *, number: int, rng: random.Random) -> None:
        self.kind = KINDS[number % len(KINDS)]
        self.key = f"round-{number}"
        self.operations: list[Operation] = []
        self.struck_inside = self.struck = False
        self._cluster = cluster
        self._rng = rng
        self._value = number * 1_000_000
        self._stopping = False

    async def run(self) -> None:
        """Nobody runs any more."""
        leader = await self._cluster.leader()
        client = await Client.connect(self._cluster.servers[leader].port)
        callers = asyncio.gather(*(self._caller(client) for _ in range(CALLERS)))
        striker = await self._striker(leader)
        striker.start()
        while striker.is_alive():
            await asyncio.sleep(0.01)
        self._stopping = True
        await callers
        client.close()
        for server in self._cluster.servers.values():
            server.collect()
        self.struck, self.struck_inside = striker.seen, striker.still_there

    async def _striker(self, leader: str) -> Striker:
        cluster, rng = self._cluster, self._rng
        directories = {name: server.data_dir for name, server in cluster.servers.items()}
        if self.kind == "any":
            return Striker(cluster, paths=[], delay_s=0, patience_s=rng.uniform(0.1, 1.0))
        if self.kind == "compaction":
            paths = [path / name for path in directories.values() for name in ("snapshot.written", "journal.new")]
            return Striker(cluster, paths=paths, delay_s=rng.uniform(0, 0.03), patience_s=PATIENCE_S)
        follower = rng.choice([name for name in cluster.servers if name != leader])
        cluster.servers[follower].kill()
        before = len(self.operations)
        while len(self.operations) < before + 900:  # well beyond two compactions
            await asyncio.sleep(0.02)
        cluster.servers[follower].start()
        paths = [directories[follower] / "snapshot.received"]
        return Striker(cluster, paths=paths, delay_s=rng.uniform(0, 0.08), patience_s=PATIENCE_S)

    async def _caller(self, client: Client) -> None:
        while not self._stopping:
            self._value += 1
            operation = Operation(client=0, action="append", key=self.key, value=self._value, begun=time.monotonic())
            self.operations.append(operation)
            try:
                answer = await client.call("propose", command("append", self.key, operation.value), 2_000, timeout_s=3)
            except (LostError, RefusedError):
                return
            if answer[0] == "committed":
                operation.status, operation.found, operation.ended = "ok", answer[4]["length"], time.monotonic()
            elif answer[0] == "not_leader":
                operation.status = "failed"
            await asyncio.sleep(self._rng.uniform(0.002, 0.01))


async def _read(cluster: Cluster, key: str) -> Any:
    client = await Client.connect(cluster.servers[await cluster.leader()].port)
    answer: list[Any] = []
    try:
        for _ in range(20):
            answer = await client.call("read", key, 2_000)
            if answer[0] == "value":
                return answer[2] or []
            await asyncio.sleep(0.1)
        raise LostError(str(answer))
    finally:
        client.close()


async def main(*, rounds: int, seed: int, directory: Path) -> list[str]:
    rng = random.Random(seed)
    faults: list[str] = []
    done: Counter[str] = Counter()
    acknowledged = unknown_there = 0
    finals: dict[str, list[int]] = {}
    cluster = Cluster(directory, proxied=False, compaction_min_entries=200, snapshot_part_bytes=1 << 16)
    try:
        await cluster.open()
        leader = await cluster.leader()
        client = await Client.connect(cluster.servers[leader].port)
        for number in range(BALLAST_COUNT):
            ballast = command("put", f"ballast-{number}", rng.randbytes(BALLAST_BYTES))
            assert (await client.call("propose", ballast, 5_000))[0] == "committed"
        client.close()
        for number in range(rounds):
            one = Round(cluster, number=number, rng=rng)
            await one.run()
            for server in cluster.servers.values():
                server.start()
            done[one.kind] += 1
            done[f"{one.kind}, file there"] += one.struck
            done[f"{one.kind}, file left behind"] += one.struck_inside
            final = finals[one.key] = await _read(cluster, one.key)
            faults += [f"round {number} ({one.kind}): {fault}" for fault in faults_of_list(one.operations, final=final)]
            different = await cluster.equal()
            if different is not None:
                faults.append(f"round {number} ({one.kind}): {different}")
            before = f"round-{number - 1}"
            if before in finals and await _read(cluster, before) != finals[before]:
                faults.append(f"round {number}: {before} has changed")
            acknowledged += sum(each.status == "ok" for each in one.operations)
            unknown_there += sum(each.status == "unknown" and each.value in set(final) for each in one.operations)
            if (number + 1) % 10 == 0:
                print(f"{number + 1} rounds, {acknowledged} acknowledged, {len(faults)} faults", flush=True)
        for key, final in finals.items():
            if await _read(cluster, key) != final:
                faults.append(f"{key} has changed by the end")
        print(f"struck: {dict(done)}")
        print(f"{acknowledged} acknowledged, 0 may be missing; {unknown_there} unanswered ones were there, as they may")
    except TimeoutError as error:
        faults.append(str(error))
    finally:
        await cluster.close()
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="raft-kill-"))
    found = asyncio.run(main(rounds=chosen.rounds, seed=chosen.seed, directory=where))
    for fault in found[:20]:
        print(f"VIOLATION: {fault}")
    print(f"{len(found)} violations; {f'data and logs are in {where}' if found else 'every voter started every time'}")
    if not found:
        shutil.rmtree(where)
    sys.exit(1 if found else 0)
