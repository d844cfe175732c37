"""How many of these requests would be answered from memory, by which rule, in how much room?

Four answers for one trace and one size: LRU, ours (the very store of the memory tier, each item one byte large), W-TinyLFU
as the library theine has it, and the optimum that knows the future (Belady, 1966; it may refuse what it is not going to
need). Every rule sees the same: a key is asked for, and put if it was not there.
"""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from edge_client.core.feature_cache import FeatureCache

LRU_LEAD_MAX: Final = 0.5
"""Points by which LRU may be better than ours."""
PEER_LEAD_MAX: Final = 2.0
"""Points by which W-TinyLFU may be, where it beats LRU."""
CONTENTS_MIN: Final = round(100 / LRU_LEAD_MAX)
"""Requests for each key there is room for, from which on one content of the store is at most half a point."""
SHARES: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Sizes where none is given: parts of the different keys."""
_CHUNK: Final = 1 << 14

Step = Callable[[int], Any]
"""Told how many requests were replayed since it was told last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRatios:
    """Per cent of the requests, at one size."""

    size: int
    lru: float
    ours: float
    w_tinylfu: float | None
    """None: not installed."""
    optimum: float

    @property
    def kept(self) -> bool:
        """Whether ours is as good as promised: in points of LRU, and of W-TinyLFU where that wins."""
        peer = self.w_tinylfu
        if peer is not None and peer > self.lru and self.ours < peer - PEER_LEAD_MAX:
            return False
        return self.ours >= self.lru - LRU_LEAD_MAX


def compare(requests: array[int], *, size: int, step: Step = lambda _: None) -> HitRatios:
    """Replay `requests` against each rule with room for `size` items."""
    peer = w_tinylfu_hits(requests, size=size, step=step)
    hits = [rule(requests, size=size, step=step) for rule in (lru_hits, our_hits, optimum_hits)]
    lru, ours, optimum = (100 * count / len(requests) for count in hits)
    ratio = None if peer is None else 100 * peer / len(requests)
    return HitRatios(size=size, lru=lru, ours=ours, w_tinylfu=ratio, optimum=optimum)


def default_sizes(keys: int) -> list[int]:
    """Room for each of `SHARES` of the keys."""
    return sorted({max(1, int(keys * share)) for share in SHARES})


def lru_hits(requests: array[int], *, size: int, step: Step) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for chunk in _chunks(requests, step):
        for key in chunk:
            if key in held:
                hits += 1
                held.move_to_end(key)
            else:
                held[key] = None
                if len(held) > size:
                    held.popitem(last=False)
    return hits


def our_hits(requests: array[int], *, size: int, step: Step) -> int:
    cache: FeatureCache[bool] = FeatureCache(size, overhead_bytes=0)
    hits = 0
    for chunk in _chunks(requests, step):
        for key in chunk:
            if cache.get(key):
                hits += 1
            else:
                cache.put(key, True, size_bytes=1)
    return hits


def w_tinylfu_hits(requests: array[int], *, size: int, step: Step) -> int | None:
    try:
        from theine import Cache
    except ModuleNotFoundError:
        step(len(requests))
        return None
    cache: Cache[int, bool] = Cache(size)
    hits = 0
    try:
        for chunk in _chunks(requests, step):
            for key in chunk:
                if cache.get(key)[1]:
                    hits += 1
                else:
                    cache.set(key, True)
    finally:
        cache.close()
    return hits


def optimum_hits(requests: array[int], *, size: int, step: Step) -> int:
    """Whoever is needed last, or never again, gives way."""
    never = len(requests)
    following = array("Q", bytes(8 * never))
    last: dict[int, int] = {}
    for index in range(never - 1, -1, -1):
        following[index] = last.get(requests[index], never)
        last[requests[index]] = index
    held: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    hits = index = 0
    for chunk in _chunks(requests, step):
        for key in chunk:
            hits += key in held
            held[key] = following[index]
            heapq.heappush(latest, (-following[index], key))
            index += 1
            while len(held) > size:
                when, other = heapq.heappop(latest)
                if held.get(other) == -when:
                    del held[other]
    return hits


def _chunks(requests: array[int], step: Step) -> Iterator[array[int]]:
    for begin in range(0, len(requests), _CHUNK):
        chunk = requests[begin : begin + _CHUNK]
        yield chunk
        step(len(chunk))
