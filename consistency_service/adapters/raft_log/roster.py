"""The table of members in force: the newest in the journal, or in the snapshot below it, or that of the founders.

Nothing is remembered here that the disk does not hold, so nothing is forgotten by a restart; an entry that is cut off
takes its table with it.
"""

from __future__ import annotations

from consistency_service.adapters.raft_log import frames, membership
from consistency_service.adapters.raft_log.journal import Journal
from consistency_service.adapters.raft_log.membership import Members


class Roster:
    def __init__(self, journal: Journal, *, founders: Members) -> None:
        self._journal = journal
        self._below = founders
        self._founding = True
        self._read: tuple[bytes, Members] = (b"", founders)

    @property
    def index(self) -> int:
        """Where the table in force stands in the journal; 0: below it."""
        held = self._journal.members_entries
        return held[-1][0] if held else 0

    @property
    def founding(self) -> bool:
        """Neither journal nor snapshot has a table."""
        return self._founding and self.index == 0

    @property
    def members(self) -> Members:
        held = self._journal.members_entries
        return self._decoded(held[-1][1]) if held else self._below

    def at(self, index: int) -> Members:
        """The table in force when this entry was the last."""
        held = [command for place, command in self._journal.members_entries if place <= index]
        return self._decoded(held[-1]) if held else self._below

    def rebase(self, members: Members) -> None:
        """A snapshot with this table lies below the journal, or is about to."""
        if members.table:
            self._below = members
            self._founding = False

    def _decoded(self, command: bytes) -> Members:
        if self._read[0] != command:
            frame = frames.decode(command)
            assert frame is not None
            self._read = (command, membership.decode(frame.payload))
        return self._read[1]
