"""A thousand edges in virtual time, some dead and some slow; `ops.bench.rollout_fleet` plays ten thousand and times them."""

from __future__ import annotations

import asyncio
from collections import Counter

from consistency_service.core.rollout import Phase
from ops.bench.rollout_fleet import CANDIDATE, STRATEGY, rehearse


def test_a_rollout_across_a_thousand_edges_goes_on_without_the_dead_and_the_slow():
    run = asyncio.run(rehearse(1_000))
    stages = [move.stage for move in run.rollout.transitions if move.move in {"activate", "complete"}]

    assert Phase.COMPLETED is run.rollout.phase
    assert [*range(len(STRATEGY.stages) + 1)] == stages
    assert len(stages) == len(run.stragglers)
    assert Counter({CANDIDATE: run.live}) == run.served
    assert 0 == run.outside_count
    assert 930 <= run.live <= 970
