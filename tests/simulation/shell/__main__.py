"""`python -m tests.simulation.shell`: the real drivers and the real log, one seed at a time.

run --seed N [--trace]                          play one seed; the trace goes to standard output
soak --seconds S | --seeds COUNT [--first N]    many seeds, on all cores
mutants [--only TEXT]                           each rule off: must be caught within its budget of seeds
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter

import pytest

from tests.simulation.result import Result, show
from tests.simulation.shell.knobs import drawn
from tests.simulation.shell.mutants import MUTANTS, Mutant
from tests.simulation.shell.world import run
from tests.simulation.soak import add_options, soak

REPLAY = "python -m tests.simulation.shell run --trace --seed"


def run_command(args: argparse.Namespace) -> int:
    without = tuple(args.without.split(",")) if args.without else ()
    knobs = drawn(args.seed, without=without)
    print(", ".join(f"{k}={sorted(v) if isinstance(v, frozenset) else v}" for k, v in vars(knobs).items()))
    result = run(args.seed, tracing=args.trace, without=without)
    for line in result.trace:
        print(line)
    show(result)
    print(f"trace digest {result.digest}")
    print("seen:", ", ".join(f"{name} {count}" for name, count in sorted(result.seen.items())))
    return 1 if result.violations else 0


def soak_command(args: argparse.Namespace) -> int:
    return soak(run, args, batch=4, replay=REPLAY, shrunk=None)


def hunt(mutant: Mutant, *, first: int = 0, budget: int) -> tuple[Result | None, Counter[str]]:
    """What the first of `budget` seeds that catches the mutant gave, and what other rules broke before."""
    others: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        mutant.install(patch)
        for seed in range(first, first + budget):
            result = run(seed, **mutant.directed)
            if result.rules & mutant.breaks:
                return result, others
            others.update(result.rules)
    return None, others


def mutants_command(args: argparse.Namespace) -> int:
    chosen = [mutant for mutant in MUTANTS if args.only in mutant.name]
    escaped = 0
    for mutant in chosen:
        result, others = None, Counter[str]()
        if args.known:
            result, others = hunt(mutant, first=mutant.known_seed, budget=1)
        if result is None:
            result, others = hunt(mutant, budget=args.seeds or mutant.caught_within)
        if result is None:
            escaped += 1
            print(f"ESCAPED {mutant}: other rules broken: {dict(others)}", flush=True)
        else:
            violation = next(v for v in result.violations if v.rule in mutant.breaks)
            print(f"caught  {mutant}: seed {result.seed}: {violation.rule}: {violation.what[:150]}", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} mutants caught")
    return 1 if escaped else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.shell", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--seed", type=int, required=True)
    run_parser.add_argument("--trace", action="store_true")
    run_parser.add_argument("--without", default="")
    run_parser.set_defaults(act=run_command)
    soak_parser = commands.add_parser("soak")
    add_options(soak_parser)
    soak_parser.set_defaults(act=soak_command)
    mutants_parser = commands.add_parser("mutants")
    mutants_parser.add_argument("--only", default="")
    mutants_parser.add_argument("--seeds", type=int)
    mutants_parser.add_argument("--known", action="store_true", help="begin with the seed known to catch it")
    mutants_parser.set_defaults(act=mutants_command)
    args = parser.parse_args()
    return int(args.act(args))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation.shell", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
