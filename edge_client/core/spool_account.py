"""What of the queue lies on disk, what should, and what there may be forgotten.

A generation is sent only when all of it is on disk under its number: so whoever starts after a crash finds each batch
either whole, under the number it may have been sent with, or never sent at all. That is all that "counted once" needs.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_client.core.generation import Generation, Phase, Row, newer
from edge_client.core.lane import Lane


class SpoolAccount:
    """Of one spool. Disabled, it keeps nothing and holds nothing up."""

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.enabled = bytes_max > 0
        self.size_bytes = 0
        """What generations take on disk that are still needed."""
        self._forgettable: list[tuple[str, int]] = []

    @property
    def full(self) -> bool:
        return self.enabled and self.size_bytes > self.bytes_max

    def idle(self, lanes: Iterable[Lane]) -> bool:
        """Whether nothing will have to be committed before the next generation opens, is sealed or is done."""
        if not self.enabled:
            return True
        every = (each for lane in lanes for each in lane.queued if each.unspooled is not None)
        return not self._forgettable and not any(each.unspooled or each.phase is Phase.OPEN for each in every)

    def urgent(self, lanes: Iterable[Lane]) -> bool:
        """Whether a batch could be sent if it were on disk."""
        return any(each.unspooled for lane in lanes for each in lane.waiting)

    def take(self, lanes: Iterable[Lane]) -> tuple[tuple[Generation, dict[str, Row]], ...]:
        """What should be committed now, per generation; each is answered with `committed` or `failed`."""
        taken: list[tuple[Generation, dict[str, Row]]] = []
        for lane in lanes:
            for generation in lane.queued:
                if generation.unspooled:
                    taken.append((generation, generation.unspooled))
                    generation.unspooled = {}
                    generation.spooling += 1
        return tuple(taken)

    def take_forgettable(self) -> list[tuple[str, int]]:
        """Batches, by pipe and sequence, that the disk need not keep."""
        forgettable, self._forgettable = self._forgettable, []
        return forgettable

    def keep_forgettable(self, batches: list[tuple[str, int]]) -> None:
        """They could not be forgotten just now."""
        self._forgettable = batches + self._forgettable

    def committed(self, generation: Generation, *, size_bytes: int) -> None:
        """What was taken of it is on disk."""
        generation.spooling -= 1
        generation.spooled_bytes += size_bytes
        self.size_bytes += size_bytes
        if generation.phase is Phase.DONE:
            self.forget(generation)

    def failed(self, generation: Generation, rows: dict[str, Row]) -> None:
        """What was taken of it is not on disk; it is taken again."""
        generation.spooling -= 1
        if generation.unspooled is None or generation.phase is Phase.DONE:
            return
        newer(rows, generation.unspooled)
        generation.unspooled = rows

    def forget(self, generation: Generation) -> None:
        """It is done: the disk need not keep it."""
        if generation.spooled_bytes:
            self._forgettable.append((generation.pipe, generation.sequence))
            self.size_bytes -= generation.spooled_bytes
            generation.spooled_bytes = 0

    def disable(self, lanes: Iterable[Lane]) -> None:
        """The disk is given up: what is queued lives in memory alone from now on."""
        self.enabled = False
        for lane in lanes:
            for generation in lane.queued:
                generation.unspooled = None
