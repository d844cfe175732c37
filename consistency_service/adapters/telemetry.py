"""A node's telemetry over the OpenTelemetry SDK: a Prometheus text on demand, and OTLP where the environment says so.

The standard settings hold: `OTEL_EXPORTER_OTLP_ENDPOINT` and its like turn export on, `OTEL_METRICS_EXPORTER` and
`OTEL_TRACES_EXPORTER` (`otlp` or `none`) choose, `OTEL_SDK_DISABLED` turns all of it off but the Prometheus text. Spans are
handed to a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`) that a thread of the SDK empties; when it is full they are lost.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, Metric, ProcessCollector

from consistency_service.core.metrics import NODE_METRICS
from consistency_service.runtime.telemetry import Span, Unrecorded
from edge_client.protocol.metrics import CONTENT_TYPE, Kind, Sheet, escaped, quoted
from edge_client.protocol.traces import TraceParent, parse_traceparent

SCOPE: Final = "consistency_service"
SERVICE_NAME: Final = "consistency-service"
FAREWELL_S: Final = 2.0
"""What the last export is given when the process ends: a receiver that is away keeps nobody."""
_PROTOCOL: Final = "http/protobuf"
_KINDS: Final = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "producer": trace.SpanKind.PRODUCER,
}
_log = logging.getLogger(__name__)


class OpenTelemetry:
    """A `Telemetry`. Without OTLP in the environment no thread is begun and no span is made."""

    def __init__(self, *, node_id: str, region: str, version: str, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        resource = Resource.create(
            {
                "service.name": environ.get("OTEL_SERVICE_NAME", SERVICE_NAME),
                "service.instance.id": node_id,
                "service.version": version,
                "ccs.region": region,
            }
        )
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)]
        self._tracers: TracerProvider | None = None
        if _wanted("metrics", environ):
            readers.append(_otlp_metrics())
        if _wanted("traces", environ):
            self._tracers = _otlp_traces(resource)
        self._meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        meter = self._meters.get_meter(SCOPE, version)
        self._tracer = None if self._tracers is None else self._tracers.get_tracer(SCOPE, version)
        self._sheet: Callable[[], Sheet] = dict
        self._histograms: dict[str, Histogram] = {}
        for metric in NODE_METRICS:
            if metric.kind is Kind.HISTOGRAM:
                self._histograms[metric.name] = meter.create_histogram(
                    metric.name,
                    metric.unit,
                    metric.meaning,
                    explicit_bucket_boundaries_advisory=metric.buckets,
                )
                continue
            callbacks = [self._callback(metric.name, metric.labels)]
            if metric.kind is Kind.COUNTER:
                meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.meaning)
            else:
                meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.meaning)

    def record(self, name: str, value: float, **labels: str) -> None:
        """One value of a histogram."""
        self._histograms[name].record(value, labels)

    @contextmanager
    def span(self, name: str, *, parent: str, kind: str = "internal", **attributes: Any) -> Iterator[Span]:
        """A span under this traceparent; recorded if spans are exported and the parent is sampled."""
        found = parse_traceparent(parent) if parent else None
        if found is None or self._tracer is None:
            yield Unrecorded(parent)
            return
        span = self._tracer.start_span(name, context=_context(found), kind=_KINDS[kind], attributes=_named(attributes))
        try:
            yield _Recorded(span)
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def observe(self, sheet: Callable[[], Sheet]) -> None:
        """From now on counters and gauges come from here."""
        self._sheet = sheet

    def exposition(self) -> tuple[bytes, str]:
        """Everything as Prometheus reads it."""
        return _text(self._registry.collect()).encode(), CONTENT_TYPE

    def close(self) -> None:
        """What is still to be told is told, if that takes no longer than `FAREWELL_S`. Blocks."""
        _shut_down(self._tracers, self._meters)

    def _callback(self, name: str, labels: tuple[str, ...]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observed(_options: CallbackOptions) -> Iterable[Observation]:
            rows = self._sheet().get(name, ())
            return [Observation(value, dict(zip(labels, values, strict=True))) for values, value in rows]

        return observed


class _Recorded:
    """A span of the SDK."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = str(
            TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags) & 1)
        )

    def note(self, **attributes: Any) -> None:
        """Say more of it."""
        self._span.set_attributes(_named(attributes))

    def failed(self, reason: str) -> None:
        """It came to nothing."""
        self._span.set_status(trace.StatusCode.ERROR, reason)


@contextmanager
def application_telemetry(*, service_name: str, instance_id: str) -> Iterator[None]:
    """The global providers of an application export by OTLP as the environment says, for as long as the context lasts.

    What an application does that sets up the SDK by itself. Where the environment says nothing, nothing is set up.
    """
    resource = Resource.create(
        {"service.name": os.environ.get("OTEL_SERVICE_NAME", service_name), "service.instance.id": instance_id}
    )
    meters = tracers = None
    if _wanted("metrics", os.environ):
        meters = MeterProvider(metric_readers=[_otlp_metrics()], resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
    if _wanted("traces", os.environ):
        tracers = _otlp_traces(resource)
        trace.set_tracer_provider(tracers)
    try:
        yield
    finally:
        _shut_down(tracers, meters)


def _shut_down(*providers: MeterProvider | TracerProvider | None) -> None:
    """All at once, each in a thread that nobody waits for beyond `FAREWELL_S`: the SDK's own limits are half a minute."""
    threads = [threading.Thread(target=one.shutdown, daemon=True) for one in providers if one is not None]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + FAREWELL_S
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _context(parent: TraceParent) -> Any:
    context = trace.SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(parent.flags),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Names with a dot are those of OpenTelemetry's conventions; all others are ours."""
    return {name if "." in name else f"ccs.{name}": value for name, value in attributes.items()}


def _text(families: Iterable[Metric]) -> str:
    """As the client library's own writer, in a fifth of its time."""
    lines: list[str] = []
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        kind = "gauge" if family.type == "info" else family.type
        lines.append(f"# HELP {family.name}{suffix} {escaped(family.documentation)}")
        lines.append(f"# TYPE {family.name}{suffix} {kind}")
        for sample in family.samples:
            pairs = ",".join([f'{name}="{quoted(text)}"' for name, text in sample.labels.items()])
            lines.append(f"{sample.name}{{{pairs}}} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value) or repr(float(value)).replace("nan", "NaN")


def _wanted(signal: str, environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for OTLP export of `metrics` or `traces`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = {name.strip() for name in environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")} - {""}
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    if "otlp" not in exporters and (exporters or not any(environ.get(name) for name in endpoints)):
        return False
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if environ.get(name, _PROTOCOL) != _PROTOCOL:
            _log.warning("telemetry_protocol_unsupported setting=%s value=%s", name, environ[name])
            return False
    return True


def _otlp_metrics() -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(OTLPMetricExporter())


def _otlp_traces(resource: Resource) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
