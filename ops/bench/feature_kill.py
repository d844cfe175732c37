"""The app is killed at random moments, with spool: is all there that a commit was reported for, and is nothing counted twice?

    python -m ops.bench.feature_writes kill --rounds 200

A child writes keys, each once, and one key again and again, into real Redis through a spool; it says when a commit that took
them has returned; it dies by SIGKILL, often just after a batch was stored and before it was known to be. The next child
finds the spool. After every ten deaths one drains it, and the judge compares, exactly:

- every key of which the child said that it was committed is in the store;
- the key written again and again has at least the value last committed;
- the store counted as many entries as there are distinct keys in it: one more, and some batch counted twice.

The judge is shown to judge with `--mutant`: `unmarked` (the store does not recognise a batch), `renumbered` (what comes back
from disk is sent under a new number), `undurable` (a commit is reported that was not made).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from edge_client.adapters.redis_features import RedisFeatureStore
from edge_client.adapters.sqlite_spool import SqliteSpool
from edge_client.adapters.system_clock import SystemClock
from edge_client.core.generation import WriteBehindConfig
from edge_client.protocol.feature_classes import FeatureClass, WhenFull
from edge_client.protocol.features import Entry, writer_of
from edge_client.runtime.feature_ports import Batch, SpooledBatch, SpoolPart
from edge_client.runtime.feature_writer import FeatureWriter
from tests.support.servers import start_redis

DEATHS_A_JUDGEMENT: Final = 10
MUTANTS: Final = ("unmarked", "renumbered", "undurable")
HOUR_MS: Final = 3_600_000
ONCE: Final = FeatureClass(name="once", spool=True, flush_ms=20, expire_ms=HOUR_MS, shards=8, when_full=WhenFull.BLOCK)
AGAIN: Final = FeatureClass(
    name="again", spool=True, flush_ms=20, expire_ms=HOUR_MS, shards=8, when_full=WhenFull.BLOCK
)
NUMBERS_A_LIFE: Final = 1_000_000


class LateStore(RedisFeatureStore):
    """Its answers take a while, so that many deaths fall between what was stored and what is known to be."""

    def __init__(self, url: str, *, rng: random.Random, mutant: str | None) -> None:
        super().__init__(url, region="kill")
        self._rng = rng
        self._mutant = mutant

    async def put_batch(self, batch: Batch) -> int:
        if self._mutant == "unmarked":
            batch = replace(batch, pipe=f"{self._rng.getrandbits(64):x}")
        counted = await super().put_batch(batch)
        await asyncio.sleep(self._rng.random() * 0.04)
        return counted


class MutantSpool(SqliteSpool):
    def __init__(self, path: Path, *, mutant: str | None, life: int) -> None:
        super().__init__(path)
        self._mutant = mutant
        self._life = life

    async def open(self) -> tuple[SpooledBatch, ...]:
        found = await super().open()
        if self._mutant != "renumbered":
            return found
        return tuple(replace(batch, pipe=f"{self._life}>{batch.pipe}") for batch in found)

    async def commit(self, parts: Sequence[SpoolPart], *, done: Sequence[tuple[str, int]]) -> None:
        if self._mutant == "undurable":
            parts = ()
        await super().commit(parts, done=[(pipe.rpartition(">")[2], sequence) for pipe, sequence in done])

    async def read(self, *, pipe: str, sequence: int) -> list[tuple[bytes, int]]:
        return await super().read(pipe=pipe.rpartition(">")[2], sequence=sequence)


async def child(*, url: str, spool: Path, life: int, mutant: str | None, drain: bool) -> None:
    """Write until killed; or bring what is on disk to the store, and end."""
    rng = random.Random(life)
    store = LateStore(url, rng=rng, mutant=mutant)
    writer = FeatureWriter(
        store=store,
        clock=SystemClock(),
        rng=rng,
        edge_id="edge",
        life_id=f"life{life}",
        config=WriteBehindConfig(spool_bytes_max=1 << 28, batch_count_max=600),
        spool=MutantSpool(spool, mutant=mutant, life=life),
        commit_ms=20,
    )
    await writer.open()
    running = asyncio.create_task(writer.run())
    await asyncio.sleep(0)
    if drain:
        assert await writer.flush(timeout_ms=60_000)
        assert await writer.close() == 0
        await running
        await store.close()
        return
    number = life * NUMBERS_A_LIFE
    end_unix_ms = time.time_ns() // 1_000_000 + HOUR_MS
    writer_id = writer_of("edge", life_id=str(life))
    say(f"started {number}")

    async def put() -> None:
        nonlocal number
        while True:
            for _ in range(rng.randrange(1, 80)):
                # Said before it is put: what the judge must look for has no gap.
                stamp = (time.time_ns() // 1_000_000 << 20) + number % NUMBERS_A_LIFE
                entry = Entry(b"%d" % (number + 1), stamp, writer_id, end_unix_ms)
                number += 1
                assert writer.put(ONCE, f"once:{number}", entry)
                assert writer.put(AGAIN, "again:1", entry)
            await asyncio.sleep(rng.random() * 0.004)

    async def report() -> None:
        while True:
            await asyncio.sleep(rng.random() * 0.1)  # most commits come by themselves
            through = number
            assert await writer.wait_spooled()
            say(f"committed {through}")

    await asyncio.gather(put(), report(), running)


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


@dataclass
class Judged:
    deaths: int = 0
    committed: int = 0
    present: int = 0
    counted: int = 0
    lost: list[int] = field(default_factory=list)
    doubled: int = 0
    stale: int = 0

    @property
    def faults(self) -> list[str]:
        faults = [f"{len(self.lost)} committed entries were lost: {self.lost[:5]}"] if self.lost else []
        faults += [f"{self.doubled} entries were counted twice"] if self.doubled else []
        return faults + ([f"{self.stale} times a key had an older value than was committed"] if self.stale else [])


async def judge(url: str, committed: dict[int, int], judged: Judged) -> None:
    """Look at what is in the store after a drain; `committed` says through which number each life was."""
    store = RedisFeatureStore(url, region="kill")
    present = 0
    for life, through in committed.items():
        first, ahead = life * NUMBERS_A_LIFE + 1, 0
        # What was put after the last report may be there as well: look on until a whole thousand is not.
        for start in range(first, first + NUMBERS_A_LIFE, 500):
            numbers = range(start, start + 500)
            entries = await store.find_many(ONCE, [f"once:{number}" for number in numbers])
            held = [number for number, entry in zip(numbers, entries, strict=True) if entry is not None]
            present += len(held)
            judged.lost += [number for number in sorted(set(numbers) - set(held)) if number <= through]
            ahead = 0 if held or start <= through else ahead + 1
            if ahead == 4:
                break
        judged.committed += max(0, through - life * NUMBERS_A_LIFE)
    newest = max((through for life, through in committed.items() if through > life * NUMBERS_A_LIFE), default=0)
    (again,) = await store.find_many(AGAIN, ["again:1"])
    judged.stale += newest > 0 and (again is None or again.value is None or int(again.value) < newest)
    counted = await store.counted(ONCE.name)
    judged.present += present
    judged.counted += counted
    judged.doubled += max(0, counted - present)
    assert counted >= present, "the store holds what it did not count: the judge is wrong"
    await store.close()


def one_life(command: list[str], *, rng: random.Random) -> int:
    """Let a child live for a while and kill it; the number through which it said that all was committed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first.startswith(b"started "):
            process.kill()
            raise RuntimeError("the child did not start")
        through = int(first.split()[1])
        time.sleep(rng.random() * 0.5)
        os.kill(process.pid, signal.SIGKILL)
        for line in process.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                through = int(line.split()[1])
        return through


