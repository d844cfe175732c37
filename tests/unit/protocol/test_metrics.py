"""Sums over the last minute, bounded rows, and the text that Prometheus reads."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from consistency_service.core.metrics import NODE_METRICS
from edge_client.core.metrics import EDGE_METRICS
from edge_client.protocol.metrics import OTHER, Kind, Metric, Rest, exposition, few
from edge_client.protocol.trailing import SPAN_NS, Trailing

S = 1_000_000_000


def test_growth_is_that_of_the_last_minute():
    trailing = Trailing()
    for second in range(200):
        trailing.looked({"a": 10.0 * second}, late_s=5.0 if second == 100 else 0.1, now_ns=second * S)
        trailing.check_invariants()

    assert 600.0 == trailing.growth("a", 1_990.0)
    assert 600.0 == trailing.per_minute("a", 1_990.0, now_ns=199 * S)
    assert 0.1 == trailing.late_s_max()
    assert 7.0 == trailing.growth("new", 7.0)


def test_before_a_minute_was_looked_at_a_rate_is_of_what_there_is():
    trailing = Trailing()
    assert 0.0 == trailing.per_minute("a", 5.0, now_ns=0)
    trailing.looked({"a": 0.0}, now_ns=0)

    assert 0.0 == trailing.per_minute("a", 5.0, now_ns=S // 2)
    assert 30.0 == trailing.per_minute("a", 5.0, now_ns=10 * S)


def test_a_pause_does_not_make_the_minute_longer_than_it_must():
    trailing = Trailing()
    trailing.looked({"a": 0.0}, now_ns=0)
    trailing.looked({"a": 100.0}, now_ns=10 * S)
    trailing.looked({"a": 100.0}, now_ns=10 * S + SPAN_NS)

    assert 1.0 == trailing.growth("a", 101.0)


@pytest.mark.parametrize(("rest", "told"), [(Rest.SUM, 12.0), (Rest.MAX, 5.0), (Rest.MIN, 3.0)])
def test_the_rest_is_one_row(rest, told):
    rows = {f"m{number}": float(number) for number in range(6)}

    assert [(("m0",), 0.0), (("m1",), 1.0), (("m2",), 2.0), ((OTHER,), told)] == few(rows, rest=rest, rows_max=3)
    assert 6 == len(few(rows, rest=rest, rows_max=6))


def test_names_follow_the_rules_and_are_named_once():
    for metrics in (NODE_METRICS, EDGE_METRICS):
        names = [metric.name for metric in metrics]
        assert len(names) == len(set(names))
        for metric in metrics:
            assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total"), metric.name
            assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets), metric.name
            unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}.get(metric.unit, "")
            assert metric.name.removesuffix("_total").endswith(unit), metric.name
            assert metric.meaning.endswith("."), metric.name
            assert not any("edge" in label for label in metric.labels), metric.name


def test_a_metric_of_both_sides_has_one_type_and_unit():
    nodes = {metric.name: (metric.kind, metric.unit) for metric in NODE_METRICS}

    assert {} == {m.name: m for m in EDGE_METRICS if nodes.get(m.name, (m.kind, m.unit)) != (m.kind, m.unit)}


METRICS = (
    Metric(name="asked_total", kind=Kind.COUNTER, labels=("who",), meaning='Who "asked", or \\ not.\nTwice.'),
    Metric(name="depth", kind=Kind.GAUGE, meaning="How deep."),
    Metric(name="silent", kind=Kind.GAUGE, meaning="Says nothing."),
)


def test_the_text_escapes_what_strangers_choose():
    text = exposition(METRICS, {"asked_total": [(('a"b\\c\nd',), 3.0)], "depth": [((), 0.25)], "silent": []})

    assert [
        '# HELP asked_total Who "asked", or \\\\ not.\\nTwice.',
        "# TYPE asked_total counter",
        'asked_total{who="a\\"b\\\\c\\nd"} 3',
        "# HELP depth How deep.",
        "# TYPE depth gauge",
        "depth 0.25",
    ] == text.splitlines()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_reads_it_and_refuses_what_is_broken():
    good = exposition(METRICS, {"asked_total": [(("a",), 3.0)], "depth": [((), 0.25)]})

    assert 0 == _checked(good)
    assert 0 != _checked(good.replace("# TYPE depth gauge", "# TYPE depth nonsense"))


def _checked(text: str) -> int:
    return subprocess.run(["promtool", "check", "metrics"], input=text.encode(), timeout=20).returncode
