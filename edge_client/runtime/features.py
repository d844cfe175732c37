"""Features as an asyncio application sees them: `edge.features`.

    reading = await edge.features.get("user:17", staleness_max_ms=5_000)
    await edge.features.put("user:17", profile)        # critical: the store has it
    edge.features.put("track:9", embedding)            # bulk: queued, nothing to wait for

Reads go from memory over our own queued writes and the box's Redis to the regional store, and stop where the answer is
young enough. What each answer is worth is decided by the shelf; this module walks, and waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_client.core.announcements import Announcements, is_pattern
from edge_client.core.breaker import BreakerConfig
from edge_client.core.feature_cache import FeatureCache
from edge_client.core.feature_reading import FeatureReading, OnStale
from edge_client.core.freshness import Copy
from edge_client.core.generation import WriteBehindConfig
from edge_client.core.status import FeaturesStatus
from edge_client.errors import FeatureValueError
from edge_client.protocol.feature_codec import decode_value, encode_value
from edge_client.protocol.features import Entry, writer_of
from edge_client.protocol.stamps import HybridClock
from edge_client.runtime.feature_announcing import AnnouncedStore, FeatureAnnouncing
from edge_client.runtime.feature_copies import FeatureCopies
from edge_client.runtime.feature_fetch import FeatureFetch
from edge_client.runtime.feature_guard import Admission, Guard
from edge_client.runtime.feature_shelf import FeatureShelf
from edge_client.runtime.feature_walk import FeatureWalk
from edge_client.runtime.feature_writer import FeatureWriter
from edge_client.runtime.feature_writing import FeatureWriting, Sorted, check_key
from edge_client.runtime.signals import Signal

if TYPE_CHECKING:
    from random import Random
    from typing import Protocol

    from edge_client.config import EdgeConfig
    from edge_client.protocol.feature_classes import FeatureClass
    from edge_client.protocol.messages import FeatureObservations
    from edge_client.runtime.feature_ports import FeatureStore, FeatureTier, Held, Spool
    from edge_client.runtime.ports import Bus, Clock
    from edge_client.runtime.signals import Pulse

    class BlockingTier(Protocol):
        """The local tier for callers' own threads; raises `LocalTierError`."""

        def get(self, key: str) -> Held | None: ...

        def get_many(self, keys: list[str]) -> list[Held | None]: ...

        def close(self) -> None: ...