async def main(*, rounds: int, seed: int, mutant: str | None = None) -> int:
    """Exit code 0 if nothing was lost or counted twice."""
    judged = await judgement(rounds=rounds, seed=seed, mutant=mutant)
    print(
        f"{judged.deaths} deaths by SIGKILL: {judged.committed} entries reported as committed, {judged.present} in the store,"
        f" {judged.counted} counted, {len(judged.lost)} lost, {judged.doubled} counted twice"
    )
    for fault in judged.faults:
        print(f"  {fault}")
    return 1 if judged.faults else 0


async def judgement(*, rounds: int, seed: int, mutant: str | None = None) -> Judged:
    """So many deaths, judged."""
    judged, rng = Judged(), random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, start_redis(Path(directory)) as server:
        life = 0
        while judged.deaths < rounds:
            spool = Path(directory) / f"spool-{judged.deaths}.db"
            command = [sys.executable, "-m", "ops.bench.feature_kill", "--url", server.url, "--spool", str(spool)]
            command += [] if mutant is None else ["--mutant", mutant]
            committed: dict[int, int] = {}
            for _ in range(min(DEATHS_A_JUDGEMENT, rounds - judged.deaths)):
                life += 1
                committed[life] = await asyncio.to_thread(one_life, [*command, "--life", str(life)], rng=rng)
                judged.deaths += 1
            life += 1
            draining = [*command, "--life", str(life), "--drain"]
            await asyncio.to_thread(subprocess.run, draining, check=True, timeout=120)
            await judge(server.url, committed, judged)
            server.flush()
    return judged


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--mutant", choices=MUTANTS)
    parser.add_argument("--drain", action="store_true")
    given = parser.parse_args()
    asyncio.run(child(url=given.url, spool=given.spool, life=given.life, mutant=given.mutant, drain=given.drain))
