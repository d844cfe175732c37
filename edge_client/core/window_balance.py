"""How much of the memory tier belongs to what is new, and how much to what is asked for often?

Picture a rival who has the same room and simply keeps what was used last. It holds keys and sizes only, no values. Whenever
it would have answered and we could not, the window of what is new grows; whenever we answered and it could not, the window
shrinks. So where recency is the better guide we become the rival, and where frequency is, we stay ahead of it.

The hill climber of Einziger, Eytan, Friedman and Manes ("Adaptive Software Cache Management", 2018) compares hit ratios of
successive periods, each ten times as long as the store is large, and is still climbing when a short trace ends. One
answer that only one side had is evidence at once, so we need no periods; and losing to LRU corrects itself.

A rival of more than `RIVAL_ENTRIES_MAX` keys stands for a sample of the keys, by hash, in as small a part of the room.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

RIVAL_ENTRIES_MAX: Final = 32_768
WINDOW_SHARE_MIN: Final = 0.01
WINDOW_SHARE_MAX: Final = 0.99
"""Never all of it: with no room left for frequency nothing could show that it would do better."""
_MEMORY: Final = 1 / 32
"""How much one piece of evidence weighs in the trend."""
_HASTE: Final = 20
"""How many times longer a step is when all recent evidence points the same way."""
_STRIDE: Final = 0.01
"""Share of the room that a step moves at least when all recent evidence points the same way."""
_SAMPLING_SHIFT: Final = 20


class WindowBalance:
    """Decides `window_bytes`, between a hundredth of the room and all but one."""

    __slots__ = ("_bytes_max", "_mask", "_rival", "_rival_bytes", "_rival_bytes_max", "_trend", "window_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rival: OrderedDict[int, int] = OrderedDict()
        self._rival_bytes = 0
        self._rival_bytes_max = bytes_max
        self._mask = 0
        self._trend = 0.0
        self.window_bytes: float = max(WINDOW_SHARE_MIN * bytes_max, 1.0)

    @property
    def size_entries(self) -> int:
        """How many keys the rival holds."""
        return len(self._rival)

    def asked(self, mark: int, *, size_bytes: int, answered: bool) -> None:
        """A key was asked for, and we held it or not; the rival holds it from now on."""
        if mark >> _SAMPLING_SHIFT & self._mask:
            return
        rival = self._rival
        if mark in rival:
            rival.move_to_end(mark)
            if not answered:
                self._lean(size_bytes, 1)
            return
        if answered:
            self._lean(size_bytes, -1)
        rival[mark] = size_bytes
        self._rival_bytes += size_bytes
        while self._rival_bytes > self._rival_bytes_max and rival:
            self._rival_bytes -= rival.popitem(last=False)[1]
        if len(rival) > RIVAL_ENTRIES_MAX:
            self._sample()

    def forget(self, mark: int) -> None:
        """A key was taken out for a reason other than room: asking for it again says nothing about room."""
        self._rival_bytes -= self._rival.pop(mark, 0)

    def check_invariants(self) -> None:
        """Raises `AssertionError` in a state that must not exist."""
        assert self._rival_bytes == sum(self._rival.values())
        assert self._rival_bytes <= self._rival_bytes_max
        assert len(self._rival) <= RIVAL_ENTRIES_MAX
        assert 0 < self.window_bytes <= max(self._bytes_max, 1)

    def _lean(self, size_bytes: int, way: int) -> None:
        trend = self._trend = self._trend + (way - self._trend) * _MEMORY
        step = float(size_bytes * (self._mask + 1))
        if trend * way > 0:
            step = max(step * (1 + _HASTE * trend * trend), _STRIDE * self._bytes_max * trend * trend)
        least, most = max(WINDOW_SHARE_MIN * self._bytes_max, 1.0), max(WINDOW_SHARE_MAX * self._bytes_max, 1.0)
        self.window_bytes = min(most, max(least, self.window_bytes + way * step))

    def _sample(self) -> None:
        self._mask = self._mask << 1 | 1
        self._rival_bytes_max = self._bytes_max // (self._mask + 1)
        for mark in [mark for mark in self._rival if mark >> _SAMPLING_SHIFT & self._mask]:
            self._rival_bytes -= self._rival.pop(mark)
        while self._rival_bytes > self._rival_bytes_max:
            self._rival_bytes -= self._rival.popitem(last=False)[1]
