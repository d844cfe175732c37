"""What an analysis says of given sums, however odd they are; how often it errs is in `test_analysis_errors`."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consistency_service.core.analysis import (
    ExternalAnswer,
    Result,
    Sheet,
    check_can_succeed,
    judge,
    limit_of,
    parse_external,
    verdict,
)
from consistency_service.core.strategy import Check, Metric
from edge_client.protocol.observations import BUCKET_MAX, LABELS_MAX, OTHER, Observations, bucket_of_value

FAILED, SUCCESSFUL, INCONCLUSIVE = Result.FAILED, Result.SUCCESSFUL, Result.INCONCLUSIVE
SUMS = [metric for metric in Metric if metric is not Metric.EXTERNAL]


def judged(count: int, failed: int) -> Sheet:
    return Sheet(count=count, judged_count=count, failed_count=failed)


def timed(*latencies: tuple[float, int]) -> Sheet:
    return Sheet(latencies={bucket_of_value(ms): count for ms, count in latencies})


def scored(*scores: tuple[float, int]) -> Sheet:
    return Sheet(
        scores={bucket_of_value(score): count for score, count in scores},
        score_sum=math.fsum(score * count for score, count in scores),
        score_square_sum=math.fsum(score * score * count for score, count in scores),
    )


def labelled(**labels: int) -> Sheet:
    return Sheet(labels=labels)


def everything(count: int) -> Sheet:
    """The same reading, so many times."""
    return msgspec.structs.replace(
        scored((0.9, count)),
        count=count,
        judged_count=count,
        latencies=timed((12.0, count)).latencies,
        labels={"cat": count},
    )


def finding(check: Check, candidate: Sheet, stable: Sheet):
    return judge((check,), candidate=candidate, stable=stable).findings[0]


# ------------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("check", "candidate", "stable", "sentence"),
    [
        (
            Check(metric=Metric.ERROR_RATE, worse_max=0.02),
            judged(1_204, 376),
            judged(4_890, 103),
            "error rate 31.2 % against 2.11 %: worse by at least 25.4 points (limit 2), 1,204 and 4,890 readings, at 5 % error",
        ),
        (
            Check(metric=Metric.ERROR_RATE, worse_max=0.02),
            judged(60, 2),
            judged(300, 9),
            "error rate 3.33 % against 3 %: worse by something between -5.9 and 14 points (limit 2), undecided after 60 and 300 readings, at 5 % error",
        ),
        (
            Check(metric=Metric.ERROR_RATE, worse_max=0.02),
            judged(5_000, 10),
            judged(5_000, 250),
            "error rate 0.2 % against 5 %: better by at least 3.92 points (limit 2), 5,000 and 5,000 readings, at 5 % error",
        ),
        (
            Check(metric=Metric.ERROR_RATE, bound=0.1, error_probability=0.01),
            judged(500, 150),
            Sheet(),
            "error rate 30 %: at least 23.5 % (bound 10), 500 readings, at 1 % error",
        ),
        (
            Check(metric=Metric.LATENCY, worse_max=1.2, quantile=0.5),
            timed((30.0, 500)),
            timed((10.0, 500)),
            "p50 of latency 30.6 ms against 9.98 ms: at least 2.95 times stable's (limit 1.2), 500 and 500 readings, at 5 % error",
        ),
        (
            Check(metric=Metric.SCORE, bound=0.5),
            scored((0.2, 300), (0.3, 300)),
            Sheet(),
            "mean score 0.25: at most 0.256 (bound 0.5), 600 readings, at 5 % error",
        ),
        (
            Check(metric=Metric.LABEL_DRIFT, worse_max=0.1),
            labelled(cat=500, dog=500),
            labelled(cat=900, dog=100),
            "population stability index of labels 0.876: at least 0.611 (limit 0.1), 1,000 and 1,000 readings, at 5 % error",
        ),
    ],
)
def test_a_finding_says_what_it_rests_on(check: Check, candidate: Sheet, stable: Sheet, sentence: str) -> None:
    assert sentence == finding(check, candidate, stable).reason


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric.ERROR_RATE, "no edge of the candidate has reported whether its readings were right"),
        (Metric.LATENCY, "no edge of the candidate has reported latencies"),
        (Metric.SCORE, "no edge of the candidate has reported scores"),
        (Metric.SCORE_DRIFT, "no edge of the candidate has reported scores"),
        (Metric.LABEL_DRIFT, "no edge of the candidate has reported labels"),
    ],
)
def test_what_nobody_reported_is_inconclusive_and_says_so(metric: Metric, words: str) -> None:
    check = Check(metric=metric, worse_max=1.5)

    assert (INCONCLUSIVE, words) == _said(finding(check, Sheet(count=9), everything(100)))
    assert (INCONCLUSIVE, words.replace("the candidate", "stable")) == _said(finding(check, everything(100), Sheet()))
    assert (
        "49 readings of the candidate are too few: the check asks for 50"
        == _said(finding(check, everything(49), everything(100)))[1]
    )


def _said(one) -> tuple[Result, str]:
    return one.result, one.reason


def test_a_bound_needs_no_stable() -> None:
    check = Check(metric=Metric.ERROR_RATE, bound=0.1)

    assert SUCCESSFUL is verdict(check, candidate=judged(1_000, 10), stable=Sheet())
    assert FAILED is verdict(check, candidate=judged(1_000, 300), stable=Sheet())
    assert SUCCESSFUL is verdict(Check(metric=Metric.LATENCY, bound=50), candidate=timed((10, 2_000)), stable=Sheet())
    assert FAILED is verdict(Check(metric=Metric.LATENCY, bound=50), candidate=timed((60, 2_000)), stable=Sheet())
    assert SUCCESSFUL is verdict(Check(metric=Metric.SCORE, bound=0.5), candidate=scored((0.9, 400)), stable=Sheet())
    assert FAILED is verdict(Check(metric=Metric.SCORE, bound=0.5), candidate=scored((0.2, 400)), stable=Sheet())


# ------------------------------------------------------------------------------------------------------------ odd sheets


@pytest.mark.parametrize("metric", SUMS)
@pytest.mark.parametrize("count", [1, 50, 1_000_000, 2**53])
def test_equal_sheets_never_fail_and_much_of_the_same_passes(metric: Metric, count: int) -> None:
    check = Check(metric=metric, samples_min=1)
    one = finding(check, everything(count), everything(count))

    assert one.result in ({INCONCLUSIVE} if count == 1 else {SUCCESSFUL} if count > 50 else {INCONCLUSIVE, SUCCESSFUL})
    assert msgspec.json.encode(one)


@pytest.mark.parametrize("metric", SUMS)
def test_all_wrong_against_all_right_fails(metric: Metric) -> None:
    bad = msgspec.structs.replace(
        scored((0.1, 2_000)),
        judged_count=2_000,
        failed_count=2_000,
        latencies=timed((500.0, 2_000)).latencies,
        labels={"dog": 2_000},
    )

    assert FAILED is finding(Check(metric=metric), bad, everything(2_000)).result
    assert FAILED is finding(Check(metric=metric), bad, everything(200_000)).result


@pytest.mark.parametrize("check", [Check(metric=metric, samples_min=0) for metric in SUMS])
def test_ten_readings_decide_nothing(check: Check) -> None:
    bad = msgspec.structs.replace(
        scored((0.5, 10)),
        judged_count=10,
        failed_count=4,
        latencies={bucket_of_value(30): 10},
        labels={"dog": 4, "cat": 6},
    )

    assert INCONCLUSIVE is finding(check, bad, everything(10)).result


@pytest.mark.parametrize(
    "sheet",
    [
        judged(100, 101),
        judged(100, -1),
        judged(2**70, 0),
        msgspec.structs.replace(everything(100), labels={"cat": -1}),
        msgspec.structs.replace(everything(100), scores={BUCKET_MAX + 1: 100}),
        msgspec.structs.replace(everything(100), score_sum=math.nan),
        msgspec.structs.replace(everything(100), score_square_sum=math.inf),
        msgspec.structs.replace(everything(100), score_square_sum=0.0),
    ],
)
def test_sums_that_no_readings_can_have_made_decide_nothing(sheet: Sheet) -> None:
    for metric in SUMS:
        for pair in ((sheet, everything(100)), (everything(100), sheet)):
            one = finding(Check(metric=metric, worse_max=1.1), *pair)
            assert INCONCLUSIVE is one.result
            assert "contradicts itself" in one.reason or "no edge" in one.reason


def test_latencies_below_zero_count_as_none() -> None:
    check = Check(metric=Metric.LATENCY, worse_max=1.25, quantile=0.5)

    one = finding(check, Sheet(latencies={-40: 500}), Sheet(latencies={0: 500}))

    assert INCONCLUSIVE is one.result  # nothing is a multiple of 0
    assert 0.0 == one.value_candidate == one.value_stable
    assert FAILED is finding(check, timed((5, 500)), Sheet(latencies={-40: 500})).result


def test_more_labels_than_have_names_cannot_be_compared() -> None:
    check = Check(metric=Metric.LABEL_DRIFT)

    one = finding(check, Sheet(labels={"cat": 900, OTHER: 100}), labelled(cat=1_000))

    assert (INCONCLUSIVE, "the candidate gave more different labels than are counted by name") == _said(one)


def test_labels_that_one_side_never_gives_are_drift_and_rare_ones_are_not() -> None:
    check = Check(metric=Metric.LABEL_DRIFT)
    rare = {f"rare-{number}": 1 for number in range(9)}

    assert FAILED is finding(check, labelled(cat=500, dog=500), labelled(cat=1_000)).result
    assert SUCCESSFUL is finding(check, Sheet(labels={"cat": 9_991, **rare}), labelled(cat=10_000)).result


@pytest.mark.parametrize(
    "check",
    [
        Check(metric=Metric.ERROR_RATE, error_probability=0.0),
        Check(metric=Metric.ERROR_RATE, worse_max=math.nan),
        Check(metric=Metric.LATENCY, worse_max=0.0),
        Check(metric=Metric.LATENCY, worse_max=1.2, quantile=1.0),
    ],
)
def test_a_check_that_cannot_be_computed_is_inconclusive(check: Check) -> None:
    assert INCONCLUSIVE is finding(check, everything(1_000), everything(1_000)).result
    assert check_can_succeed(check)


# --------------------------------------------------------------------------------------------------------------- together

GOOD = Check(metric=Metric.ERROR_RATE, worse_max=0.02)


def on(checks: tuple[Check, ...], *, failed: int = 90, count: int = 9_000, answers=None):
    """Against a stable of which one in a hundred readings was wrong."""
    stable = judged(count, count // 100)
    return judge(checks, candidate=judged(count, failed), stable=stable, external=answers)


def test_one_failed_check_fails_and_all_must_pass() -> None:
    bad = Check(metric=Metric.ERROR_RATE, bound=0.001)
    unknown = Check(metric=Metric.LATENCY, worse_max=1.25)

    assert SUCCESSFUL is on(()).result
    assert SUCCESSFUL is on((GOOD,)).result
    assert INCONCLUSIVE is on((GOOD, unknown)).result
    assert FAILED is on((GOOD, unknown, bad)).result
    assert on((GOOD, unknown, bad)).reason.startswith("error rate 1 %: at least ")


def test_the_error_of_failing_is_shared_by_the_checks_and_that_of_passing_is_not() -> None:
    strict = msgspec.structs.replace(GOOD, error_probability=0.05 / 4)
    alone, shared, stricter = (on(checks, failed=270).findings[0] for checks in ((GOOD,), (GOOD,) * 4, (strict,)))

    assert stricter.low == shared.low != alone.low
    assert [shared.low, alone.low, alone.high] == sorted([shared.low, alone.low, alone.high])
    assert shared.high == alone.high != stricter.high


def test_an_external_check_takes_part_with_its_newest_answer() -> None:
    checks = (GOOD, Check(metric=Metric.EXTERNAL, url="http://judge.example/"))

    assert INCONCLUSIVE is on(checks).result
    assert FAILED is on(checks, answers={1: ExternalAnswer(result=FAILED, reason="sales fell")}).result
    assert SUCCESSFUL is on(checks, answers={1: ExternalAnswer(result=SUCCESSFUL)}).result
    assert on((GOOD,)).findings[0] == on(checks).findings[0]  # it takes no part of the error


@pytest.mark.parametrize(
    ("status", "body", "result", "words"),
    [
        (200, b'{"result": "failed", "reason": "sales fell"}', FAILED, "sales fell"),
        (201, b'{"result": "successful", "more": [1, 2]}', SUCCESSFUL, ""),
        (200, b'{"result": "inconclusive", "reason": "a\\u001b[2Jb\\n"}', INCONCLUSIVE, "a [2Jb "),
        (500, b'{"result": "failed"}', INCONCLUSIVE, "status 500"),
        (302, b'{"result": "failed"}', INCONCLUSIVE, "status 302"),
        (200, b'{"result": "maybe"}', INCONCLUSIVE, "not understood"),
        (200, b'{"reason": "x"}', INCONCLUSIVE, "not understood"),
        (200, b'{"result": "failed", "reason": 7}', INCONCLUSIVE, "not understood"),
        (200, b"", INCONCLUSIVE, "not understood"),
        (200, b'{"result": "failed", "reason": "\xff"}', INCONCLUSIVE, "not understood"),
        (200, b'{"result": "failed", "x": ' + b"[" * 4_000, INCONCLUSIVE, "not understood"),
        (200, b'{"result": "failed", "reason": "' + b"x" * 5_000 + b'"}', INCONCLUSIVE, "more than 4096 bytes"),
    ],
)
def test_an_external_answer_is_understood_or_inconclusive(status: int, body: bytes, result: Result, words: str) -> None:
    answer = parse_external(status, body)

    assert result is answer.result
    assert words in answer.reason
    assert len(answer.reason) <= 300


@given(status=st.integers(0, 999), body=st.binary(max_size=200))
def test_no_answer_is_an_error_of_ours(status: int, body: bytes) -> None:
    assert isinstance(parse_external(status, body), ExternalAnswer)


# ------------------------------------------------------------------------------------------------------------------- lint


@pytest.mark.parametrize(
    ("check", "word"),
    [
        (Check(metric=Metric.ERROR_RATE, worse_max=0.0), "allow a difference"),
        (Check(metric=Metric.SCORE, worse_max=0.0), "allow a difference"),
        (Check(metric=Metric.LATENCY, worse_max=1.0), "1.04"),
        (Check(metric=Metric.LABEL_DRIFT, worse_max=0.0), "some drift"),
        (Check(metric=Metric.SCORE_DRIFT, bound=0.0), "some drift"),
        (Check(metric=Metric.ERROR_RATE, bound=0.0), "above 0"),
        (Check(metric=Metric.EXTERNAL), "url"),
    ],
)
def test_a_check_that_nobody_can_pass_is_known_beforehand(check: Check, word: str) -> None:
    assert word in check_can_succeed(check)
    if check.metric is not Metric.EXTERNAL:
        assert SUCCESSFUL is not verdict(check, candidate=everything(10**9), stable=everything(10**9))


@pytest.mark.parametrize("metric", SUMS)
def test_a_check_without_a_limit_has_one_that_can_be_passed(metric: Metric) -> None:
    assert limit_of(Check(metric=metric)) > 0
    assert "" == check_can_succeed(Check(metric=metric))
    assert SUCCESSFUL is verdict(Check(metric=metric), candidate=everything(10**6), stable=everything(10**6))


# ----------------------------------------------------------------------------------------------------------------- sheets


def observed(**values) -> Observations:
    return Observations(model="m", version="1.0.0", generation=3, **values)


def test_a_sheet_counts_what_totals_grew_by() -> None:
    first = observed(
        count=5, judged_count=4, failed_count=1, latencies={3: 5}, scores={7: 2}, score_sum=1.0, labels={"a": 5}
    )
    second = observed(
        count=9,
        judged_count=7,
        failed_count=1,
        latencies={3: 6, 4: 3},
        scores={7: 2, -1: 1},
        score_sum=0.5,
        labels={"a": 9},
    )
    sheet = Sheet()

    assert sheet.add(first)
    assert sheet.add(first, earlier=first)
    assert sheet.add(second, earlier=first)

    expected = Sheet()
    assert expected.add(second)
    assert expected == sheet
    assert (9, 7, 1) == (sheet.count, sheet.judged_count, sheet.failed_count)
    assert (9, 3, 9) == (sheet.latency_count, sheet.score_count, sheet.label_count)


@pytest.mark.parametrize(
    "later",
    [
        observed(count=4, labels={"a": 5}),
        observed(count=5, labels={"b": 5}),
        observed(count=5, labels={"a": 5}, score_square_sum=-1.0),
        observed(count=5, labels={"a": 5}, score_sum=math.nan),
        observed(count=5, labels={"a": 5}, latencies={BUCKET_MAX + 1: 1}),
    ],
)
def test_totals_that_shrank_or_cannot_be_are_refused_whole(later: Observations) -> None:
    earlier = observed(count=5, labels={"a": 5})
    sheet = Sheet()
    sheet.add(earlier)
    before = msgspec.structs.replace(sheet, labels=dict(sheet.labels))

    assert not sheet.add(later, earlier=earlier)
    assert before == sheet


def test_labels_of_a_sheet_are_bounded() -> None:
    sheet = Sheet()
    for number in range(3 * LABELS_MAX):
        sheet.add(observed(count=1, labels={f"label-{number}": 1}))

    assert LABELS_MAX + 1 == len(sheet.labels)
    assert 2 * LABELS_MAX == sheet.labels[OTHER]
    assert 3 * LABELS_MAX == sheet.label_count
