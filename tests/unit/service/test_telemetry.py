"""A node's telemetry: what the environment turns on, spans and their parents, and the text that Prometheus reads."""

from __future__ import annotations

import math
import socket
import threading
import time

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consistency_service.adapters import telemetry as adapter
from consistency_service.adapters.telemetry import OpenTelemetry
from consistency_service.core.metrics import NODE_METRICS
from consistency_service.runtime.telemetry import SILENCE, received_trace
from edge_client.protocol.metrics import Kind
from edge_client.protocol.traces import parse_traceparent

TRACE = "00-" + "a" * 32 + "-" + "1" * 16 + "-01"


@pytest.fixture
def telemetry():
    one = OpenTelemetry(node_id="n1", region="r", version="1", environ={})
    yield one
    one.close()


def families(text: bytes):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_every_metric_of_the_table_is_told_with_its_type(telemetry):
    rows = {m.name: [(tuple("x" for _ in m.labels), 2.5)] for m in NODE_METRICS if m.kind is not Kind.HISTOGRAM}
    telemetry.observe(lambda: rows)
    for metric in NODE_METRICS:
        if metric.kind is Kind.HISTOGRAM:
            telemetry.record(metric.name, 0.01, **dict.fromkeys(metric.labels, "x"))
    told = families(telemetry.exposition()[0])

    for metric in NODE_METRICS:
        family = told[metric.name.removesuffix("_total")]
        assert family.type == metric.kind.value
        assert set(metric.labels) <= set(family.samples[0].labels)


def test_the_text_says_what_the_client_librarys_own_writer_says(telemetry):
    telemetry.observe(lambda: {"edges_behind": [(('a"b\\c\nd',), 1e22), (("m",), math.inf)], "raft_term": [((), 3.0)]})
    telemetry.record("switch_spread_seconds", 0.003)
    ours, theirs = families(telemetry.exposition()[0]), families(generate_latest(telemetry._registry))

    moving = {
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
    }
    assert set(ours) == set(theirs)
    for name in set(ours) - moving:
        assert (ours[name].type, ours[name].documentation) == (theirs[name].type, theirs[name].documentation)
        assert ours[name].samples == theirs[name].samples


def test_without_a_word_of_the_environment_nothing_is_exported(telemetry):
    assert telemetry._tracer is None
    with telemetry.span("x", parent=TRACE) as span:
        assert TRACE == span.traceparent


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_the_standard_settings_turn_export_on(environ, wanted):
    assert wanted is adapter._wanted("traces", environ)


@pytest.mark.parametrize("sent", [None, "nonsense", "x" * 100_000, TRACE])
def test_a_callers_trace_goes_on_and_anything_else_begins_a_new_one(sent):
    headers = {} if sent is None else {"traceparent": sent}
    traceparent, hostile = received_trace(headers, header="traceparent")

    assert (sent not in (None, TRACE)) is hostile
    assert (TRACE == traceparent) is (TRACE == sent)
    assert parse_traceparent(traceparent) is not None


def test_a_receiver_that_never_answers_keeps_nobody(monkeypatch):
    here = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as mute:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{mute.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        one = OpenTelemetry(node_id="n1", region="r", version="1", environ=environ)
        began_s, traceparent = time.monotonic(), TRACE
        for _ in range(10_000):  # more than the queue holds
            with one.span("x", parent=TRACE) as span:
                span.note(n=1)
                traceparent = span.traceparent
        assert time.monotonic() - began_s < 10, "spans never wait"
        assert traceparent != TRACE and traceparent.startswith(TRACE[:35])
        began_s = time.monotonic()
        one.close()

        assert time.monotonic() - began_s < adapter.FAREWELL_S + 1
    for thread in set(threading.enumerate()) - here:
        thread.join(40)  # it goes on by itself, and must not draw random numbers into the tests that follow

        assert not thread.is_alive()


def test_silence_hands_on_the_trace_it_was_given():
    with SILENCE.span("x", parent=TRACE) as span:
        span.note(a=1)
        span.failed("so")
        assert TRACE == span.traceparent
    with SILENCE.span("x", parent="") as span:
        assert "" == span.traceparent
