"""`python -m tests.simulation.shell`: the real drivers and the real log, one seed at a time.

run --seed N [--trace]                          play one seed; the trace goes to standard output
soak --seconds S | --seeds COUNT [--first N]    many seeds, one after the other
mutants [--only TEXT]                           each rule off: must be caught within its budget of seeds
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from tests.simulation.clock import S
from tests.simulation.shell.knobs import drawn
from tests.simulation.shell.world import Result, run

REPLAY = "python -m tests.simulation.shell run --trace --seed"


def show(result: Result) -> None:
    healed = "never" if result.healed_ns is None else f"{result.healed_ns / S:.1f} s after the last fault"
    print(f"seed {result.seed}: {result.virtual_ns / S:.1f} virtual s, {result.step_count} steps, current {healed}")
    for violation in result.violations:
        print(f"  VIOLATION {violation.rule} at {violation.at_ns / S:.6f} s: {violation.what}")


def run_command(args: argparse.Namespace) -> int:
    without = tuple(args.without.split(",")) if args.without else ()
    knobs = drawn(args.seed, without=without)
    print(", ".join(f"{k}={sorted(v) if isinstance(v, frozenset) else v}" for k, v in vars(knobs).items()))
    result = run(args.seed, tracing=args.trace, without=without)
    for line in result.trace:
        print(line)
    show(result)
    print(f"trace digest {result.digest & (1 << 64) - 1:016x}")
    print("seen:", ", ".join(f"{name} {count}" for name, count in sorted(result.seen.items())))
    return 1 if result.violations else 0


def soak_command(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    first = args.first if args.first is not None else int(time.time()) * 1_000
    count = violations = virtual_ns = healed_ns_max = 0
    seen: Counter[str] = Counter()
    while time.monotonic() - begun < args.seconds if args.seeds is None else count < args.seeds:
        result = run(first + count)
        count += 1
        virtual_ns += result.virtual_ns
        healed_ns_max = max(healed_ns_max, result.healed_ns or 0)
        seen.update(result.seen)
        if result.violations:
            violations += 1
            show(result)
            print(f"  replay: {REPLAY} {result.seed}", flush=True)
    seconds = time.monotonic() - begun
    print(
        f"{count} seeds from {first} in {seconds:.0f} s: {count / seconds:.2f} seeds/s, {virtual_ns / S / 3600:.2f}"
        f" virtual hours, {virtual_ns / S / seconds:.0f} times real time, {violations} seeds with violations;"
        f" everybody was current at most {healed_ns_max / S:.1f} s after the last fault"
    )
    print("seen:", ", ".join(f"{name} {count}" for name, count in sorted(seen.items())))
    return 1 if violations else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.shell", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--seed", type=int, required=True)
    run_parser.add_argument("--trace", action="store_true")
    run_parser.add_argument("--without", default="")
    run_parser.set_defaults(act=run_command)
    soak_parser = commands.add_parser("soak")
    soak_parser.add_argument("--seconds", type=float, default=60)
    soak_parser.add_argument("--seeds", type=int)
    soak_parser.add_argument("--first", type=int)
    soak_parser.set_defaults(act=soak_command)
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
