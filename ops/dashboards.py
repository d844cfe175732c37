"""The Grafana dashboards of `ops/dashboards`, made from the tables below: a panel is a line, and cannot be laid out wrong.

`python -m ops.dashboards` writes them; a test compares, and has Prometheus parse every question.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent / "dashboards"
COLUMNS: Final = 24
HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it is called, what it asks (with its legend), its unit as Grafana names it, and what to see in it."""

    title: str
    asks: tuple[tuple[str, str], ...]
    unit: str
    about: str
    kind: str = "timeseries"
    width: int = 8
    good_at: tuple[float, ...] = ()
    """For single values: from which value on they are yellow, then green; or, falling, yellow, then red."""
    falling: bool = False


def one(
    title: str, ask: str, unit: str, about: str, *, good_at: tuple[float, ...] = (), falling: bool = False
) -> Panel:
    """A single value with a colour."""
    return Panel(title, ((ask, ""),), unit, about, kind="stat", width=4, good_at=good_at, falling=falling)


REGION: Final = (
    "The region",
    (
        one("Nodes", 'sum(up{job="nodes"})', "none", "Nodes that answer; three make two a majority.", good_at=(2, 3)),
        one("Leader", 'sum(raft_leading{job="nodes"})', "none", "One, but for parts of a second.", good_at=(1, 1)),
        one("Authority", 'sum(authority_held{job="nodes"})', "none", "Whoever grants leases: one.", good_at=(1, 1)),
        one(
            "Strong, last hour",
            'sum(rate(strong_seconds_total{job="edges"}[1h])) / sum(rate(followed_seconds_total{job="edges"}[1h]))',
            "percentunit",
            "Share of the edges' time in which a read was strong.",
            good_at=(0.99, 0.999),
        ),
        one("Edges live", 'max(edges_live{job="nodes"})', "none", "Heard within ten seconds."),
        one("Outbox", 'max(outbox_depth{job="nodes"})', "none", "Events not on the bus yet.", good_at=(50, 500), falling=True),
        Panel(
            "Commit",
            tuple(
                (f'histogram_quantile({q}, sum by (le) (rate(raft_commit_seconds_bucket{{job="nodes"}}[5m])))', f"p{q * 100:g}")
                for q in (0.5, 0.99)
            ),
            "s",
            "From offering a change to a majority having it on disk.",
        ),
        Panel("Lease", (('min by (instance) (lease_remaining_seconds{job="nodes"})', "{{instance}}"),), "s", "How long each node could still answer from memory if nothing more were heard."),
        Panel("Last beacon", (('max by (instance) (beacon_age_seconds{job="nodes"})', "{{instance}}"),), "s", "A tenth of a second is usual."),
        Panel("Clock", (('max by (instance) (clock_uncertainty_seconds{job="nodes"})', "{{instance}}"),), "s", "How closely each node knows the authority's clock."),
        Panel("Changes of leader", (('sum(increase(raft_leader_changes_total{job="nodes"}[5m]))', "in 5 minutes"),), "none", "Each node counts what it learns of."),
        Panel("Applied", (('raft_applied_index{job="nodes"}', "{{instance}}"),), "none", "Lines that part show a node that lags."),
        Panel(
            "REST, p99",
            (('histogram_quantile(0.99, sum by (le, route) (rate(http_request_seconds_bucket{job="nodes"}[5m])))', "{{route}}"),),
            "s",
            "By route, event streams left out.",
        ),
        Panel("REST, calls", (('sum by (code) (rate(http_request_seconds_count{job="nodes"}[1m]))', "{{code}}"),), "reqps", "By status."),
        Panel("Refused", (('sum by (event) (rate(ccs_events_total{job="nodes",part="api",event=~"refused_.*"}[5m]))', "{{event}}"),), "cps", "What nodes would not do, and why."),
        Panel("Event loop", (('event_loop_lag_seconds{job="nodes"}', "{{instance}}"),), "s", "The most a timer was late within a minute."),
        Panel("Memory", (('process_resident_memory_bytes{job="nodes"}', "{{instance}}"),), "bytes", "Flat, after the first hour."),
        Panel("Files and sockets", (('process_open_fds{job="nodes"}', "{{instance}}"),), "none", "Flat; callers come and go."),
    ),
)  # fmt: skip

