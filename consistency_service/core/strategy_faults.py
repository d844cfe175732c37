"""What is wrong with a strategy for these models in this region? Everything at once, each fault with its place.

Places are spelled as people write strategies: `stages[2].share`, `prefetch.ready_min`, `models.detector`. The state machine
refuses what is decidable from the replicated state; who calls from outside also knows sites, labels and stored artifacts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec

from consistency_service.core.rollout import STAGES_MAX, TARGETS_MAX
from consistency_service.core.state import State
from consistency_service.core.strategy import Check, Metric, Stage, Strategy
from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector

FAULTS_MAX: Final = 200
CHECKS_MAX: Final = 16
STRATEGY_BYTES_MAX: Final = 64 * 1024
COHORT_BYTES_MAX: Final = 2 * 1024
"""So that an assignment stays within its limit."""
URL_CHARS_MAX: Final = 1_000
DURATION_MS_MAX: Final = 30 * 24 * 3_600_000
INTERVAL_MS_MIN: Final = 1_000
SAMPLES_MAX: Final = 1_000_000
_LEAST: Final = 1e-9
_URL: Final = re.compile(r"https?://[^\s/?#]+\S*")

_DRIFTS: Final = {
    Metric.LABEL_DRIFT: (_LEAST, 1e6, "a stability index above 0"),
    Metric.SCORE_DRIFT: (_LEAST, 1.0, "a distance above 0 and at most 1"),
}
_WORSE: Final = {
    Metric.ERROR_RATE: (_LEAST, 1.0, "an increase of the error rate, above 0 and at most 1"),
    Metric.LATENCY: (1.05, 1e6, "a ratio of latencies, at least 1.05: no finer one can be told"),
    Metric.SCORE: (_LEAST, 1e9, "a drop of the mean score, above 0"),
    **_DRIFTS,
}
_BOUND: Final = {
    Metric.ERROR_RATE: (_LEAST, 1.0, "an error rate above 0 and at most 1"),
    Metric.LATENCY: (_LEAST, 1e9, "milliseconds, above 0"),
    Metric.SCORE: (-1e9, 1e9, "a mean score"),
    **_DRIFTS,
}
"""What a limit may be: nothing that no candidate could ever be proven to keep."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, and where."""

    place: str
    message: str


def strategy_faults(
    strategy: Strategy,
    *,
    models: Mapping[str, str],
    state: State,
    known_sites: Collection[str] | None = None,
    known_labels: Mapping[str, Collection[str]] | None = None,
    missing_digests: Collection[str] = (),
) -> tuple[Fault, ...]:
    """Every fault of rolling `models` (name to candidate) out by this strategy; none: it can work. At most 200.

    `known_sites` and `known_labels` (name to values) are what live edges report, `missing_digests` what the artifact
    store does not have; None: not looked at.
    """
    found = (
        *_models(models, state, missing_digests),
        *_limits(strategy),
        *_stages(strategy),
        *_checks(strategy),
        *_known(strategy, known_sites, known_labels),
    )
    faults = tuple(Fault(place=place, message=message) for place, message in islice(found, FAULTS_MAX))
    if len(found) > FAULTS_MAX:
        more = Fault(place="strategy", message=f"and {len(found) - FAULTS_MAX + 1} more faults")
        return (*faults[:-1], more)
    return faults


_Found = Iterator[tuple[str, str]]


def _models(models: Mapping[str, str], state: State, missing_digests: Collection[str]) -> _Found:
    if not 1 <= len(models) <= TARGETS_MAX:
        yield "models", f"a rollout has 1 to {TARGETS_MAX} models, not {len(models)}"
    for name, candidate in islice(models.items(), TARGETS_MAX):
        place, model = f"models.{name[:128]}", state.models.get(name)
        decided = model.decided() if model else None
        version = model.versions.get(candidate) if model else None
        if model is None:
            yield place, "there is no such model"
            continue
        if decided is None:
            yield place, "nothing is active yet, so there is no stable version; activate one first"
        elif decided[0].stable == candidate:
            yield place, f"version {candidate} is stable already"
        if version is None:
            yield place, f"there is no version {candidate[:128]}"
        elif version.digest in missing_digests:
            yield place, f"the artifact of version {candidate} is missing ({version.digest}); upload it again"


def _limits(strategy: Strategy) -> _Found:
    if len(msgspec.msgpack.encode(strategy)) > STRATEGY_BYTES_MAX:
        yield "strategy", f"it is larger than {STRATEGY_BYTES_MAX} bytes"
    if not 0 <= strategy.prefetch.ready_min_bp <= SHARE_BP_MAX:
        yield "prefetch.ready_min", f"a share lies between 0 and 100%, not {_percent(strategy.prefetch.ready_min_bp)}"
    if not 0 < strategy.prefetch.deadline_ms <= DURATION_MS_MAX:
        yield "prefetch.deadline", "a deadline is longer than 0 and at most 30 days"
    if not 0 < strategy.progress_deadline_ms <= DURATION_MS_MAX:
        yield "progress_deadline", "a deadline is longer than 0 and at most 30 days"


