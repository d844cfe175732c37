"""How long a swap takes, and how far apart edges make it: 50 edges in a few processes, many activations.

An edge computes its own instant of the switch from its bounds on the authority's clock and reports how late that was
against the activation's. A swap is measured from its acceptance (the clock reading in the command) to the last edge's.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

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
            lates: list[list[int]] = []
            for number in range(activations):
                generation = int(region.activate("bench", f"{number % 2 + 1}.0.0")["generation"])
                lates.append(_lates(region, generation=generation))
            region.close()
    lead_ms = terms.lease_ms + terms.margin_ms
    totals = [lead_ms + max(late) / 1e6 for late in lates]
    spreads = [(max(late) - min(late)) / 1e6 for late in lates]
    return [
        Figure(name="edges", value=PROCESSES * EDGES_EACH, unit=""),
        Figure(name="activations", value=len(lates), unit=""),
        Figure(name="accepted to the last edge's instant, p50", value=median(totals), unit="ms"),
        Figure(
            name="accepted to the last edge's instant, p99",
            value=percentile(totals, 0.99),
            unit="ms",
            limit=lead_ms + 150,
        ),
        Figure(name="spread of the computed instants, p50", value=median(spreads), unit="ms"),
        Figure(name="spread of the computed instants, p99", value=percentile(spreads, 0.99), unit="ms", limit=5.0),
    ]


def _lates(region: Region, *, generation: int) -> list[int]:
    """How late each edge computed its switch to `generation`, nanoseconds; waits until all have reported."""
    deadline = time.monotonic() + REPORT_PATIENCE_S
    expected = PROCESSES * EDGES_EACH
    while True:
        switches = [
            switch for edge in region.edges() for switch in edge["switches"] if switch["generation"] == generation
        ]
        if len(switches) == expected:
            return [int(switch["late_ns"]) for switch in switches]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(switches)} of {expected} edges reported their switch to generation {generation}")
        time.sleep(0.2)
