"""What a node says in numbers: the names. Where the numbers come from is `fleet_metrics` and `runtime.measuring`.

Of the fleet every node tells what it hears, and of a quality the worst: `model_version_lag_seconds` of a node is that of
the live edge furthest behind.
"""

from __future__ import annotations

from typing import Final

from edge_client.protocol.metrics import Kind, Metric

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_MODEL: Final = ("model",)
_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

NODE_METRICS: Final = (
    Metric(name="raft_leading", kind=_G, meaning="1 while this node leads, else 0."),
    Metric(name="raft_leader_known", kind=_G, meaning="1 while this node knows who leads, else 0."),
    Metric(name="raft_term", kind=_G, meaning="The term of this node."),
    Metric(
        name="raft_leader_changes_total", kind=_C, meaning="How often this node learnt of another leader than the last."
    ),
    Metric(name="raft_commit_index", kind=_G, meaning="The last entry that this node knows to be committed."),
    Metric(name="raft_applied_index", kind=_G, meaning="The last entry applied here."),
    Metric(name="raft_voters", kind=_G, meaning="How many nodes have a vote."),
    Metric(name="raft_storage_fault", kind=_G, meaning="1 when the log cannot be written any more, else 0."),
    Metric(
        name="raft_commit_seconds",
        kind=_H,
        unit="s",
        buckets=_FAST,
        meaning="From offering a command to having applied it here, of commands that committed.",
    ),
    Metric(
        name="authority_held", kind=_G, meaning="1 while this node is the authority, else 0; one node of a region is."
    ),
    Metric(
        name="strong_read_availability_ratio",
        kind=_G,
        unit="1",
        meaning="Share of the last 60 s in which this node held a read lease: by time, never more than was true.",
    ),
    Metric(
        name="lease_remaining_seconds",
        kind=_G,
        unit="s",
        meaning="How long this node answers from memory if nothing more is heard; 0 without a lease.",
    ),
    Metric(name="beacon_age_seconds", kind=_G, unit="s", meaning="Since this node heard or granted the last beacon."),
    Metric(
        name="clock_uncertainty_seconds",
        kind=_G,
        unit="s",
        meaning="How closely this node knows the authority's clock; 0 at the authority.",
    ),
    Metric(name="clock_trusted", kind=_G, meaning="1 while this machine's clock keeps its rate, else 0."),
    Metric(name="bus_connected", kind=_G, meaning="1 while the bus is connected, else 0."),
    Metric(name="region_epoch", kind=_G, meaning="The epoch; 0: the region is not bootstrapped."),
    Metric(name="region_revision", kind=_G, meaning="The last revision applied here."),
    Metric(name="outbox_depth", kind=_G, meaning="Events that are decided and not known to be on the bus."),
    Metric(
        name="invalidations_total",
        kind=_C,
        meaning="Events that this node put on the bus; each makes something that readers know out of date.",
    ),
    Metric(name="invalidations_per_minute", kind=_G, meaning="The same over the last 60 s."),
    Metric(name="edges_live", kind=_G, meaning="Edges heard within the last 10 s."),
    Metric(name="edges_known", kind=_G, meaning="Edges heard within the last hour."),
    Metric(
        name="edges_reading",
        kind=_G,
        labels=("model", "guarantee"),
        meaning="Live edges that follow the model, by what their reads are worth: `strong`, `bounded`, `fallback`, `none`.",
    ),
    Metric(
        name="edges_behind",
        kind=_G,
        labels=_MODEL,
        meaning="Live edges that follow the model and serve a generation before the present one, or nothing.",
    ),
    Metric(
        name="model_version_lag_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="For how long, at the live edge furthest behind, a newer generation than the one served has been active.",
    ),
    Metric(
        name="staleness_age_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="The greatest staleness bound that a live edge last reported; 0 when all are strong.",
    ),
    Metric(
        name="position_lag_revisions",
        kind=_G,
        meaning="How many revisions the live edge furthest behind had not applied when last heard; 0 without edges.",
    ),
    Metric(
        name="model_generation", kind=_G, labels=_MODEL, meaning="The present generation; 0: nothing was activated."
    ),
    Metric(
        name="switch_spread_seconds",
        kind=_H,
        unit="s",
        buckets=(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
        meaning="Of each activation, between the first and the last edge's switch, of at least two that said so within 3 s"
        " after it; told by the authority.",
    ),
    Metric(name="rollouts", kind=_G, labels=("phase",), meaning="Rollouts that are remembered, by phase."),
    Metric(name="changes_frozen", kind=_G, meaning="1 while starts and promotions are frozen, else 0."),
    Metric(
        name="webhook_deliveries_given_up",
        kind=_G,
        meaning="Deliveries that webhooks did not take and that wait for a replay.",
    ),
    Metric(
        name="feature_window_seconds",
        kind=_G,
        unit="s",
        labels=("class",),
        meaning="The staleness window of a feature class now.",
    ),
    Metric(
        name="http_request_seconds",
        kind=_H,
        unit="s",
        labels=("method", "route", "code"),
        buckets=_FAST,
        meaning="REST, from the head of a request to the end of its answer, by template of the route. Event streams are left out.",
    ),
    Metric(
        name="event_loop_lag_seconds",
        kind=_G,
        unit="s",
        meaning="The most that a timer of one second was late within the last 60 s.",
    ),
    Metric(name="asyncio_tasks", kind=_G, meaning="Tasks of the event loop now; a number that only grows is a leak."),
    Metric(
        name="ccs_events_total",
        kind=_C,
        labels=("part", "event"),
        meaning="Every counter of this node: those of `self_status()`, with those of `api`, `raft` and `bus`.",
    ),
)
