"""Which batch is made next and which is sent next: two at a time at most, one on its way, classes in turn.

Within a class order is kept whatever fails: the second batch leaves when the first has arrived or was given up. Between
classes there is no order, so that one whose batches the store refuses holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from edge_client.core.generation import Generation, Phase
from edge_client.core.lane import Lane
from edge_client.core.retry import Backoff

if TYPE_CHECKING:
    from random import Random

ENCODED_MAX: Final = 2
"""One batch is sent while the next is encoded."""
ENCODED_PHASES: Final = (Phase.ENCODING, Phase.READY, Phase.SENDING)


class Departures:
    """Of one queue; `lanes` is the queue's own collection."""

    def __init__(self, *, lanes: Collection[Lane], first_ns: int, max_ns: int, rng: Random) -> None:
        self._lanes = lanes
        self._turn = 0
        self._ready: deque[Generation] = deque()
        self.backoff = Backoff(first_ns=first_ns, max_ns=max_ns, rng=rng)
        """Of the store being away, which concerns every class."""
        self.encoded_count = 0

    def take_to_encode(self, *, now_ns: int) -> Generation | None:
        """The next generation whose batch should be made, if any."""
        if self.encoded_count >= ENCODED_MAX:
            return None
        lanes = list(self._lanes)
        for number in range(len(lanes)):
            lane = lanes[(self._turn + number) % len(lanes)]
            generation = next((each for each in lane.waiting if each.phase is Phase.SEALED), None)
            if generation is not None and generation.durable and lane.backoff.retry_at_ns <= now_ns:
                self._turn = (self._turn + number + 1) % len(lanes)
                generation.phase = Phase.ENCODING
                self.encoded_count += 1
                return generation
        return None

    def ready(self, generation: Generation, *, first: bool) -> None:
        """Its batch may be sent; before all others if it was tried before."""
        generation.phase = Phase.READY
        if first:
            self._ready.appendleft(generation)
        else:
            self._ready.append(generation)

    def take_to_send(self, *, now_ns: int) -> Generation | None:
        """The next generation whose batch should be sent, if it is time."""
        if not self._ready or self.backoff.retry_at_ns > now_ns:
            return None
        generation = self._ready.popleft()
        generation.phase = Phase.SENDING
        return generation

    def left(self, generation: Generation) -> None:
        """It is neither being made nor sent any longer; its batch is forgotten."""
        if generation.phase in ENCODED_PHASES:
            self.encoded_count -= 1
        if generation.phase is Phase.READY:
            self._ready.remove(generation)
        generation.phase, generation.made = Phase.SEALED, None

    def held_up(self, lane: Lane) -> None:
        """The first of a class must be tried again: those behind it wait as well, and leave their places to others."""
        for generation in lane.waiting:
            if generation.phase is Phase.READY:
                self.left(generation)

    def retry_at_ns(self, *, now_ns: int) -> int | None:
        """When to look again after a failure; None: what can be done now was done, and nothing is put off."""
        instants = [lane.backoff.retry_at_ns for lane in self._lanes if lane.waiting] + [self.backoff.retry_at_ns]
        return min((instant for instant in instants if instant > now_ns), default=None)

    def check_invariants(self) -> None:
        """Raise if this is in a state that must not exist."""
        phases = [each.phase for lane in self._lanes for each in lane.waiting]
        assert sum(phase in ENCODED_PHASES for phase in phases) == self.encoded_count <= ENCODED_MAX
        assert phases.count(Phase.READY) == len(self._ready)
        for lane in self._lanes:
            assert all(each.phase is not Phase.OPEN and each.phase is not Phase.DONE for each in lane.waiting)
            started = [each.phase in ENCODED_PHASES for each in lane.waiting]
            assert started == sorted(started, reverse=True), "a batch overtook another of its class"
