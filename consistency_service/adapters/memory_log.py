"""One node, no disk, no network: the whole contract of a metadata log in a screen.

Picture the raft log with everything hard taken away: whoever proposes is the leader, and what is appended is committed.
The simplest region runs on it, and so do tests. It forgets everything with its process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from consistency_service.core.outcomes import Outcome
from consistency_service.runtime.ports import (
    Committed,
    LogStatus,
    MembershipChange,
    MembershipOutcome,
    MembershipRefused,
    NotLeader,
    ProposalOutcome,
    StateMachine,
)

logger = logging.getLogger(__name__)

COMMAND_BYTES_MAX: Final = 1 << 20
EXIT_CODE_FATAL: Final = 70


def end_process(reason: str) -> None:
    """The process is gone, at once and without cleaning up: what was in memory can no longer be trusted."""
    logger.critical("log_failed", extra={"reason": reason})
    os._exit(EXIT_CODE_FATAL)


class MemoryLog:
    """A `MetadataLog` of one voter. Keeps at most `compaction_min_entries` commands, then a snapshot in their place.

    A log that was closed may be started again with another machine, which then sees the same commands.
    """

    def __init__(
        self,
        *,
        node_id: str,
        compaction_min_entries: int = 5_000,
        on_fatal: Callable[[str], None] = end_process,
    ) -> None:
        self._node_id = node_id
        self._entries_max = compaction_min_entries
        self._on_fatal = on_fatal
        self._snapshot: tuple[int, bytes] | None = None
        self._commands: list[tuple[int, bytes]] = []
        self._index = 0
        self._term = 0
        self._machine: StateMachine | None = None
        self._listeners: list[Callable[[LogStatus], None]] = []

    async def start(self, machine: StateMachine) -> None:
        if self._snapshot is not None:
            index, state = self._snapshot
            machine.restore(state=state, index=index)
        for index, command in self._commands:
            machine.apply(index=index, command=command)
        self._machine = machine
        self._term += 1
        self._announce()

    async def close(self) -> None:
        if self._machine is not None:
            self._machine = None
            self._announce()

    async def propose(self, command: bytes, *, timeout_ms: int) -> ProposalOutcome:
        """The command is applied when this returns. Raises `ValueError` above 1 MiB."""
        if len(command) > COMMAND_BYTES_MAX:
            raise ValueError(f"a command has at most {COMMAND_BYTES_MAX} bytes, this one {len(command)}")
        if self._machine is None:
            return NotLeader(leader_id=None)
        index = self._index + 1
        try:
            outcome = self._machine.apply(index=index, command=command)
        except Exception as error:
            self._machine = None
            self._on_fatal(f"the state machine failed at index {index}: {error!r}")
            raise
        self._index = index
        self._commands.append((index, command))
        if len(self._commands) >= self._entries_max:
            self._snapshot = (index, self._machine.snapshot())
            self._commands.clear()
        return Committed(index=index, outcome=outcome)

    async def barrier(self, *, timeout_ms: int) -> ProposalOutcome:
        if self._machine is None:
            return NotLeader(leader_id=None)
        return Committed(index=self._index, outcome=Outcome())

    def status(self) -> LogStatus:
        leading = self._machine is not None
        return LogStatus(
            node_id=self._node_id,
            leader_id=self._node_id if leading else None,
            leading=leading,
            term_settled=leading,
            term=self._term,
            commit_index=self._index,
            applied_index=self._index,
            voters=(self._node_id,),
        )

    async def change_membership(self, change: MembershipChange, *, timeout_ms: int) -> MembershipOutcome:
        """Always refused."""
        if self._machine is None:
            return NotLeader(leader_id=None)
        return MembershipRefused(code="fixed_membership", reason="a log in memory has one member and stays alone")

    def transfer(self, heir: str | None) -> str | None:
        if heir is not None:
            raise ValueError(f"{heir!r} is no other voter: there is none")
        return None

    def resign(self) -> None:
        """Nothing changes: there is nobody to resign to."""

    def on_status_change(self, listener: Callable[[LogStatus], None]) -> None:
        self._listeners.append(listener)

    def _announce(self) -> None:
        for listener in self._listeners:
            listener(self.status())
