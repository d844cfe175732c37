"""What a run is made of: which faults are on and how strong, all drawn from the seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from edge_client.protocol.models import Terms
from tests.simulation.clock import MS, S

FAULTS: Final = (
    "kill",
    "power",
    "blackout",
    "stop",
    "pause",
    "hiccup",
    "partition",
    "reset",
    "slow_network",
    "bus_loss",
    "bus_repeat",
    "bus_late",
    "bus_partition",
    "bus_down",
    "bus_wipe",
    "bus_answers",
    "disk_full",
    "disk_slow",
    "disk_broken",
    "drift",
    "edge_restart",
    "tier_away",
    "artifacts",
    "forgery",
)


@dataclass(kw_only=True)
class Knobs:
    seed: int
    nodes: int = 3
    edges: int = 2
    models: int = 1
    faults: frozenset[str] = frozenset()
    rho_ppm: int = 500
    lease_ms: int = 1_000
    duration_ns: int = 10 * S
    fault_every_ns: int = 1 * S
    work_every_ns: int = 300 * MS
    compaction_min_entries: int = 50
    snapshot_part_bytes: int = 1 << 18
    sync_inline_max_us: int = 5_000
    network_delay_ns: int = 2 * MS
    contents: str | None = None
    """What every power cut leaves of the last write, and it cuts in the middle of one; None: as chance will."""

    def on(self, fault: str) -> bool:
        return fault in self.faults

    def terms(self) -> Terms:
        least_ms = self.lease_ms * 2 * self.rho_ppm / (1_000_000 - self.rho_ppm)
        return Terms(lease_ms=self.lease_ms, margin_ms=int(least_ms) + 3, rho_ppm=self.rho_ppm)


def drawn(seed: int, *, without: Iterable[str] = (), **overrides: Any) -> Knobs:
    """The knobs of a seed, without some of its faults, and with `overrides` in place of what was drawn."""
    rng = Random(f"shell knobs {seed}")
    density = rng.choice((0.1, 0.25, 0.5))
    faults = frozenset(fault for fault in FAULTS if rng.random() < density)
    knobs = Knobs(
        seed=seed,
        nodes=rng.choice((3, 3, 3, 5)),
        edges=rng.choice((2, 2, 3)),
        models=rng.choice((1, 1, 2)),
        faults=faults - set(without),
        rho_ppm=rng.choice((500, 5_000)) if "drift" in faults else 500,
        lease_ms=rng.choice((600, 1_000, 2_000)),
        duration_ns=rng.choice((4, 8, 12)) * S,
        fault_every_ns=rng.choice((400, 1_000, 2_500)) * MS,
        work_every_ns=rng.choice((150, 500)) * MS,
        compaction_min_entries=rng.choice((10, 25, 100, 5_000)),
        snapshot_part_bytes=rng.choice((700, 1 << 18)),
        sync_inline_max_us=rng.choice((0, 5_000)),
        network_delay_ns=rng.choice((1, 1, 4, 20)) * MS,
    )
    for name, value in overrides.items():
        assert hasattr(knobs, name), name
        setattr(knobs, name, value)
    return knobs