LOOK_NS: Final = 100_000_000
CLOSE_TIMEOUT_MS: Final = 1_000
"""How long `close` waits for what is queued; a spool keeps the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePorts:
    """What features stand on. Without a `tier` the store is asked for everything that is not in this process."""

    store: FeatureStore
    tier: FeatureTier | None = None
    blocking_tier: BlockingTier | None = None
    spool: Spool | None = None


class AsyncFeatures:
    """What `AsyncEdgeClient.features` is. Everything here belongs on the client's event loop; the blocking form uses the parts."""

    def __init__(
        self,
        ports: FeaturePorts,
        *,
        config: EdgeConfig,
        life_id: str,
        classes: Callable[[], Mapping[str, FeatureClass]],
        bus: Bus,
        subject: str,
        clock: Clock,
        rng: Random,
        pulse: Pulse,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.blocking_tier = ports.blocking_tier
        self._ports = ports
        self._clock = clock
        self._pulse = pulse
        self._used = asyncio.Event()
        wake = Signal(loop)
        stamps = HybridClock()
        writer_id = writer_of(config.edge_id, life_id=life_id)
        cache: FeatureCache[Copy] = FeatureCache(max(1, config.feature_memory_bytes_max))
        self._cache = cache
        self.copies = FeatureCopies(
            classes=classes,
            cache=cache,
            decode=decode_value,
            announcements=Announcements(writer=writer_id, stamps=stamps, rng=rng),
            stamps=stamps,
            writer=writer_id,
            clock=clock,
            rng=rng,
        )
        self._writer = FeatureWriter(
            store=AnnouncedStore(ports.store, copies=self.copies, wake=wake),
            clock=clock,
            rng=rng,
            edge_id=config.edge_id,
            life_id=life_id,
            config=WriteBehindConfig(
                bytes_max=config.feature_queue_bytes_max,
                spool_bytes_max=config.feature_spool_bytes_max if ports.spool is not None else 0,
            ),
            spool=ports.spool,
        )
        self.copies.find = self._writer.find
        store_guard, self.local_guard = (Guard(BreakerConfig(), clock=clock, rng=rng) for _ in range(2))
        self._fetch = FeatureFetch(
            copies=self.copies,
            store=ports.store,
            tier=ports.tier,
            store_guard=store_guard,
            local_guard=self.local_guard,
            clock=clock,
        )
        self.shelf = FeatureShelf(self.copies, clock=clock, refresh_soon=self._fetch.refresh_soon)
        self.walk = FeatureWalk(shelf=self.shelf, copies=self.copies, fetch=self._fetch, clock=clock)
        self.writing = FeatureWriting(
            copies=self.copies,
            fetch=self._fetch,
            store=ports.store,
            writer=self._writer,
            writer_id=writer_id,
            encode=encode_value,
            clock=clock,
            wake=wake,
            used=self._first_used,
        )
        self._announcing = FeatureAnnouncing(
            copies=self.copies, bus=bus, subject=subject, clock=clock, wake=wake, used=self._used
        )
        self._wake = wake
        self._admission = Admission(
            misses_bp_max=config.feature_misses_bp_max, stale_bp_max=config.feature_stale_bp_max, clock=clock, rng=rng
        )
        self._glance, self._row, self._queue = self.shelf.glance, self.writing.row, self.writing.queue

    # ---- reading

    async def get(
        self, key: str, *, staleness_max_ms: int | None = None, on_stale: OnStale = "fetch", default: Any = None
    ) -> FeatureReading:
        """A reading of `key`: fresh from memory in a microsecond, or from the first tier that has it young enough.

        `staleness_max_ms`: how old it may be; by default the window of a critical class, and until expiry for a bulk one.
        What is older is fetched again (`on_stale="fetch"`), raises `TooStaleError` at once (`"raise"`), or is served and
        says so (`"serve"`). Where there is no such feature the reading is not `found`, and its value is `default`.
        Raises `TooStaleError` when nothing young enough is to be had, `FeatureValueError` for what is no key, and
        `ClosedError`.
        """
        reading = self._glance(key, staleness_max_ms, default)
        if reading is not None:
            return reading
        check_key(key)
        self.writing.first_used()
        found = self.shelf.begin(key, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default)
        return found if isinstance(found, FeatureReading) else await self.walk.get(found)

    async def get_many(
        self,
        keys: Iterable[str],
        *,
        staleness_max_ms: int | None = None,
        on_stale: OnStale = "fetch",
        default: Any = None,
    ) -> dict[str, FeatureReading]:
        """As `get`, for many: each tier is asked once. Raises if one of them would."""
        self.writing.first_used()
        readings, lookups = self.walk.at_hand(
            keys, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default
        )
        return readings | await self.walk.get_many(lookups)

    # ---- writing

    def put(self, key: str, value: Any, *, expire_ms: int | None = None) -> Awaitable[bool]:
        """Write one feature; values are bytes, text, numbers, NumPy arrays, or anything msgpack holds.

        Critical: await it; True when the store has it, False when a newer write was there. Raises `FeatureStoreError`,
        and then nobody knows whether it has. Bulk: it is queued already, and there is nothing to await, except where the
        queue is full and the class says to wait for room. `expire_ms` is at most the class's. Raises
        `FeatureValueError`, `FeatureQueueFullError` where the class says so, and `ClosedError`.
        """
        policy, row = self._row(key, value, expire_ms)
        if policy.is_critical:
            return self._put_through(key, policy, row)
        if self._queue(policy, key, row):
            return _TRUE
        return self._put_when_room(key, policy, row)

    def put_many(
        self, items: Mapping[str, Any] | Iterable[tuple[str, Any]], *, expire_ms: int | None = None
    ) -> Awaitable[tuple[str, ...]]:
        """As `put`, for many; the result names the keys of which a newer write was there. Bulk ones need no awaiting."""
        found = self.writing.sort(items, expire_ms)
        left = {
            policy: rest
            for policy, values in found.bulk.items()
            if (rest := self.writing.queue_many(policy, values, expire_ms))
        }
        if not left and not found.critical:
            return _NONE
        found.bulk = left
        return self.put_rest(found, expire_ms)

    def delete(self, key: str) -> Awaitable[bool]:
        """As `put`, of a tombstone: whoever reads it later finds nothing, until it is put again."""
        policy, row = self.writing.tombstone(key)
        if policy.is_critical:
            return self._put_through(key, policy, row)
        if self.writing.queue(policy, key, row):
            return _TRUE
        return self._put_when_room(key, policy, row)

    def invalidate(self, pattern: str) -> None:
        """Copies of keys that match are fetched anew before they are served again: here now, at other edges in milliseconds.

        `*` stands for anything, `?` for one character. Nothing is deleted. Raises `FeatureValueError`, `ClosedError`.
        """
        if not is_pattern(pattern):
            raise FeatureValueError(f"a pattern is text of 1 to 256 characters, not {pattern!r}")
        self.writing.first_used()
        self.copies.invalidate(pattern)
        self._wake.set()

    async def flush(self, *, timeout_ms: int | None = None) -> bool:
        """True when everything queued before has left the queue: is stored, or was given up and counted."""
        flushed = await self._writer.flush(timeout_ms=timeout_ms)
        await self._announcing.say(at_once=True)
        return flushed

    # ---- what came of it

    def report(self, reading: FeatureReading | str, *, ok: bool) -> None:
        """Whether a reading was right, by the reading or the name of its class: the region sets staleness windows by it."""
        if not isinstance(ok, bool):
            raise TypeError(f"ok must be True or False, not {ok!r}")
        name = reading if isinstance(reading, str) else reading.feature_class
        with self.copies.lock:
            self.copies.observed.judged(name, ok=ok)

    def admits(self) -> bool:
        """Whether to lean on features now: False while too many reads miss or are too old; then a few, to see, are admitted."""
        shelf = self.shelf
        return self._admission.admits(
            hit_count=shelf.hit_count, miss_count=shelf.miss_count, stale_count=shelf.stale_count
        )

    def observations(self) -> tuple[FeatureObservations, ...]:
        """What this life saw of each class, for the region."""
        with self.copies.lock:
            return self.copies.observed.sheets()

    def status(self) -> FeaturesStatus:
        """How features stand here, at this moment."""
        queue = self._writer.metrics()
        return FeaturesStatus(
            memory_count=len(self._cache),
            memory_bytes=self._cache.size_bytes,
            queue_count=queue["depth"],
            queue_bytes=queue["memory_bytes"],
            queue_oldest_ms=queue["oldest_ms"],
            hit_count=self.shelf.hit_count,
            miss_count=self.shelf.miss_count,
            stale_count=self.shelf.stale_count,
            store=self._fetch.store_guard.state,
            local_tier="none" if self._ports.tier is None else self.local_guard.state,
            admission=self._admission.state,
            queue=queue,
        )

    @property
    def counters(self) -> Counter[str]:
        """Everything that was counted here, under names that begin with `features_`."""
        total: Counter[str] = Counter()
        with self.copies.lock:
            for part in (self.copies, self.copies.announcements, self.copies.observed, self._fetch, self._announcing):
                total += part.counters
        total["breaker_opened"] = self._fetch.store_guard.counters["opened"] + self.local_guard.counters["opened"]
        return Counter({f"features_{name}": count for name, count in total.items() if count})

    # ---- for the client

    def drivers(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What runs as long as the client does."""
        return {
            "features_writer": self._writer.run,
            "features_refresh": self._fetch.run_refresh,
            "features_tray": self._fetch.run_tray,
            "features_announcing": self._announcing.run,
            "features_classes": self._follow_classes,
        }

    async def open(self) -> None:
        """Take the spool, if there is one. Raises `FeatureSpoolError`."""
        await self._writer.open()

    async def close(self) -> None:
        """Flushed as far as a second allows, and let go of everything. Before the drivers are cancelled."""
        self.writing.close()
        await self._writer.close(timeout_ms=CLOSE_TIMEOUT_MS)
        await self._announcing.say(at_once=True)
        self.shelf.close()
        if self.blocking_tier is not None:
            self.blocking_tier.close()
        if self._ports.tier is not None:
            await self._ports.tier.close()
        await self._ports.store.close()

    # ---- steps, also for the blocking form

    async def put_rest(self, left: Sorted, expire_ms: int | None) -> tuple[str, ...]:
        """What waits for room is queued, and what is critical written through."""
        for policy, values in left.bulk.items():
            rest = dict(values)
            while rest:
                await self._writer.wait_for_room()
                rest = self.writing.queue_many(policy, rest, expire_ms)
        return await self.writing.write_through(left.critical)

    async def _put_through(self, key: str, policy: Any, row: tuple[bytes | None, int, int, int]) -> bool:
        return not await self.writing.write_through([(key, policy, Entry(*row))])

    async def _put_when_room(self, key: str, policy: Any, row: tuple[bytes | None, int, int, int]) -> bool:
        while not self.writing.queue(policy, key, row):
            await self._writer.wait_for_room()
        return True

    def _first_used(self) -> None:
        """From now on we hear what others write. Any thread."""
        try:
            self.loop.call_soon_threadsafe(self._used.set)
        except RuntimeError:
            return  # closed this very moment

    async def _follow_classes(self) -> None:
        while True:
            self.copies.take_classes()
            self.copies.sweep()
            await self._pulse.wait(clock=self._clock, deadline_ns=self._clock.now_ns() + LOOK_NS)

    def __repr__(self) -> str:
        return (
            f"<AsyncFeatures hits={self.shelf.hit_count} misses={self.shelf.miss_count} stale={self.shelf.stale_count}>"
        )


class _Done(Awaitable[Any]):
    """An answer that is there already; awaited or not, any number of times."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._answer


_TRUE: Final = _Done(True)
_NONE: Final = _Done(())
