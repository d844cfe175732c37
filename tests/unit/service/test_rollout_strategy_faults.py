"""A strategy that cannot work is refused with every fault at once, each at its place."""

from __future__ import annotations

import math

import pytest

from consistency_service.core import commands as c
from consistency_service.core.rollout import STAGES_MAX, TARGETS_MAX
from consistency_service.core.strategy import Check, Metric, Prefetch, Stage, Strategy
from consistency_service.core.strategy_faults import DURATION_MS_MAX, FAULTS_MAX, strategy_faults
from edge_client.protocol.bucketing import CohortSelector
from edge_client.protocol.models import Policy
from tests.support.region import version
from tests.support.rollouts import RolloutRegion

LAB = CohortSelector(sites=("lab",), labels={"zone": "a"})
ALL = (Stage(share_bp=10_000),)


@pytest.fixture(scope="module")
def region() -> RolloutRegion:
    region = RolloutRegion()
    region.apply(c.CreateModel(model="fresh", policy=Policy()))
    region.apply(c.RegisterVersion(model="fresh", version=version("1.0.0")))
    return region


def faults(region: RolloutRegion, strategy: Strategy, **more) -> dict[str, str]:
    models = more.pop("models", {"m": "2.0.0"})
    found = strategy_faults(strategy, models=models, state=region.state, **more)
    assert len({fault.place for fault in found}) == len(found)
    return {fault.place: fault.message for fault in found}


def places(region: RolloutRegion, *stages: Stage, **more) -> set[str]:
    return set(faults(region, Strategy(stages=stages, **more)))


def test_a_strategy_that_can_work_has_no_faults(region: RolloutRegion) -> None:
    checks = (
        Check(metric=Metric.ERROR_RATE, worse_max=0.02),
        Check(metric=Metric.LATENCY, worse_max=1.25, quantile=0.5),
        Check(metric=Metric.LATENCY, bound=80.0),
        Check(metric=Metric.SCORE, bound=-0.5),
        Check(metric=Metric.LABEL_DRIFT, worse_max=0.2),
        Check(metric=Metric.SCORE_DRIFT, bound=0.1),
        Check(metric=Metric.EXTERNAL, url="https://example.org/judge?of=m", interval_ms=5_000),
    )
    strategy = Strategy(
        stages=(
            Stage(share_bp=1, cohort=LAB),
            Stage(share_bp=1, cohort=CohortSelector(sites=("roof", "lab"), labels={"zone": "a"})),
            Stage(share_bp=500, cohort=CohortSelector(labels={"zone": "a"}), bake_ms=60_000),
            Stage(share_bp=10_000, cohort=CohortSelector()),
        ),
        cohort=LAB,
        analysis=checks,
    )

    assert {} == faults(
        region,
        strategy,
        models={"m": "2.0.0", "n": "3.0.0"},
        known_sites={"lab", "roof"},
        known_labels={"zone": {"a", "b"}},
    )


def test_everything_is_said_at_once_and_refused_by_the_machine(region: RolloutRegion) -> None:
    strategy = Strategy(
        stages=(Stage(share_bp=1_000, cohort=LAB), Stage(share_bp=0), Stage(share_bp=20_000, bake_ms=-1)),
        cohort=CohortSelector(sites=("moon",)),
        prefetch=Prefetch(ready_min_bp=10_001, deadline_ms=0),
        progress_deadline_ms=0,
        analysis=(Check(metric=Metric.ERROR_RATE), Check(metric=Metric.EXTERNAL, url="ftp://x")),
    )
    models = {"m": "1.0.0", "n": "9.9.9", "gone": "1.0.0", "fresh": "1.0.0"}
    decidable = {
        *("models.m", "models.n", "models.gone", "models.fresh"),
        *("prefetch.ready_min", "prefetch.deadline", "progress_deadline"),
        *("stages[1].share", "stages[1].cohort.sites", "stages[2].share", "stages[2].bake"),
        *("stages[0].bake", "stages[1].bake", "analysis[0]", "analysis[1].url"),
    }
    found = {fault.place for fault in strategy_faults(strategy, models=models, state=region.state)}

    assert decidable == found
    outcome = region.create("wrong", models=models, strategy=strategy, start=False)
    assert outcome.code == "strategy_invalid" and "wrong" not in region.state.rollouts
    assert {fault["place"] for fault in outcome.detail["faults"]} == decidable
    everything = strategy_faults(strategy, models=models, state=region.state, known_sites={"lab"}, known_labels={})
    assert {fault.place for fault in everything} - decidable == {"cohort.sites[0]", "stages[0].cohort.labels.zone"}


