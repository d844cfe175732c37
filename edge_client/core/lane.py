"""One class's way through the queue: a generation that is open, those that wait in order, those that are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from edge_client.core.generation import Generation, Row
from edge_client.core.retry import Backoff
from edge_client.protocol.feature_classes import FeatureClass

MS: Final = 1_000_000


class Lane:
    """The generations of one class, in order: one open, some waiting, some kept."""

    __slots__ = (
        "backoff",
        "feature_class",
        "kept",
        "newest_stamp",
        "open",
        "pipe",
        "readable",
        "sequence",
        "waiting",
    )

    def __init__(self, feature_class: FeatureClass, *, pipe: str, backoff: Backoff) -> None:
        self.feature_class = feature_class
        self.pipe = pipe
        self.backoff = backoff
        """Of refusals: they are this class's own affair."""
        self.sequence = 0
        self.open: Generation | None = None
        self.waiting: deque[Generation] = deque()
        """Sealed and not done, oldest first; being sent is the first one, if any."""
        self.kept: deque[Generation] = deque()
        self.readable: tuple[dict[str, Row], ...] = ()
        """All rows in memory, newest first; replaced, never changed, so that readers need no lock."""
        self.newest_stamp = 0

    @property
    def queued(self) -> tuple[Generation, ...]:
        """What waits, and what is open, oldest first."""
        return tuple(self.waiting) if self.open is None else (*self.waiting, self.open)

    def show(self) -> None:
        """Let readers see the generations as they are now."""
        every = reversed((*self.kept, *self.queued))
        self.readable = tuple(generation.rows for generation in every if generation.rows is not None)

    def find(self, key: str) -> Row | None:
        """The newest row of a key; a reader on another thread sees it from the moment `put` returned."""
        for rows in self.readable:
            row = rows.get(key)
            if row is not None:
                return row
        return None


class Lanes(dict[str, Lane]):
    """The lanes of one queue, by class name."""

    @property
    def queued(self) -> Iterator[Generation]:
        """What is open or waits, class by class."""
        return (generation for lane in self.values() for generation in lane.queued)

    @property
    def depth(self) -> int:
        """How many entries are queued, on disk or in memory."""
        return sum(generation.depth for generation in self.queued)

    def oldest_at_ns(self) -> int | None:
        """Since when the oldest generation has waited; None: nothing waits."""
        instants = [generation.opened_at_ns for generation in self.queued if generation.depth]
        return min((instant for instant in instants if instant is not None), default=None)

    def due_at_ns(self) -> int | None:
        """When the next open generation is due; None: nothing is open, or what is waits for another to be stored."""
        return min(
            (
                (lane.open.opened_at_ns or 0) + lane.feature_class.flush_ms * MS
                for lane in self.values()
                if lane.open is not None and lane.open.rows and not lane.waiting
            ),
            default=None,
        )

    def unsafe_count(self) -> int:
        """How many queued entries are not on disk."""
        return sum(
            generation.depth
            if generation.unspooled is None and not generation.spooled_bytes
            else len(generation.unspooled or ())
            for generation in self.queued
        )
