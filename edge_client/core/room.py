"""How much memory the queue takes, and what gives way: first what is only kept, then what is safe on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from edge_client.core.generation import Generation, Phase, Row, row_bytes
from edge_client.core.lane import Lane

KEPT_MAX: Final = 8
"""How many stored generations of a class stay readable: each costs a lookup on a miss."""
DISCARDED_MAX: Final = 2
"""Beyond so many the oldest is freed at once, which takes milliseconds."""


class Room:
    """`bytes_max` for all rows of one queue. What is still queued is never let go of here."""

    __slots__ = ("_kept", "bytes_max", "discarded", "size_bytes")

    def __init__(self, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        """What all rows in memory take, kept ones included."""
        self._kept: deque[tuple[Lane, Generation]] = deque()
        self.discarded: deque[dict[str, Row]] = deque(maxlen=DISCARDED_MAX)
        """Rows that nobody needs, for the driver to take apart; they still take memory."""

    def lacks(self, size_bytes: int) -> bool:
        """Whether so many bytes more have no place, though nothing is kept any longer."""
        while self._kept and self.size_bytes + size_bytes > self.bytes_max:
            self._evict(*self._kept[0])
        return self.size_bytes + size_bytes > self.bytes_max

    def keep(self, lane: Lane, generation: Generation) -> None:
        """It is stored, and readable until there is no room or others were kept since."""
        lane.kept.append(generation)
        self._kept.append((lane, generation))
        if len(lane.kept) > KEPT_MAX:
            self._evict(lane, lane.kept[0])

    def expire(self, lane: Lane, *, unix_ms: int) -> None:
        """Keep nothing that no longer exists."""
        while lane.kept and lane.kept[0].expires_at_unix_ms <= unix_ms:
            self._evict(lane, lane.kept[0])

    def relieve(self, lanes: Iterable[Lane]) -> None:
        """With memory half full, what is safe on disk lives there alone; what is sent last goes first."""
        for lane in lanes:
            for generation in reversed(lane.waiting):
                if self.size_bytes <= self.bytes_max // 2:
                    return
                if generation.phase is Phase.SEALED and generation.spooled_bytes and generation.durable:
                    self.clear(lane, generation)

    def clear(self, lane: Lane, generation: Generation) -> None:
        """Its rows leave memory."""
        self.size_bytes -= generation.size_bytes
        if generation.rows:
            self.discarded.append(generation.rows)
        generation.size_bytes, generation.rows = 0, None
        lane.show()

    def check_invariants(self, lanes: Iterable[Lane]) -> None:
        """Raise if this is in a state that must not exist."""
        total = 0
        for lane in lanes:
            assert len(lane.kept) <= KEPT_MAX
            assert [each for owner, each in self._kept if owner is lane] == list(lane.kept)
            for generation in (*lane.kept, *lane.queued):
                assert generation.size_bytes == sum(row_bytes(*item) for item in (generation.rows or {}).items())
                total += generation.size_bytes
        assert total == self.size_bytes <= self.bytes_max

    def _evict(self, lane: Lane, generation: Generation) -> None:
        self._kept.remove((lane, generation))
        lane.kept.remove(generation)
        self.clear(lane, generation)
