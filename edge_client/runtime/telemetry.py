"""How an edge is watched from outside: numbers and switch spans, for the application's OpenTelemetry set-up and for scrapes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import Sheet, exposition
from edge_client.runtime.measuring import Measuring
from edge_client.runtime.metrics_port import MetricsPort
from edge_client.runtime.signals import Signal
from edge_client.runtime.switch_spans import Spans, SwitchSpans

if TYPE_CHECKING:
    from edge_client.config import EdgeConfig
    from edge_client.core.status import ClientStatus
    from edge_client.runtime.ports import Bus, Clock
    from edge_client.runtime.state import EdgeState


class Measured(Protocol):
    """What can be asked for its numbers, from any thread."""

    def sheet(self) -> Sheet: ...


class Exporter(Spans, Protocol):
    """Where numbers and spans go."""

    def close(self) -> None: ...


class Telemetry:
    """One life of one edge, watched. On the event loop, except for `switched`."""

    def __init__(
        self, *, config: EdgeConfig, state: EdgeState, status: Callable[[], ClientStatus], bus: Bus, clock: Clock
    ) -> None:
        wake = Signal(asyncio.get_running_loop())
        self.switched = wake.set
        """To be called when another generation is served, from any thread."""
        self.measuring = Measuring(state=state, status=status, bus=bus, clock=clock, thread_id=threading.get_ident())
        self.spans = SwitchSpans(state=state, clock=clock, wake=wake, spans=lambda: self._exporter)
        self._exporter: Exporter | None = None
        self._port: MetricsPort | None = None
        if config.metrics is not None:
            self._port = MetricsPort(config.metrics, text=self.text)

    def text(self) -> str:
        """The numbers, as Prometheus reads them."""
        return exposition(EDGE_METRICS, self.measuring.sheet())

    def exported_by(self, exporter: Exporter) -> None:
        """From now on numbers and spans go there, and no longer where they went before."""
        if self._exporter is not None:
            self._exporter.close()
        self._exporter = exporter

    @property
    def port(self) -> int | None:
        """Where scrapes are answered; None: nowhere."""
        return None if self._port is None else self._port.port

    @property
    def counters(self) -> Counter[str]:
        return self.spans.counters + (Counter() if self._port is None else self._port.counters)

    async def open(self) -> None:
        """Raises `ConfigError` when the address for scrapes cannot be had."""
        if self._port is not None:
            await self._port.open()

    def drivers(self) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What runs as long as the client does."""
        return {"metrics": self.measuring.run, "switch_spans": self.spans.run}

    def close(self) -> None:
        """Nobody is told anything any more."""
        self.measuring.close()
        if self._port is not None:
            self._port.close()
        if self._exporter is not None:
            self._exporter.close()
            self._exporter = None
