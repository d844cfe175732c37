"""The reference names every metric that the code registers, with its type, unit, labels and meaning, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from consistency_service.adapters.telemetry import OpenTelemetry
from consistency_service.core.metrics import NODE_METRICS
from edge_client.adapters.otel import OpenTelemetry as EdgeTelemetry
from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import Metric
from ops.metrics_reference import reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (\w*) \| ((?:`\w+`(?:, )?)*) \| (.+) \|$")


def documented(side: str) -> dict[str, tuple[str, ...]]:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {side}\n")[2].partition("\n## ")[0]
    rows = [ROW.match(line) for line in section.splitlines() if line.startswith("| `")]
    assert all(rows)
    return {row[1]: row.groups()[1:] for row in rows if row}


@pytest.mark.parametrize(("side", "metrics"), [("Nodes", NODE_METRICS), ("Edges", EDGE_METRICS)])
def test_every_metric_is_documented_and_nothing_else(side: str, metrics: tuple[Metric, ...]):
    expected = {
        m.name: (m.kind.value, m.unit, ", ".join(f"`{label}`" for label in m.labels), m.meaning) for m in metrics
    }

    assert expected == documented(side)


def test_the_page_is_what_the_code_makes_of_it():
    """If this fails: python -m ops.metrics_reference > docs/reference/metrics.md"""
    assert reference() == PAGE.read_text(encoding="utf-8")


def test_a_node_registers_these_and_no_others():
    telemetry = OpenTelemetry(node_id="n", region="r", version="1", environ={})
    telemetry.observe(lambda: {m.name: [(tuple("x" for _ in m.labels), 1.0)] for m in NODE_METRICS})
    for name in telemetry._histograms:
        telemetry.record(name, 1.0)
    lines = telemetry.exposition()[0].decode().splitlines()
    telemetry.close()
    told = {line.split(" ")[2] for line in lines if line.startswith("# TYPE ")}

    assert {m.name for m in NODE_METRICS} == {name for name in told if not name.startswith(("process_", "target_"))}


def test_an_edge_registers_these_and_no_others():
    class Sheet:
        def sheet(self):
            return {m.name: [(tuple("x" for _ in m.labels), 1.0)] for m in EDGE_METRICS}

    reader, sheet = InMemoryMetricReader(), Sheet()
    exporter = EdgeTelemetry(edge_id="e", measured=sheet, meter_provider=MeterProvider([reader]))
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics

    assert {m.name: m.unit for m in EDGE_METRICS} == {metric.name: metric.unit for metric in scope.metrics}
    assert {"ccs.edge_id": "e"} == scope.scope.attributes
    assert all(
        "e" not in (point.attributes or {}).values() for metric in scope.metrics for point in metric.data.data_points
    )

    exporter.close()
    left = reader.get_metrics_data()
    assert left is None or not [m for m in left.resource_metrics[0].scope_metrics if m.metrics]
