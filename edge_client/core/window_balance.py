"""How much of the memory tier belongs to what is new, and how much to what is asked for often?

Picture a rival who has the same room and simply keeps what was used last. It holds keys and sizes only, no values. Whenever
it would have answered and we could not, the window of what is new grows; whenever we answered and it could not, the window
shrinks. So where recency is the better guide we become the rival, and where frequency is, we stay ahead of it.

With a large window we hardly differ from it and learn nothing more: bursts would keep us there where frequency is far better over
the whole. So a second rival has its say (`frequent_rival`), and holds the window at its least while it is right.

Where both a small and a middling window beat the first rival, it has nothing to say; so the floor under the window climbs
slowly, a step for each period, as long as each is better than the last. The hill climber of Einziger, Eytan, Friedman and Manes
("Adaptive Software Cache Management", 2018) compares hit ratios of successive periods, each ten times as long as the store is
large, and is still climbing when a short trace ends. One answer that only one side had is evidence at once, and losing to LRU
corrects itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from edge_client.core.frequent_rival import WINDOW_SHARE_MIN, Frequent, FrequentRival

WINDOW_SHARE_MAX: Final = 0.99
"""Never all of it: with no room left for frequency nothing could show that it would do better."""
_MEMORY: Final = 1 / 64
"""How much one piece of evidence weighs in the trend."""
_HASTE: Final = 20
"""How many times longer a step is when all recent evidence points the same way."""
FLOOR_SHARE_MAX: Final = 0.25
"""How far the floor of the window may climb, where some room for what is new is better than hardly any."""
_CLIMB: Final = 0.04
_PERIOD: Final = 10
"""Requests for each key of the rival, after which hit ratios are compared."""


class WindowBalance:
    """Decides `window_bytes`, between a hundredth of the room and all but one."""

    __slots__ = (
        "_answered",
        "_asked",
        "_before",
        "_bytes_max",
        "_climbing",
        "_floor",
        "_frequent",
        "_full",
        "_rival",
        "_rival_bytes",
        "_trend",
        "window_bytes",
    )

    def __init__(self, bytes_max: int, *, frequent: Frequent) -> None:
        self._bytes_max = bytes_max
        self._frequent = FrequentRival(bytes_max, store=frequent)
        self._rival: OrderedDict[int, int] = OrderedDict()
        self._rival_bytes = 0
        self._full = False
        self._trend = 0.0
        self._asked = self._answered = 0
        self._before = 0.0
        self._floor = WINDOW_SHARE_MIN
        self._climbing = _CLIMB
        self.window_bytes: float = max(WINDOW_SHARE_MIN * bytes_max, 1.0)

    def asked(self, mark: int, *, size_bytes: int, answered: bool) -> None:
        """A key was asked for, and we held it or not; the rival holds it from now on."""
        rival = self._rival
        if self._full:
            self._asked += 1
            self._answered += answered
            if self._asked >= _PERIOD * len(rival) + _PERIOD:
                self._climb()
        recent = mark in rival
        if self._frequent.asked(mark, size_bytes=size_bytes, recent=recent, answered=answered):
            self._trend = -1.0 if self._frequent.holds else 1.0
            self._move(0.0)
        if recent != answered:
            self._lean(size_bytes, 1 if recent else -1)
        if recent:
            rival.move_to_end(mark)
            return
        rival[mark] = size_bytes
        self._rival_bytes += size_bytes
        while self._rival_bytes > self._bytes_max:
            self._full = True
            self._rival_bytes -= rival.popitem(last=False)[1]

    def forget(self, mark: int) -> None:
        """A key was taken out for a reason other than room: asking for it again says nothing about room."""
        self._rival_bytes -= self._rival.pop(mark, 0)
        self._frequent.forget(mark)

    def check_invariants(self) -> None:
        """Raises `AssertionError` in a state that must not exist."""
        assert self._rival_bytes == sum(self._rival.values())
        assert self._rival_bytes <= self._bytes_max
        self._frequent.check_invariants()
        assert WINDOW_SHARE_MIN <= self._floor <= FLOOR_SHARE_MAX
        assert 0 < self.window_bytes <= max(self._bytes_max, 1)

    def _lean(self, size_bytes: int, way: int) -> None:
        trend = self._trend = self._trend + (way - self._trend) * _MEMORY
        step = float(size_bytes)
        if trend * way > 0:
            step *= 1 + _HASTE * trend * trend
        self._move(way * step)

    def _move(self, more_bytes: float) -> None:
        least, most = self._floor, WINDOW_SHARE_MAX
        if self._frequent.holds:
            least = most = WINDOW_SHARE_MIN
        window_bytes = min(most * self._bytes_max, max(least * self._bytes_max, self.window_bytes + more_bytes))
        self.window_bytes = max(window_bytes, 1.0)

    def _climb(self) -> None:
        """A period is over: the floor goes on if it was better than the one before, and back if it was not."""
        ratio = self._answered / self._asked
        if ratio < self._before:
            self._climbing = -self._climbing
        self._before = ratio
        self._floor = min(FLOOR_SHARE_MAX, max(WINDOW_SHARE_MIN, self._floor + self._climbing))
        self._move(0.0)
        self._asked = self._answered = 0
