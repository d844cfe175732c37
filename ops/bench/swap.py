"""How long a swap takes, and how far apart edges make it: 50 edges in a few processes, many activations.

An edge computes its own instant of the switch from its bounds on the authority's clock, and reports it: on its own clock,
which on one machine is everybody's, and as how late it was against the activation's, by the middle of those bounds. The
spread is taken from the former, which is exact here; a swap is measured from its acceptance (the clock reading in the
command) to the last edge's instant, by the latter.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from edge_client.protocol.models import Terms
from ops.bench.figures import Figure, median, percentile

PROCESSES = 5
EDGES_EACH = 10
ACTIVATIONS = 100
REPORT_PATIENCE_S = 20.0


def measure(*, activations: int = ACTIVATIONS) -> list[Figure]:
    """The figures of one run."""
    terms = Terms()
    with tempfile.TemporaryDirectory() as directory:
        config = TestbedConfig(
            directory=Path(directory) / "bed",
            nodes=3,
            edges=PROCESSES,
            models=("bench",),
            edge_options={"edges_in_process": EDGES_EACH, "loader": "bytes", "workload": "none"},
        )
        with Testbed(config, progress=lambda _: None) as bed:
            region = Region(bed.state.urls("node-"))
            for number in range(2):
                region.push("bench", f"{number + 1}.0.0", bytes([number]) * 1_000)
            switches: list[list[dict[str, Any]]] = []
            for number in range(activations):
                generation = int(region.activate("bench", f"{number % 2 + 1}.0.0")["generation"])
                switches.append(_switches(region, generation=generation))
            region.close()
    lead_ms = terms.lease_ms + terms.margin_ms
    totals = [lead_ms + max(s["late_ns"] for s in one) / 1e6 for one in switches]
    spreads = [_spread_ms([s["at_ns"] for s in one]) for one in switches]
    believed = [_spread_ms([s["late_ns"] for s in one]) for one in switches]
    return [
        Figure(name="edges", value=PROCESSES * EDGES_EACH, unit=""),
        Figure(name="activations", value=len(switches), unit=""),
        Figure(name="accepted to the last edge's instant, p50", value=median(totals), unit="ms"),
        Figure(
            name="accepted to the last edge's instant, p99",
            value=percentile(totals, 0.99),
            unit="ms",
            limit=lead_ms + 150,
        ),
        Figure(name="spread of the computed instants, p50", value=median(spreads), unit="ms"),
        Figure(name="spread of the computed instants, p99", value=percentile(spreads, 0.99), unit="ms", limit=5.0),
        Figure(name="the same spread as edges believe it to be, p99", value=percentile(believed, 0.99), unit="ms"),
    ]


def _spread_ms(instants_ns: list[int]) -> float:
    return (max(instants_ns) - min(instants_ns)) / 1e6


def _switches(region: Region, *, generation: int) -> list[dict[str, Any]]:
    """Every edge's switch to `generation`; waits until all have reported."""
    deadline = time.monotonic() + REPORT_PATIENCE_S
    expected = PROCESSES * EDGES_EACH
    while True:
        switches = [s for edge in region.edges() for s in edge["switches"] if s["generation"] == generation]
        if len(switches) == expected:
            return switches
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(switches)} of {expected} edges reported their switch to generation {generation}")
        time.sleep(0.2)
