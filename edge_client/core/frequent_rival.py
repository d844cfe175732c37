"""Would it have been better, over the whole, to keep what is asked for often?

Picture a second rival (the first is in `window_balance`) who reads no newspaper: it keeps what is asked for often and gives what is new
hardly any room, whatever happened lately. Its answers are compared with ours. Once it is ahead by `LEAD_CONTENTS` times what the
room holds, we do as it does; once the first rival, LRU, is ahead of us by as much then, we follow the news again. Each change of mind
asks for half as much again as the last: on a scan to and fro that never ends both would be ahead in turn.

It is a miniature of the store itself (Waldspurger, Saemundsson, Ahmad, Park, "Cache Modeling and Optimization using Miniature
Simulations", 2017): the same code without values, for a sample of the keys by hash, in as small a part of the room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

FREQUENT_ENTRIES_MAX: Final = 4_096
WINDOW_SHARE_MIN: Final = 0.01
LEAD_CONTENTS: Final = 1.25
"""A scan to and fro puts the two rivals ahead of one another by one content in turn, which says nothing of who is better."""
_LEAD_GROWTH: Final = 1.5
LEAD_CONTENTS_MAX: Final = 16.0
"""However often we changed our mind, this much evidence is enough."""
_SAMPLING_SHIFT: Final = 40


class Frequent(Protocol):
    """A store of marks whose window stays as it is."""

    def __len__(self) -> int: ...

    def get(self, key: int) -> bool | None: ...

    def put(self, key: int, item: bool, *, size_bytes: int) -> None: ...

    def pop(self, key: int) -> bool | None: ...

    def narrow(self, predicate: Callable[[int, bool], bool], *, bytes_max: int) -> None: ...


class StillWindow:
    """For a store that learns nothing: a hundredth of the room for what is new, always."""

    __slots__ = ("window_bytes",)

    def __init__(self, bytes_max: int) -> None:
        self.window_bytes: float = max(WINDOW_SHARE_MIN * bytes_max, 1.0)

    def asked(self, mark: int, *, size_bytes: int, answered: bool) -> None:
        """Changes nothing."""

    def forget(self, mark: int) -> None:
        """Changes nothing."""

    def check_invariants(self) -> None:
        """There is nothing that could be wrong."""


class FrequentRival:
    """Decides whether the window is held at its least: `holds`."""

    __slots__ = ("_bytes_max", "_lead_bytes", "_lead_contents", "_mask", "_room_bytes", "_store", "holds")

    def __init__(self, bytes_max: int, *, store: Frequent) -> None:
        self._bytes_max = self._room_bytes = bytes_max
        self._store = store
        self._mask = 0
        self._lead_bytes = 0
        self._lead_contents: float = LEAD_CONTENTS
        self.holds = False

    def asked(self, mark: int, *, size_bytes: int, recent: bool, answered: bool) -> bool:
        """A key was asked for; LRU held it or not (`recent`), we did or not. True: `holds` is another now."""
        if mark >> _SAMPLING_SHIFT & self._mask:
            return False
        often = self._store.get(mark) is not None
        if not often:
            self._store.put(mark, True, size_bytes=size_bytes)
            if len(self._store) > FREQUENT_ENTRIES_MAX:
                self._sample()
        ahead = (recent if self.holds else often) - answered
        self._lead_bytes = max(0, self._lead_bytes + ahead * size_bytes)
        if self._lead_bytes <= self._lead_contents * self._room_bytes:
            return False
        self._lead_bytes = 0
        self._lead_contents = min(self._lead_contents * _LEAD_GROWTH, LEAD_CONTENTS_MAX)
        self.holds = not self.holds
        return True

    def forget(self, mark: int) -> None:
        """A key was taken out for a reason other than room."""
        self._store.pop(mark)

    def check_invariants(self) -> None:
        """Raises `AssertionError` in a state that must not exist."""
        assert len(self._store) <= FREQUENT_ENTRIES_MAX
        assert 0 <= self._lead_bytes <= self._lead_contents * self._room_bytes

    def _sample(self) -> None:
        self._mask = mask = self._mask << 1 | 1
        self._room_bytes = self._bytes_max // (mask + 1)
        self._lead_bytes //= 2
        self._store.narrow(lambda mark_, _: mark_ >> _SAMPLING_SHIFT & mask > 0, bytes_max=self._room_bytes)