EDGES: Final = (
    "The edges",
    (
        Panel("Strong", (('avg by (model) (strong_read_availability_ratio{job="edges"})', "{{model}}"),), "percentunit", "Share of the last minute in which a read was strong, on average over edges."),
        Panel("Guarantees", (('sum by (guarantee) (max by (model, guarantee) (edges_reading{job="nodes"}))', "{{guarantee}}"),), "none", "Edges by what their reads are worth."),
        Panel("Oldest answer", (('max by (model) (staleness_age_seconds{job="edges"})', "{{model}}"),), "s", "The greatest age that a reading may have: 0 while all are strong."),
        Panel("Version lag", (('max by (model) (model_version_lag_seconds{job="edges"})', "{{model}}"),), "s", "For how long the edge furthest behind has not served what it should."),
        Panel("Behind", (('max by (model) (edges_behind{job="nodes"})', "{{model}}"),), "none", "Edges that serve an older generation."),
        Panel("Spread of a switch, p99", (('histogram_quantile(0.99, sum by (le) (rate(switch_spread_seconds_bucket{job="nodes"}[1h])))', "p99"),), "s", "Between the first and the last edge."),
        Panel("Lease", (('min by (site) (lease_remaining_seconds{job="edges"})', "{{site}}"),), "s", "The shortest of each site."),
        Panel("Last beacon", (('max by (site) (beacon_age_seconds{job="edges"})', "{{site}}"),), "s", "The oldest of each site."),
        Panel("Clock", (('max by (site) (clock_uncertainty_seconds{job="edges"})', "{{site}}"),), "s", "The worst of each site."),
        Panel("Hit ratio", (('avg by (tier) (cache_hit_ratio{job="edges"})', "{{tier}}"),), "percentunit", "Share of the questions to each tier that it answered."),
        Panel("Invalidations", (('sum(invalidations_per_minute{job="edges"})', "per minute"),), "none", "What was told to be out of date."),
        Panel("Breakers open", (('sum by (breaker) (breaker_open{job="edges"})', "{{breaker}}"),), "none", "Edges that have stopped asking."),
        Panel("Write-behind, depth", (('sum(write_behind_depth{job="edges"})', "entries"),), "none", "Queued and not stored yet."),
        Panel("Write-behind, age", (('max by (instance) (write_behind_age_seconds{job="edges"})', "{{instance}}"),), "s", "How long the oldest has waited."),
        Panel("Write-behind, outcome", (('sum by (outcome) (rate(write_behind_total{job="edges"}[1m]))', "{{outcome}}"),), "cps", "What became of bulk writes."),
    ),
)  # fmt: skip

ROLLOUTS: Final = (
    "Rollouts",
    (
        Panel("Rollouts", (('max by (phase) (rollouts{job="nodes"})', "{{phase}}"),), "none", "Those remembered, by phase.", width=12),
        Panel("Generation", (('max by (model) (model_generation{job="nodes"})', "{{model}}"),), "none", "A step is a change of what is live.", width=12),
        Panel("Versions served", (('sum by (model, version) (model_serving{job="edges"})', "{{model}} {{version}}"),), "none", "Edges by what a read serves now.", width=12),
        Panel("Behind", (('max by (model) (edges_behind{job="nodes"})', "{{model}}"),), "none", "Edges that serve an older generation.", width=12),
        one("Frozen", 'max(changes_frozen{job="nodes"})', "none", "1: starts and promotions are frozen.", good_at=(1, 1), falling=True),
        one("Deliveries given up", 'max(webhook_deliveries_given_up{job="nodes"})', "none", "They wait for a replay.", good_at=(1, 10), falling=True),
    ),
)  # fmt: skip

BOARDS: Final[dict[str, tuple[str, tuple[Panel, ...]]]] = {"region": REGION, "edges": EDGES, "rollouts": ROLLOUTS}


def board(name: str) -> dict[str, Any]:
    """One dashboard as Grafana reads it."""
    title, panels = BOARDS[name]
    drawn: list[dict[str, Any]] = []
    x = y = row_height = 0
    for number, panel in enumerate(panels, start=1):
        height = HEIGHT // 2 if panel.kind == "stat" else HEIGHT
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        drawn.append(_panel(panel, number=number, place={"x": x, "y": y, "w": panel.width, "h": height}))
        x, row_height = x + panel.width, max(row_height, height)
    return {
        "uid": f"ccs-{name}",
        "title": title,
        "tags": ["edge-consistency"],
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "editable": True,
        "graphTooltip": 1,
        "templating": {"list": [{"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}]},
        "links": [
            {
                "title": "Dashboards",
                "type": "dashboards",
                "tags": ["edge-consistency"],
                "asDropdown": False,
                "icon": "dashboard",
            }
        ],
        "panels": drawn,
    }


def _panel(panel: Panel, *, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.good_at:
        colours = ("green", "yellow", "red") if panel.falling else ("red", "yellow", "green")
        steps = [{"color": colours[0], "value": None}]
        steps += [{"color": c, "value": v} for c, v in zip(colours[1:], panel.good_at, strict=True)]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}}
        if panel.kind == "stat"
        else {"tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": ask, "legendFormat": legend}
            for place, (ask, legend) in enumerate(panel.asks)
        ],
    }


def text(name: str) -> str:
    """What the file of a dashboard holds."""
    return json.dumps(board(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in BOARDS:
        (DIRECTORY / f"{name}.json").write_text(text(name), encoding="utf-8")
