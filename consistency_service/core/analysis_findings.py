"""What an analysis says, and how it says it: one plain sentence with the numbers, for people who have to act on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from consistency_service.core.strategy import Check, Metric

EXTERNAL_BYTES_MAX: Final = 4_096
REASON_CHARS_MAX: Final = 300


class Result(StrEnum):
    SUCCESSFUL = "successful"
    """Within the limit, at the stated error."""
    FAILED = "failed"
    """Beyond the limit, at the stated error."""
    INCONCLUSIVE = "inconclusive"
    """Neither is known."""


class ExternalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else's check said."""

    result: Result
    reason: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check came to.

    Of a comparison, `difference` is by how much the candidate is worse (of latency: the ratio; of drifts: the drift), and
    `low` to `high` is where that lies. Of a bound, these are about the candidate's own value. The end that fails errs
    with the probability that is this check's part of the stage's, the end that passes with the check's own. None: not
    known, or without end.
    """

    check: Check
    result: Result
    reason: str
    value_candidate: float | None = None
    value_stable: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    samples_candidate: int = 0
    samples_stable: int = 0


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of a stage, and what they come to together."""

    result: Result
    findings: tuple[Finding, ...] = ()

    @property
    def reason(self) -> str:
        """Why: the reasons of the checks that decided."""
        return "; ".join(finding.reason for finding in self.findings if finding.result is self.result)


def parse_external(status: int, body: bytes) -> ExternalAnswer:
    """`{"result": "successful" | "failed" | "inconclusive", "reason": "..."}` with a 2xx; all else is inconclusive, and why."""
    if not 200 <= status < 300:
        return ExternalAnswer(result=Result.INCONCLUSIVE, reason=f"the external check answered with status {status}")
    if len(body) > EXTERNAL_BYTES_MAX:
        reason = f"the external check answered with more than {EXTERNAL_BYTES_MAX} bytes"
        return ExternalAnswer(result=Result.INCONCLUSIVE, reason=reason)
    try:
        answer = msgspec.json.decode(body, type=ExternalAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ExternalAnswer(
            result=Result.INCONCLUSIVE, reason=_plain(f"the external check's answer was not understood: {error}")
        )
    return ExternalAnswer(result=answer.result, reason=_plain(answer.reason))


def sentence(finding: Finding, *, limit: float) -> str:
    """What was seen, what follows from it, from how many readings, at which error."""
    check = finding.check
    scale, unit = _SCALES[check.metric, check.bound is None]
    word = "bound" if check.bound is not None else "limit"
    samples = f"{finding.samples_candidate:,}"
    if finding.samples_stable:
        samples += f" and {finding.samples_stable:,}"
    undecided = "undecided after " if finding.result is Result.INCONCLUSIVE else ""
    return (
        f"{_seen(finding)}: {_claim(finding, scale=scale, unit=unit)} ({word} {_number(scale * limit)}), "
        f"{undecided}{samples} readings, at {_number(100 * check.error_probability)} % error"
    )


_SCALES: Final = {(metric, compares): (1.0, "") for metric in Metric for compares in (True, False)} | {
    (Metric.ERROR_RATE, True): (100.0, " points"),
    (Metric.ERROR_RATE, False): (100.0, " %"),
    (Metric.LATENCY, True): (1.0, " times stable's"),
    (Metric.LATENCY, False): (1.0, " ms"),
}
"""What a number is multiplied with and called, by metric and whether two sides are compared."""


def _seen(finding: Finding) -> str:
    ours, theirs = finding.value_candidate, finding.value_stable
    match finding.check.metric:
        case Metric.ERROR_RATE:
            name, scale, unit = "error rate", 100.0, " %"
        case Metric.LATENCY:
            name, scale, unit = f"p{_number(100 * finding.check.quantile)} of latency", 1.0, " ms"
        case Metric.SCORE:
            name, scale, unit = "mean score", 1.0, ""
        case Metric.LABEL_DRIFT:
            return f"population stability index of labels {_number(finding.difference)}"
        case _:
            return f"Kolmogorov-Smirnov distance of scores {_number(finding.difference)}"
    against = "" if theirs is None else f" against {_number(scale * theirs)}{unit}"
    return f"{name} {_number(None if ours is None else scale * ours)}{unit}{against}"


def _claim(finding: Finding, *, scale: float, unit: str) -> str:
    low = None if finding.low is None else scale * finding.low
    high = None if finding.high is None else scale * finding.high
    worse = "worse by " if finding.value_stable is not None and finding.check.metric is not Metric.LATENCY else ""
    up = finding.check.bound is None or finding.check.metric is not Metric.SCORE  # larger is worse
    match finding.result:
        case Result.INCONCLUSIVE:
            return f"{worse}something between {_number(low)} and {_number(high)}{unit}"
        case result if (result is Result.FAILED) == up:
            return f"{worse}at least {_number(low)}{unit}"
        case _ if worse and high is not None and high < 0:
            return f"better by at least {_number(-high)}{unit}"
        case _:
            return f"{worse}at most {_number(high)}{unit}"


def _number(value: float | None) -> str:
    """Three digits that matter; an end that is not known is said to be so."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _plain(text: str) -> str:
    """A bounded line without control characters, fit for a terminal and a table."""
    return "".join(char if char.isprintable() else " " for char in text[:REASON_CHARS_MAX])
