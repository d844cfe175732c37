"""`python -m tests.simulation`: run one seed, soak on fresh ones, or switch rules off one at a time.

run --seed N [--trace]            play one seed; the trace goes to standard output; --edges 1000, --mutant NAME, ...
soak --seconds S | --seeds COUNT  fresh seeds on all cores, from --first on; interrupted, it tells what it has so far
mutants [--only TEXT] [--show]    each rule off: must be caught within its budget of seeds
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.simulation.clock import MS, S
from tests.simulation.knobs import drawn
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.result import Result, show
from tests.simulation.soak import add_options, soak
from tests.simulation.world import run

REPLAY = "python -m tests.simulation run --trace --seed"


def hunt(mutant: Mutant, *, first: int = 0, budget: int) -> tuple[int | None, Result | None, Counter[str]]:
    """The first of `budget` seeds that catches the mutant and nothing without it, and what other rules broke before."""
    others: Counter[str] = Counter()
    for seed in range(first, first + budget):
        result = mutant.run(seed)
        if result.rules & mutant.breaks:
            if not mutant.without(seed).violations:
                return seed, result, others
            others["wrong without it"] += 1
        others.update(result.rules)
    return None, None, others


def shrunk(seed: int, mutant: Mutant | None = None) -> str:
    """The command that replays the seed with as little as still breaks the same rule."""
    play = run if mutant is None else mutant.run
    begun = drawn(seed) if mutant is None else drawn(seed, plus=mutant.plus, **mutant.directed)
    rules = play(seed).rules
    rules &= mutant.breaks if mutant else rules
    changes: dict[str, Any] = {"without": ()}

    def still_breaks(**change: Any) -> bool:
        if play(seed, **changes | change).rules & rules:
            changes.update(change)
            return True
        return False

    for fault in sorted(begun.faults):
        still_breaks(without=(*changes["without"], fault))
    for name in ("models", "edges"):
        if getattr(begun, name) > 1:
            still_breaks(**{name: 1})
    duration_ns = begun.duration_ns
    while duration_ns > S and still_breaks(duration_ns=duration_ns // 2):
        duration_ns //= 2
    options = [f"--mutant {mutant.name!r}"] if mutant else []
    options += [f"--without {','.join(changes['without'])}"] if changes["without"] else []
    options += [f"--{name} {changes[name]}" for name in ("models", "edges") if name in changes]
    options += [f"--duration-ms {changes['duration_ns'] / MS:g}"] if "duration_ns" in changes else []
    return " ".join([REPLAY, str(seed), *options])


def named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def run_command(args: argparse.Namespace) -> int:
    mutant = named(args.mutant) if args.mutant else None
    changes = {name: getattr(args, name) for name in ("models", "edges") if getattr(args, name) is not None}
    if args.duration_ms is not None:
        changes["duration_ns"] = int(args.duration_ms * MS)
    if args.without:
        changes["without"] = tuple(args.without.split(","))
    if args.plus:
        changes["plus"] = (*args.plus.split(","), *(mutant.plus if mutant else ()))
    if mutant is None or mutant.play is run:
        more = {"plus": mutant.plus} | mutant.directed if mutant else {}
        knobs = drawn(args.seed, **more | changes)
        print(", ".join(f"{k}={sorted(v) if isinstance(v, frozenset) else v}" for k, v in vars(knobs).items()))
    begun = time.process_time()
    result = (mutant.run if mutant else run)(args.seed, tracing=args.trace, **changes)
    seconds = time.process_time() - begun
    for line in result.trace:
        print(line)
    show(result)
    if args.trace:
        print(f"trace digest {result.digest}")
    print("seen:", ", ".join(f"{name} {count}" for name, count in sorted(result.seen.items())))
    print(f"{seconds:.2f} s of processor time: {result.virtual_ns / S / seconds:.1f} times real time", file=sys.stderr)
    return 1 if result.violations else 0


def soak_command(args: argparse.Namespace) -> int:
    return soak(run, args, batch=25, replay=REPLAY, shrunk=shrunk)


def mutants_command(args: argparse.Namespace) -> int:
    chosen = [mutant for mutant in MUTANTS if args.only in mutant.name]
    escaped = 0
    with ProcessPoolExecutor(args.workers) as pool:
        hunts = [(m, pool.submit(hunt_by_name, m.name, args.seeds or m.caught_within)) for m in chosen]
        for mutant, future in hunts:
            seed, result, others = future.result()
            if result is None or seed is None:
                escaped += 1
                print(f"ESCAPED {mutant.name}: other rules broken: {dict(others)}", flush=True)
            else:
                violation = next(v for v in result.violations if v.rule in mutant.breaks)
                print(f"caught  {mutant.name}: seed {seed}: {violation.rule}: {violation.what[:150]}", flush=True)
                if args.show:
                    print(f"  shrunk, with the rule off: {shrunk(seed, mutant)}", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} mutants caught")
    return 1 if escaped else 0


def hunt_by_name(name: str, budget: int) -> tuple[int | None, Result | None, Counter[str]]:
    return hunt(named(name), budget=budget)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--seed", type=int, required=True)
    run_parser.add_argument("--trace", action="store_true")
    run_parser.add_argument("--without", default="", help="faults that are not drawn")
    run_parser.add_argument("--with", dest="plus", default="", help="faults that are on besides")
    run_parser.add_argument("--mutant", help="with this rule off")
    run_parser.add_argument("--models", type=int)
    run_parser.add_argument("--edges", type=int)
    run_parser.add_argument("--duration-ms", type=float)
    run_parser.set_defaults(act=run_command)
    soak_parser = commands.add_parser("soak")
    add_options(soak_parser)
    soak_parser.set_defaults(act=soak_command)
    mutants_parser = commands.add_parser("mutants")
    mutants_parser.add_argument("--only", default="")
    mutants_parser.add_argument("--seeds", type=int)
    mutants_parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    mutants_parser.add_argument("--show", action="store_true", help="shrink each catch, and print what replays it")
    mutants_parser.set_defaults(act=mutants_command)
    args = parser.parse_args()
    return int(args.act(args))


if __name__ == "__main__":
    sys.exit(main())
