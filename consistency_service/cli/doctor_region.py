"""What the doctor sees of a running region, by what its nodes say of themselves and of their edges. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from consistency_service.cli.doctor_findings import Finding, fine, warning, wrong
from consistency_service.config import ServiceConfig

LAG_MAX: Final = 500
"""Entries that a node may be behind and still be said to hold the log: more than are under way at full load."""
ROUND_TRIP_SLOW_MS: Final = 50.0
NAMED_MAX: Final = 5


def look_at_region(cluster: dict[str, Any], *, config: ServiceConfig | None = None) -> Iterator[Finding]:
    """By `GET /v1/cluster`."""
    nodes = cluster["nodes"]
    reached = [node for node in nodes if node["reachable"]]
    for node in nodes:
        if not node["reachable"]:
            yield wrong("peer-unreachable", f"{node['node_id']} does not answer {_asker(reached)} at {node['url']}")
    if not cluster["leader_id"]:
        yield wrong("no-leader", f"{len(reached)} of {len(nodes)} nodes answer, and none leads")
    else:
        yield fine("no-leader", f"{cluster['leader_id']} leads")
        authority = cluster["authority"]
        if authority is None or not any(node.get("is_authority") for node in reached):
            yield wrong("no-authority", f"{cluster['leader_id']} leads and has no authority: nothing can be activated")
        else:
            yield fine("no-authority", f"{authority['node_id']} has authority")
    commit = max((node["commit_index"] for node in reached), default=0)
    for node in reached:
        yield from _node(node, commit=commit)
    yield versions({node["node_id"]: node.get("version", "") for node in reached})
    if config is not None:
        yield from _terms(cluster["terms"], config=config)


def _asker(reached: Sequence[dict[str, Any]]) -> str:
    return str(reached[0]["node_id"]) if reached else "anybody"


def _node(node: dict[str, Any], *, commit: int) -> Iterator[Finding]:
    name, before = node["node_id"], commit - node["applied_index"]
    if node["standing"] == "removed":
        yield wrong("removed", f"{name} was removed from the cluster, and runs")
        return
    if node["storage_fault"] is not None:
        yield wrong("disk-fault", f"{name}: {node['storage_fault']}")
    if not node["bus_connected"]:
        why = node.get("bus_fault")
        yield wrong("bus-lost", f"{name}{f': {why}' if why else ''}")
    if before > LAG_MAX:
        yield warning("node-behind", f"{name} is {before} entries behind")
    if not (node["lease_remaining_ms"] or 0) > 0:
        yield warning("no-lease", name)
    else:
        yield fine("no-lease", f"{name} has a lease")


def versions(by_node: dict[str, str]) -> Finding:
    """Of nodes; a node that does not say is older than those that do."""
    found = {version or "unknown" for version in by_node.values()}
    text = ", ".join(f"{name} {version or 'unknown'}" for name, version in sorted(by_node.items()))
    return warning("version-skew", text) if len(found) > 1 else fine("version-skew", text or "no node answers")


def _terms(terms: dict[str, Any], *, config: ServiceConfig) -> Iterator[Finding]:
    asked = {"lease_ms": config.lease_ms, "margin_ms": config.margin_ms, "rho_ppm": config.clock_drift_max_ppm}
    other = [
        f"{name} {asked[name]}, in force {terms[name]}" for name in asked if terms.get(name) not in {None, asked[name]}
    ]
    if other:
        yield warning("lease-settings", f"settings say what has no effect in this epoch: {'; '.join(other)}")


def round_trip(taken_ms: float) -> Finding:
    """From here to a node and back, the least of some."""
    text = f"{taken_ms:.1f} ms from here to a node and back"
    return warning("round-trip", text) if taken_ms > ROUND_TRIP_SLOW_MS else fine("round-trip", text)


def look_at_edges(edges: Sequence[dict[str, Any]], *, cluster: dict[str, Any]) -> Iterator[Finding]:
    """By `GET /v1/edges`: those that are alive."""
    alive = [edge for edge in edges if edge["live"]]
    ahead = [edge for edge in alive if edge["epoch"] > cluster["epoch"]]
    if ahead:
        epochs = max(edge["epoch"] for edge in ahead)
        yield wrong("epoch-behind", f"{_named(ahead)} heard of epoch {epochs}; the region is at {cluster['epoch']}")
    quarter_ns = cluster["terms"]["lease_ms"] * 1_000_000 // 4
    vague = [edge for edge in alive if (edge["uncertainty_ns"] or 0) > quarter_ns]
    if vague:
        worst = max(edge["uncertainty_ns"] for edge in vague) / 1e6
        yield wrong("clock-uncertainty", f"{_named(vague)} know a node's clock to {worst:.0f} ms only")
    elif alive:
        worst = max((edge["uncertainty_ns"] or 0) for edge in alive) / 1e6
        yield fine(
            "clock-uncertainty", f"of {len(alive)} edges each knows the nodes' clocks to {worst:.1f} ms or better"
        )
    weak = [e for e in alive if any(m["guarantee"] != "strong" and m["generation"] for m in e["models"])]
    if weak:
        yield warning("edge-weak", f"{_named(weak)}: not strong just now")
    elif alive:
        yield fine("edge-weak", f"all that are alive, {len(alive)}, are strong")


def _named(edges: Sequence[dict[str, Any]]) -> str:
    names = [edge["edge_id"] for edge in edges[:NAMED_MAX]]
    return ", ".join(names) + (f" and {len(edges) - NAMED_MAX} more" if len(edges) > NAMED_MAX else "")
