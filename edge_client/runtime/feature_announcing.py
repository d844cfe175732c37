"""Tells other edges what was written here, and hears what they wrote, over the bus.

A bus that is away costs nothing but freshness: what cannot be said is dropped and counted, and ages hold without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edge_client.errors import BusUnavailableError
from edge_client.protocol.feature_blocks import decode_block
from edge_client.protocol.features import key_hash
from edge_client.protocol.messages import FeatureChanges, MessageError, decode_edge, encode_edge

if TYPE_CHECKING:
    from edge_client.protocol.feature_classes import FeatureClass
    from edge_client.protocol.features import Entry
    from edge_client.runtime.feature_copies import FeatureCopies
    from edge_client.runtime.feature_ports import Batch, FeatureStore
    from edge_client.runtime.ports import Bus, Clock, Delivery
    from edge_client.runtime.signals import Signal

_log = logging.getLogger(__name__)
PENDING_MAX: Final = 1_024


class FeatureAnnouncing:
    """The edge's slips on the board."""

    def __init__(
        self, *, copies: FeatureCopies, bus: Bus, subject: str, clock: Clock, wake: Signal, used: asyncio.Event
    ) -> None:
        self._copies = copies
        self._bus = bus
        self._subject = subject
        self._clock = clock
        self._wake = wake
        self._used = used
        self._subscribed = False
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """From the first use of features on: say and hear, until cancelled."""
        await self._used.wait()
        if not self._subscribed:
            await self._bus.subscribe(self._subject, handler=self.received, pending_max=PENDING_MAX)
            self._subscribed = True
        while True:
            await self._wake.wait(clock=self._clock, deadline_ns=self._copies.next_deadline_ns())
            self._copies.let_go()
            await self.say()

    async def say(self, *, at_once: bool = False) -> None:
        """Publish what is due, or everything; what the bus does not take is dropped and counted."""
        for message in self._copies.announced(at_once=at_once):
            try:
                await self._bus.publish(self._subject, payload=encode_edge(message))
                self.counters["announcements_sent"] += 1
            except BusUnavailableError:
                self.counters["announcements_unsent"] += 1

    def received(self, delivery: Delivery) -> None:
        """Take one message off the bus. Never raises, whatever it is."""
        try:
            message = decode_edge(delivery.payload)
            if not isinstance(message, FeatureChanges):
                raise MessageError("misplaced")
            self._copies.heard(message)
        except MessageError as error:
            self.counters[f"announcements_{error.reason}"] += 1
        except Exception:
            # The bus must go on whatever one message does to us.
            self.counters["announcements_failed"] += 1
            _log.exception("announcement_failed bytes=%d", len(delivery.payload))
        self._wake.set()


class AnnouncedStore:
    """A `FeatureStore` that announces the bulk writes of classes that want it, once the store has them."""

    def __init__(self, store: FeatureStore, *, copies: FeatureCopies, wake: Signal) -> None:
        self._store = store
        self._copies = copies
        self._wake = wake

    async def connect(self) -> None:
        await self._store.connect()

    async def close(self) -> None:
        await self._store.close()

    async def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        return await self._store.get_many(keys)

    async def put_many(self, items: Sequence[tuple[str, Entry]]) -> list[bool]:
        return await self._store.put_many(items)

    async def find_many(self, feature_class: FeatureClass, keys: Sequence[str]) -> list[Entry | None]:
        return await self._store.find_many(feature_class, keys)

    async def counted(self, class_name: str) -> int:
        return await self._store.counted(class_name)

    async def put_batch(self, batch: Batch) -> int:
        """As the store's, and then some milliseconds until others hear of it."""
        counted = await self._store.put_batch(batch)
        for block in batch.blocks:
            if self._copies.is_announced(block.class_name):
                self._copies.announce(
                    (key_hash(key), entry.stamp) for key, entry in decode_block(block.payload).items()
                )
                self._wake.set()
        return counted
