"""What became of the candidate, and is it good enough? Sums in, a verdict with its numbers out.

Picture a scale with two pans: what edges reported of the candidate, and of stable over the same time. Nothing is
remembered from one weighing to the next, so anybody who holds the sums may weigh, as often as they like, also after a
failover; `analysis_sequential` says why looking often costs nothing. Whether the verdict moves anything is for the
rollout to decide.

A stage fails if any check fails, and passes only if all pass. So the probability to fail a candidate that is within all
limits is divided among the checks: together they err as often as the one that may err most. The probability to pass one
that is beyond a limit needs no division, for the check of that limit must have passed too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from consistency_service.core.analysis_distributions import GAMMA, Distance, LabelShares, Quantile, QuantileRatio
from consistency_service.core.analysis_findings import (
    Analysis,
    ExternalAnswer,
    Finding,
    Result,
    parse_external,
    sentence,
)
from consistency_service.core.analysis_sequential import Mean, Rate, RateDifference, SequentialTest
from consistency_service.core.analysis_sheet import Sheet
from consistency_service.core.strategy import Check, Metric
from edge_client.protocol.observations import ACCURACY, OTHER, value_of_bucket

__all__ = [
    "Analysis",
    "ExternalAnswer",
    "Finding",
    "Result",
    "Sheet",
    "check_can_succeed",
    "judge",
    "limit_of",
    "parse_external",
    "verdict",
]

OTHER_SHARE_MAX: Final = 0.01
"""With more readings than this under labels that were not counted by name, labels cannot be compared."""

WORSE_MAX: Final[Mapping[Metric, float]] = {
    Metric.ERROR_RATE: 0.02,
    Metric.LATENCY: 1.25,
    Metric.SCORE: 0.02,
    Metric.LABEL_DRIFT: 0.1,
    Metric.SCORE_DRIFT: 0.1,
}
"""What is harmless, for a check that states neither `worse_max` nor `bound`."""


def judge(
    checks: Sequence[Check], *, candidate: Sheet, stable: Sheet, external: Mapping[int, ExternalAnswer] | None = None
) -> Analysis:
    """The verdict on these sums; `external` holds the newest answer by index of its check. No checks: successful."""
    answers = external or {}
    shares = sum(check.metric is not Metric.EXTERNAL for check in checks)
    findings = tuple(
        _of_external(check, answers.get(index))
        if check.metric is Metric.EXTERNAL
        else _of_sums(check, candidate=candidate, stable=stable, shares=shares)
        for index, check in enumerate(checks)
    )
    results = {finding.result for finding in findings}
    for result in (Result.FAILED, Result.INCONCLUSIVE):
        if result in results:
            return Analysis(result=result, findings=findings)
    return Analysis(result=Result.SUCCESSFUL, findings=findings)


def verdict(check: Check, *, candidate: Sheet, stable: Sheet, shares: int = 1) -> Result:
    """The result alone of one of `shares` checks, without the numbers that cost most of the time."""
    missing = _missing(check, candidate=candidate, stable=stable)
    return Result.INCONCLUSIVE if missing else _decided(check, _test(check, candidate, stable), shares=shares)


def check_can_succeed(check: Check) -> str:
    """Why no candidate, however good, can ever pass this check; empty if one can."""
    limit = limit_of(check)
    if check.metric is Metric.EXTERNAL:
        return "" if check.url else "an external check without `url` is never asked"
    if not 0 < check.error_probability < 1:
        return "`error_probability` must lie between 0 and 1: nothing is proven without any error"
    if not math.isfinite(limit):
        return "the limit must be a finite number"
    if check.metric is Metric.LATENCY and not 0 < check.quantile < 1:
        return "`quantile` must lie between 0 and 1"
    if check.metric in {Metric.LABEL_DRIFT, Metric.SCORE_DRIFT}:
        return "" if limit > 0 else "equal versions are not proven to drift by nothing: allow some drift, such as 0.1"
    if check.bound is not None:
        positive = limit > 0 or check.metric is Metric.SCORE
        return "" if positive else "nothing is proven to be 0 or less: choose a bound above 0"
    if check.metric is Metric.LATENCY:
        enough = f"latencies are told apart to {GAMMA - 1:.0%}: choose a ratio above {GAMMA:.2f}, such as 1.25"
        return "" if limit > GAMMA else enough
    some = "a candidate equal to stable is not proven to be no worse at all: allow a difference, such as 0.02"
    return "" if limit > 0 else some


def limit_of(check: Check) -> float:
    """What the check holds its values against."""
    if check.bound is not None:
        return check.bound
    return WORSE_MAX.get(check.metric, 0.0) if check.worse_max is None else check.worse_max


def _of_external(check: Check, answer: ExternalAnswer | None) -> Finding:
    if answer is None:
        return Finding(check=check, result=Result.INCONCLUSIVE, reason="the external check has not answered yet")
    return Finding(
        check=check, result=answer.result, reason=answer.reason or f"the external check says {answer.result}"
    )


def _of_sums(check: Check, *, candidate: Sheet, stable: Sheet, shares: int) -> Finding:
    samples = (_samples(check, candidate), _samples(check, stable) if _compares(check) else 0)
    missing = _missing(check, candidate=candidate, stable=stable)
    if missing:
        return Finding(
            check=check,
            result=Result.INCONCLUSIVE,
            reason=missing,
            samples_candidate=samples[0],
            samples_stable=samples[1],
        )
    test = _test(check, candidate, stable)
    low, high = test.low(error=check.error_probability / shares), test.high(error=check.error_probability)
    if check.metric is Metric.SCORE and check.bound is not None:
        low, high = -high, -low
    finding = Finding(
        check=check,
        result=_decided(check, test, shares=shares),
        reason="",
        value_candidate=test.values[0],
        value_stable=test.values[1],
        difference=test.values[2],
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        samples_candidate=samples[0],
        samples_stable=samples[1],
    )
    return msgspec.structs.replace(finding, reason=sentence(finding, limit=limit_of(check)))


def _decided(check: Check, test: SequentialTest, *, shares: int) -> Result:
    limit = limit_of(check)
    if check.metric is Metric.SCORE and check.bound is not None:
        limit = -limit
    if test.worse(limit, error=check.error_probability / shares):
        return Result.FAILED
    return Result.SUCCESSFUL if test.better(limit, error=check.error_probability) else Result.INCONCLUSIVE


def _compares(check: Check) -> bool:
    return check.bound is None or check.metric in {Metric.LABEL_DRIFT, Metric.SCORE_DRIFT}


def _samples(check: Check, sheet: Sheet) -> int:
    match check.metric:
        case Metric.ERROR_RATE:
            return sheet.judged_count
        case Metric.LATENCY:
            return sheet.latency_count
        case Metric.LABEL_DRIFT:
            return sheet.label_count
        case _:
            return sheet.score_count


_REPORTED: Final = {
    Metric.ERROR_RATE: "whether its readings were right",
    Metric.LATENCY: "latencies",
    Metric.SCORE: "scores",
    Metric.LABEL_DRIFT: "labels",
    Metric.SCORE_DRIFT: "scores",
}


def _missing(check: Check, *, candidate: Sheet, stable: Sheet) -> str:
    """Why nothing can be said; empty if something can."""
    faulty = _faulty(check)
    if faulty:
        return faulty
    for name, sheet in (("the candidate", candidate), ("stable", stable))[: 1 + _compares(check)]:
        samples = _samples(check, sheet)
        if sheet.contradicts_itself:
            return f"what was reported of {name} contradicts itself"
        if not samples:
            return f"no edge of {name} has reported {_REPORTED[check.metric]}"
        if samples < check.samples_min:
            return f"{samples:,} readings of {name} are too few: the check asks for {check.samples_min:,}"
        if check.metric is Metric.LABEL_DRIFT and sheet.labels.get(OTHER, 0) > OTHER_SHARE_MAX * samples:
            return f"{name} gave more different labels than are counted by name"
    return ""


def _faulty(check: Check) -> str:
    """Why the check itself cannot be computed."""
    limit = limit_of(check)
    if not 0 < check.error_probability < 1 or not math.isfinite(limit):
        return "the check states no limit or error that could be tested"
    if check.metric is Metric.LATENCY and not (0 < check.quantile < 1 and limit > 0):
        return "the check states no latency that could be tested"
    return ""


def _test(check: Check, candidate: Sheet, stable: Sheet) -> SequentialTest:
    bound = check.bound is not None
    match check.metric:
        case Metric.ERROR_RATE if bound:
            return Rate(failed=candidate.failed_count, count=candidate.judged_count)
        case Metric.ERROR_RATE:
            return RateDifference(
                failed=candidate.failed_count,
                count=candidate.judged_count,
                stable_failed=stable.failed_count,
                stable_count=stable.judged_count,
            )
        case Metric.LATENCY if bound:
            return Quantile(_latencies(candidate), share=check.quantile)
        case Metric.LATENCY:
            return QuantileRatio(_latencies(candidate), _latencies(stable), share=check.quantile)
        case Metric.LABEL_DRIFT:
            return LabelShares(candidate.labels, stable.labels)
        case Metric.SCORE_DRIFT:
            return Distance(candidate.scores, stable.scores)
        case _:
            sides = (candidate,) if bound else (candidate, stable)
            moments = [(sheet.score_count, sheet.score_sum, sheet.score_square_sum) for sheet in sides]
            return Mean(moments[0], None if bound else moments[1], spread=_spread(*sides))


def _latencies(sheet: Sheet) -> dict[int, int]:
    """With clocks that went backwards counted as no time at all."""
    if min(sheet.latencies, default=0) >= 0:
        return sheet.latencies
    counts = {bucket: count for bucket, count in sheet.latencies.items() if bucket > 0}
    return counts | {0: sum(count for bucket, count in sheet.latencies.items() if bucket <= 0)}


def _spread(*sheets: Sheet) -> float:
    """The range of the scores seen. Of one value only, the value: nothing was seen of what others there are."""
    buckets = [bucket for sheet in sheets for bucket, count in sheet.scores.items() if count]
    least, most = value_of_bucket(min(buckets)), value_of_bucket(max(buckets))
    if least < most:
        return most - least
    varies = any(
        sheet.score_square_sum - sheet.score_sum**2 / sheet.score_count > 1e-9 * sheet.score_square_sum
        for sheet in sheets
    )
    return 2 * ACCURACY * abs(most) if varies else abs(most)
