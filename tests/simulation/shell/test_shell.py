"""The shell grain in CI: fixed seeds without a violation, the same trace in every process, and rules whose absence is noticed.

Each runs in processes of its own, because the order of sets of strings must be the same everywhere. Fresh seeds and whole
budgets are for `python -m tests.simulation.shell soak` and `mutants`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.shell.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[3]
SEEDS_EACH = 4
EVENTS_MIN = 40
"""Of so many seeds; without a single one the other checks would still be content."""


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation.shell", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("first", range(0, 12, SEEDS_EACH))
def test_seeds_without_a_violation(first):
    done = simulate("soak", "--first", str(first), "--seeds", str(SEEDS_EACH))

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "checked_linearizable 4" in done.stdout
    stored = re.search(r"events_stored (\d+)", done.stdout)
    assert stored and int(stored[1]) >= EVENTS_MIN, "what is checked must have happened"


def test_a_seed_gives_the_same_trace_in_every_process():
    one, other = (simulate("run", "--seed", "8", "--trace") for _ in range(2))

    assert one.stdout == other.stdout
    assert len(one.stdout.splitlines()) > 500


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_rule_switched_off_is_noticed(mutant):
    done = simulate("mutants", "--known", "--only", mutant.name)

    assert 0 == done.returncode, done.stdout + done.stderr
