"""A thousand features written by one edge and read by twenty others, under blows: nothing is older than it says.

For longer: `python -m ops.bench.feature_staleness --seconds 300`.
"""

from __future__ import annotations

import pytest

from tests.support.feature_chaos import run


@pytest.mark.slow
def test_no_reading_is_older_than_its_bound(tmp_path):
    outcome = run(tmp_path, seconds=25)

    assert [] == outcome.violations[:3]
    assert outcome.vouched_count > 2_000 and outcome.write_count > 1_000, outcome
    assert {"memory", "local", "store"} <= outcome.by_tier.keys(), "a tier was never asked"
    assert len(outcome.faults) == 8, "not every blow fell"


@pytest.mark.slow
def test_the_judge_notices_readers_that_take_the_local_tier_for_fresh(tmp_path):
    outcome = run(tmp_path, seconds=12, mutant="known_when_found")

    assert outcome.violations, outcome
