"""What an edge says in numbers: the names. Where the numbers come from is `runtime.measuring`."""

from __future__ import annotations

from typing import Final

from edge_client.protocol.metrics import Kind, Metric

_C, _G = Kind.COUNTER, Kind.GAUGE
_MODEL: Final = ("model",)

EDGE_METRICS: Final = (
    Metric(
        name="strong_read_availability_ratio",
        kind=_G,
        unit="1",
        labels=_MODEL,
        meaning="Share of the last 60 s in which a read of the model would have been strong, by time, not by reads.",
    ),
    Metric(
        name="strong_seconds_total",
        kind=_C,
        unit="s",
        labels=_MODEL,
        meaning="Time in which a read of the model would have been strong.",
    ),
    Metric(
        name="followed_seconds_total",
        kind=_C,
        unit="s",
        labels=_MODEL,
        meaning="Time since the model was registered here.",
    ),
    Metric(
        name="reads_slow_total",
        kind=_C,
        labels=("guarantee",),
        meaning="Readings that were not answered by the strong reading at hand: all that are not strong, and the first strong"
        " one after it ran out. Strong readings at hand are not counted; they cost nothing for it.",
    ),
    Metric(
        name="staleness_age_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="The staleness bound of a read now: 0 when strong; missing where no bound is known.",
    ),
    Metric(
        name="model_version_lag_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="For how long this edge has not served the generation it should; 0 when it does.",
    ),
    Metric(name="model_generation", kind=_G, labels=_MODEL, meaning="The generation a read would serve; 0: none."),
    Metric(
        name="model_serving",
        kind=_G,
        labels=("model", "version", "guarantee"),
        meaning="1 for what a read would serve now.",
    ),
    Metric(
        name="switch_late_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="How long after the instant this edge began to serve the present generation, by the middle of its bounds.",
    ),
    Metric(
        name="switch_uncertainty_seconds",
        kind=_G,
        unit="s",
        labels=_MODEL,
        meaning="The width of those bounds.",
    ),
    Metric(
        name="lease_remaining_seconds",
        kind=_G,
        unit="s",
        meaning="How long strong readings go on if nothing more is heard; 0 without a lease.",
    ),
    Metric(name="beacon_age_seconds", kind=_G, unit="s", meaning="Since the last verified beacon was heard."),
    Metric(
        name="clock_uncertainty_seconds",
        kind=_G,
        unit="s",
        meaning="The width of the best known clock of the region.",
    ),
    Metric(name="clock_trusted", kind=_G, meaning="1 while this machine's clock keeps its rate, else 0."),
    Metric(
        name="position_lag_revisions",
        kind=_G,
        meaning="How far the last applied revision is behind the newest one heard of.",
    ),
    Metric(name="bus_connected", kind=_G, meaning="1 while the bus is connected, else 0."),
    Metric(name="edge_id_refused", kind=_G, meaning="1 while another living process holds this edge's id, else 0."),
    Metric(
        name="local_tier_available",
        kind=_G,
        meaning="1 while the local tier answers, else 0; missing where there is none.",
    ),
    Metric(
        name="cache_hit_ratio",
        kind=_G,
        unit="1",
        labels=("tier",),
        meaning="Share of the last 60 s' questions to a tier that it answered; missing while nobody asks. Features: `memory`"
        " (with the write queue), `local`, `store`; `artifacts`: the local tier asked for a model's bytes.",
    ),
    Metric(
        name="cache_hits_total",
        kind=_C,
        labels=("tier",),
        meaning="Questions that the tier answered; as `cache_hit_ratio`.",
    ),
    Metric(name="cache_misses_total", kind=_C, labels=("tier",), meaning="Questions that it did not answer."),
    Metric(name="cache_entries", kind=_G, labels=("tier",), meaning="Features in memory."),
    Metric(name="cache_bytes", kind=_G, unit="By", labels=("tier",), meaning="What they take."),
    Metric(
        name="invalidations_total",
        kind=_C,
        meaning="What was told to be out of date: views of registered models that changed, and copies of features let go of.",
    ),
    Metric(
        name="invalidations_per_minute",
        kind=_G,
        meaning="The same over the last 60 s.",
    ),
    Metric(name="write_behind_depth", kind=_G, meaning="Bulk features that are queued and not in the store yet."),
    Metric(name="write_behind_bytes", kind=_G, unit="By", meaning="What the queue takes in memory."),
    Metric(
        name="write_behind_age_seconds",
        kind=_G,
        unit="s",
        meaning="How long the oldest of them has waited; 0: none waits.",
    ),
    Metric(
        name="write_behind_total",
        kind=_C,
        labels=("outcome",),
        meaning="What became of bulk writes: `flushed`, `coalesced`, `dropped`, `retried` and more.",
    ),
    Metric(
        name="breaker_open",
        kind=_G,
        labels=("breaker",),
        meaning="1 while the breaker before the feature `store` or the `local` tier is open or trying, 0 while it is closed.",
    ),
    Metric(
        name="event_loop_lag_seconds",
        kind=_G,
        unit="s",
        meaning="The most that a timer of one second was late within the last 60 s.",
    ),
    Metric(
        name="ccs_events_total",
        kind=_C,
        labels=("part", "event"),
        meaning='Every counter of this edge\'s `status()`, with `part="edge"`, and of its bus connection, with `part="bus"`.',
    ),
)