def test_models_and_their_candidates(region: RolloutRegion) -> None:
    strategy = Strategy(stages=ALL)
    digest = region.state.models["m"].versions["2.0.0"].digest

    assert {"models": f"a rollout has 1 to {TARGETS_MAX} models, not 0"} == faults(region, strategy, models={})
    many = faults(region, strategy, models={f"x{number}": "1" for number in range(TARGETS_MAX + 1)})
    assert "models" in many and len(many) == TARGETS_MAX + 1
    missing = faults(region, strategy, models={"m": "2.0.0", "fresh": "1.0.0"}, missing_digests={digest})
    assert "is missing" in missing["models.m"] and "activate one first" in missing["models.fresh"]


def test_how_many_stages(region: RolloutRegion) -> None:
    assert {"stages"} == places(region)
    assert {"stages"} == places(region, *ALL * (STAGES_MAX + 1))


def test_shares_and_times(region: RolloutRegion) -> None:
    grown = (Stage(share_bp=500), Stage(share_bp=400), Stage(share_bp=450))

    assert {"stages[1].share"} == places(region, *grown)
    assert "4% is less than 5%" in faults(region, Strategy(stages=grown))["stages[1].share"]
    for share in (0, -1, 10_001):
        assert {"stages[0].share"} == places(region, Stage(share_bp=share))
    for bake_ms in (-1, 1_800_000, 1 << 62):
        assert {"stages[0].bake"} == places(region, Stage(share_bp=1, bake_ms=bake_ms))
    for deadline_ms in (0, -1, DURATION_MS_MAX + 1):
        assert {"prefetch.deadline"} == places(region, *ALL, prefetch=Prefetch(deadline_ms=deadline_ms))
    assert {"progress_deadline"} == places(region, *ALL, progress_deadline_ms=DURATION_MS_MAX + 1)
    assert {"prefetch.ready_min"} == places(region, *ALL, prefetch=Prefetch(ready_min_bp=-1))


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        (LAB, CohortSelector(sites=("roof",), labels={"zone": "a"}), "sites"),
        (CohortSelector(), CohortSelector(sites=("lab",)), "sites"),
        (CohortSelector(), CohortSelector(labels={"zone": "a"}), "labels.zone"),
        (LAB, CohortSelector(labels={"zone": "b"}), "labels.zone"),
        (LAB, CohortSelector(labels={"zone": "a", "tier": "x"}), "labels.tier"),
        (LAB, CohortSelector(labels={"zone": "a"}), None),
        (LAB, CohortSelector(sites=("lab", "roof")), None),
        (LAB, CohortSelector(), None),
    ],
)
def test_a_cohort_keeps_every_edge_of_the_stage_before(
    region: RolloutRegion, before: CohortSelector, after: CohortSelector, place: str | None
) -> None:
    found = places(region, Stage(share_bp=100, cohort=before), Stage(share_bp=100, cohort=after))

    assert found == (set() if place is None else {f"stages[1].cohort.{place}"})


