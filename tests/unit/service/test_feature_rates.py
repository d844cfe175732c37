"""What edges told of feature classes lately: differences within a life, a span of seconds, and nothing of what cannot be."""

from __future__ import annotations

import math
from itertools import count

import pytest

from consistency_service.core import feature_rates
from consistency_service.core.feature_rates import NOTHING, SPAN_MS, FeatureRate, FeatureRates
from consistency_service.core.fleet import Fleet
from edge_client.protocol.messages import EdgeReport, FeatureObservations
from tests.support.region import MS

S = 1_000 * MS


def sheet(
    judged: int = 0, failed: int = 0, fetched: int = 0, drift: float = 0.0, name: str = "track"
) -> FeatureObservations:
    return FeatureObservations(
        class_name=name, judged_count=judged, failed_count=failed, fetched_count=fetched, drift_sum=drift
    )


def report(*sheets: FeatureObservations, edge: str = "e", life: str = "1") -> EdgeReport:
    return EdgeReport(edge_id=edge, life_id=life, epoch=1, revision=1, features=sheets)


class Heard:
    """Rates, and the reports given to them."""

    def __init__(self) -> None:
        self.rates = FeatureRates(known=lambda name: name != "unknown")
        self.now_ns = 100 * S

    def hear(self, *sheets: FeatureObservations, edge: str = "e", life: str = "1") -> None:
        self.rates.report_received(report(*sheets, edge=edge, life=life), now_ns=self.now_ns)
        self.rates.check_invariants()

    def rate(self, name: str = "track") -> FeatureRate:
        return self.rates.rate(name, now_ns=self.now_ns)


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_the_first_sums_of_a_life_are_where_counting_starts(heard: Heard) -> None:
    heard.hear(sheet(1_000, 900, 500, 250.0))
    assert heard.rate() == NOTHING
    heard.hear(sheet(1_010, 901, 520, 251.0))

    assert heard.rate() == FeatureRate(judged_count=10, failed_count=1, fetched_count=20, drift_sum=1.0)


def test_reports_may_be_lost_or_repeated_and_lives_start_anew(heard: Heard) -> None:
    for judged in (0, 5, 5, 25):
        heard.hear(sheet(judged))
    heard.hear(sheet(1_000), life="2")
    heard.hear(sheet(1_003), life="2")
    heard.hear(sheet(0), edge="f")
    heard.hear(sheet(2), edge="f")

    assert heard.rate().judged_count == 25 + 3 + 2
    assert heard.rates.edge_counts(now_ns=heard.now_ns) == {"track": 3}


def test_what_is_longer_ago_than_the_span_is_over(heard: Heard) -> None:
    heard.hear(sheet())
    for second in range(40):
        heard.now_ns += S
        heard.hear(sheet(judged=10 * (second + 1)))
    assert heard.rate().judged_count == 10 * SPAN_MS // 1_000

    heard.now_ns += 5 * S
    assert heard.rate().judged_count == 10 * (SPAN_MS // 1_000 - 5)
    heard.now_ns += SPAN_MS * MS
    assert heard.rate() == NOTHING
    assert not heard.rates.edge_counts(now_ns=heard.now_ns)


@pytest.mark.parametrize(
    "told",
    [
        sheet(judged=-1, failed=-1),
        sheet(judged=3, failed=4),
        sheet(judged=1 << 60),
        sheet(fetched=-1),
        sheet(fetched=2, drift=2.1),
        sheet(fetched=2, drift=-0.1),
        sheet(fetched=2, drift=math.nan),
        sheet(fetched=2, drift=math.inf),
        sheet(fetched=1 << 60),
    ],
    ids=repr,
)
def test_what_no_honest_edge_tells_is_refused_and_counted(heard: Heard, told: FeatureObservations) -> None:
    heard.hear(sheet())
    heard.hear(told)
    heard.hear(sheet(judged=7))

    assert heard.rates.counters["feature_observations_invalid"] == 1
    assert heard.rate() == FeatureRate(judged_count=7)


@pytest.mark.parametrize(
    "told",
    [sheet(9, 5, 10, 5.0), sheet(10, 4, 10, 5.0), sheet(10, 5, 9, 5.0), sheet(11, 7, 10, 5.0), sheet(10, 5, 10, 4)],
)
def test_sums_that_shrank_are_old_or_false_and_refused(heard: Heard, told: FeatureObservations) -> None:
    heard.hear(sheet(10, 5, 10, 5.0))
    heard.hear(told)
    heard.hear(sheet(11, 6, 11, 5.5))

    assert heard.rates.counters["feature_observations_shrunk"] == 1
    assert heard.rate() == FeatureRate(judged_count=1, failed_count=1, fetched_count=1, drift_sum=0.5)


def test_a_drift_that_rounding_made_too_large_is_what_it_can_be(heard: Heard) -> None:
    large = float(1 << 40)
    heard.hear(sheet(fetched=1 << 41, drift=large))
    heard.hear(sheet(fetched=(1 << 41) + 1, drift=large + 1.001))

    assert heard.rate().drift_sum == 1.0


def test_classes_that_nobody_set_are_counted_and_not_kept(heard: Heard) -> None:
    heard.hear(sheet(name="unknown"))
    heard.hear(sheet(9, name="unknown"))

    assert heard.rates.counters["feature_observations_unknown"] == 2
    assert heard.rate("unknown") == NOTHING


def test_lives_are_bounded_and_one_that_was_forgotten_starts_again(heard: Heard, monkeypatch) -> None:
    monkeypatch.setattr(feature_rates, "HELD_MAX", 4)
    heard.hear(sheet(100))
    heard.hear(sheet(), edge="f")
    heard.hear(sheet(), edge="g")
    heard.hear(sheet(150))
    assert heard.rates.counters["feature_lives_forgotten"] == 2
    assert heard.rate() == NOTHING
    heard.hear(sheet(160))

    assert heard.rate().judged_count == 10


def test_lives_that_tell_nothing_known_are_bounded_too(heard: Heard, monkeypatch) -> None:
    monkeypatch.setattr(feature_rates, "HELD_MAX", 4)
    for number in range(20):
        heard.hear(sheet(name="unknown"), life=str(number))

    assert heard.rates.counters["feature_lives_forgotten"] == 16


def test_classes_come_and_go_within_bounds(monkeypatch) -> None:
    monkeypatch.setattr(feature_rates, "RINGS_MAX", 2)
    rates = FeatureRates()
    for judged, name in zip(count(1), "abcabcabc", strict=False):
        rates.report_received(report(sheet(judged, name=name)), now_ns=S)
        rates.report_received(report(sheet(judged + 1, name=name)), now_ns=S)
        rates.check_invariants()
    rates.report_received(report(*(sheet(99, name=name) for name in "abc")), now_ns=S)
    rates.check_invariants()

    assert rates.counters["feature_rates_forgotten"] == 7
    assert rates.counters["feature_observations_beyond_max"] == 1


def test_the_fleet_counts_accepted_reports_and_keeps_no_sheets() -> None:
    fleet = Fleet(known_class=lambda _: True)
    for judged in (0, 60):
        fleet.report_received(report(sheet(judged)), unix_ms=0, now_ns=S)
    for judged in (0, 500):
        assert not fleet.report_received(report(sheet(judged), life="2"), unix_ms=0, now_ns=S)
    fleet.check_invariants()

    assert fleet.features.rate("track", now_ns=S).judged_count == 60
    assert fleet.edges()[0].report.features == ()
