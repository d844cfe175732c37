"""How often an analysis errs, how soon it knows, and that both rest on what they are said to rest on.

The simulations are small ones of `ops.bench.analysis`, with fixed seeds; each of them fails when the allowance for looking
often is taken away, which is shown.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_service.core import analysis_distributions as distributions
from consistency_service.core import analysis_sequential as sequential
from consistency_service.core.analysis import Result, Sheet, verdict
from consistency_service.core.analysis_distributions import Distance, LabelShares, Quantile, QuantileRatio
from consistency_service.core.analysis_sequential import Mean, Rate, RateDifference, distance_noise_max, evidence_min
from consistency_service.core.strategy import Check, Metric
from edge_client.protocol.observations import ACCURACY, bucket_of_value, value_of_bucket
from ops.bench.analysis import BEYOND, DROPS, EQUAL, ERROR, Scenario, Side, by_one_look, tally, wilson

RUNS = 100
READINGS_MAX = 2_500
Z = 1.645


def erred(scenario: Scenario, *, until: Result, **more) -> tuple[float, float]:
    """Between which shares of the runs some look says so."""
    seen = tally(scenario, runs=RUNS, seed=7, until=until, readings_max=READINGS_MAX, **more)
    return wilson(len(seen.after(until)), RUNS)


def named(scenarios):
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.name)


@named(EQUAL)
def test_equal_versions_fail_no_more_often_than_stated_however_often_one_looks(scenario: Scenario) -> None:
    assert erred(scenario, until=Result.FAILED)[0] <= ERROR


@named(BEYOND)
def test_candidates_beyond_the_limit_pass_no_more_often_than_stated(scenario: Scenario) -> None:
    assert erred(scenario, until=Result.SUCCESSFUL)[0] <= ERROR


@named([one for one in EQUAL if one.check.metric is not Metric.LATENCY and one.share > 0.1])
def test_without_the_allowance_for_looking_often_they_fail_more_often(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_one_look(monkeypatch)

    assert erred(scenario, until=Result.FAILED)[0] > ERROR


def for_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each boundary as it would be for one look, at a number of readings agreed on beforehand, at the same error."""
    for module in (sequential, distributions):
        monkeypatch.setattr(module, "evidence_min", lambda *_, **__: Z * Z / 2)
    monkeypatch.setattr(distributions, "evidence_min_joint", lambda *_, **__: 16.92 / 2)  # chi-square, 9 labels more
    monkeypatch.setattr(
        distributions, "distance_noise_max", lambda readings, *, error: math.sqrt(math.log(2 / error) / (2 * readings))
    )