@pytest.mark.parametrize(
    ("check", "place"),
    [
        (Check(metric=Metric.ERROR_RATE), ""),
        (Check(metric=Metric.ERROR_RATE, worse_max=0.1, bound=0.1), ""),
        (Check(metric=Metric.ERROR_RATE, worse_max=0.0), ".worse_max"),
        (Check(metric=Metric.ERROR_RATE, bound=1.5), ".bound"),
        (Check(metric=Metric.ERROR_RATE, bound=math.nan), ".bound"),
        (Check(metric=Metric.LATENCY, worse_max=1.0), ".worse_max"),
        (Check(metric=Metric.LATENCY, bound=math.inf), ".bound"),
        (Check(metric=Metric.SCORE, worse_max=-0.1), ".worse_max"),
        (Check(metric=Metric.LABEL_DRIFT, worse_max=0.0), ".worse_max"),
        (Check(metric=Metric.SCORE_DRIFT, bound=1.1), ".bound"),
        (Check(metric=Metric.LATENCY, bound=9.0, quantile=1.0), ".quantile"),
        (Check(metric=Metric.LATENCY, bound=9.0, quantile=math.nan), ".quantile"),
        (Check(metric=Metric.LATENCY, bound=9.0, samples_min=0), ".samples_min"),
        (Check(metric=Metric.LATENCY, bound=9.0, error_probability=0.5), ".error_probability"),
        (Check(metric=Metric.LATENCY, bound=9.0, error_probability=0.0), ".error_probability"),
        (Check(metric=Metric.LATENCY, bound=9.0, url="http://x"), ".url"),
        (Check(metric=Metric.EXTERNAL), ".url"),
        (Check(metric=Metric.EXTERNAL, url="file:///etc"), ".url"),
        (Check(metric=Metric.EXTERNAL, url="http://"), ".url"),
        (Check(metric=Metric.EXTERNAL, url="http://x y"), ".url"),
        (Check(metric=Metric.EXTERNAL, url="http://" + "x" * 1_000), ".url"),
        (Check(metric=Metric.EXTERNAL, url="http://x", bound=1.0), ""),
        (Check(metric=Metric.EXTERNAL, url="http://x", interval_ms=10), ".interval"),
    ],
)
def test_what_a_check_may_say(region: RolloutRegion, check: Check, place: str) -> None:
    assert {f"analysis[0]{place}"} == places(region, *ALL, analysis=(check,))
    stage = Stage(share_bp=100, analysis=(Check(metric=Metric.LATENCY, bound=1.0), check))
    assert {f"stages[0].analysis[1]{place}"} == places(region, stage)


def test_where_nobody_is_left_on_stable_nothing_compares(region: RolloutRegion) -> None:
    compared = Check(metric=Metric.ERROR_RATE, worse_max=0.1)
    drift = Check(metric=Metric.LABEL_DRIFT, bound=0.1)
    bound = Check(metric=Metric.ERROR_RATE, bound=0.1)
    own = Stage(share_bp=10_000, analysis=(bound, compared, drift))

    assert {"stages[0].analysis[1]", "stages[0].analysis[2]"} == places(region, own)
    assert set() == places(region, own, cohort=LAB)
    inherited = Strategy(stages=(Stage(share_bp=100), Stage(share_bp=10_000)), analysis=(bound, compared, drift))
    assert {} == faults(region, inherited)
    assert (inherited.checks_of(0), inherited.checks_of(1)) == ((bound, compared, drift), (bound,))
    assert Strategy(stages=(own,)).checks_of(0) == own.analysis


def test_sizes(region: RolloutRegion) -> None:
    wide = CohortSelector(sites=tuple(f"site-{number}" for number in range(400)))
    checks = (Check(metric=Metric.EXTERNAL, url="http://" + "x" * 900),) * 17

    assert {"cohort"} == places(region, *ALL, cohort=wide)
    assert {"stages[0].cohort"} == places(region, Stage(share_bp=100, cohort=wide))
    assert {"analysis"} == places(region, *ALL, analysis=checks)
    assert {"strategy"} == places(region, *[Stage(share_bp=100, analysis=checks[:16])] * 5)


def test_a_flood_of_faults_is_cut_and_counted(region: RolloutRegion) -> None:
    wrong = (Check(metric=Metric.LATENCY, quantile=2.0, samples_min=0, error_probability=3.0),) * 16
    strategy = Strategy(stages=tuple(Stage(share_bp=0, analysis=wrong) for _ in range(STAGES_MAX)))

    found = strategy_faults(strategy, models={"m": "2.0.0"}, state=region.state)

    assert len(found) == FAULTS_MAX
    assert (found[-1].place, found[-1].message) == ("strategy", f"and {50 * (16 * 4 + 1) - FAULTS_MAX + 1} more faults")
