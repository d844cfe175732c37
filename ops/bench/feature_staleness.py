"""A thousand features written by one edge and read by twenty others under blows; is any reading older than its bound?

    python -m ops.bench.feature_staleness --seconds 300 [--seed N] [--mutant known_when_found]

Exit code 1 if one was. With a mutant, readers break one rule of ages on purpose, and 1 is what should come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.support.feature_chaos import run

SHOWN_MAX = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.feature_staleness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", type=int, default=20)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--mutant", default="", choices=["", "known_when_found"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = run(
            Path(directory),
            seconds=arguments.seconds,
            readers=arguments.readers,
            processes=arguments.processes,
            seed=arguments.seed,
            mutant=arguments.mutant,
        )
    print(f"seed {arguments.seed}: {outcome.write_count} writes, {outcome.read_count} readings", end="")
    print(f" ({outcome.vouched_count} with a bound), {outcome.refused_count} refused as too stale")
    print("  by tier: " + ", ".join(f"{tier} {count}" for tier, count in sorted(outcome.by_tier.items())))
    print("  blows: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items())))
    print(f"  readings older than their bound: {len(outcome.violations)}")
    for violation in outcome.violations[:SHOWN_MAX]:
        print(f"    {violation.reason}: {violation.read}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
