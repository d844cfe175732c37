"""Processes killed and paused, connections held and cut, disks filled: what clients were told stays true.

The same on a larger scale: `python -m ops.bench.raft_nemesis --minutes 30`.
"""

from __future__ import annotations

import asyncio

import pytest

from ops.bench.raft_nemesis import nemesis

SECONDS = 45


@pytest.mark.timeout(180)
def test_nothing_promised_is_broken_by_a_minute_of_faults(tmp_path):
    verdict = asyncio.run(nemesis(seconds=SECONDS, seed=1, directory=tmp_path))

    assert [] == verdict.violations, "\n".join(verdict.lines())
    assert verdict.operations["append ok"] > 200
    assert verdict.operations["cas ok"] > 100
    assert verdict.operations["read ok"] > 200
    assert verdict.faults.total() >= 8
    assert verdict.states_restored > 0, "no snapshot was ever read: the fault that loses writes was not tried"


@pytest.mark.timeout(60)
def test_reads_without_a_barrier_are_found_out(tmp_path):
    """The same clients and the same judge, on reads that are known to be wrong."""
    verdict = asyncio.run(nemesis(seconds=6, seed=2, directory=tmp_path, sabotage="stale"))

    assert [] != verdict.violations
    assert 0 == sum("lost" in violation or "nowhere" in violation for violation in verdict.violations)


@pytest.mark.timeout(60)
def test_forgotten_disks_are_found_out(tmp_path):
    verdict = asyncio.run(nemesis(seconds=8, seed=3, directory=tmp_path, sabotage="wipe"))

    assert any("acknowledged and is lost" in violation for violation in verdict.violations)