def _stages(strategy: Strategy) -> _Found:
    if not strategy.stages:
        yield "stages", "there are none; one with share 100% is the least"
    if len(strategy.stages) > STAGES_MAX:
        yield "stages", f"there are {len(strategy.stages)}; {STAGES_MAX} is the limit"
    if _bytes(strategy.cohort) > COHORT_BYTES_MAX:
        yield "cohort", f"it is larger than {COHORT_BYTES_MAX} bytes"
    for index, stage in enumerate(strategy.stages[:STAGES_MAX]):
        place = f"stages[{index}]"
        if not 0 < stage.share_bp <= SHARE_BP_MAX:
            yield f"{place}.share", f"a share is above 0 and at most 100%, not {_percent(stage.share_bp)}"
        if stage.bake_ms < 0:
            yield f"{place}.bake", "a bake time is not negative"
        elif stage.bake_ms >= strategy.progress_deadline_ms:
            yield f"{place}.bake", "it is as long as the progress deadline, which the stage must pass before"
        if stage.cohort is not None and _bytes(stage.cohort) > COHORT_BYTES_MAX:
            yield f"{place}.cohort", f"it is larger than {COHORT_BYTES_MAX} bytes"
        if index:
            yield from _grown(strategy, index, stage)


def _grown(strategy: Strategy, index: int, stage: Stage) -> _Found:
    """A stage keeps every edge of the stage before: otherwise an edge would be taken back by going on."""
    before = strategy.stages[index - 1].share_bp
    if stage.share_bp < before:
        yield (
            f"stages[{index}].share",
            f"{_percent(stage.share_bp)} is less than {_percent(before)} of the stage before",
        )
    smaller, larger = strategy.cohort_of(index - 1), strategy.cohort_of(index)
    place = f"stages[{index}].cohort"
    left = set(smaller.sites) - set(larger.sites) if smaller.sites else set()
    if larger.sites and (left or not smaller.sites):
        named = ", ".join(sorted(left)) or "every other site"
        yield f"{place}.sites", f"edges of the stage before are left out: {named}"
    added = [name for name, value in larger.labels.items() if smaller.labels.get(name) != value]
    for name in added:
        yield (
            f"{place}.labels.{name}",
            f"edges of the stage before without {name}={larger.labels[name]} are left out",
        )


def _checks(strategy: Strategy) -> _Found:
    yield from _analysis("analysis", strategy.analysis)
    for index, stage in enumerate(strategy.stages[:STAGES_MAX]):
        if stage.analysis is None:
            continue
        place = f"stages[{index}].analysis"
        yield from _analysis(place, stage.analysis)
        if strategy.reaches_everybody(index):
            for number, check in enumerate(stage.analysis[:CHECKS_MAX]):
                if check.compares:
                    yield f"{place}[{number}]", "in this stage nobody is left on stable to compare with"


def _analysis(place: str, checks: tuple[Check, ...]) -> _Found:
    if len(checks) > CHECKS_MAX:
        yield place, f"there are {len(checks)} checks; {CHECKS_MAX} is the limit"
    for index, check in enumerate(checks[:CHECKS_MAX]):
        for name, message in _check(check):
            yield f"{place}[{index}]{name}", message


def _check(check: Check) -> _Found:
    yield from _limit_of(check)
    if not 0 < check.quantile < 1:
        yield ".quantile", "a quantile lies between 0 and 1, both excluded"
    if not 1 <= check.samples_min <= SAMPLES_MAX:
        yield ".samples_min", f"it is at least 1 and at most {SAMPLES_MAX}"
    if not 0 < check.error_probability < 0.5:
        yield ".error_probability", "it is above 0 and below 0.5"
    if check.metric is Metric.EXTERNAL:
        if len(check.url) > URL_CHARS_MAX or _URL.fullmatch(check.url) is None:
            yield ".url", "an external check needs an http or https URL"
        if not INTERVAL_MS_MIN <= check.interval_ms <= DURATION_MS_MAX:
            yield ".interval", "it is at least 1 s"
    elif check.url:
        yield ".url", "only an external check has a URL"


def _limit_of(check: Check) -> _Found:
    """Exactly one limit, and one that the metric can be held to."""
    if check.metric is Metric.EXTERNAL:
        if check.worse_max is not None or check.bound is not None:
            yield "", "an external check says itself whether it is successful; it takes neither worse_max nor bound"
        return
    if (check.worse_max is None) == (check.bound is None):
        yield "", "give either worse_max (against stable) or bound (against a number)"
        return
    for name, value, ranges in (("worse_max", check.worse_max, _WORSE), ("bound", check.bound, _BOUND)):
        least, most, meaning = ranges[check.metric]
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            yield f".{name}", f"it is {meaning}; {value} is not"


def _known(strategy: Strategy, sites: Collection[str] | None, labels: Mapping[str, Collection[str]] | None) -> _Found:
    """Cohorts name what some live edge has."""
    cohorts = [("cohort", strategy.cohort)]
    cohorts += [(f"stages[{i}].cohort", s.cohort) for i, s in enumerate(strategy.stages[:STAGES_MAX]) if s.cohort]
    for place, cohort in cohorts:
        for index, site in enumerate(cohort.sites):
            if sites is not None and site not in sites:
                yield f"{place}.sites[{index}]", f"no live edge is at site {site}"
        for name, value in cohort.labels.items():
            if labels is not None and value not in labels.get(name, ()):
                yield f"{place}.labels.{name}", f"no live edge has the label {name}={value}"


def _bytes(cohort: CohortSelector) -> int:
    return len(msgspec.msgpack.encode(cohort))


def _percent(share_bp: int) -> str:
    return f"{share_bp / 100:g}%"
