"""How often was something asked for that we do not hold?

Picture a wall of tally boxes. A key points to four of them and all four carry at least its count; the least of the four
is the answer, because only a collision can make a box say too much (count-min: Cormode and Muthukrishnan, 2005). Every so
often all counts are halved, so that yesterday's favourites give way.

What is held carries its own exact count (`feature_cache`), so that a read costs an addition and no hashing; only what
leaves is written here. Halving is one pass of `bytes.translate`, taken in steps where the wall is long.
"""

from __future__ import annotations

from typing import Final

COUNT_MAX: Final = 15
"""Counts stop here: more would take longer to forget than it takes a workload to change."""
CELLS_PER_ENTRY: Final = 8
_CELLS_MIN: Final = 1 << 11
_HALVES: Final = bytes(value >> 1 for value in range(256))
_STEP_CELLS: Final = 1 << 16
"""Halved at once, about 50 µs."""
_LOW: Final = (1 << 32) - 1


class FrequencySketch:
    """Counts up to `COUNT_MAX` of marks of 64 well-mixed bits. Never too low since the last halving."""

    __slots__ = ("_cells", "_halved_through", "_mask", "entries_max", "halving")

    def __init__(self) -> None:
        self._cells = bytearray(_CELLS_MIN)
        self._mask = _CELLS_MIN - 1
        self._halved_through = 0
        self.halving = False
        self.entries_max = _CELLS_MIN // CELLS_PER_ENTRY

    @property
    def size_bytes(self) -> int:
        return len(self._cells)

    def estimate(self, mark: int) -> int:
        """At least the count that `mark` was raised to, halved as often as all were."""
        cells, mask = self._cells, self._mask
        low, high = mark & _LOW, mark >> 32 | 1
        return min(
            cells[low & mask], cells[low + high & mask], cells[low + 2 * high & mask], cells[low + 3 * high & mask]
        )

    def raise_to(self, mark: int, *, count: int) -> None:
        """From now on the estimate of `mark` is at least `count`, which is at most `COUNT_MAX`."""
        cells, mask = self._cells, self._mask
        place, stride = mark & _LOW, mark >> 32 | 1
        for index in (place & mask, place + stride & mask, place + 2 * stride & mask, place + 3 * stride & mask):
            if count > cells[index]:  # noqa: PLR1730 (an eighth of a write, of which a call of `max` would be half)
                cells[index] = count

    def fit(self, entries: int) -> None:
        """Room for the past of a store of so many entries. A longer wall says of every mark what the shorter one said."""
        while entries > self.entries_max:
            self._finish()
            self._cells = self._cells * 2
            self._mask = len(self._cells) - 1
            self.entries_max = len(self._cells) // CELLS_PER_ENTRY

    def halve(self) -> None:
        """Begin to halve all counts; `go_on` does the rest of a long wall."""
        self._finish()
        self._halved_through = 0
        self.halving = True
        self.go_on()

    def go_on(self) -> None:
        """Halve the next step, if `halving`."""
        if self.halving:
            begin = self._halved_through
            end = self._halved_through = min(begin + _STEP_CELLS, len(self._cells))
            self._cells[begin:end] = self._cells[begin:end].translate(_HALVES)
            self.halving = end < len(self._cells)

    def _finish(self) -> None:
        while self.halving:
            self.go_on()
