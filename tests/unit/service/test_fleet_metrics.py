"""What all live edges come to: the worst of each quality, in bounded rows."""

from __future__ import annotations

from consistency_service.core.fleet import LIVE_NS, Fleet
from consistency_service.core.fleet_metrics import fleet_rows, switch_lates_s
from consistency_service.core.state import HistoryEntry, ModelState, State
from edge_client.protocol.messages import EdgeReport, ServedModel, Switch
from edge_client.protocol.metrics import OTHER, ROWS_MAX
from edge_client.protocol.models import Assignment, Policy

NOW_NS = 100 * LIVE_NS


def model(name: str, *, generation: int = 3) -> ModelState:
    history = [
        HistoryEntry(
            generation=number,
            assignment=Assignment(stable=f"{number}.0.0"),
            activation=number,
            effective_at_unix_ms=number * 1_000,
            author="ann",
        )
        for number in range(1, generation + 1)
    ]
    return ModelState(name=name, policy=Policy(), created_at_unix_ms=0, generation=generation, history=history)


def served(name: str, *, generation: int = 3, guarantee: str = "strong", bound_ms: int | None = 0) -> ServedModel:
    return ServedModel(
        model=name, version="1.0.0", generation=generation, guarantee=guarantee, staleness_bound_ms=bound_ms
    )


def told(reports, *, models=("m",), late_ns: int = 0):
    state = State(epoch=1, revision=50, models={name: model(name) for name in models})
    fleet = Fleet()
    for report in reports:
        fleet.report_received(report, unix_ms=0, now_ns=NOW_NS - late_ns)
    return {name: dict(rows) for name, rows in fleet_rows(fleet.views(), state, now_ns=NOW_NS, unix_ms=9_000).items()}


def report(edge_id: str, *models: ServedModel, **more) -> EdgeReport:
    return EdgeReport(edge_id=edge_id, life_id="a", **{"epoch": 1, "revision": 50} | more, models=models)


def test_the_worst_edge_is_told():
    rows = told(
        [
            report("a", served("m")),
            report("b", served("m", generation=2, guarantee="bounded", bound_ms=700), revision=41),
            report("c", served("m", generation=1, guarantee="fallback", bound_ms=None)),
        ]
    )

    assert {(): 3.0} == rows["edges_live"] == rows["edges_known"]
    assert {("m", "strong"): 1.0, ("m", "bounded"): 1.0, ("m", "fallback"): 1.0} == rows["edges_reading"]
    assert {("m",): 2.0} == rows["edges_behind"]
    assert {("m",): 7.0} == rows["model_version_lag_seconds"], "generation 2 has been active since 2 s, it is 9 s"
    assert {("m",): 0.7} == rows["staleness_age_seconds"]
    assert {(): 9.0} == rows["position_lag_revisions"]


def test_all_well_is_zero():
    rows = told([report("a", served("m"))])

    assert {("m",): 0.0} == rows["edges_behind"] == rows["model_version_lag_seconds"] == rows["staleness_age_seconds"]
    assert {(): 0.0} == rows["position_lag_revisions"]


def test_silent_and_leaving_edges_count_as_known_alone():
    rows = told([report("a", served("m", generation=1), revision=1)], late_ns=LIVE_NS + 1)
    assert ({(): 0.0}, {(): 1.0}) == (rows["edges_live"], rows["edges_known"])
    assert {("m",): 0.0} == rows["edges_behind"]
    assert {(): 0.0} == rows["position_lag_revisions"]

    assert {(): 0.0} == told([report("a", served("m"), leaving=True)])["edges_live"]


def test_an_edge_of_another_epoch_has_everything_before_it():
    assert {(): 50.0} == told([report("a", epoch=7, revision=900)])["position_lag_revisions"]


def test_what_an_edge_makes_up_makes_no_row():
    rows = told([report("a", served("m", guarantee="x" * 100), served("no-such-model"))])

    assert {("m", "none"): 1.0} == rows["edges_reading"]
    assert {("m",)} == set(rows["edges_behind"])


def test_models_with_most_edges_have_rows_and_the_rest_has_one():
    names = [f"m{number:03}" for number in range(ROWS_MAX + 5)]
    reports = [report(f"e{number}", *(served(name, generation=2) for name in names[-3:])) for number in range(2)]
    reports.append(report("f", served(names[0], generation=1)))
    rows = told(reports, models=names)

    assert ROWS_MAX + 1 == len(rows["edges_behind"])
    assert {2.0} == {rows["edges_behind"][(name,)] for name in names[-3:]}
    assert 1.0 == rows["edges_behind"][(names[0],)]
    assert (OTHER,) in rows["edges_behind"]


def test_switches_of_another_activation_of_that_generation_do_not_count():
    fleet = Fleet()
    for edge_id, activation, late_ms in (("a", 9, 5), ("b", 9, 2), ("c", 4, 900)):
        switch = Switch(
            model="m", generation=3, activation=activation, clock_id="x", late_ns=late_ms * 1_000_000, uncertainty_ns=1
        )
        fleet.report_received(report(edge_id, switches=(switch,)), unix_ms=0, now_ns=1)

    assert [0.002, 0.005] == switch_lates_s(fleet.views(), model="m", generation=3, activation=9)
