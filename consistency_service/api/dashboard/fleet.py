"""What the edges serve, counted. One count serves every page and every visitor for a second.

Counting looks at each edge once: with a hundred thousand of them that is a moment in which the node must do other things,
so it is done by a thread, on values that nobody changes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from consistency_service.api.dashboard.words import clip
from consistency_service.core.fleet import EdgeView
from consistency_service.runtime.node import Node

TALLY_NS: Final = 1_000_000_000
SEGMENTS_MAX: Final = 8
SITES_MAX: Final = 200
GAP: Final = 0.3
"""Between two parts of a bar, in percent of it."""
GUARANTEES: Final = ("strong", "bounded", "fallback")
UNKNOWN: Final = "unknown"

Served = tuple[str, str]
"""Version (`""`: none yet) and guarantee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Live edges: how many, and how many of them serve which version of which model under which guarantee."""

    live_count: int = 0
    silent_count: int = 0
    served: dict[str, Counter[Served]] = field(default_factory=dict)
    sites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One part of a bar, `x` and `width` in percent of it."""

    version: str
    guarantee: str
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetShare:
    """What the live edges that follow one model serve of it."""

    total: int
    strong: int
    segments: tuple[Segment, ...]


class FleetCount:
    """The newest tally of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tally = Tally()
        self._due_ns = 0
        self._counting = asyncio.Lock()

    async def tally(self) -> Tally:
        """At most a second old."""
        async with self._counting:
            now_ns = self._node.clock.now_ns()
            if now_ns >= self._due_ns:
                self._tally = await asyncio.to_thread(tally_of, self._node.fleet.view.edges(), now_ns=now_ns)
                self._due_ns = self._node.clock.now_ns() + TALLY_NS
            return self._tally


def guarantee_of(said: str) -> str:
    """A guarantee by one of our names; edges may say anything."""
    return said if said in GUARANTEES else UNKNOWN


def tally_of(views: tuple[EdgeView, ...], *, now_ns: int) -> Tally:
    """Count the live ones."""
    live = [view.report for view in views if view.live(now_ns=now_ns)]
    served: dict[str, Counter[Served]] = {}
    sites: set[str] = set()
    for report in live:
        if len(sites) < SITES_MAX:
            sites.add(report.site)
        for model in report.models:
            served.setdefault(model.model, Counter())[(model.version or "", guarantee_of(model.guarantee))] += 1
    return Tally(
        live_count=len(live),
        silent_count=len(views) - len(live),
        served=served,
        sites=tuple(sorted(clip(site) for site in sites if site)),
    )


def share_of(tally: Tally, model: str) -> FleetShare:
    """The bar of one model: the most served version first; beyond eight parts the rest is one."""
    counts = tally.served.get(model, Counter())
    total = counts.total()
    of_version: Counter[str] = Counter()
    for (version, _), count in counts.items():
        of_version[version] += count
    ranks = {name: rank for rank, name in enumerate((*GUARANTEES, UNKNOWN))}
    ranked = sorted(counts.items(), key=lambda item: (-of_version[item[0][0]], item[0][0], ranks[item[0][1]]))
    shown = ranked[:SEGMENTS_MAX]
    rest = sum(count for _, count in ranked[SEGMENTS_MAX:])
    if rest:
        shown.append((("others", UNKNOWN), rest))
    segments, x = [], 0.0
    for (version, guarantee), count in shown:
        width = 100 * count / total
        label = clip(version, 32) or "none yet"
        segments.append(Segment(version=label, guarantee=guarantee, count=count, x=round(x, 3), width=round(width, 3)))
        x += width
    strong = sum(count for (_, guarantee), count in counts.items() if guarantee == "strong")
    return FleetShare(total=total, strong=strong, segments=tuple(segments))
