"""`python -m tests.simulation`: run one seed, soak on fresh ones, or switch rules off one at a time.

run --seed N [--trace]            play one seed; the trace goes to standard output; --edges 1000, --mutant NAME, ...
soak --seconds S | --seeds COUNT  fresh seeds on all cores, from --first on; interrupted, it tells what it has so far
mutants [--only TEXT] [--show]    each rule off: must be caught within its budget of seeds
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from tests.simulation.clock import MS, S
from tests.simulation.knobs import drawn
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Result, run

BATCH = 25
TELL_SECONDS = 10


def play_batch(first: int, count: int) -> list[Result]:
    """The results of some seeds, without their traces."""
    results = [run(seed) for seed in range(first, first + count)]
    gc.collect()
    return results


def settle_in() -> None:
    """Make this process a worker: it ends when it is told to, not when somebody interrupts; and it collects garbage
    between runs only, since a run leaves one heap of cycles behind and none before its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.disable()


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


def show(result: Result) -> None:
    healed = "never" if result.healed_ns is None else f"{result.healed_ns / S:.1f} s after the last fault"
    print(f"seed {result.seed}: {result.virtual_ns / S:.1f} virtual s, {result.step_count} steps, current {healed}")
    for violation in result.violations:
        print(f"  VIOLATION {violation.rule} at {violation.at_ns / S:.6f} s: {violation.what}")


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
    return " ".join(["python -m tests.simulation run --trace --seed", str(seed), *options])


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


class Tally:
    """What came of a soak so far."""

    def __init__(self, *, first: int) -> None:
        self._first = first
        self._begun = time.monotonic()
        self._told = self._begun
        self._seen: Counter[str] = Counter()
        self.seeds = self.violations = self._virtual_ns = self._healed_ns_max = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def add(self, result: Result) -> None:
        self.seeds += 1
        self._virtual_ns += result.virtual_ns
        self._healed_ns_max = max(self._healed_ns_max, result.healed_ns or 0)
        self._seen.update(result.seen)
        if result.violations:
            self.violations += 1
            show(result)
            print(f"  replay: python -m tests.simulation run --trace --seed {result.seed}")
            print(f"  shrunk: {shrunk(result.seed)}", flush=True)

    def tell_now_and_then(self) -> None:
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            rate = self.seeds / self.seconds
            print(f"{self.seeds} seeds done, {rate:.1f} seeds/s, {self.violations} with violations", flush=True)

    def summary(self) -> str:
        seconds, virtual_s = self.seconds, self._virtual_ns / S
        return (
            f"{self.seeds} seeds from {self._first} in {seconds:.0f} s: {self.seeds / seconds:.1f} seeds/s,"
            f" {virtual_s / 3600:.1f} virtual hours, {virtual_s / seconds:.0f} times real time,"
            f" {self.violations} seeds with violations;"
            f" every edge was current at most {self._healed_ns_max / S:.1f} s after the last fault\n"
            "seen: " + ", ".join(f"{name} {count}" for name, count in sorted(self._seen.items()))
        )


def soak_command(args: argparse.Namespace) -> int:
    first = args.first if args.first is not None else int(time.time()) * 1_000
    following, end = first, first + args.seeds if args.seeds else sys.maxsize
    tally = Tally(first=first)
    running: set[Future[list[Result]]] = set()

    def more() -> bool:
        return following < end and (args.seeds is not None or tally.seconds < args.seconds)

    with ProcessPoolExecutor(args.workers, initializer=settle_in) as pool:
        try:
            while more() or running:
                while len(running) < 2 * args.workers and more():
                    count = min(BATCH, end - following)
                    running.add(pool.submit(play_batch, following, count))
                    following += count
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for result in (result for future in done for result in future.result()):
                    tally.add(result)
                tally.tell_now_and_then()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped by hand; seeds up to {following} were begun", flush=True)
    print(tally.summary())
    return 1 if tally.violations else 0


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
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
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
    soak_parser.add_argument("--seconds", type=float, default=60)
    soak_parser.add_argument("--seeds", type=int, help="so many, instead of so long")
    soak_parser.add_argument("--first", type=int, help="the first seed; by default one that nobody has played")
    soak_parser.set_defaults(act=soak_command)
    mutants_parser = commands.add_parser("mutants")
    mutants_parser.add_argument("--only", default="")
    mutants_parser.add_argument("--seeds", type=int)
    mutants_parser.add_argument("--show", action="store_true", help="shrink each catch, and print what replays it")
    mutants_parser.set_defaults(act=mutants_command)
    args = parser.parse_args()
    return int(args.act(args))


if __name__ == "__main__":
    sys.exit(main())
