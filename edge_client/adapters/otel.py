"""The edge's numbers and spans, through the OpenTelemetry API: where the application has set up no SDK, they go nowhere.

The API alone is installed with the edge. Instruments are callbacks over what is counted anyway; the application's SDK calls
them when it collects, from a thread of its own. Spans are made after the fact, when a switch is over.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import TracerProvider

from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import Kind, Sheet
from edge_client.protocol.traces import TraceParent
from edge_client.runtime.telemetry import Measured, Telemetry

SCOPE = "edge_client"
__all__ = ["MeterProvider", "OpenTelemetry", "TracerProvider", "instrument"]


class OpenTelemetry:
    """An `Exporter`. Without providers, the global ones, also if the application sets them later."""

    def __init__(
        self,
        *,
        edge_id: str,
        measured: Measured,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        # The scope names the edge, so that several of one process do not mix; it is no label.
        attributes = {"ccs.edge_id": edge_id}
        self._tracer = trace.get_tracer(SCOPE, "", tracer_provider, attributes=attributes)
        self._attributes = attributes
        self._seat = _Seat.taken(meter_provider, edge_id=edge_id, measured=measured)

    def close(self) -> None:
        """Nothing is told any more."""
        self._seat.measured = None

    def span(
        self, name: str, *, parent: TraceParent, begin_unix_ns: int, end_unix_ns: int, attributes: Mapping[str, Any]
    ) -> None:
        """One span that is over, as part of `parent`."""
        context = trace.SpanContext(
            trace_id=int(parent.trace_id, 16),
            span_id=int(parent.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(parent.flags),
        )
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(trace.NonRecordingSpan(context)),
            kind=trace.SpanKind.CONSUMER,
            attributes={**self._attributes, **attributes},
            start_time=begin_unix_ns,
        )
        span.end(end_time=end_unix_ns)


class _Seat:
    """The instruments of one edge id at one provider. Providers never forget an instrument, so those whose client was closed
    are given to the next client of that id: an app that connects again and again would otherwise grow by each of them.
    """

    _known: ClassVar[dict[tuple[MeterProvider | None, str], list[_Seat]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, provider: MeterProvider | None, *, edge_id: str) -> None:
        self.measured: weakref.ref[Measured] | None = None
        """Not held: what outlives a client must not keep it alive."""
        meter = metrics.get_meter(SCOPE, "", provider, attributes={"ccs.edge_id": edge_id})
        for metric in EDGE_METRICS:
            create = meter.create_observable_counter
            if metric.kind is Kind.GAUGE:
                create = meter.create_observable_gauge  # type: ignore[assignment]
            create(metric.name, [self._callback(metric.name, metric.labels)], metric.unit, metric.meaning)

    @classmethod
    def taken(cls, provider: MeterProvider | None, *, edge_id: str, measured: Measured) -> _Seat:
        """One that nobody else has."""
        with cls._lock:
            seats = cls._known.setdefault((provider, edge_id), [])
            free = next((seat for seat in seats if seat.measured is None or seat.measured() is None), None)
            if free is None:
                free = cls(provider, edge_id=edge_id)
                seats.append(free)
            free.measured = weakref.ref(measured)
            return free

    def _callback(self, name: str, labels: tuple[str, ...]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observed(_options: CallbackOptions) -> Iterable[Observation]:
            measured = self.measured and self.measured()
            sheet: Sheet = measured.sheet() if measured else {}
            return [Observation(value, dict(zip(labels, values, strict=True))) for values, value in sheet.get(name, ())]

        return observed


def instrument(
    telemetry: Telemetry,
    *,
    edge_id: str,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """What `telemetry` has to tell goes to these providers from now on, or to the global ones."""
    exporter = OpenTelemetry(
        edge_id=edge_id,
        measured=telemetry.measuring,
        meter_provider=meter_provider,
        tracer_provider=tracer_provider,
    )
    telemetry.exported_by(exporter)
