"""Answers "which version is active?" on this node: from leased memory, else through the log (protocol, section 4).

The node is a reader like any edge, whose own clock is exact. "Am I leader?" is never grounds for an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from consistency_service.core.commands import AnyCommand
from consistency_service.core.outcomes import Outcome
from consistency_service.errors import NotLeaderError, NotStrongError, UnknownModelError, UnknownOutcomeError
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock
from edge_client.protocol.messages import Beacon, ClockReply
from edge_client.protocol.models import Assignment
from edge_client.protocol.position import Position
from edge_client.protocol.reader import Effect, Reader, Standing

if TYPE_CHECKING:
    from random import Random

    from consistency_service.core.authority import Authority

Consistency = Literal["lease", "log", "local"]
MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """What is active for a model, and how that is known."""

    model: str
    generation: int
    """0: nothing was ever activated."""
    assignment: Assignment | None
    consistency: Consistency
    position: Position


class Reads:
    """The reader of this node. Every method is called on the event loop."""

    def __init__(self, *, metadata: Metadata, authority: Authority, clock: Clock, rng: Random) -> None:
        self._metadata = metadata
        self._authority = authority
        self._clock = clock
        self._rng = rng
        self.reader = Reader(terms=metadata.state.terms, rng=rng, own_clock_id=authority.clock_id)
        self.effects: list[Effect] = []
        self.beacon_at_ns: int | None = None
        """When a beacon of this epoch was heard or granted last."""
        metadata.on_applied(self._applied)
        metadata.on_restored(self._follow_state)

    # ---- inputs

    def beacon_received(self, beacon: Beacon) -> None:
        """Take a verified beacon from the bus, or the one this node has just granted."""
        if beacon.epoch == self._metadata.state.epoch:
            self.beacon_at_ns = self._clock.now_ns()
            self.effects += self.reader.beacon_received(beacon, now_ns=self.beacon_at_ns)

    def clock_reply_received(self, reply: ClockReply) -> None:
        """Take a verified reply to one of our own clock requests."""
        if reply.epoch == self._metadata.state.epoch:
            self.effects += self.reader.clock_reply_received(reply, now_ns=self._clock.now_ns())

    def clock_distrusted(self) -> None:
        """Our own clock broke its rate: nothing leased is worth anything."""
        self.reader.own_clock_distrusted(now_ns=self._clock.now_ns())

    def clock_trusted(self, *, clock_id: str) -> None:
        """Our own clock is good again, under a new name."""
        state = self._metadata.state
        self.reader = Reader(terms=state.terms, rng=self._rng, own_clock_id=clock_id)
        self._follow_state()

    # ---- answers

    async def active(self, model: str, *, consistency: Literal["strong", "local"], timeout_ms: int) -> Active:
        """The active assignment. `strong` is linearizable.

        Raises `UnknownModelError`, `NotStrongError` when `timeout_ms` pass without a strong answer, and
        `NotLeaderError` where only the leader can read through the log.
        """
        if consistency == "local":
            return self._answer(model, serve_next=False, consistency="local")
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                return await self._strong(model, timeout_ms=timeout_ms)
        except TimeoutError:
            raise NotStrongError(f"no strong answer for {model} within {timeout_ms} ms") from None
        except UnknownOutcomeError as error:
            raise NotStrongError(f"no strong answer for {model}: {error}") from None

    async def ready(self, *, timeout_ms: int) -> str | None:
        """None if this node can answer strongly within `timeout_ms`, by lease or through the log; else why not."""
        if self.reader.lease_until_ns > self._clock.now_ns():
            return None
        now_ns = self._clock.now_ns()
        if self._authority.silent(now_ns=now_ns):
            return "the region is not bootstrapped, or its epoch is too young to be read"
        try:
            await self._metadata.barrier(timeout_ms=timeout_ms)
        except NotLeaderError:
            return "no lease, and this node does not lead"
        except UnknownOutcomeError as error:
            return f"no lease, and the log does not answer: {error}"
        return None

    def lease_remaining_ms(self) -> int:
        """How long the present lease lasts, milliseconds; 0 without one."""
        return max(0, (self.reader.lease_until_ns - self._clock.now_ns()) // MS)

    # ---- helpers

    async def _strong(self, model: str, *, timeout_ms: int) -> Active:
        while True:
            now_ns = self._clock.now_ns()
            if self._authority.silent(now_ns=now_ns):
                raise NotStrongError("the region's epoch is too young for strong reads; ask again in two seconds")
            consistency: Consistency = "lease"
            if self.reader.lease_until_ns <= now_ns:
                await self._metadata.barrier(timeout_ms=timeout_ms)
                consistency, now_ns = "log", self._clock.now_ns()
            standing = self._standing(model, now_ns=now_ns, through_log=consistency == "log")
            if standing.strong_until_ns > now_ns:
                return self._answer(model, serve_next=standing.serve_next, consistency=consistency)
            await self._open_switch_over(standing, now_ns=now_ns)

    def _standing(self, model: str, *, now_ns: int, through_log: bool) -> Standing:
        state = self._metadata.state.models.get(model)
        if state is None:
            if through_log or self.reader.lease_until_ns > now_ns:
                raise UnknownModelError(model)
            return Standing(serve_next=False, strong_until_ns=now_ns, changes_at_ns=None)
        return self.reader.standing(state.pending, now_ns=now_ns, through_log=through_log)

    async def _open_switch_over(self, standing: Standing, *, now_ns: int) -> None:
        """Wait for the end of an open switch, or for anything to be applied."""
        at_most_ns = now_ns + 100 * MS
        wake_ns = min(at_most_ns, standing.changes_at_ns) if standing.changes_at_ns is not None else at_most_ns
        await self._clock.sleep_until(max(wake_ns, now_ns + MS))

    def _answer(self, model: str, *, serve_next: bool, consistency: Consistency) -> Active:
        state = self._metadata.state.models.get(model)
        if state is None:
            raise UnknownModelError(model)
        served = state.pending if serve_next and state.pending is not None else state
        return Active(
            model=model,
            generation=served.generation,
            assignment=served.assignment,
            consistency=consistency,
            position=self._metadata.state.position,
        )

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        self._follow_state()

    def _follow_state(self) -> None:
        state, now_ns = self._metadata.state, self._clock.now_ns()
        if state.epoch > self.reader.position.epoch:
            self.effects += self.reader.epoch_began(state.position, terms=state.terms, now_ns=now_ns)
        elif state.epoch:
            self.reader.applied(state.position, now_ns=now_ns)
        for pending in state.pendings().values():
            self.effects += self.reader.pending_known(pending, now_ns=now_ns)
