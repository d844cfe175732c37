"""What a region of some size needs, by the formulas of docs/how-to/size-a-region.md: `python -m ops.bench.capacity --edges 200`.

Nothing is measured here. Sizes are those of `wire_sizes`, times those of docs/measurements.md, on the machine named there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Final

from ops.bench.wire_sizes import sizes

BEACONS_PER_S: Final = 10
SAMPLE_S: Final = 20
"""How often an edge samples the clock of every node."""
REPORT_US: Final = 18
"""The region's processor time for one report, with its part of every look at a rollout: docs/measurements.md, "Rollouts"."""
REPLY_US: Final = 60
"""To make and sign a clock reply."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """What is asked about."""

    edges: int
    models: int = 1
    sites: int = 0
    """Sites with a NATS leaf node of their own; 0: every edge is connected to the region's bus."""
    nodes: int = 3
    report_ms: int = 1_000
    artifact_mb: float = 100.0
    share: float = 1.0
    link_mbit: float = 1_000.0


def needs(fleet: Fleet) -> dict[str, str]:
    """What to how much, in words."""
    bytes_of = sizes()
    listeners = fleet.sites or fleet.edges
    reports_per_s = fleet.edges * 1_000 / fleet.report_ms
    one, five = (
        bytes_of["a report, one model, with what came of its readings"],
        bytes_of["a report, five models, likewise"],
    )
    report_bytes = one + (fleet.models - 1) * (five - one) / 4
    samples_per_s = fleet.edges / SAMPLE_S
    down = listeners * BEACONS_PER_S * bytes_of["a beacon"] + samples_per_s * fleet.nodes * bytes_of["a clock reply"]
    up = reports_per_s * report_bytes + samples_per_s * bytes_of["a clock request"]
    core = (reports_per_s * REPORT_US + samples_per_s * REPLY_US) / 1_000_000
    download_s = fleet.edges * fleet.share * fleet.artifact_mb * 8 / (fleet.nodes * fleet.link_mbit)
    return {
        "bus to edges, as it leaves the region": f"{down / 1e6:.2f} MB/s in {listeners * BEACONS_PER_S + samples_per_s * fleet.nodes:,.0f} messages/s",
        "edges to bus": f"{up / 1e6:.2f} MB/s in {reports_per_s + samples_per_s:,.0f} messages/s",
        "one core of each node": f"{core:.1%}",
        "one report": f"{report_bytes:,.0f} B of at most 65,536",
        "a stage's downloads, links of the nodes full": f"{download_s:,.0f} s",
    }


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, required=True)
    parser.add_argument("--models", type=int, default=1, help="which each edge follows")
    parser.add_argument("--sites", type=int, default=0, help="with a leaf node each; 0: none")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--report-ms", type=int, default=1_000, help="report_interval_ms")
    parser.add_argument("--artifact-mb", type=float, default=100.0)
    parser.add_argument("--share", type=float, default=1.0, help="of the edges that a stage adds, from 0 to 1")
    parser.add_argument("--link-mbit", type=float, default=1_000.0, help="of each node")
    for what, much in needs(Fleet(**vars(parser.parse_args()))).items():
        print(f"{what:<46}{much}")


if __name__ == "__main__":
    main()
