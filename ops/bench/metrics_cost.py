"""What metrics cost where it would hurt: `read()`, and a scrape of a node with ten thousand edges.

`python -m ops.bench.metrics_cost` measures `read()` of one client without and with metrics, in turns within one run, so that
whatever else the machine does falls on both; time is that of the thread on a processor, and what counts is the difference of
medians, and their ratio. With metrics means: instruments of an SDK that collected a moment ago, the endpoint open, sums looked at
once a second. Every reading must be strong, or nothing was measured. Two more stand beside: `off_again`, without metrics once more,
says what the machine's unrest alone comes to; `counted`, a read that adds one to a number, what counting would have cost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from consistency_service.core.fleet import Fleet
from consistency_service.core.fleet_metrics import fleet_rows
from consistency_service.core.metrics import NODE_METRICS
from consistency_service.core.state import ModelState, State
from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.messages import EdgeReport, ServedModel
from edge_client.protocol.metrics import Kind, exposition
from edge_client.protocol.models import Policy

READS: Final = 20_000
ROUNDS: Final = 150
BOUND_NS: Final = 25.0
EDGES: Final = 10_000
MODELS_PER_EDGE: Final = 2


def read_ns(read: Callable[[], Any]) -> float:
    """Nanoseconds for one of `READS` calls."""
    began_ns = time.thread_time_ns()
    for _ in range(READS):
        read()
    return (time.thread_time_ns() - began_ns) / READS


class Counting:
    """What `read` would be if it counted."""

    __slots__ = ("_read", "count")

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self.count = 0

    def read(self) -> Any:
        """One more reading."""
        self.count += 1
        return self._read()


def reads() -> dict[str, Any]:
    """The medians of `read()` without, with, and again without metrics, in turns."""
    from consistency_service.testbed.region_calls import Region
    from consistency_service.testbed.supervisor import Testbed
    from consistency_service.testbed.topology import TestbedConfig, key_paths
    from edge_client import EdgeClient

    samples: dict[str, list[float]] = {"off": [], "on": [], "off_again": [], "counted": []}
    with tempfile.TemporaryDirectory() as directory:
        config = TestbedConfig(directory=Path(directory) / "bed", nodes=1, edges=0, models=("m",))
        with Testbed(config, progress=lambda _: None) as bed:
            region = Region(bed.state.urls("node-"))
            region.push("m", "1.0.0", b"weights")
            region.activate("m", "1.0.0")
            region.close()
            with EdgeClient.connect(
                bed.state.urls("nats"),
                trust=str(key_paths(config.directory)[1]),
                edge_id="bench",
                region=config.region,
                metrics="127.0.0.1:0",
            ) as edge:
                model = edge.model("m", loader=lambda artifact: artifact.path.read_bytes())
                counting = Counting(model.read)
                exporting = InMemoryMetricReader()
                provider = MeterProvider([exporting])
                silent = MeterProvider()
                gc.disable()
                for turn in range(ROUNDS):
                    for kind in sorted(samples, key=lambda kind: (hash((kind, turn)) & 0xFF, kind)):
                        edge.instrument(meter_provider=provider if kind == "on" else silent)
                        if kind == "on":
                            exporting.get_metrics_data()
                        samples[kind].append(read_ns(counting.read if kind == "counted" else model.read))
                        assert model.read().guarantee == "strong", "nothing was measured"
    medians = {kind: statistics.median(found) for kind, found in samples.items()}
    return {
        "read_ns": {kind: round(median, 1) for kind, median in medians.items()},
        "difference_ns": round(medians["on"] - medians["off"], 1),
        "ratio": round(medians["on"] / medians["off"], 3),
        "counting_would_cost_ns": round(medians["counted"] - medians["off"], 1),
        "unrest_ns": round(medians["off_again"] - medians["off"], 1),
        "bound_ns": BOUND_NS,
    }


def scrape() -> dict[str, Any]:
    """Milliseconds for the fleet's part of a scrape, and for the text, with `EDGES` edges."""
    fleet, state = Fleet(), State(epoch=1, revision=100)
    for number in range(MODELS_PER_EDGE):
        name = f"m{number}"
        state.models[name] = ModelState(name=name, policy=Policy(), created_at_unix_ms=0, generation=3)
    models = tuple(
        ServedModel(model=f"m{number}", version="1.0.0", generation=3, guarantee="strong", staleness_bound_ms=0)
        for number in range(MODELS_PER_EDGE)
    )
    decoder = msgspec.msgpack.Decoder(EdgeReport)
    for number in range(EDGES):
        report = EdgeReport(edge_id=f"edge-{number}", life_id="a", epoch=1, revision=100, models=models)
        fleet.report_received(decoder.decode(msgspec.msgpack.encode(report)), unix_ms=0, now_ns=1)
    walks, texts, rows = [], [], fleet_rows((), state, now_ns=2, unix_ms=0)
    gauges = tuple(metric for metric in NODE_METRICS if metric.kind is Kind.GAUGE)
    for _ in range(40):
        began_s = time.thread_time()
        rows = fleet_rows(fleet.views(), state, now_ns=2, unix_ms=0)
        walks.append((time.thread_time() - began_s) * 1e3)
        began_s = time.thread_time()
        exposition((*gauges, *EDGE_METRICS), rows)
        texts.append((time.thread_time() - began_s) * 1e3)
    assert dict(rows["edges_live"])[()] == EDGES
    return {
        "edges": EDGES,
        "fleet_ms": round(statistics.median(walks), 2),
        "text_ms": round(statistics.median(texts), 3),
    }


async def node_scrape() -> dict[str, Any]:
    """Milliseconds for a whole `GET /metrics` body of a node without edges: SDK, text and all its series."""
    from consistency_service.adapters.telemetry import OpenTelemetry

    telemetry = OpenTelemetry(node_id="n1", region="r", version="0", environ={})
    rows = {
        metric.name: [(tuple("x" for _ in metric.labels), 1.0)]
        for metric in NODE_METRICS
        if metric.kind is not Kind.HISTOGRAM
    }
    rows["ccs_events_total"] = [((f"part{n % 12}", f"event{n}"), 1.0) for n in range(200)]
    telemetry.observe(lambda: rows)
    for n in range(60):
        telemetry.record("http_request_seconds", 0.01, method="GET", route=f"/v1/{n}", code="200")
    took, body = [], b""
    for _ in range(20):
        began_s = time.thread_time()
        body, _ = telemetry.exposition()
        took.append((time.thread_time() - began_s) * 1e3)
    telemetry.close()
    return {"text_ms": round(statistics.median(took), 2), "bytes": len(body)}


def main() -> int:
    """Print what was measured; 1 if a read costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=("reads", "scrape"), default=None)
    only = parser.parse_args().only
    found: dict[str, Any] = {}
    if only != "scrape":
        found["reads"] = reads()
    if only != "reads":
        found["fleet"], found["node"] = scrape(), asyncio.run(node_scrape())
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return int("reads" in found and found["reads"]["difference_ns"] > BOUND_NS)


if __name__ == "__main__":
    sys.exit(main())