def test_the_same_of_a_quantile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets give equal versions some advantage at a ratio of 1; the candidate is slower by half of it."""
    check = Check(metric=Metric.LATENCY, worse_max=1.0, quantile=0.5)
    scenario = Scenario(name="", check=check, candidate=Side(latency_ms=20 * distributions.GAMMA**0.5))

    assert erred(scenario, until=Result.FAILED)[0] <= ERROR
    for_one_look(monkeypatch)
    assert erred(scenario, until=Result.FAILED)[0] > ERROR


def test_the_test_for_one_look_fails_equal_versions_far_more_often() -> None:
    assert erred(EQUAL[0], until=Result.FAILED, rule=by_one_look)[0] > 2 * ERROR


@pytest.mark.parametrize(("scenario", "readings_p95_max"), DROPS, ids=lambda value: getattr(value, "name", ""))
def test_a_drop_of_five_points_in_accuracy_is_caught(scenario: Scenario, readings_p95_max: int) -> None:
    seen = tally(scenario, runs=40, seed=7, until=Result.FAILED, readings_max=readings_p95_max)

    assert len(seen.failed_after) >= 38


# ----------------------------------------------------------------------------------- what must be true of every sheet

COUNT = st.integers(1, 100_000)


@st.composite
def rates(draw) -> tuple[int, int]:
    count = draw(COUNT)
    return draw(st.integers(0, count)), count


ORDER = {Result.SUCCESSFUL: 0, Result.INCONCLUSIVE: 1, Result.FAILED: 2}


def of_rates(limit: float, ours: tuple[int, int], theirs: tuple[int, int], **more) -> int:
    candidate, stable = (Sheet(judged_count=count, failed_count=failed) for failed, count in (ours, theirs))
    return ORDER[verdict(Check(metric=Metric.ERROR_RATE, worse_max=limit, **more), candidate=candidate, stable=stable)]


@given(ours=rates(), theirs=rates(), limit=st.floats(0, 1.1), more=st.integers(0, 1_000), slack=st.floats(0, 0.2))
def test_worse_readings_never_better_the_verdict(ours, theirs, limit: float, more: int, slack: float) -> None:
    failed, count = ours
    now = of_rates(limit, ours, theirs)

    assert now <= of_rates(limit, (min(count, failed + more), count), theirs)
    assert now >= of_rates(limit + slack, ours, theirs)


@given(ours=rates(), theirs=rates(), limit=st.floats(0, 1), error=st.floats(1e-6, 0.5))
def test_less_error_allowed_never_decides_more(ours, theirs, limit: float, error: float) -> None:
    strict, lax = (of_rates(limit, ours, theirs, error_probability=one) for one in (error / 2, error))

    assert strict in {1, lax}


@given(ours=rates(), theirs=rates(), error=st.floats(1e-4, 0.3))
@settings(max_examples=40)
def test_the_interval_ends_where_the_verdict_turns(ours, theirs, error: float) -> None:
    test = RateDifference(failed=ours[0], count=ours[1], stable_failed=theirs[0], stable_count=theirs[1])
    low, high = test.low(error=error), test.high(error=error)

    assert -1 <= low <= test.difference <= high <= 1
    assert not test.worse(min(1.0, low + 1e-6), error=error)
    assert not test.better(max(-1.0, high - 1e-6), error=error)
    assert low == -1 or test.worse(low - 1e-6, error=error)
    assert high == 1 or test.better(high + 1e-6, error=error)


LATENCIES = st.dictionaries(st.integers(340, 380), st.integers(1, 2_000), min_size=1, max_size=12)


@given(ours=LATENCIES, theirs=LATENCIES, share=st.sampled_from([0.5, 0.9, 0.99]), shift=st.integers(0, 20))
def test_slower_readings_never_better_the_verdict(ours, theirs, share: float, shift: int) -> None:
    check = Check(metric=Metric.LATENCY, worse_max=1.2, quantile=share)
    slower = {bucket + shift: count for bucket, count in ours.items()}
    stable = Sheet(latencies=theirs)

    before, after = (ORDER[verdict(check, candidate=Sheet(latencies=one), stable=stable)] for one in (ours, slower))

    assert before <= after


@given(ours=LATENCIES, theirs=LATENCIES, share=st.sampled_from([0.5, 0.9, 0.99]))
def test_the_interval_of_a_ratio_holds_it(ours, theirs, share: float) -> None:
    test = QuantileRatio(ours, theirs, share=share)
    ratio = test.values[2] or math.nan
    low, high = test.low(error=ERROR), test.high(error=ERROR)

    assert low <= ratio * (1 + 3 * ACCURACY)
    assert high >= ratio * (1 - 3 * ACCURACY)
    assert not test.worse(max(low, 1e-6) * 1.001, error=ERROR)
    assert high == math.inf or test.better(high * 1.001, error=ERROR)


# ------------------------------------------------------------------------------- the same by another way of computing it


@given(ours=rates(), theirs=rates(), limit=st.floats(-0.9, 0.9))
@settings(max_examples=40)
def test_the_evidence_on_rates_is_that_of_the_likeliest_explanation(ours, theirs, limit: float) -> None:
    test = RateDifference(failed=ours[0], count=ours[1], stable_failed=theirs[0], stable_count=theirs[1])
    evidence = test.evidence(limit, worse=test.difference > limit)
    first, last = max(0.0, -limit), min(1.0, 1.0 - limit)
    grid = [first + (last - first) * step / 1_000 for step in range(1_001)]
    best = min(
        ours[1] * sequential.divergence(ours[0] / ours[1], min(1.0, max(0.0, share + limit)))
        + theirs[1] * sequential.divergence(theirs[0] / theirs[1], share)
        for share in grid
    )

    assert evidence <= best * (1 + 1e-4) + 1e-4


@given(ours=LATENCIES, theirs=LATENCIES, share=st.sampled_from([0.5, 0.9, 0.99]), shift=st.integers(-30, 30))
def test_the_evidence_on_quantiles_is_that_of_the_bucket_that_fits_best(ours, theirs, share: float, shift: int) -> None:
    def misfit(counts: dict[int, int], bucket: int, *, below: bool) -> float:
        """Of counts to the quantile's being above this bucket's end (`below`: at or before it)."""
        total = sum(counts.values())
        seen = sum(count for place, count in counts.items() if place <= bucket) / total
        return total * sequential.divergence(seen, share) if (seen < share) == below and seen != share else 0.0

    test = QuantileRatio(ours, theirs, share=share)
    everywhere = range(300, 420)

    worse = min(misfit(theirs, at - 1, below=False) + misfit(ours, at + shift, below=True) for at in everywhere)
    better = min(misfit(theirs, at, below=True) + misfit(ours, at + shift, below=False) for at in everywhere)
    assert math.isclose(worse, test._evidence_worse(shift), abs_tol=1e-9)
    assert math.isclose(better, test._evidence_better(shift), abs_tol=1e-9)


def test_the_interval_of_a_quantile_is_open_above_until_enough_has_been_seen() -> None:
    few, many = (Quantile({bucket_of_value(100.0): count}, share=0.99) for count in (100, 1_000))

    assert math.inf == few.high(error=ERROR)
    assert 95 < many.low(error=ERROR) < 100 < many.high(error=ERROR) < 105


def test_a_share_is_known_to_lie_between_none_and_all() -> None:
    test = Rate(failed=5, count=10)

    assert test.worse(-0.1, error=ERROR)
    assert test.better(1.0, error=ERROR)
    assert not test.worse(1.0, error=ERROR)


def test_buckets_are_rounded_for_the_accused() -> None:
    """Equal quantiles within one bucket prove neither that the bound is kept nor that it is broken."""
    bucket = bucket_of_value(100.0)
    middle = value_of_bucket(bucket)
    test = Quantile({bucket: 10_000}, share=0.5)

    assert not test.worse(middle, error=ERROR)
    assert not test.better(middle, error=ERROR)
    assert test.worse(middle * (1 - ACCURACY) * 0.97, error=ERROR)
    assert test.better(middle * (1 + ACCURACY) * 1.03, error=ERROR)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(5, 3_000), min_size=1), st.data())
def test_the_index_of_labels_lies_in_its_interval(stable: dict[str, int], data) -> None:
    candidate = data.draw(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(5, 3_000), min_size=1))
    test = LabelShares(candidate, stable)

    assert 0 <= test.low(error=ERROR) <= test.index + 1e-9 <= test.high(error=ERROR) + 1e-9


def test_the_noise_of_a_distance_shrinks_with_readings_and_is_wider_than_for_one_look() -> None:
    sizes = [16 * 1.1**power for power in range(80)]
    noise = [distance_noise_max(size, error=ERROR) for size in sizes]

    assert math.inf == distance_noise_max(15, error=ERROR)
    assert sorted(noise, reverse=True) == noise
    assert all(one > math.sqrt(math.log(2 / ERROR) / (2 * size)) for one, size in zip(noise, sizes, strict=True))
    assert Distance({1: 40}, {2: 40}).values == (None, None, 1.0)


def test_no_reading_is_no_evidence() -> None:
    assert math.inf == evidence_min(0, error=ERROR)
    assert math.inf == sequential.evidence_min_joint(0, 3, error=ERROR)


def test_equal_scores_prove_no_more_than_that_others_are_rare() -> None:
    """A hundred times 1: a score of 0 in one of fifty, a drop of 0.02, would not have been seen with probability 0.13."""

    def test(count: int) -> Mean:
        return Mean((count, count, count), (count, count, count), spread=1.0)

    assert not test(100).better(0.02, error=ERROR)
    assert test(1_000).better(0.02, error=ERROR)
    assert Mean((100, 100, 100), (100, 100, 100), spread=0.0).evidence(0.02, worse=False) == math.inf


def test_the_boundary_is_the_mixture_s() -> None:
    """At it, the one-sided normal mixture is at least 1 / error, and not much more: checked against the integral."""
    error = 0.05
    for readings in (5, 50, 500, 50_000):
        needed = evidence_min(readings, error=error)
        deviation = math.sqrt(2 * needed * readings)  # of a walk with unit steps
        mixture = _mixture(deviation, readings)
        assert 1 / error <= mixture <= 1.2 / error


def _mixture(deviation: float, readings: float, steps: int = 20_000) -> float:
    """The likelihood ratio of a drift against none, averaged over drifts as half a normal distribution has them."""
    spread = 1 / math.sqrt(sequential.READINGS_SCALE)

    def density(drift: float) -> float:
        return 2 * math.exp(-((drift / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))

    width = 10 * spread / steps
    drifts = [(step + 0.5) * width for step in range(steps)]
    return sum(density(drift) * math.exp(drift * deviation - drift * drift * readings / 2) for drift in drifts) * width
