"""The simulation in CI: fixed seeds without a violation, the same trace everywhere, and every rule's absence noticed.

Fresh seeds are for `make soak`, all mutants with their budgets for `make mutants`; here each mutant meets the seed that is
known to catch it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.__main__ import hunt
from tests.simulation.clock import MS, S
from tests.simulation.knobs import FAULTS, drawn
from tests.simulation.mutants import MUTANTS
from tests.simulation.rollouts import ALL_MURDERS, counted
from tests.simulation.world import run

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 96
SHARDS = 8
REPLAY = "python -m tests.simulation run --trace --seed"


@pytest.mark.parametrize("shard", range(SHARDS))
def test_seeds_without_a_violation(shard):
    wrong = [
        f"{REPLAY} {seed}: {result.violations[0]}"
        for seed in range(shard, SEEDS, SHARDS)
        if (result := run(seed)).violations
    ]

    assert [] == wrong


def test_runs_see_what_they_are_for():
    """A simulation in which nothing happens finds nothing."""
    seen: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    more = (("crash", "forged", "local_tier", "loose_clock"), ("rollouts", "murder"), ())
    for seed in range(18):
        seen.update(run(seed, plus=more[seed % 3]).seen)
    for seed in range(100):
        faults.update(drawn(seed).faults)
    rare = {
        name: seen[name]
        for name in (
            *("activation_ok", "activation_number_passed", "activation_activation_pending", "beacons", "crashes"),
            *("elections", "late_proposals", "log_reads", "log_reads_open_switch", "read_bounded", "read_fallback"),
            *("rollout_complete", "rollout_return", "rollout_fail", "rollout_pass"),
            *("clocks_broken", "forged_bad_signature", "frames_replayed", "tier_restored"),
            *("read_strong", "relay_fenced", "resigned", "snapshots_asked", "stale_pieces", "told", "restores"),
        )
        if seen[name] < 3
    }

    assert {} == rare
    assert set(FAULTS) == set(faults)


def test_the_leader_dies_at_every_transition_of_a_rollout():
    """Before it proposes it, before it hears what became of it, and when it has applied; each rollout goes on or stops as
    it should. First beside whatever else goes wrong, then with nothing else until all were met.
    """
    left, wrong = set(ALL_MURDERS), []
    for seed in range(60):
        calm: dict[str, Any] = {
            "faults": frozenset(),
            "lease_ms": 500,
            "beacon_ns": 100 * MS,
            "models": 1 + seed % 2,
            "edges": 3,
            "delay_ns": 10 * MS,
            "work_every_ns": 400 * MS,
            "duration_ns": 40 * S,
        }
        result = run(seed, plus=("rollouts", "murder"), murders=frozenset(left), **(calm if seed >= 5 else {}))
        wrong += [f"{seed}: {violation}" for violation in result.violations]
        left -= counted(Counter(result.seen))
        if not left:
            break

    assert [] == wrong
    assert set() == left


@pytest.mark.parametrize("seed", [1, 6])
def test_many_edges(seed):
    """A beacon for all of them costs the region what it costs for one; here each of them is judged. Some 1 s each."""
    result = run(seed, edges=200, duration_ns=4 * S)

    assert [] == result.violations
    assert result.seen["strong_ns"] > 200 * S


def test_a_seed_gives_the_same_trace_in_every_process():
    def digest(hash_seed: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "run", "--seed", "5", "--trace"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return next(line for line in done.stdout.splitlines() if line.startswith("trace digest"))

    here = run(5, tracing=True).digest

    assert {f"trace digest {here}"} == {digest("1"), digest("2")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_rule_switched_off_is_noticed(mutant):
    """By the seed that was known to do so; or, since any change of the product shuffles what seeds do, by another."""
    seed, _, others = hunt(mutant, first=mutant.known_seed, budget=1)
    if seed is None:
        seed, _, others = hunt(mutant, budget=mutant.caught_within)

    assert seed is not None, f"not caught; other rules broken: {dict(others)}"
