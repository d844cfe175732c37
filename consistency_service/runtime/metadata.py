"""Drives the state machine from the log, and tells everybody who waits what was applied.

The one place where log bytes become commands and back. Waiters are woken by revision, never by polling.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from consistency_service.core.commands import AnyCommand, decode_command, encode_command
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from consistency_service.core.state import State
from consistency_service.errors import NotLeaderError, SnapshotError, UnknownCommandError, UnknownOutcomeError
from consistency_service.runtime.ports import Committed, MetadataLog, NotLeader, ProposalOutcome
from consistency_service.runtime.telemetry import SILENCE, Telemetry, current_trace
from edge_client.protocol.messages import Event
from edge_client.protocol.position import Position

EVENTS_KEPT: Final = 10_000

AppliedListener = Callable[[AnyCommand, Outcome], None]


class Metadata:
    """The replicated metadata of this node. Every method is called on the event loop."""

    def __init__(self, *, log: MetadataLog, telemetry: Telemetry = SILENCE) -> None:
        self.machine = MetadataMachine()
        self.log = log
        self._telemetry = telemetry
        self.counters: Counter[str] = Counter()
        self._applied_listeners: list[AppliedListener] = []
        self._restored_listeners: list[Callable[[], None]] = []
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._events_after = 0
        self._moved = asyncio.Event()

    @property
    def state(self) -> State:
        return self.machine.state

    def on_applied(self, listener: AppliedListener) -> None:
        """Call `listener` after every applied command, in order, before anybody else runs."""
        self._applied_listeners.append(listener)

    def on_restored(self, listener: Callable[[], None]) -> None:
        """Call `listener` after the state was replaced by a snapshot's."""
        self._restored_listeners.append(listener)

    # ---- StateMachine, for the log

    def apply(self, *, index: int, command: bytes) -> Outcome:
        """Apply the bytes at `index`; the same answer on every node.

        Raises `UnknownCommandError` for what this release does not know, which ends the node: another release wrote it, and
        nodes that know it have applied it. To go on without it would be to go on with another state.
        """
        decoded = decode_command(command)
        if decoded is None:
            raise UnknownCommandError(index)
        before = self.state.revision
        outcome = self.machine.apply(decoded)
        if self.state.revision != before:
            self._events.append(self.state.outbox[-1])
            if len(self._events) == EVENTS_KEPT:
                self._events_after = self._events[0].revision - 1
        for listener in self._applied_listeners:
            listener(decoded, outcome)
        self._wake()
        return outcome

    def snapshot(self) -> bytes:
        return self.machine.snapshot()

    def restore(self, *, state: bytes, index: int) -> None:
        try:
            self.machine.restore(state)
        except ValueError as error:
            raise SnapshotError(f"the log's snapshot at index {index} cannot be read: {error}") from error
        self._events.clear()
        self._events.extend(self.state.outbox[-EVENTS_KEPT:])
        self._events_after = self._events[0].revision - 1 if self._events else self.state.revision
        for listener in self._restored_listeners:
            listener()
        self._wake()

    # ---- proposals

    async def propose(self, command: AnyCommand, *, timeout_ms: int = 5_000) -> Outcome:
        """The outcome of the command, applied here. Raises `NotLeaderError`, `UnknownOutcomeError`, `ValueError`.

        It belongs to the trace it names, else to the one of whoever calls.
        """
        parent = command.trace or current_trace.get()
        if not parent:
            return await self._proposed(command, timeout_ms=timeout_ms)
        name = type(command).__name__
        with self._telemetry.span(f"propose {name}", parent=parent, command=name) as span:
            traced = msgspec.structs.replace(command, trace=span.traceparent)
            outcome = await self._proposed(traced, timeout_ms=timeout_ms)
            span.note(code=outcome.code, revision=outcome.revision)
            return outcome

    async def _proposed(self, command: AnyCommand, *, timeout_ms: int) -> Outcome:
        began_s = asyncio.get_running_loop().time()
        answer = await self.log.propose(encode_command(command), timeout_ms=timeout_ms)
        if isinstance(answer, Committed):
            self._telemetry.record("raft_commit_seconds", asyncio.get_running_loop().time() - began_s)
        return self._outcome(answer)

    async def barrier(self, *, timeout_ms: int) -> None:
        """Afterwards everything committed before the call is applied here. Raises as `propose` does."""
        self._outcome(await self.log.barrier(timeout_ms=timeout_ms))

    def _outcome(self, answer: ProposalOutcome) -> Outcome:
        if isinstance(answer, Committed):
            return answer.outcome
        if isinstance(answer, NotLeader):
            raise NotLeaderError(leader_id=answer.leader_id)
        raise UnknownOutcomeError(answer.reason)

    # ---- waiting

    async def wait_position(self, position: Position) -> None:
        """Return once the state is at or after `position`."""
        await self.wait_until(lambda: self.state.position >= position)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds; it is asked again after everything that is applied."""
        while not condition():
            await self._moved.wait()

    def events_after(self, revision: int) -> tuple[Event, ...] | None:
        """The events behind `revision`, oldest first; None if they are not all kept any more."""
        if revision < self._events_after:
            return None
        return tuple(event for event in self._events if event.revision > revision)

    def events_kept(self) -> tuple[Event, ...]:
        """Every event that is kept, oldest first."""
        return tuple(self._events)

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
