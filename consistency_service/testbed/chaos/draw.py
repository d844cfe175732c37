"""Draws the programme of a seed: storms of overlapping faults, and calms between them; it ends in a storm.

Storms begin and end at random; within one, faults begin at random, and end with it at the latest. What a fault holds (a
process, a disk, somebody's network) no other fault of the programme holds at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from consistency_service.testbed.chaos.plan import (
    BUS,
    LEADER,
    TIER,
    Action,
    Break,
    Fault,
    FaultKind,
    Pair,
    Range,
    Schedule,
    StartClock,
)

STORM_MS: Final = (25_000, 45_000)
CALM_MS: Final = (7_000, 12_000)
FIRST_MS: Final = 2_000
"""Quiet at the beginning, so that the picture shows what health looks like."""
GAP_MS_MEAN: Final = 1_600
LEASE_OVER_MS: Final = (2_600, 6_500)
"""How long processes stand still: longer than a lease of 2 s."""
RATE_PPM_MAX: Final = 400
"""Well inside the 500 ppm that the protocol assumes: the machine's own clock errs too."""
OFFSET_NS_MAX: Final = 30 * 86_400 * 10**9
BROKEN_RATE_PPM: Final = -500_000


def draw(
    seed: int,
    *,
    duration_ms: int,
    kinds: frozenset[FaultKind],
    nodes: Sequence[str],
    edges: Sequence[str],
    breaking: Break | None = None,
) -> Schedule:
    """The programme of a seed."""
    rng = random.Random(f"chaos {seed}")
    clocks: dict[str, StartClock] = {}
    if FaultKind.CLOCK in kinds:
        clocks = {name: _start_clock(rng) for name in (*nodes, *edges)}
    if breaking is Break.CLOCK_RATE:
        faults = _broken_clocks(rng, duration_ms=duration_ms, edges=edges)
        return Schedule(seed=seed, duration_ms=duration_ms, faults=faults, clocks={}, storms=((0, duration_ms),))
    storms = tuple(_storms(rng, duration_ms=duration_ms))
    drawer = _Drawer(rng, nodes=nodes, edges=edges)
    for storm in storms:
        drawer.storm(storm, kinds=sorted(kinds))
    return Schedule(seed=seed, duration_ms=duration_ms, faults=tuple(drawer.faults), clocks=clocks, storms=storms)


