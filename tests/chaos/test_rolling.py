"""Every bus server and every node replaced, one after the other, while edges read and callers release: as little as that needs."""

from __future__ import annotations

import pytest

from ops.bench import rolling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_maintenance_breaks_no_promise_and_costs_no_strong_read():
    figures, made = rolling.measure(minutes=0.5, edges=2, say=lambda _: None)

    assert [f"{check.name}: {check.details}" for check in made.checks if not check.ok] == []
    assert [figure.line() for figure in figures if not figure.holds] == []
    assert 6 == len(made.faults)
