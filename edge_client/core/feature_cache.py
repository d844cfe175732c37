"""What stays in memory when not everything fits?

Picture a waiting room before a club. Who comes is let into the waiting room (the window) and waits there for its turn to
be judged; whoever is judged gets in only by being better known than the members who would have to leave. Members who were
asked for again sit further in (protected) than those who were not yet (probation). That is W-TinyLFU (Einziger, Friedman,
Manes, 2017) by bytes: a newcomer must be better known than all it would displace together (Einziger, Eytan, Friedman, Manes,
"Lightweight Robust Size Aware Cache Management", 2021). How large the waiting room is, `window_balance` decides; how well known
somebody is who left, `frequency_sketch` remembers. Why no library does this: decision 11.

Reads take no lock and reorder nothing: they note what was read in a bounded buffer, which loses the oldest notes when
full. Whoever writes next works off a part of it. Expiry is the caller's business; see `sweep` for what nobody reads again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from edge_client.core.frequency_sketch import CELLS_PER_ENTRY, COUNT_MAX, FrequencySketch
from edge_client.core.frequent_rival import StillWindow
from edge_client.core.window_balance import WindowBalance

ENTRY_OVERHEAD_BYTES: Final = 680
"""What this module itself needs for an entry, beside key and item; measured, and counted into `size_bytes`."""
NOTES_MAX: Final = 8_192
"""Reads not yet worked off. Fewer would lose whole rounds of a loop, and with them the reason to keep it."""
_NOTES_PER_WRITE: Final = 128
_PROTECTED_SHARE: Final = 0.8
_REQUESTS_PER_ENTRY: Final = 10
"""Counts are halved after so many requests for each entry held."""
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_64_BITS: Final = (1 << 64) - 1

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class FeatureCacheCounters:
    """Why items left, since the start."""

    evicted: int = 0
    """Gave way to others that were asked for more often, or more lately."""
    refused: int = 0
    """Newcomers that were not better known than whom they would have displaced."""
    replaced: int = 0
    """Overwritten with another item of the same key."""
    removed: int = 0
    """Taken out by the caller."""
    too_large: int = 0
    """Larger than all the room there is; never held."""


class _Node(Generic[T]):
    __slots__ = ("count", "era", "home", "item", "key", "mark", "size_bytes")

    def __init__(self, key: Hashable, item: T, size_bytes: int, mark: int, count: int, era: int) -> None:
        self.key = key
        self.item: T | None = item
        self.size_bytes = size_bytes
        self.mark = mark
        self.count = count
        self.era = era
        self.home: OrderedDict[Hashable, _Node[T]] | None = None


class FeatureCache(Generic[T]):
    """Items by key within `bytes_max`, overhead included.

    `get` and `peek` may be called from any thread at any time. What changes something takes `lock`: one `threading.Lock`
    where several threads write; without one, a single thread writes. Equal calls in one process leave equal contents,
    because nothing is drawn by chance; between processes the hashes of strings differ, unless they are fixed.
    """

    def __init__(
        self,
        bytes_max: int,
        *,
        overhead_bytes: int = ENTRY_OVERHEAD_BYTES,
        lock: AbstractContextManager[Any] | None = None,
        still: bool = False,
    ) -> None:
        """`still`: the window stays at its least, as it does in the store that ours is compared with."""
        assert bytes_max > 0 and overhead_bytes >= 0
        self._bytes_max = bytes_max
        self._overhead_bytes = overhead_bytes
        self._lock = nullcontext() if lock is None else lock
        self._notes: deque[_Node[T]] = deque(maxlen=NOTES_MAX)
        self._note = self._notes.append
        self._nodes: dict[Hashable, _Node[T]] = {}
        self._find = self._nodes.get
        self._window: OrderedDict[Hashable, _Node[T]] = OrderedDict()
        self._probation: OrderedDict[Hashable, _Node[T]] = OrderedDict()
        self._protected: OrderedDict[Hashable, _Node[T]] = OrderedDict()
        self._size_bytes = self._window_bytes = self._protected_bytes = 0
        self._sketch = FrequencySketch()
        self._era = 0
        self._requests = 0
        self._balance: WindowBalance | StillWindow
        if still:
            self._balance = StillWindow(bytes_max)
        else:
            self._balance = WindowBalance(bytes_max, frequent=FeatureCache(bytes_max, overhead_bytes=0, still=True))
        self._unswept: list[Hashable] = []
        self.counters = FeatureCacheCounters()

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        share = 100 * self._balance.window_bytes / self._bytes_max
        return f"<FeatureCache {len(self)} items {self._size_bytes}/{self._bytes_max} B window={share:.0f} %>"

    @property
    def size_bytes(self) -> int:
        """What is held now, overhead included; at most `bytes_max` whenever no write is under way."""
        return self._size_bytes

    @property
    def window_share(self) -> float:
        """The part of the room that is kept for what is new."""
        return self._balance.window_bytes / self._bytes_max

    def get(self, key: Hashable) -> T | None:
        """What is held of `key`, noted as asked for."""
        node = self._find(key)
        if node is None:
            return None
        self._note(node)
        return node.item

    def peek(self, key: Hashable) -> T | None:
        """What is held of `key`; nobody asked."""
        node = self._find(key)
        return None if node is None else node.item

    def put(self, key: Hashable, item: T, *, size_bytes: int) -> None:
        """Hold `item` for `key`, or not: it may have to leave at once. Whatever was held of `key` before is not any more."""
        assert item is not None and size_bytes >= 0
        size_bytes = max(size_bytes + self._overhead_bytes, 1)
        with self._lock:
            if self._notes:
                self._work_off(_NOTES_PER_WRITE)
            node = self._find(key)
            if size_bytes > self._bytes_max:
                self.counters.too_large += 1
                if node is not None:
                    self._take_out(node)
                return
            if node is None:
                self._let_in(key, item, size_bytes)
            else:
                self.counters.replaced += 1
                node.item = item
                self._resize(node, size_bytes)
                self._asked_for(node)
            self._make_room()
            if self._sketch.halving or self._requests >= _REQUESTS_PER_ENTRY * len(self._nodes):
                self._grow_older()

    def pop(self, key: Hashable) -> T | None:
        """Hold nothing of `key` any more; return what was held."""
        with self._lock:
            node = self._nodes.get(key)
            return None if node is None else self._remove(node)

    def pop_where(self, predicate: Callable[[Any, T], bool]) -> int:
        """Hold nothing any more of which `predicate(key, item)` is true; return how many those were. Looks at all."""
        with self._lock:
            return self._pop_among(list(self._nodes), predicate)

    def sweep(self, predicate: Callable[[Any, T], bool], *, count_max: int) -> int:
        """As `pop_where`, but looks only at the next `count_max` keys; call after call comes round to all."""
        with self._lock:
            if not self._unswept:
                self._unswept = list(self._nodes)
            keys, self._unswept = self._unswept[-count_max:], self._unswept[:-count_max]
            return self._pop_among(keys, predicate)

    def narrow(self, predicate: Callable[[Any, T], bool], *, bytes_max: int) -> None:
        """As `pop_where`, and from now on within `bytes_max`. For a store that is `still`."""
        assert isinstance(self._balance, StillWindow) and 0 < bytes_max <= self._bytes_max
        with self._lock:
            self._pop_among(list(self._nodes), predicate)
            self._bytes_max = bytes_max
            self._balance = StillWindow(bytes_max)
            self._make_room()

    def clear(self) -> None:
        """Hold nothing any more."""
        self.pop_where(lambda _key, _item: True)

    def maintain(self) -> None:
        """Work off all notes of reads. Writes do so bit by bit; call this now and then where there are hardly any."""
        with self._lock:
            self._work_off(NOTES_MAX)

    def check_invariants(self) -> None:
        """Raises `AssertionError` in a state that must not exist."""
        homes = (self._window, self._probation, self._protected)
        assert len(self._nodes) == sum(map(len, homes))
        for home in homes:
            assert all(node.home is home and self._nodes[key] is node for key, node in home.items())
        assert all(key == node.key and node.item is not None for key, node in self._nodes.items())
        assert all(0 <= node.count <= COUNT_MAX and node.era <= self._era for node in self._nodes.values())
        assert self._window_bytes == sum(node.size_bytes for node in self._window.values())
        assert self._protected_bytes == sum(node.size_bytes for node in self._protected.values())
        assert self._size_bytes == sum(node.size_bytes for node in self._nodes.values())
        assert self._size_bytes <= self._bytes_max
        assert len(self._notes) <= NOTES_MAX
        assert self._sketch.size_bytes >= len(self._nodes) * CELLS_PER_ENTRY
        self._balance.check_invariants()

    # ---------------------------------------------------------------------------------------------- who was asked for

    def _work_off(self, count_max: int) -> None:
        notes = self._notes
        for _ in range(min(len(notes), count_max)):
            node = notes.popleft()
            if node.home is not None:
                self._asked_for(node)

    def _asked_for(self, node: _Node[T]) -> None:
        self._requests += 1
        count = self._count(node)
        if count < COUNT_MAX:
            node.count = count + 1
        home = node.home
        if home is self._probation:
            del home[node.key]
            self._protected_bytes += node.size_bytes
            self._settle(node, self._protected)
            self._demote()
        elif home is not None:
            home.move_to_end(node.key)
        self._balance.asked(node.mark, size_bytes=node.size_bytes, answered=True)

    def _demote(self) -> None:
        bytes_max = (self._bytes_max - self._balance.window_bytes) * _PROTECTED_SHARE
        while self._protected_bytes > bytes_max:
            _, node = self._protected.popitem(last=False)
            self._protected_bytes -= node.size_bytes
            self._settle(node, self._probation)

    def _count(self, node: _Node[T]) -> int:
        """How often it was asked for, halved as often as all counts were since it was last looked at."""
        if node.era != self._era:
            node.count >>= self._era - node.era
            node.era = self._era
        return node.count

    def _grow_older(self) -> None:
        self._sketch.go_on()
        if self._requests >= _REQUESTS_PER_ENTRY * len(self._nodes):
            self._requests >>= 1
            self._era += 1
            self._sketch.halve()

    # -------------------------------------------------------------------------------------------------- who comes, who goes

    def _let_in(self, key: Hashable, item: T, size_bytes: int) -> None:
        mark = (hash(key) * _MULTIPLIER) & _64_BITS
        mark ^= mark >> 32
        count = min(self._sketch.estimate(mark) + 1, COUNT_MAX)
        node = _Node(key, item, size_bytes, mark, count, self._era)
        self._requests += 1
        self._window_bytes += size_bytes
        self._size_bytes += size_bytes
        self._window[key] = self._nodes[key] = node
        node.home = self._window
        if len(self._nodes) > self._sketch.entries_max:
            self._sketch.fit(len(self._nodes))
        self._balance.asked(mark, size_bytes=size_bytes, answered=False)

    def _settle(self, node: _Node[T], home: OrderedDict[Hashable, _Node[T]]) -> None:
        home[node.key] = node
        node.home = home

    def _make_room(self) -> None:
        window, window_bytes_max = self._window, self._balance.window_bytes
        while self._window_bytes > window_bytes_max:
            _, node = window.popitem(last=False)
            self._window_bytes -= node.size_bytes
            self._probation[node.key] = node
            node.home = self._probation
            if self._size_bytes > self._bytes_max:
                self._judge(node)
        while self._size_bytes > self._bytes_max:
            home = self._probation or self._protected or window
            self.counters.evicted += 1
            self._leave(next(iter(home.values())))

    def _judge(self, newcomer: _Node[T]) -> None:
        """Who leaves: the newcomer, or the members in its way, if it is better known than all of them together.

        Its being here now counts for nothing: in a loop larger than the room the one who comes was always asked for once
        more than the one whose turn is next, and nobody would stay long enough to be found again.
        """
        known = self._count(newcomer) - 1
        missing_bytes = self._size_bytes - self._bytes_max
        leaving: list[_Node[T]] = []
        for node in self._members(newcomer) if known > 0 else ():
            known -= self._count(node)
            if known <= 0:
                break
            leaving.append(node)
            missing_bytes -= node.size_bytes
            if missing_bytes <= 0:
                break
        if known > 0 and missing_bytes <= 0:
            self.counters.evicted += len(leaving)
            for node in leaving:
                self._leave(node)
        else:
            self.counters.refused += 1
            self._leave(newcomer)

    def _members(self, newcomer: _Node[T]) -> Iterable[_Node[T]]:
        for home in (self._probation, self._protected):
            for node in home.values():
                if node is not newcomer:
                    yield node

    def _leave(self, node: _Node[T]) -> None:
        """For want of room: what it was asked for is remembered."""
        self._sketch.raise_to(node.mark, count=self._count(node))
        self._take_out(node)

    def _remove(self, node: _Node[T]) -> T | None:
        """At the caller's word: how often it was asked for is remembered, where it stood among the others is not."""
        item = node.item
        self.counters.removed += 1
        self._balance.forget(node.mark)
        self._leave(node)
        return item

    def _take_out(self, node: _Node[T]) -> None:
        home = node.home
        assert home is not None
        del self._nodes[node.key], home[node.key]
        self._size_bytes -= node.size_bytes
        if home is self._window:
            self._window_bytes -= node.size_bytes
        elif home is self._protected:
            self._protected_bytes -= node.size_bytes
        node.home = None
        node.item = None  # a note of a read may outlive it, and must not keep its bytes

    def _resize(self, node: _Node[T], size_bytes: int) -> None:
        more = size_bytes - node.size_bytes
        node.size_bytes = size_bytes
        self._size_bytes += more
        if node.home is self._window:
            self._window_bytes += more
        elif node.home is self._protected:
            self._protected_bytes += more

    def _pop_among(self, keys: list[Hashable], predicate: Callable[[Any, T], bool]) -> int:
        nodes = [node for key in keys if (node := self._nodes.get(key)) is not None]
        found = [node for node in nodes if node.item is not None and predicate(node.key, node.item)]
        for node in found:
            self._remove(node)
        return len(found)
