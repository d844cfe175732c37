"""Fresh seeds on all cores, in either grain, and what came of them so far."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from tests.simulation.clock import S
from tests.simulation.result import Result, show

TELL_SECONDS = 10

Play = Callable[[int], Result]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `soak` takes."""
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, help="so many, instead of so long")
    parser.add_argument("--first", type=int, help="the first seed; by default one that nobody has played")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)


def soak(play: Play, args: argparse.Namespace, *, batch: int, replay: str, shrunk: Callable[[int], str] | None) -> int:
    """Play as `args` say, `batch` seeds of a worker at a time; 1 if any broke a rule, which is told with what replays it."""
    first = args.first if args.first is not None else int(time.time()) * 1_000
    following, end = first, first + args.seeds if args.seeds else sys.maxsize
    tally = Tally(first=first, replay=replay, shrunk=shrunk)
    running: set[Future[list[Result]]] = set()

    def more() -> bool:
        return following < end and (args.seeds is not None or tally.seconds < args.seconds)

    with ProcessPoolExecutor(args.workers, initializer=settle_in) as pool:
        try:
            while more() or running:
                while len(running) < 2 * args.workers and more():
                    count = min(batch, end - following)
                    running.add(pool.submit(play_batch, play, following, count))
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


def play_batch(play: Play, first: int, count: int) -> list[Result]:
    """The results of some seeds, without their traces."""
    results = [play(seed) for seed in range(first, first + count)]
    gc.collect()
    return results


def settle_in() -> None:
    """Make this process a worker: it ends when it is told to, not when somebody interrupts; and it collects garbage
    between runs only, since a run leaves one heap of cycles behind and none before its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.disable()


class Tally:
    """What came of a soak so far."""

    def __init__(self, *, first: int, replay: str, shrunk: Callable[[int], str] | None) -> None:
        self._first = first
        self._replay = replay
        self._shrunk = shrunk
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
            print(f"  replay: {self._replay} {result.seed}", flush=True)
            if self._shrunk is not None:
                print(f"  shrunk: {self._shrunk(result.seed)}", flush=True)

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
