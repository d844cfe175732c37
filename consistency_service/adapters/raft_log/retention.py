"""When the log gives way to a snapshot, and how much of it stays for those who are still behind.

Picture a newspaper stack by the door. It is thrown away when it is high enough, except for what a neighbour who is just
catching up has yet to read: otherwise, whenever they have read the summary, the next papers are gone and they are handed a
newer summary, for ever. A neighbour who never comes does not fill the house: beyond a height the stack goes all the same,
and that is counted.
"""

from __future__ import annotations

from typing import Final

from consistency_service.adapters.raft_log.config import RaftLogConfig
from consistency_service.adapters.raft_log.journal import Journal

NEEDED_ENTRIES_RATIO: Final = 16
NEEDED_BYTES_RATIO: Final = 4
"""A journal so many times longer than one that is usually replaced is replaced whoever needs it."""


class Retention:
    """Decides only. `needed` is the first entry that a follower needs, or None."""

    def __init__(self, config: RaftLogConfig, *, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self.given_up_count = 0
        """How often entries that a follower needed went, because the journal had grown too long."""

    def due(self, *, applied_index: int, needed: int | None) -> bool:
        """What a snapshot could now replace is worth one."""
        if needed is not None and not self._overgrown:
            applied_index = min(applied_index, needed + 1)
        return self._exceeds(through=applied_index, entries_ratio=1, bytes_ratio=1)

    def first_kept(self, index: int, *, needed: int | None) -> int:
        """The entries before it go. `index`: the first that the new snapshot does not replace."""
        if needed is None or needed >= index:
            return index
        if self._overgrown:
            self.given_up_count += 1
            return index
        return needed

    @property
    def _overgrown(self) -> bool:
        last = self._journal[-1][1]
        return self._exceeds(through=last, entries_ratio=NEEDED_ENTRIES_RATIO, bytes_ratio=NEEDED_BYTES_RATIO)

    def _exceeds(self, *, through: int, entries_ratio: int, bytes_ratio: int) -> bool:
        journal, config = self._journal, self._config
        count = through - journal[0][1] + 1
        size_bytes = journal.size_bytes(through=through)
        return (
            count > entries_ratio * config.compaction_min_entries
            or size_bytes > bytes_ratio * config.compaction_min_bytes
        )
