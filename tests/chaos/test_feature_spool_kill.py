"""The app is killed at random moments while it writes through a spool: `python -m ops.bench.feature_writes kill`."""

from __future__ import annotations

import pytest

from ops.bench import feature_kill


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_what_a_commit_took_outlives_sigkill_and_counts_once():
    judged = await feature_kill.judgement(rounds=10, seed=3)

    assert [] == judged.faults
    assert judged.deaths == 10
    assert judged.committed > 1_000
    assert judged.counted == judged.present


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mutant", "fault"),
    [("unmarked", "counted twice"), ("renumbered", "counted twice"), ("undurable", "committed entries were lost")],
)
async def test_the_judge_sees_a_rule_that_is_switched_off(mutant, fault):
    for seed in range(5):
        judged = await feature_kill.judgement(rounds=4, seed=seed, mutant=mutant)
        if any(fault in each for each in judged.faults):
            return
    pytest.fail(f"{mutant} was not seen")
