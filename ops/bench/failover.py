"""What a dead leader costs: how long until commits resume, and whether any edge lost `strong` meanwhile."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from consistency_service.testbed.edge_status import read_status
from consistency_service.testbed.region_calls import Region
from consistency_service.testbed.supervisor import Testbed
from consistency_service.testbed.topology import TestbedConfig
from ops.bench.figures import Figure, median

ROUNDS = 20
LIMIT_MS = 1_500


def measure(*, rounds: int = ROUNDS) -> list[Figure]:
    """The figures of one run."""
    with tempfile.TemporaryDirectory() as directory:
        config = TestbedConfig(
            directory=Path(directory) / "bed",
            nodes=3,
            edges=5,
            models=("bench",),
            edge_options={"loader": "bytes", "workload": "read"},
        )
        with Testbed(config, progress=lambda _: None) as bed:
            region = Region(bed.state.urls("node-"))
            region.push("bench", "1.0.0", b"1" * 1_000)
            region.activate("bench", "1.0.0")
            time.sleep(3)
            files = [config.directory / "edges" / f"edge-{number}.json" for number in range(1, 6)]
            weak_before = sum(_weak(file) for file in files)
            resumed_ms = []
            for number in range(rounds):
                leader = region.leader()
                bed.kill(leader)
                began = time.monotonic()
                region.committed("bench", versions_kept=11 + number)
                resumed_ms.append((time.monotonic() - began) * 1_000)
                bed.restart(leader)
                time.sleep(3)
            weak_after = sum(_weak(file) for file in files)
            region.close()
    return [
        Figure(name="rounds", value=rounds, unit=""),
        Figure(name="leader killed to next commit (by REST), p50", value=median(resumed_ms), unit="ms"),
        Figure(name="leader killed to next commit (by REST), worst", value=max(resumed_ms), unit="ms", limit=LIMIT_MS),
        Figure(name="reads that were not strong meanwhile", value=weak_after - weak_before, unit="", limit=0),
    ]


def _weak(file: Path) -> int:
    status = read_status(file)
    assert status is not None, f"{file} holds no status"
    return status.not_strong_count
