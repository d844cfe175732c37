"""Hostile hosts at the raft port of real processes; `python -m ops.bench.raft_hostile` does the same for longer."""

from __future__ import annotations

from typing import Any

import pytest

from ops.bench.raft_hostile import Report, assault


@pytest.mark.slow
async def test_an_assault_by_a_thousand_connections_and_every_wrong_certificate_changes_nothing(tmp_path):
    report = await assault(seconds=10, connections=1_000, per_s=400, directory=tmp_path)

    assert [] == report.faults()
    refused = {name for counters in report.counters.values() for name, count in counters.items() if count}
    assert {
        "certificates_refused",
        "tls_failed",
        "frames_refused",
        "connections_refused",
        "strangers_evicted",
    } <= refused
    assert min(report.attempts.values()) >= 3  # of each kind


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"terms": (3, 4)}, "an election"),
        ({"leaders": ("n1", "None")}, "an election"),
        ({"descriptors_max": 1_000}, "descriptors"),
        ({"growth_bytes_max": 1 << 30}, "memory"),
        ({"during": [{"p50_ms": 80.0, "p99_ms": 90.0, "failed": 0}]}, "p99"),
        ({"during": [{"p50_ms": 1.0, "p99_ms": 2.0, "failed": 1}]}, "failed"),
        ({"rejoined_s": None}, "came back"),
    ],
)
def test_every_bound_of_the_report_can_be_broken(change, fault):
    usual = {"p50_ms": 1.0, "p99_ms": 2.0, "failed": 0}
    good: dict[str, Any] = {
        "before": usual,
        "during": [usual],
        "rejoined_s": 1.0,
        "terms": (3, 3),
        "leaders": ("n1", "n1"),
    }

    assert [] == Report(**good).faults()
    assert [text for text in Report(**{**good, **change}).faults() if fault in text]
