"""Writes bulk features behind the application's back: takes them at once, and brings them to the store in batches.

`put`, `put_many` and `find` are for any thread and never wait. The rest belongs to one event loop, on which four small
drivers look at the same queue: one keeps time, one encodes, one sends, one brings to disk. Encoding goes by steps of some
tens of microseconds with a turn of the loop between them, because a flush must not be felt by whoever puts meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from random import Random
from typing import TYPE_CHECKING, Final

from edge_client.core.flush_plan import ShardCut, cut
from edge_client.core.generation import DeadLetter, Generation, Phase, Row, WriteBehindConfig
from edge_client.core.write_behind import WriteBehind
from edge_client.errors import (
    ClosedError,
    FeatureSpoolError,
    FeatureStoreRefusedError,
    FeatureStoreUnavailableError,
    FeatureValueError,
)
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.features import Entry
from edge_client.runtime.feature_ports import Batch, Block, FeatureStore, Spool
from edge_client.runtime.feature_spooling import Spooling
from edge_client.runtime.signals import Pulse, Signal

if TYPE_CHECKING:
    from edge_client.runtime.ports import Clock

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
TICK_NS: Final = 1_000 * MS
"""How often expiry is looked for while something is queued or kept."""
ROOM_POLL_S: Final = 0.05
DISPOSE_COUNT: Final = 512


class FeatureWriter:
    """One life's bulk writes. `run` is its driver; `open` comes before it where there is a spool, `close` after the last put."""

    def __init__(
        self,
        *,
        store: FeatureStore,
        clock: Clock,
        rng: Random,
        edge_id: str,
        life_id: str,
        config: WriteBehindConfig,
        spool: Spool | None = None,
        commit_ms: int = 100,
        given_up: Callable[[DeadLetter], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._queue = WriteBehind(edge_id=edge_id, pipe=life_id, config=config, rng=rng)
        self._spooling = (
            None
            if spool is None
            else Spooling(queue=self._queue, lock=self._lock, spool=spool, clock=clock, commit_ms=commit_ms)
        )
        self._given_up = given_up
        loop = asyncio.get_running_loop()
        self._wake, self._encodable, self._sendable = (Signal(loop) for _ in range(3))
        self._pulse = Pulse()
        self._room = threading.Condition()
        self._closed = False
        self._ended = asyncio.Event()
        self._running = False
        self.put: Callable[[FeatureClass, str, Row], bool] = self._putter()
        """Queue one write. False, and nothing is queued: there is no room, and the class says to wait for it. Any thread.

        Raises `FeatureQueueFullError` where the class says so, and `ClosedError`.
        """
        self.find: Callable[[FeatureClass, str], Entry | None] = self._queue.find
        """The newest of our own bulk writes of a key while it is queued or kept, expired or not. Any thread, no lock."""

    # ------------------------------------------------------------------------------------------------------ any thread

    def put_many(
        self,
        feature_class: FeatureClass,
        values: Mapping[str, bytes],
        *,
        stamp: int,
        writer: int,
        expires_at_unix_ms: int,
    ) -> int:
        """Queue writes that differ in key and value alone; one stamp does for them all, as the keys are distinct.

        How many were taken, in the order of `values`: all, unless there is no room and the class says to wait. Raises as `put`.
        """
        if self._closed:
            raise ClosedError("features are closed")
        queue = self._queue
        with self._lock:
            taken = queue.put_many(
                feature_class, values, stamp=stamp, writer=writer, expires_at_unix_ms=expires_at_unix_ms
            )
            if queue.eager:
                queue.eager = False
                self._wake.set()
        return taken

    def wait_for_room_in_thread(self) -> None:
        """Return when room may have been made, or soon; not on the event loop. Put again then. Raises `ClosedError`."""
        with self._room:
            self._room.wait(ROOM_POLL_S)
        if self._closed:
            raise ClosedError("features were closed while a write waited for room")

    def metrics(self) -> dict[str, int]:
        """What is queued now, and what became of everything so far, in entries unless the name says otherwise."""
        queue = self._queue
        with self._lock:
            oldest_at_ns = queue.lanes.oldest_at_ns()
            metrics = {
                "depth": queue.lanes.depth,
                "memory_bytes": queue.room.size_bytes,
                "spool_bytes": queue.spool.size_bytes,
                "oldest_ms": 0 if oldest_at_ns is None else max(0, self._clock.now_ns() - oldest_at_ns) // MS,
                **queue.counters(),
            }
        return metrics if self._spooling is None else metrics | dict(self._spooling.counters)

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The batches given up last, at most 64."""
        with self._lock:
            return tuple(self._queue.dead_letters)

    # -------------------------------------------------------------------------------------------------- the event loop

    async def open(self, classes: Mapping[str, FeatureClass] | None = None) -> None:
        """Take the spool, and queue what an earlier life left in it; before the first `put`. Nothing without a spool.

        Raises `FeatureSpoolTakenError` if another process has it, `FeatureSpoolError` if it cannot be used.
        """
        if self._spooling is not None:
            await self._spooling.open(classes or {})

    async def wait_for_room(self) -> None:
        """Return when room may have been made, or soon; put again then. Raises `ClosedError`."""
        await self._pulse.wait(clock=self._clock, deadline_ns=self._clock.now_ns() + TICK_NS)
        if self._closed:
            raise ClosedError("features were closed while a write waited for room")

    async def wait_spooled(self, *, timeout_ms: int | None = None) -> bool:
        """True when all that spooled classes accepted before the call is on disk; False at the timeout, or without a spool."""
        if self._spooling is None:
            return False
        return await self._spooling.wait(deadline_ns=self._deadline_ns(timeout_ms))

    async def flush(self, *, timeout_ms: int | None = None) -> bool:
        """True when all that was accepted before the call has left the queue: is stored, or was given up and counted.

        False if that took longer than `timeout_ms`; it goes on all the same.
        """
        with self._lock:
            awaited = self._queue.seal_all()
        self._wake.set()
        deadline_ns = self._deadline_ns(timeout_ms)
        while any(generation.phase is not Phase.DONE for generation in awaited):
            if deadline_ns is not None and self._clock.now_ns() >= deadline_ns:
                return False
            await self._pulse.wait(clock=self._clock, deadline_ns=deadline_ns)
        return True

    async def close(self, *, timeout_ms: int = 5_000) -> int:
        """Take no more, flush for at most `timeout_ms`, end `run`; how many entries were lost: neither stored nor on disk."""
        self._closed = True
        with self._room:
            self._room.notify_all()
        spooled = False
        if self._running:
            deadline_ns = self._clock.now_ns() + timeout_ms * MS
            spooled = await self.wait_spooled(timeout_ms=timeout_ms)
            await self.flush(timeout_ms=max(0, deadline_ns - self._clock.now_ns()) // MS)
            if spooled:
                await self.wait_spooled(timeout_ms=timeout_ms)  # what is stored is forgotten on disk
        with self._lock:
            lost = self._queue.unsafe_count()
        self._ended.set()
        if self._spooling is not None:
            await self._spooling.close()
        if lost:
            _log.error("features_lost entries=%d", lost)
        return lost

    async def run(self) -> None:
        """Flush what is due until `close`, or until cancelled; nothing of the queue is lost by that, and it may run again."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                drivers = [self._keep_time(), self._encode(), self._send()]
                if self._spooling is not None:
                    drivers.append(self._spooling.run())
                tasks = [group.create_task(driver) for driver in drivers]
                await self._ended.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._running = False

    def _putter(self) -> Callable[[FeatureClass, str, Row], bool]:
        """`put` as a closure: what it needs is a local variable, which is worth a tenth of its price."""
        queue, lock, wake, inner = self._queue, self._lock, self._wake.set, self._queue.put

        def put(feature_class: FeatureClass, key: str, entry: Row) -> bool:
            if self._closed:
                raise ClosedError("features are closed")
            with lock:
                taken = inner(feature_class, key, entry)
            if queue.eager:
                queue.eager = False
                wake()
            return taken

        return put

    async def _keep_time(self) -> None:
        while True:
            with self._lock:
                now_ns = self._clock.now_ns()
                self._queue.tick(now_ns=now_ns, unix_ms=self._clock.unix_ms())
                self._queue.eager = False
                deadline_ns = self._queue.next_deadline_ns()
                busy = bool(self._queue.room.size_bytes or self._queue.spool.size_bytes)
            self._stir()
            await self._dispose()
            if busy:
                deadline_ns = now_ns + TICK_NS if deadline_ns is None else min(deadline_ns, now_ns + TICK_NS)
            await self._wake.wait(clock=self._clock, deadline_ns=deadline_ns)

    async def _encode(self) -> None:
        while True:
            with self._lock:
                now_ns = self._clock.now_ns()
                generation = self._queue.departures.take_to_encode(now_ns=now_ns)
                retry_at_ns = self._queue.departures.retry_at_ns(now_ns=now_ns)
            if generation is None:
                await self._encodable.wait(clock=self._clock, deadline_ns=retry_at_ns)
                continue
            try:
                await self._make(generation)
            finally:
                with self._lock:
                    if generation.phase is Phase.ENCODING:
                        self._queue.returned(generation)
            self._stir()

    async def _make(self, generation: Generation) -> None:
        try:
            rows = generation.rows
            if rows is None:
                assert self._spooling is not None
                rows = await self._spooling.load(generation)
            feature_class = generation.feature_class
            steps = cut(rows, feature_class=feature_class, unix_ms=self._clock.unix_ms())
            cuts = await _by_turns(steps)
        except FeatureSpoolError as error:
            _log.error("spool_unreadable %r: %s", generation, error)
            with self._lock:
                self._queue.unreadable(generation)
            return
        except Exception as error:  # whatever it is: one batch that cannot be made must not stop all others
            self._refused(generation, error)
            return
        batch = Batch(
            edge_id=generation.edge_id,
            pipe=generation.pipe,
            sequence=generation.sequence,
            blocks=tuple(
                Block(
                    class_name=feature_class.name,
                    shard=each.shard,
                    shards=feature_class.shards,
                    marks=each.marks,
                    payload=each.payload,
                    count=each.count,
                    expires_at_unix_ms=each.expires_at_unix_ms,
                )
                for each in cuts
            ),
        )
        with self._lock:
            self._queue.encoded(generation, made=batch, live_count=sum(each.count for each in cuts))

    async def _send(self) -> None:
        while True:
            with self._lock:
                now_ns = self._clock.now_ns()
                generation = self._queue.departures.take_to_send(now_ns=now_ns)
                retry_at_ns = self._queue.departures.retry_at_ns(now_ns=now_ns)
            if generation is None:
                await self._sendable.wait(clock=self._clock, deadline_ns=retry_at_ns)
                continue
            try:
                counted = await self._store.put_batch(generation.made)
            except FeatureStoreUnavailableError as error:
                with self._lock:
                    if self._queue.departures.backoff.failures == 0:
                        _log.warning("feature_store_unavailable: %s", error)
                    self._queue.unavailable(generation, now_ns=self._clock.now_ns())
            except Exception as error:  # refused, or a mistake of ours: one batch must not stop all others
                self._refused(generation, error)
            else:
                with self._lock:
                    self._queue.stored(generation, counted=counted, unix_ms=self._clock.unix_ms())
                await self._dispose()
            finally:
                with self._lock:
                    if generation.phase is Phase.SENDING:
                        self._queue.returned(generation)
            self._wake.set()

    def _refused(self, generation: Generation, error: Exception) -> None:
        if not isinstance(error, (FeatureStoreRefusedError, FeatureValueError)):
            _log.error("feature_batch_failed %r", generation, exc_info=error)
        with self._lock:
            letter = self._queue.refused(generation, reason=str(error), now_ns=self._clock.now_ns())
        if letter is not None:
            _log.error("features_dead_lettered class=%s entries=%d: %s", letter.class_name, letter.count, error)
            self._given_up(letter)

    async def _dispose(self) -> None:
        """Take generations apart that nobody reads any longer, a little at a time: to free one at once takes milliseconds."""
        discarded: deque[dict[str, Row]] = self._queue.room.discarded
        while discarded:
            rows = discarded.popleft()
            while rows:
                for _ in range(min(len(rows), DISPOSE_COUNT)):
                    rows.popitem()
                await asyncio.sleep(0)

    def _stir(self) -> None:
        """Let every driver and every waiter look again."""
        self._encodable.set()
        self._sendable.set()
        if self._spooling is not None:
            self._spooling.wake.set()
        self._pulse.fire()
        with self._room:
            self._room.notify_all()

    def _deadline_ns(self, timeout_ms: int | None) -> int | None:
        return None if timeout_ms is None else self._clock.now_ns() + timeout_ms * MS


async def _by_turns(steps: Generator[None, None, tuple[ShardCut, ...]]) -> tuple[ShardCut, ...]:
    """What `steps` returns, with a turn of the loop between any two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            cuts: tuple[ShardCut, ...] = stop.value
            return cuts
        await asyncio.sleep(0)
