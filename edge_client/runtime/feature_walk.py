"""Walks with a question from tier to tier: this process, the box's Redis, the regional store.

The steps that need no waiting are for any thread; the blocking form takes them by itself, asks the local tier over its own
connection, and comes to the event loop for the store alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edge_client.core.feature_reading import FeatureReading, OnStale
from edge_client.errors import FeatureStoreError, TooStaleError
from edge_client.runtime.feature_shelf import FeatureShelf, Lookup
from edge_client.runtime.feature_writing import check_key

if TYPE_CHECKING:
    from edge_client.runtime.feature_copies import FeatureCopies
    from edge_client.runtime.feature_fetch import FeatureFetch
    from edge_client.runtime.feature_ports import Held
    from edge_client.runtime.ports import Clock


class FeatureWalk:
    """The way of one life's questions."""

    def __init__(self, *, shelf: FeatureShelf, copies: FeatureCopies, fetch: FeatureFetch, clock: Clock) -> None:
        self._shelf = shelf
        self._copies = copies
        self._fetch = fetch
        self._clock = clock

    # ---- any thread

    def at_hand(
        self, keys: Iterable[str], *, staleness_max_ms: int | None, on_stale: OnStale, default: Any
    ) -> tuple[dict[str, FeatureReading], list[Lookup]]:
        """What this process can answer, and slips for the rest. Any thread."""
        readings: dict[str, FeatureReading] = {}
        lookups: list[Lookup] = []
        for key in dict.fromkeys(keys):
            reading = self._shelf.glance(key, staleness_max_ms, default)
            if reading is None:
                check_key(key)
                found = self._shelf.begin(key, staleness_max_ms=staleness_max_ms, on_stale=on_stale, default=default)
                if isinstance(found, Lookup):
                    lookups.append(found)
                    continue
                reading = found
            readings[key] = reading
        return readings, lookups

    def from_local(self, lookup: Lookup, held: Held | None, *, token: int) -> FeatureReading | None:
        """The reading that the local tier's answer makes; None: the store must be asked. Any thread."""
        copy = self._copies.copy_of_held(lookup.key, lookup.policy, held)
        if copy is None:
            self._copies.drop_token(lookup.key, token)
            return None
        try:
            return self._shelf.offered(lookup, copy, tier="local")
        finally:
            self._copies.fill(copy, token=token)

    def from_local_many(
        self, lookups: Sequence[Lookup], held: Iterable[Held | None], *, tokens: Sequence[int]
    ) -> tuple[dict[str, FeatureReading], list[Lookup]]:
        """As `from_local`, for many: readings, and those for which the store must be asked."""
        readings: dict[str, FeatureReading] = {}
        left: list[Lookup] = []
        error: TooStaleError | None = None
        for lookup, one, token in zip(lookups, held, tokens, strict=True):
            try:
                reading = self.from_local(lookup, one, token=token)
            except TooStaleError as raised:
                error = raised  # after the other tokens are settled
                continue
            if reading is None:
                left.append(lookup)
            else:
                readings[lookup.key] = reading
        if error is not None:
            raise error
        return readings, left

    # ---- the event loop

    async def get(self, lookup: Lookup) -> FeatureReading:
        """The reading that the tiers below this process make of it. Raises `TooStaleError` as the caller said."""
        if self._fetch.has_tier:
            token = self._copies.take_token(lookup.key)
            try:
                held = await self._fetch.local(lookup.key)
            except BaseException:
                self._copies.drop_token(lookup.key, token)
                raise
            reading = self.from_local(lookup, held, token=token)
            if reading is not None:
                return reading
        return (await self.from_store([lookup]))[lookup.key]

    async def get_many(self, lookups: list[Lookup]) -> dict[str, FeatureReading]:
        """As `get`, for many: each tier is asked once."""
        readings: dict[str, FeatureReading] = {}
        if lookups and self._fetch.has_tier:
            keys = [lookup.key for lookup in lookups]
            tokens = [self._copies.take_token(key) for key in keys]
            try:
                held = await self._fetch.local_many(keys)
            except BaseException:
                for key, token in zip(keys, tokens, strict=True):
                    self._copies.drop_token(key, token)
                raise
            readings, lookups = self.from_local_many(lookups, held, tokens=tokens)
        return readings | await self.from_store(lookups)

    async def from_store(self, lookups: Sequence[Lookup]) -> dict[str, FeatureReading]:
        """The readings that the store's answer makes. Raises `TooStaleError` as the callers said."""
        readings: dict[str, FeatureReading] = {}
        if not lookups:
            return readings
        began_ns = self._clock.now_ns()
        try:
            found = await self._fetch.fetch([lookup.key for lookup in lookups])
            late = [
                lookup.key
                for lookup in lookups
                if found[lookup.key].known_at_ns < began_ns and self._shelf.is_too_stale(lookup, found[lookup.key])
            ]
            if late:  # who joined a fetch that began long before may need one of its own
                found |= await self._fetch.fetch(late)
        except FeatureStoreError as error:
            return {lookup.key: self._shelf.failed(lookup, error) for lookup in lookups}
        for lookup in lookups:
            reading = self._shelf.offered(lookup, found[lookup.key], tier="store")
            assert reading is not None, "the store has the last word"
            readings[lookup.key] = reading
        return readings
