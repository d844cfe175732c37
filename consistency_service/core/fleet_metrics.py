"""What all live edges together come to, in numbers: one walk over what they last reported.

Picture a head count on deck. It is taken when somebody asks, in one go, and it asks little of each: ten thousand edges are
some milliseconds. Of a quality the worst is told, since an average hides the edge that needs help.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from consistency_service.core.fleet import LIVE_NS, EdgeView
from consistency_service.core.state import ModelState, State
from edge_client.protocol.metrics import OTHER, ROWS_MAX, Rest, Row, few

GUARANTEES: Final = ("strong", "bounded", "fallback", "none")

_Served = tuple[str, str, int, int | None]
"""Model, guarantee, generation, staleness bound in milliseconds: what many edges have in common."""


def fleet_rows(views: Iterable[EdgeView], state: State, *, now_ns: int, unix_ms: int) -> dict[str, list[Row]]:
    """The rows of every metric of the fleet, models with most edges first."""
    known_count = live_count = 0
    epoch, lowest = state.epoch, state.revision
    oldest_ns = now_ns - LIVE_NS
    alike: defaultdict[_Served, int] = defaultdict(int)
    for view in views:
        known_count += 1
        report = view.report
        if view.heard_at_ns < oldest_ns or report.leaving:
            continue
        live_count += 1
        if report.epoch != epoch:
            lowest = 0
        elif report.revision < lowest:
            lowest = report.revision
        for served in report.models:  # the one line that is run for each model of each edge
            alike[served.model, served.guarantee, served.generation, served.staleness_bound_ms] += 1
    return {
        "edges_known": [((), float(known_count))],
        "edges_live": [((), float(live_count))],
        "position_lag_revisions": [((), float(state.revision - lowest))],
        **_of_models(alike, state=state, unix_ms=unix_ms),
    }


def _of_models(alike: Mapping[_Served, int], *, state: State, unix_ms: int) -> dict[str, list[Row]]:
    reading: Counter[tuple[str, str]] = Counter()
    edge_counts: Counter[str] = Counter()
    behind: Counter[str] = Counter()
    generations: dict[str, int] = {}
    staleness_ms: dict[str, int] = {}
    for (name, guarantee, generation, bound_ms), count in alike.items():
        model = state.models.get(name)
        if model is None:
            continue
        reading[name, guarantee] += count
        edge_counts[name] += count
        if generation < model.generation:
            behind[name] += count
            generations[name] = min(generation, generations.get(name, generation))
        if bound_ms is not None:
            staleness_ms[name] = max(bound_ms, staleness_ms.get(name, 0))
    names = sorted(state.models, key=lambda name: (-edge_counts[name], name))
    lags = {
        name: _lag_s(state.models[name], generations[name], unix_ms=unix_ms) if name in generations else 0.0
        for name in names
    }
    kept = frozenset(names[:ROWS_MAX])
    counts: Counter[tuple[str, str]] = Counter()
    for (name, guarantee), count in reading.items():
        told = guarantee if guarantee in GUARANTEES else "none"
        counts[name if name in kept else OTHER, told] += count
    return {
        "edges_reading": [(pair, float(count)) for pair, count in sorted(counts.items())],
        "edges_behind": few({name: float(behind[name]) for name in names}, rest=Rest.SUM),
        "model_version_lag_seconds": few(lags, rest=Rest.MAX),
        "model_generation": few({name: float(state.models[name].generation) for name in names}, rest=Rest.MAX),
        "staleness_age_seconds": few(
            {name: staleness_ms[name] / 1_000 for name in names if name in staleness_ms}, rest=Rest.MAX
        ),
    }


def _lag_s(model: ModelState, generation: int, *, unix_ms: int) -> float:
    """For how long the generation after this one has been active; of what is not remembered, since the oldest that is."""
    later = next((entry for entry in model.history if entry.generation > generation), None)
    return 0.0 if later is None else max(0, unix_ms - later.effective_at_unix_ms) / 1_000


def switch_lates_s(views: Iterable[EdgeView], *, model: str, generation: int, activation: int) -> list[float]:
    """How late each edge that said so began to serve a generation, in order."""
    key = (model, generation)
    found = (view.switches.get(key) for view in views)
    return sorted(switch.late_ns / 1e9 for switch in found if switch is not None and switch.activation == activation)
