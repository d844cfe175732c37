"""Sheets of observations: buckets that are the same everywhere, and what no honest edge can have told."""

from __future__ import annotations

import math
from random import Random

import msgspec
import pytest

from edge_client.protocol.messages import EdgeReport, decode_edge
from edge_client.protocol.observations import (
    ACCURACY,
    BUCKET_MAX,
    COUNT_MAX,
    LABELS_MAX,
    OTHER,
    Observations,
    bucket_of_value,
    observations_fault,
    quantile,
    value_of_bucket,
)
from tests.unit.protocol.wire_messages import EDGE_MESSAGES

GOOD = Observations(
    model="m",
    version="1.0.0",
    generation=1,
    count=10,
    judged_count=5,
    failed_count=2,
    latencies={0: 1, BUCKET_MAX: 9},
    scores={-BUCKET_MAX: 1, BUCKET_MAX: 1},
    score_sum=0.0,
    score_square_sum=2e18,
    labels={**{str(number): 1 for number in range(9)}, OTHER: 1},
)


def test_a_value_is_read_back_within_the_stated_accuracy():
    rng = Random(1)
    for _ in range(2_000):
        value = math.copysign(10 ** rng.uniform(-6, 9), rng.random() - 0.5)
        bucket = bucket_of_value(value)
        assert abs(bucket) <= BUCKET_MAX
        assert abs(value_of_bucket(bucket) - value) <= ACCURACY * abs(value) * 1.000_001
    assert [bucket_of_value(value) for value in (0, 1e-7, 1e300, -1e300)] == [0, 0, BUCKET_MAX, -BUCKET_MAX]


def test_buckets_are_these_for_ever():
    assert [bucket_of_value(value) for value in (1e-6, 1, 12.5, 1000, -0.5)] == [1, 346, 410, 519, -329]


def test_quantiles():
    buckets = {bucket_of_value(value): 1 for value in (1.0, 2.0, 3.0, 4.0)}

    assert [round(quantile(buckets, share) or 0) for share in (0, 0.5, 1)] == [1, 2, 4]
    assert quantile({}, 0.5) is None


def test_what_an_honest_edge_tells_has_no_fault():
    labels = {str(number): 1 for number in range(LABELS_MAX)} | {OTHER: 1}

    assert observations_fault(GOOD) is None
    assert observations_fault(msgspec.structs.replace(GOOD, count=100, labels=labels)) is None
    assert observations_fault(Observations(model="m", version="1", generation=1)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "No Name"},
        {"model": "m" * 10_000},
        {"version": ""},
        {"version": "1" * 129},
        {"generation": 0},
        {"generation": -1},
        {"count": -1, "judged_count": -1, "failed_count": -1},
        {"count": COUNT_MAX + 1},
        {"judged_count": 11},
        {"failed_count": 6},
        {"failed_count": -1},
        {"latencies": {-1: 1}},
        {"latencies": {BUCKET_MAX + 1: 1}},
        {"latencies": {1: 0}},
        {"latencies": {1: -1, 2: 1}},
        {"latencies": {1: 6, 2: 5}},
        {"scores": {-BUCKET_MAX - 1: 1}},
        {"scores": {1: 11}},
        {"score_sum": math.nan},
        {"score_sum": math.inf},
        {"score_sum": -1e11},
        {"score_square_sum": math.nan},
        {"score_square_sum": math.inf},
        {"score_square_sum": -1.0},
        {"score_square_sum": 1e20},
        {"score_sum": 1.9e9, "score_square_sum": 1.0},
        {"scores": {}},
        {"labels": {"x": 11}},
        {"labels": {"x": -1}},
        {"labels": {"x" * 65: 1}},
        {"labels": {str(number): 1 for number in range(LABELS_MAX + 1)}, "count": 100},
    ],
    ids=lambda change: repr(change)[:60],
)
def test_what_no_honest_edge_can_tell_has_one(change):
    fault = observations_fault(msgspec.structs.replace(GOOD, **change))

    assert fault and len(fault) < 100


def test_a_report_of_an_edge_that_knows_nothing_of_observations_has_none():
    old = msgspec.msgpack.encode({"type": "edge_report", "edge_id": "e", "life_id": "l", "epoch": 1, "revision": 1})
    report = decode_edge(b"\x01" + old)

    assert isinstance(report, EdgeReport) and report.observations == ()
    assert EDGE_MESSAGES["edge_report"].observations == ()
    assert EDGE_MESSAGES["edge_report_observed"].observations != ()
