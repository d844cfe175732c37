"""How a node that lost its memory gets its vote back. Why this is enough: see `recovery`."""

from __future__ import annotations

from collections.abc import Callable

from consistency_service.adapters.raft_log.journal import Journal


class Rejoin:
    """It asks each leader it hears of for an entry made since, and counts again when its disk holds that."""

    def __init__(self, journal: Journal, *, ask: Callable[[], None]) -> None:
        self._journal = journal
        self._ask = ask
        self._asked = False
        self._index: int | None = None

    def step(self, *, led: bool) -> None:
        journal = self._journal
        if not journal.rejoining:
            return
        if self._index is not None and journal.durable_through >= self._index:
            journal.rejoined()
        elif led and not self._asked:
            self._asked = True
            self._ask()

    def answered(self, index: int | None) -> None:
        """The entry, committed and applied here; None: nobody confirmed one."""
        self._index, self._asked = index, index is not None

    def lead_changed(self) -> None:
        """Whom we asked leads no more, or we do not hear it."""
        self._asked = False