def _storms(rng: random.Random, *, duration_ms: int) -> list[Range]:
    storms: list[Range] = []
    at_ms = min(FIRST_MS, duration_ms // 10)
    while at_ms < duration_ms:
        end_ms = at_ms + rng.randint(*STORM_MS)
        if end_ms + CALM_MS[1] + STORM_MS[0] > duration_ms:
            end_ms = duration_ms  # no room for another: this one lasts to the end
        storms.append((at_ms, end_ms))
        at_ms = end_ms + rng.randint(*CALM_MS)
    return storms


def _start_clock(rng: random.Random) -> StartClock:
    return StartClock(offset_ns=rng.randrange(OFFSET_NS_MAX), rate_ppm=rng.randint(-RATE_PPM_MAX, RATE_PPM_MAX))


def _broken_clocks(rng: random.Random, *, duration_ms: int, edges: Sequence[str]) -> tuple[Fault, ...]:
    faults: list[Fault] = []
    at_ms = FIRST_MS
    while at_ms + 12_000 <= duration_ms:
        edge = rng.choice(list(edges))
        faults.append(
            Fault(
                number=len(faults) + 1,
                kind=FaultKind.CLOCK,
                action=Action.BREAK_CLOCK,
                target=edge,
                begin_ms=at_ms,
                end_ms=at_ms + 6_000,
                pairs=_both([(edge, BUS)]),
                amount=BROKEN_RATE_PPM,
                words=f"{edge} without a bus, its clock at half its rate (beyond the assumption)",
            )
        )
        at_ms += rng.randint(10_000, 12_000)
    return tuple(faults)


def _both(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return (*pairs, *((b, a) for a, b in pairs))


class _Drawer:
    """Draws faults one after another, and knows what is held until when."""

    def __init__(self, rng: random.Random, *, nodes: Sequence[str], edges: Sequence[str]) -> None:
        self.faults: list[Fault] = []
        self._rng = rng
        self._nodes = list(nodes)
        self._edges = list(edges)
        self._held_until_ms: dict[str, int] = {}
        self._makers: dict[FaultKind, tuple[Callable[[Range], Fault | None], ...]] = {
            FaultKind.KILL: (self._kill_node, self._kill_edge),
            FaultKind.PAUSE: (self._pause_node, self._pause_edge),
            FaultKind.PARTITION: (self._isolate, self._one_way, self._pair, self._off_bus, self._off_bus, self._slow),
            FaultKind.BUS: (self._kill_bus, self._wipe_bus, self._pause_bus),
            FaultKind.DISK: (self._fill,),
            FaultKind.CLOCK: (self._rate, self._suspend),
            FaultKind.REDIS: (self._flush, self._kill_tier, self._fill_tier),
        }

    def storm(self, storm: Range, *, kinds: Sequence[FaultKind]) -> None:
        """Faults until the storm is over; all of them end with it at the latest."""
        at_ms = storm[0]
        while (at_ms := at_ms + 200 + int(self._rng.expovariate(1 / GAP_MS_MEAN))) < storm[1]:
            maker = self._rng.choice(self._makers[self._rng.choice(kinds)])
            fault = maker((at_ms, storm[1]))
            if fault is not None:
                self.faults.append(fault)

    def _fault(
        self,
        window: Range,
        lasts_ms: Range,
        *,
        kind: FaultKind,
        action: Action,
        target: str,
        holds: str | None = None,
        pairs: Sequence[Pair] = (),
        amount: int = 0,
        words: str,
    ) -> Fault | None:
        """The fault, unless what it holds is held already or the storm ends too early."""
        begin_ms, storm_end_ms = window
        end_ms = begin_ms + self._rng.randint(*lasts_ms)
        held = holds or target
        if end_ms > storm_end_ms or self._held_until_ms.get(held, 0) > begin_ms:
            return None
        self._held_until_ms[held] = end_ms + 500
        return Fault(
            number=len(self.faults) + 1,
            kind=kind,
            action=action,
            target=target,
            begin_ms=begin_ms,
            end_ms=end_ms,
            pairs=tuple(pairs),
            amount=amount,
            words=words,
        )

    # ---- processes

    def _node(self) -> str:
        return LEADER if self._rng.random() < 0.5 else self._rng.choice(self._nodes)

    def _kill_node(self, window: Range) -> Fault | None:
        node = self._node()
        return self._fault(
            window, (500, 8_000), kind=FaultKind.KILL, action=Action.KILL, target=node, words=f"kill {node}"
        )

    def _kill_edge(self, window: Range) -> Fault | None:
        edge = self._rng.choice(self._edges)
        return self._fault(
            window, (500, 5_000), kind=FaultKind.KILL, action=Action.KILL, target=edge, words=f"kill {edge}"
        )

    def _pause_node(self, window: Range) -> Fault | None:
        node = self._node()
        return self._fault(
            window, LEASE_OVER_MS, kind=FaultKind.PAUSE, action=Action.PAUSE, target=node, words=f"pause {node}"
        )

    def _pause_edge(self, window: Range) -> Fault | None:
        edge = self._rng.choice(self._edges)
        return self._fault(
            window, LEASE_OVER_MS, kind=FaultKind.PAUSE, action=Action.PAUSE, target=edge, words=f"pause {edge}"
        )

    # ---- network

    def _net(self, window: Range, pairs: Sequence[Pair], *, name: str, words: str) -> Fault | None:
        action = self._rng.choice((Action.CUT, Action.HOLD))
        after = "what was under way is lost" if action is Action.CUT else "what was under way arrives late"
        return self._fault(
            window,
            (1_000, 8_000),
            kind=FaultKind.PARTITION,
            action=action,
            target=name,
            holds=f"net {name}",
            pairs=pairs,
            words=f"{words}; {after}",
        )

    def _isolate(self, window: Range) -> Fault | None:
        """A minority apart from the majority, with or without the bus."""
        few = self._rng.sample(self._nodes, k=self._rng.randint(1, max(1, (len(self._nodes) - 1) // 2)))
        pairs = [(one, other) for one in few for other in self._nodes if other not in few]
        alone = " and ".join(sorted(few))
        if self._rng.random() < 0.5:
            pairs += [(one, BUS) for one in few]
            return self._net(window, _both(pairs), name=alone, words=f"partition: {alone} alone, without the bus")
        return self._net(window, _both(pairs), name=alone, words=f"partition: {alone} alone, with the bus")

    def _one_way(self, window: Range) -> Fault | None:
        node = self._rng.choice(self._nodes)
        pairs = [(node, other) for other in self._nodes if other != node]
        if self._rng.random() < 0.5:
            return self._net(window, pairs, name=node, words=f"one-way partition: no node hears {node}")
        back = [(b, a) for a, b in pairs]
        return self._net(window, back, name=node, words=f"one-way partition: {node} hears no node")

    def _pair(self, window: Range) -> Fault | None:
        if len(self._nodes) < 2:
            return None
        one, other = self._rng.sample(self._nodes, k=2)
        if self._rng.random() < 0.5:
            return self._net(window, [(one, other)], name=one, words=f"one-way partition: {other} does not hear {one}")
        pairs = _both([(one, other)])
        return self._net(window, pairs, name=one, words=f"partition: {one} and {other} do not hear each other")

    def _off_bus(self, window: Range) -> Fault | None:
        who = self._rng.choice(self._edges if self._rng.random() < 0.7 else self._nodes)
        shape = self._rng.randrange(3)
        pairs: Sequence[Pair] = (_both([(who, BUS)]), [(who, BUS)], [(BUS, who)])[shape]
        words = (
            f"partition: {who} without the bus",
            f"one-way partition: the bus does not hear {who}",
            f"one-way partition: {who} does not hear the bus",
        )[shape]
        return self._net(window, pairs, name=f"{who} bus", words=words)

    def _slow(self, window: Range) -> Fault | None:
        who = self._rng.choice(self._nodes + self._edges)
        peers = [other for other in self._nodes if other != who] if who in self._nodes else []
        delay_ms = self._rng.randint(20, 250)
        return self._fault(
            window,
            (2_000, 10_000),
            kind=FaultKind.PARTITION,
            action=Action.SLOW,
            target=who,
            holds=f"slow {who}",
            pairs=_both([(who, other) for other in (*peers, BUS)]),
            amount=delay_ms,
            words=f"slow network: {delay_ms} ms more to and from {who}",
        )

    # ---- bus, tier, disk

    def _kill_bus(self, window: Range) -> Fault | None:
        return self._fault(
            window, (300, 5_000), kind=FaultKind.BUS, action=Action.KILL, target=BUS, words="restart the bus"
        )

    def _wipe_bus(self, window: Range) -> Fault | None:
        words = "restart the bus with its storage wiped"
        return self._fault(window, (300, 5_000), kind=FaultKind.BUS, action=Action.WIPE, target=BUS, words=words)

    def _pause_bus(self, window: Range) -> Fault | None:
        return self._fault(
            window, LEASE_OVER_MS, kind=FaultKind.BUS, action=Action.PAUSE, target=BUS, words="pause the bus"
        )

    def _flush(self, window: Range) -> Fault | None:
        return self._fault(
            window, (0, 0), kind=FaultKind.REDIS, action=Action.FLUSH, target=TIER, words="flush the local tier"
        )

    def _kill_tier(self, window: Range) -> Fault | None:
        return self._fault(
            window, (500, 8_000), kind=FaultKind.REDIS, action=Action.KILL, target=TIER, words="kill the local tier"
        )

    def _fill_tier(self, window: Range) -> Fault | None:
        return self._fault(
            window, (3_000, 10_000), kind=FaultKind.REDIS, action=Action.FULL, target=TIER, words="local tier full"
        )

    def _fill(self, window: Range) -> Fault | None:
        disk = self._rng.choice([*self._nodes, "artifacts"])
        return self._fault(
            window,
            (2_000, 8_000),
            kind=FaultKind.DISK,
            action=Action.FILL,
            target=disk,
            holds=f"disk {disk}",
            words=f"disk of {disk} full",
        )

    # ---- clocks

    def _rate(self, window: Range) -> Fault | None:
        who = self._rng.choice(self._nodes + self._edges)
        rate_ppm = self._rng.randint(-RATE_PPM_MAX, RATE_PPM_MAX)
        return self._fault(
            window,
            (0, 0),
            kind=FaultKind.CLOCK,
            action=Action.RATE,
            target=who,
            holds=f"rate {who}",
            amount=rate_ppm,
            words=f"clock of {who} at {rate_ppm:+d} ppm",
        )

    def _suspend(self, window: Range) -> Fault | None:
        who = self._rng.choice([self._node(), self._rng.choice(self._edges)])
        return self._fault(
            window, LEASE_OVER_MS, kind=FaultKind.CLOCK, action=Action.SUSPEND, target=who, words=f"suspend {who}"
        )
