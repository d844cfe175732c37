"""The reference of all metrics as Markdown, made from the tables that the code registers, so that it cannot lie.

`python -m ops.metrics_reference` prints what `docs/reference/metrics.md` must hold; a test compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Final

from consistency_service.core.metrics import NODE_METRICS
from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import ROWS_MAX, Metric

HEAD: Final = f"""# Metrics

<!-- Generated: python -m ops.metrics_reference > docs/reference/metrics.md -->

For whoever builds an alert or a dashboard. How to collect them: [observe a region](../how-to/observe.md).

A name means the same for ever and is the same by Prometheus and by OTLP; its last word is the base unit, or `total` for a
counter, which begins at 0 with the process. A histogram has `_bucket`, `_sum` and `_count`. Instants and spans come from
clocks that count suspension; nothing here is as exact as what a reading itself says.

Labels are bounded: `model` and `class` take {ROWS_MAX} values at most, and the rest is one row, `other` (of counts the sum, of ages
the greatest, of shares that of all of them together). Edge ids are no label: ask `GET /v1/edges`. `ccs_events_total` has the counters that
`GET /v1/cluster/self` shows, each under the part that counts and the name of what happened.

Where a node and an edge have a metric of one name, the edge speaks of itself and the node of the worst live edge
(`model_version_lag_seconds`, `staleness_age_seconds`, `position_lag_revisions`), or of its own link to the region
(`lease_remaining_seconds`, `beacon_age_seconds`, `clock_uncertainty_seconds`, `clock_trusted`, `bus_connected`,
`strong_read_availability_ratio`).

**What `strong_read_availability_ratio` means.** Reads of the hot path are not counted: the cheapest counter would cost as much as
half the read. So this is a share of time, not of reads: an edge adds up, whenever the present reading is replaced, for how
long it was strong, to the nanosecond; of 60 s, the ratio is the part in which a read that came would have been strong,
whether one came or not. Reads spread evenly see the same share. A node looks once a second and counts the time that the lease
it saw then was sure to cover; so after an outage it may understate by up to a second. For other spans, divide rates:
`rate(strong_seconds_total[1h]) / rate(followed_seconds_total[1h])`.
"""

TAIL: Final = """
## Beside these

A node's scrape also has `target_info` (what the process is: `service_name`, `service_instance_id`, `service_version`, and
what `OTEL_RESOURCE_ATTRIBUTES` says) and, on Linux, those of every Prometheus client: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_start_time_seconds`, `process_open_fds`,
`process_max_fds`. They are not part of OTLP.
"""


def reference() -> str:
    """The whole document."""
    parts = [HEAD]
    for title, said, metrics in (
        ("Nodes", "`GET /metrics` on the REST port, or OTLP.", NODE_METRICS),
        ("Edges", "The app's own OpenTelemetry set-up, or `GET /metrics` at the address of `metrics`.", EDGE_METRICS),
    ):
        parts.append(f"## {title}\n\n{said}\n\n" + "\n".join(_table(metrics)) + "\n")
    return "\n".join(parts) + TAIL


def _table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| name | type | unit | labels | meaning |"
    yield "| --- | --- | --- | --- | --- |"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
