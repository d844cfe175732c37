"""The fleet view: who is out there and how ready, by what edges say of themselves."""

from __future__ import annotations

import pytest

from consistency_service.core import fleet as fleet_module
from consistency_service.core.fleet import Fleet
from edge_client.protocol.messages import EdgeReport, ServedModel, Switch
from edge_client.protocol.models import Assignment
from tests.support.region import MS, version

V1, V2 = version("1.0.0"), version("2.0.0")
VERSIONS = {"1.0.0": V1, "2.0.0": V2}


def report(edge_id: str, *, life: str = "a", ready: tuple[str, ...] = (), **more: object) -> EdgeReport:
    served = ServedModel(model="m", version=None, generation=0, guarantee="", staleness_bound_ms=None, ready=ready)
    values: dict[str, object] = {"models": (served,)} | more
    return EdgeReport(edge_id=edge_id, life_id=life, epoch=1, revision=1, **values)  # type: ignore[arg-type]


def heard(*reports: EdgeReport) -> Fleet:
    fleet = Fleet()
    for one in reports:
        assert fleet.report_received(one, unix_ms=0, now_ns=0)
        fleet.check_invariants()
    return fleet


def test_a_second_life_of_a_live_id_is_refused_until_the_first_is_silent_or_leaves() -> None:
    fleet = heard(report("e"))

    assert not fleet.report_received(report("e", life="b"), unix_ms=0, now_ns=9_000 * MS)
    assert not fleet.report_received(report("e", life="b"), unix_ms=0, now_ns=10_000 * MS)
    assert fleet.report_received(report("e", life="b"), unix_ms=0, now_ns=10_001 * MS)
    assert fleet.report_received(report("e", life="b", leaving=True), unix_ms=0, now_ns=10_002 * MS)
    assert fleet.report_received(report("e", life="c"), unix_ms=0, now_ns=10_003 * MS)
    assert fleet.counters["edge_ids_taken"] == 2


def test_a_holder_that_crashed_loses_its_id_after_three_silent_seconds_and_a_living_one_keeps_it() -> None:
    fleet = heard(report("crashed"), report("living"))

    for edge_id in ("crashed", "living"):
        assert not fleet.report_received(report(edge_id, life="b"), unix_ms=0, now_ns=1_000 * MS)
    assert fleet.report_received(report("living"), unix_ms=0, now_ns=2_000 * MS)
    assert not fleet.report_received(report("living", life="b"), unix_ms=0, now_ns=4_001 * MS)
    assert fleet.report_received(report("crashed", life="b"), unix_ms=0, now_ns=4_001 * MS)


def test_nonsense_is_refused_and_counted() -> None:
    fleet = Fleet()
    many = tuple(report("e").models[0] for _ in range(300))

    assert not fleet.report_received(report("No Name"), unix_ms=0, now_ns=0)
    assert not fleet.report_received(report("e", models=many), unix_ms=0, now_ns=0)
    assert not fleet.report_received(report("e", life="a" * 65), unix_ms=0, now_ns=0)
    for model, clock_id in (("m" * 200, "c"), ("m", "c" * 65)):
        switch = Switch(model=model, generation=1, activation=1, late_ns=0, uncertainty_ns=0, clock_id=clock_id)
        assert not fleet.report_received(report("e", switches=(switch,)), unix_ms=0, now_ns=0)
    assert fleet.counters["reports_invalid"] == 5 and fleet.edges() == ()


def test_readiness_counts_live_followers_by_what_each_would_serve() -> None:
    failed = ServedModel(
        model="m", version=None, generation=0, guarantee="", staleness_bound_ms=None, failed={V2.digest: "no memory"}
    )
    busy = ServedModel(
        model="m", version=None, generation=0, guarantee="", staleness_bound_ms=None, fetched_bytes={V2.digest: 4}
    )
    fleet = heard(
        report("ready", ready=(V2.digest,)),
        report("failed", models=(failed,)),
        report("busy", models=(busy,)),
        report("elsewhere", models=()),
        report("gone", leaving=True),
    )

    readiness = fleet.readiness("m", assignment=Assignment(stable="2.0.0"), versions=VERSIONS, now_ns=0)

    assert (readiness.ready, readiness.waiting, readiness.failed) == (("ready",), ("busy",), {"failed": "no memory"})
    assert readiness.fetched_bytes["busy"] == 4 and not readiness.complete
    assert fleet.followers_of("m", now_ns=0) == ("busy", "failed", "ready")
    later = fleet.readiness("m", assignment=Assignment(stable="2.0.0"), versions=VERSIONS, now_ns=11_000 * MS)
    assert later.complete and later.ready == ()


def test_switches_are_kept_across_reports_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "SWITCHES_KEPT", 2)
    fleet = Fleet()
    for generation in (1, 2, 3):
        switch = Switch(model="m", generation=generation, activation=9, clock_id="c", late_ns=1, uncertainty_ns=2)
        fleet.report_received(report("e", switches=(switch,)), unix_ms=0, now_ns=generation)

    assert list(fleet.edges()[0].switches) == [("m", 2), ("m", 3)]


def test_the_longest_unheard_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "EDGES_MAX", 2)
    fleet = heard(report("a"), report("b"), report("a"), report("c"))

    assert [view.report.edge_id for view in fleet.edges()] == ["a", "c"]
    fleet.report_received(report("d"), unix_ms=0, now_ns=3_600_001 * MS)
    assert [view.report.edge_id for view in fleet.edges()] == ["d"]
    assert fleet.counters["edges_forgotten"] == 3


def test_a_fleet_that_is_not_heard_any_more_is_rather_unheard_than_gone() -> None:
    fleet = heard(report("e"), report("f"))

    assert not Fleet().deaf(now_ns=0)
    assert not fleet.deaf(now_ns=10_000 * MS)
    assert fleet.deaf(now_ns=10_001 * MS)
    assert fleet.report_received(report("f"), unix_ms=0, now_ns=10_002 * MS)
    assert not fleet.deaf(now_ns=10_003 * MS)


def test_long_reports_of_many_invented_edges_take_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr(fleet_module, "VIEWS_BYTES_MAX", 100_000)
    fleet = Fleet()
    for number in range(100):
        assert fleet.report_received(report(f"e-{number}", site="s" * 10_000), unix_ms=0, now_ns=number)
        fleet.check_invariants()

    assert [f"e-{number}" for number in range(91, 100)] == [view.report.edge_id for view in fleet.edges()]
    assert 91 == fleet.counters["edges_forgotten"]
