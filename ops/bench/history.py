"""A hundred activations under five edges that read all the time, recorded, and judged by the checker of histories.

`CCS_BENCH_HISTORY=DIRECTORY` leaves the files behind; `python -m consistency_service.testbed.history FILES` judges them
again.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import msgspec

from consistency_service.testbed.history import Operation, check, read_files
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from ops.bench.figures import Figure

ACTIVATIONS = 100
EDGES = 5


def measure(*, activations: int = ACTIVATIONS) -> list[Figure]:
    """The figures of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(os.environ.get("CCS_BENCH_HISTORY", Path(scratch) / "history")).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        config = TestbedConfig(
            directory=Path(scratch) / "bed",
            nodes=3,
            edges=EDGES,
            models=("bench",),
            edge_options={
                "loader": "bytes",
                "workload": "read",
                "history_file": str(directory / "{edge_id}.jsonl"),
            },
        )
        with Testbed(config, progress=lambda _: None) as bed:
            region = Region(bed.state.urls("node-"))
            for number in range(2):
                region.push("bench", f"{number + 1}.0.0", bytes([number]) * 1_000)
            with (directory / "activations.jsonl").open("wb") as file:
                for number in range(activations):
                    file.write(msgspec.json.encode(_activate(region, version=f"{number % 2 + 1}.0.0")) + b"\n")
            region.close()
        verdict = check(read_files(sorted(directory.glob("*.jsonl"))))
    print(f"  {verdict.words()}")
    return [
        Figure(name="activations", value=activations, unit=""),
        Figure(name="violations in the recorded history", value=len(verdict.violations), unit="", limit=0),
    ]


def _activate(region: Region, *, version: str) -> Operation:
    """One activation, as its caller saw it."""
    invoked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    generation = int(region.activate("bench", version)["generation"])
    return Operation(
        process="bench",
        op="activate",
        invoked_ns=invoked_ns,
        returned_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        model="bench",
        generation=generation,
        version=version,
        outcome="effective",
    )
