"""What an edge says about itself, put together from its parts: for the application, and for the region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edge_client.core.status import ClientStatus, ModelStatus

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.runtime.downloads import Downloads
    from edge_client.runtime.features import AsyncFeatures
    from edge_client.runtime.models import Models
    from edge_client.runtime.ports import Bus
    from edge_client.runtime.report import Report
    from edge_client.runtime.state import EdgeState
    from edge_client.runtime.tier import Tier


class Counting(Protocol):
    """A part that counts."""

    @property
    def counters(self) -> Counter[str]: ...


class Standing:
    """How one edge stands. `report` is set once it is made: it tells the region what is put together here."""

    report: Report

    def __init__(
        self,
        *,
        config: EdgeConfig,
        bus: Bus,
        state: EdgeState,
        tier: Tier,
        models: Models,
        downloads: Downloads,
        features: AsyncFeatures | None,
        parts: Sequence[Counting],
    ) -> None:
        self._config = config
        self._bus = bus
        self._state = state
        self._tier = tier
        self._models = models
        self._downloads = downloads
        self._features = features
        self._parts = parts

    def client(self) -> ClientStatus:
        """How the edge stands with the region, at this moment."""
        return ClientStatus(
            edge_id=self._config.edge_id,
            connected=self._bus.connected,
            bus_fault=self._bus.fault,
            position=self._state.position,
            lease_remaining_ms=self._state.lease_remaining_ns() // 1_000_000,
            source=self._state.source,
            local_tier=self._tier.state,
            refused=self.report.accepted is False,
            unsupported=self._state.unsupported,
            clock_trusted=self._state.trusted,
            uncertainty_ns=self._state.uncertainty_ns(),
            models=self.models(),
            counters=dict(self._counters()),
            switches=self._state.switches(),
            features=None if self._features is None else self._features.status(),
        )

    def models(self) -> tuple[ModelStatus, ...]:
        """How each model stands, with what was fetched and what failed."""
        fetched = self._downloads.fetched_bytes
        return tuple(
            replace(
                status,
                failed={
                    digest: reason
                    for digest, reason in self._models.reasons(status.name).items()
                    if digest not in status.ready
                },
                fetched_bytes=dict(fetched),
                untrusted=self._models.untrusted(status.name),
            )
            for status in self._state.statuses()
        )

    def _counters(self) -> Counter[str]:
        total = self._state.counters() + self._models.plan_counters + self.report.counters
        for part in (*self._parts, *(() if self._features is None else (self._features,))):
            total += part.counters
        return total + Counter({f"bus_{name}": count for name, count in self._bus.counters.items()})
