"""Moves the staleness windows of feature classes: once a second, on the authority's node, by what edges told lately.

Every node hears every edge, so another authority knows as much at once; only its patience begins anew.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from consistency_service.core.authority import Authority
from consistency_service.core.commands import SetFeatureWindow
from consistency_service.core.feature_windows import FeatureWindows, WindowChange
from consistency_service.errors import NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock

_log = logging.getLogger(__name__)
LOOK_NS: Final = 1_000_000_000


class FeatureWindowDriver:
    """Runs on every node, acts on the authority's. `counters` tell what became of its orders."""

    def __init__(self, *, metadata: Metadata, authority: Authority, fleet: FleetDriver, clock: Clock) -> None:
        self._metadata = metadata
        self._authority = authority
        self._fleet = fleet
        self._clock = clock
        self._windows = FeatureWindows()
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Drive until cancelled."""
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + LOOK_NS)
            await self.look()

    async def look(self) -> None:
        """Decide once for every class. A node that hears no edge any more decides nothing."""
        now_ns, view = self._clock.now_ns(), self._fleet.view
        if not self._authority.is_authority or self._authority.silent(now_ns=now_ns) or view.deaf(now_ns=now_ns):
            self._windows.forget()
            return
        told = [
            (known.feature_class, view.features.rate(name, now_ns=now_ns))
            for name, known in self._metadata.state.feature_classes.items()
        ]
        for change in self._windows.look(told, now_ns=now_ns):
            await self._propose(change)

    async def _propose(self, change: WindowChange) -> None:
        """Offer it once. What was lost the next look that finds it still due decides again."""
        instant = self._authority.choose_instant(now_ns=self._clock.now_ns())
        if instant is None:
            return
        command = SetFeatureWindow(
            clock_id=instant.clock_id,
            assumption=instant.assumption,
            number=instant.number,
            class_name=change.class_name,
            window_ms=change.window_ms,
            reason=change.reason,
            proposed_at_unix_ms=self._clock.unix_ms(),
        )
        try:
            outcome = await self._metadata.propose(command)
        except (NotLeaderError, UnknownOutcomeError):
            self.counters["orders_unanswered"] += 1
            return
        self.counters["orders_applied" if outcome.ok else f"orders_{outcome.code}"] += 1
        _log.info("feature_window class=%s code=%s reason=%s", change.class_name, outcome.code, change.reason)
