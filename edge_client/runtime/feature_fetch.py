"""Asks the tiers below memory: the local one, and the store, once for everybody who wants the same key.

Each is behind a breaker: a local tier that is away is as good as empty, a store that is away raises at once. What was
fetched is put into the local tier in the background, and copies that grow old while they are read are fetched again in the
background, many with one request. Nothing waits for either.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from edge_client.core.freshness import MS, Copy
from edge_client.errors import FeatureStoreError, FeatureStoreUnavailableError, LocalTierError
from edge_client.protocol.features import Entry
from edge_client.runtime.signals import Signal

if TYPE_CHECKING:
    from edge_client.protocol.feature_classes import FeatureClass
    from edge_client.runtime.feature_copies import FeatureCopies
    from edge_client.runtime.feature_guard import Guard
    from edge_client.runtime.feature_ports import FeatureStore, FeatureTier, Held
    from edge_client.runtime.ports import Clock

T = TypeVar("T")
TRAY_MAX: Final = 4_096
DUE_MAX: Final = 16_384
BATCH_MAX: Final = 256
REFETCH_NS: Final = 250 * MS
"""A key is not fetched again in the background before this, or a quarter of its window, has passed."""


class _AbandonedError(Exception):
    """Whoever fetched this for us was cancelled; fetch it yourself."""


class FeatureFetch:
    """Both tiers, on the event loop; `refresh_soon` and `hold_soon` for any thread."""

    def __init__(
        self,
        *,
        copies: FeatureCopies,
        store: FeatureStore,
        tier: FeatureTier | None,
        store_guard: Guard,
        local_guard: Guard,
        clock: Clock,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.local_guard = local_guard
        self.store_guard = store_guard
        self.counters: Counter[str] = Counter()
        self._copies = copies
        self._store = store
        self._tier = tier
        self._clock = clock
        self._flights: dict[str, asyncio.Future[Copy]] = {}
        self._due: dict[str, None] = {}
        self._refetched: dict[str, int] = {}
        self._tray: deque[tuple[str, Entry, int]] = deque()
        self._old: deque[tuple[str, int]] = deque()
        self._wake_due, self._wake_tray = Signal(loop), Signal(loop)

    # ---- the local tier

    @property
    def has_tier(self) -> bool:
        return self._tier is not None

    async def local(self, key: str) -> Held | None:
        """What the local tier holds of a key; None as well where it does not answer."""
        tier = self._tier
        if tier is None or not self.local_guard.allows():
            return None
        return await self._locally(tier.get(key), otherwise=None)

    async def local_many(self, keys: Sequence[str]) -> Sequence[Held | None]:
        """As `local`, for many."""
        nothing: list[Held | None] = [None] * len(keys)
        if self._tier is None or not keys or not self.local_guard.allows():
            return nothing
        return await self._locally(self._tier.get_many(keys), otherwise=nothing)

    async def hold(self, items: Sequence[tuple[str, Entry, int]]) -> None:
        """Put each `(key, entry, known_at_ns)` into the local tier; that it fails is counted."""
        if self._tier is not None and items and self.local_guard.allows():
            await self._locally(self._tier.put_many(items), otherwise=None)

    def hold_soon(self, key: str, entry: Entry, *, known_at_ns: int) -> None:
        """As `hold`, in the background; beyond 4,096 that wait the oldest goes, counted."""
        if self._tier is None:
            return
        self._tray.append((key, entry, known_at_ns))
        self._tray_grew(self._tray)

    def drop_soon(self, keys: Sequence[tuple[str, int]]) -> None:
        """The local tier lets go, in the background, of what each `(key, stamp)` has that is older than the stamp."""
        if self._tier is not None and keys:
            self._old.extend(keys)
            self._tray_grew(self._old)

    # ---- the store

    async def fetch(self, keys: Sequence[str]) -> dict[str, Copy]:
        """What the store has of each key now, or had while somebody was fetching it anyway. Raises `FeatureStoreError`."""
        found: dict[str, Copy] = {}
        wanted = list(dict.fromkeys(keys))
        while wanted:
            joined = {key: flight for key in wanted if (flight := self._flights.get(key)) is not None}
            mine = [key for key in wanted if key not in joined]
            if mine:
                found |= await self._lead(mine)
            wanted = []
            for key, flight in joined.items():
                self.counters["fetches_shared"] += 1
                try:
                    found[key] = await asyncio.shield(flight)
                except _AbandonedError:
                    wanted.append(key)
        return found

    def written(self, key: str) -> None:
        """We write this key ourselves: whoever reads it from now on does not join a fetch that began before."""
        self._flights.pop(key, None)

    async def asked(self, question: Callable[[], Awaitable[T]]) -> T:
        """The store's answer. Raises `FeatureStoreError`, at once while the breaker is open."""
        if not self.store_guard.allows():
            self.counters["store_not_asked"] += 1
            raise FeatureStoreUnavailableError("the feature store did not answer lately; it is asked again in a moment")
        try:
            answer = await question()
        except FeatureStoreUnavailableError:
            self.counters["store_failures"] += 1
            self.store_guard.came(bad=1)
            raise
        except FeatureStoreError:
            self.counters["store_refusals"] += 1
            self.store_guard.answered()
            raise
        except asyncio.CancelledError:
            self.store_guard.gave_up()
            raise
        self.store_guard.answered()
        return answer

    # ---- in the background

    def refresh_soon(self, key: str, window_ns: int) -> None:
        """Fetch this key again soon, unless that was done just now."""
        if key in self._due:
            return
        at_ns = self._refetched.get(key)
        if at_ns is not None and self._clock.now_ns() - at_ns < min(REFETCH_NS, window_ns // 4):
            return
        if len(self._due) >= DUE_MAX:
            self._copies.count("refreshes_dropped")
            return
        self._due[key] = None
        self._wake_due.set()

    async def run_refresh(self) -> None:
        """Fetch again what is due, until cancelled."""
        while True:
            await self._wake_due.wait(clock=self._clock, deadline_ns=None)
            while self._due:
                keys = list(self._due)[:BATCH_MAX]
                now_ns = self._clock.now_ns()
                if len(self._refetched) > DUE_MAX:
                    self._refetched.clear()
                self._refetched.update(dict.fromkeys(keys, now_ns))
                for key in keys:
                    del self._due[key]
                self.counters["refreshes"] += len(keys)
                try:
                    await self.fetch(keys)
                except FeatureStoreError:
                    self.counters["refreshes_failed"] += len(keys)

    async def run_tray(self) -> None:
        """Put into the local tier what was fetched, until cancelled."""
        while True:
            await self._wake_tray.wait(clock=self._clock, deadline_ns=None)
            while self._tray:
                await self.hold([self._tray.popleft() for _ in range(min(BATCH_MAX, len(self._tray)))])
            while self._old:
                keys = [self._old.popleft() for _ in range(min(BATCH_MAX, len(self._old)))]
                if self._tier is not None and self.local_guard.allows():
                    await self._locally(self._tier.drop_many(keys), otherwise=None)

    # ---- helpers

    async def _lead(self, keys: list[str]) -> dict[str, Copy]:
        """Fetch for ourselves and for all who come meanwhile."""
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in keys}
        self._flights.update(flights)
        tokens = {key: self._copies.take_token(key) for key in keys}
        known_at_ns = self._clock.now_ns()
        found: dict[str, Copy] = {}
        failure: BaseException = _AbandonedError()
        try:
            entries = await self._entries(keys)
            for key in keys:
                found[key] = self._taken(key, entries.get(key), token=tokens.pop(key), known_at_ns=known_at_ns)
        except FeatureStoreError as error:
            failure = error
            raise
        finally:
            for key, token in tokens.items():
                self._copies.drop_token(key, token)
            for key, flight in flights.items():
                if self._flights.get(key) is flight:
                    del self._flights[key]
                if key in found:
                    flight.set_result(found[key])
                else:
                    flight.set_exception(failure)
                    flight.exception()  # nobody needs to have joined
        return found

    def _taken(self, key: str, entry: Entry | None, *, token: int, known_at_ns: int) -> Copy:
        copies = self._copies
        policy = copies.policy_of(key)
        copy = copies.copy_of(key, policy, entry, known_at_ns=known_at_ns)
        if copy is None:  # damaged, or expired on the way
            entry, copy = None, copies.copy_of(key, policy, None, known_at_ns=known_at_ns)
        assert copy is not None, "absence neither expires nor is damaged"
        if copies.fill(copy, token=token, from_store=True) and entry is not None:
            self.hold_soon(key, entry, known_at_ns=known_at_ns)
        return copy

    async def _entries(self, keys: list[str]) -> dict[str, Entry | None]:
        """The newest entry of each, from where its class keeps it."""
        critical: list[str] = []
        bulk: dict[str, tuple[FeatureClass, list[str]]] = {}
        for key in keys:
            policy = self._copies.policy_of(key)
            if policy.is_critical:
                critical.append(key)
            else:
                bulk.setdefault(policy.name, (policy.feature_class, []))[1].append(key)
        found: dict[str, Entry | None] = {}
        if critical:
            answers = await self.asked(lambda: self._store.get_many(critical))
            found.update(zip(critical, answers, strict=True))
        for feature_class, some in bulk.values():
            answers = await self.asked(lambda: self._store.find_many(feature_class, some))  # noqa: B023  (awaited here)
            found.update(zip(some, answers, strict=True))
        return found

    async def _locally(self, answer: Awaitable[T], *, otherwise: T) -> T:
        try:
            result = await answer
        except LocalTierError:
            self.counters["local_failures"] += 1
            self.local_guard.came(bad=1)
            return otherwise
        except asyncio.CancelledError:
            self.local_guard.gave_up()
            raise
        self.local_guard.answered()
        return result

    def _tray_grew(self, tray: deque[tuple[str, Entry, int]] | deque[tuple[str, int]]) -> None:
        while len(tray) > TRAY_MAX:
            tray.popleft()
            self._copies.count("local_fills_dropped")
        self._wake_tray.set()
