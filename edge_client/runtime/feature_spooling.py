"""Brings what is queued to disk every so often, and gives back what an earlier life left there.

A disk that fails is tried again, and then given up for this life: features go on from memory. What lies on it then is found
by the next life, and may be counted a second time; that is said in the log, and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Final

from edge_client.core.flush_plan import block
from edge_client.core.generation import Generation, Row, newer
from edge_client.errors import FeatureCorruptError, FeatureSpoolError
from edge_client.protocol.feature_classes import FeatureClass, FeatureCodec
from edge_client.protocol.feature_codec import decode_block
from edge_client.runtime.feature_ports import Spool, SpooledBatch, SpoolPart
from edge_client.runtime.signals import Pulse, Signal

if TYPE_CHECKING:
    from edge_client.core.write_behind import WriteBehind
    from edge_client.runtime.ports import Clock

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
PART_COUNT_MAX: Final = 1_000
FAILURES_MAX: Final = 10
"""So many commits in a row that failed, and the disk is given up."""
FAILED_PAUSE_NS: Final = 500 * MS


class Spooling:
    """The driver of one spool. All calls of the queue are made under its lock."""

    def __init__(self, *, queue: WriteBehind, lock: Lock, spool: Spool, clock: Clock, commit_ms: int) -> None:
        self._queue = queue
        self._lock = lock
        self._spool = spool
        self._clock = clock
        self._commit_ns = commit_ms * MS
        self._begun = self._ended = 0
        self._failures = 0
        self._asked = False
        self.wake = Signal(asyncio.get_running_loop())
        self.committed = Pulse()
        self.counters: Counter[str] = Counter()

    async def open(self, classes: Mapping[str, FeatureClass]) -> None:
        """Queue what is on disk, before anything else is put. Raises `FeatureSpoolError`."""
        found = await self._spool.open()
        self.counters["spool_set_aside"] = self._spool.set_aside
        for batch in found:
            self._recover(batch, classes)
        if found:
            _log.warning("spool_recovered batches=%d entries=%d", len(found), sum(batch.count for batch in found))

    async def run(self) -> None:
        """Commit every `commit_ms` while there is something to; at once when a sealed batch waits for it."""
        due_ns = self._clock.now_ns()
        while True:
            with self._lock:
                lanes = self._queue.lanes.values()
                idle, urgent = self._queue.spool.idle(lanes), self._queue.spool.urgent(lanes)
            if not self._asked and (idle or (not urgent and self._clock.now_ns() < due_ns)):
                await self.wake.wait(clock=self._clock, deadline_ns=None if idle else due_ns)
                continue
            due_ns = self._clock.now_ns() + self._commit_ns
            if not await self._commit():
                await self._clock.sleep_until(self._clock.now_ns() + FAILED_PAUSE_NS)

    async def wait(self, *, deadline_ns: int | None) -> bool:
        """Return when all that was accepted before the call is on disk, or is not spooled; False at the deadline."""
        target = self._begun + 1
        while self._ended < target and self._queue.spool.enabled:
            if deadline_ns is not None and self._clock.now_ns() >= deadline_ns:
                return False
            self._asked = True
            self.wake.set()
            await self.committed.wait(clock=self._clock, deadline_ns=deadline_ns)
        return self._queue.spool.enabled

    async def load(self, generation: Generation) -> dict[str, Row]:
        """The rows of a batch that is on disk alone; those that are damaged are counted as lost. Raises `FeatureSpoolError`."""
        rows: dict[str, Row] = {}
        lost_count = 0
        for payload, count in await self._spool.read(pipe=generation.pipe, sequence=generation.sequence):
            try:
                newer(rows, decode_block(payload))
            except FeatureCorruptError as error:
                self.counters["spool_corrupt"] += 1
                lost_count += count
                _log.error("spool_part_damaged pipe=%s sequence=%d: %s", generation.pipe, generation.sequence, error)
            await asyncio.sleep(0)
        with self._lock:
            self._queue.loaded(generation, count=len(rows), lost_count=lost_count)
        return rows

    async def close(self) -> None:
        await self._spool.close()

    async def _commit(self) -> bool:
        self._asked = False
        self._begun += 1
        number = self._begun
        with self._lock:
            taken = self._queue.spool.take(self._queue.lanes.values())
            done = self._queue.spool.take_forgettable()
        parts: list[SpoolPart] = []
        sizes: list[int] = []
        try:
            for generation, rows in taken:
                made = await self._parts(generation, rows)
                parts += made
                sizes.append(sum(len(part.payload) for part in made))
            if parts or done:
                await self._spool.commit(parts, done=done)
                self.counters["spool_commits"] += 1
        except BaseException as error:
            with self._lock:
                for generation, rows in taken:
                    self._queue.spool.failed(generation, rows)
                self._queue.spool.keep_forgettable(done)
            if not isinstance(error, FeatureSpoolError):
                raise
            self._failed(error)
            return False
        self._failures = 0
        self._ended = number
        self.counters["spooled"] += sum(part.count for part in parts)
        with self._lock:
            for (generation, _), size_bytes in zip(taken, sizes, strict=True):
                self._queue.spooled(generation, size_bytes=size_bytes)
        self.committed.fire()
        return True

    async def _parts(self, generation: Generation, rows: dict[str, Row]) -> list[SpoolPart]:
        parts: list[SpoolPart] = []
        items = iter(rows.items())
        while chunk := dict(islice(items, PART_COUNT_MAX)):
            try:
                payload = block(chunk, codec=FeatureCodec.LZ4)
            except Exception as error:  # whatever it is: these are not kept on disk, all others are
                self.counters["spool_unencodable"] += len(chunk)
                _log.error("spool_unencodable class=%s: %s", generation.feature_class.name, error)
                continue
            parts.append(
                SpoolPart(
                    edge_id=generation.edge_id,
                    pipe=generation.pipe,
                    sequence=generation.sequence,
                    class_name=generation.feature_class.name,
                    shards=generation.feature_class.shards,
                    payload=payload,
                    count=len(chunk),
                    expires_at_unix_ms=generation.expires_at_unix_ms,
                )
            )
            await asyncio.sleep(0)
        return parts

    def _failed(self, error: FeatureSpoolError) -> None:
        self._failures += 1
        self.counters["spool_failed"] += 1
        _log.warning("spool_failed attempt=%d: %s", self._failures, error)
        if self._failures < FAILURES_MAX:
            return
        self.counters["spool_given_up"] += 1
        _log.error(
            "spool_given_up: features are queued in memory alone; what is on disk may be counted again: %s", error
        )
        with self._lock:
            self._queue.spool.disable(self._queue.lanes.values())
        self.committed.fire()

    def _recover(self, batch: SpooledBatch, classes: Mapping[str, FeatureClass]) -> None:
        known = classes.get(batch.class_name, FeatureClass(name="unknown"))
        try:
            feature_class = FeatureClass(
                name=batch.class_name, shards=batch.shards, codec=known.codec, flush_ms=known.flush_ms, spool=True
            )
        except ValueError as error:
            self.counters["spool_corrupt"] += 1
            self.counters["spool_lost"] += batch.count
            _log.error("spool_batch_damaged pipe=%s sequence=%d: %s", batch.pipe, batch.sequence, error)
            return
        with self._lock:
            self._queue.recovered(
                feature_class,
                edge_id=batch.edge_id,
                pipe=batch.pipe,
                sequence=batch.sequence,
                count=batch.count,
                spooled_bytes=batch.size_bytes,
                expires_at_unix_ms=batch.expires_at_unix_ms,
            )
