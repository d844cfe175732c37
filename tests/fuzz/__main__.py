"""Fuzzes the readers of foreign bytes for as long as one likes, guided by the branches that inputs reach.

    python -m tests.fuzz                              every target, ten seconds each
    python -m tests.fuzz journal state --seconds 600  these two
    python -m tests.fuzz state --input FILE           what one input does

Atheris guides where a reader is Python that branches (see `guided`), if it is installed; otherwise, or with `--blind`, inputs
are drawn as in the tests, from `--seed` on: readers that are compiled show it no branches.
What raises anything but a refusal is written to `fuzz-TARGET-…` in `--findings`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from tests.fuzz.guided import GUIDED
from tests.fuzz.mutation import BYTES_MAX, inputs
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (10)")
    parser.add_argument("--seed", type=int, default=1, help="where drawing begins (1)")
    parser.add_argument("--blind", action="store_true", help="without guidance, though atheris is installed")
    parser.add_argument("--findings", type=Path, default=Path(), help="where findings are written (here)")
    parser.add_argument("--input", type=Path, help="try this file alone, with one target")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}; see --help")
    names = given.targets or list(TARGETS)
    if given.input is not None:
        if len(names) != 1:
            parser.error("--input goes with one target")
        print("taken" if TARGETS[names[0]].try_one(given.input.read_bytes()) else "refused")
        return 0
    guided = set() if given.blind or find_spec("atheris") is None else set(GUIDED)
    failed = [name for name in names if not (_guided if name in guided else _blind)(name, given)]
    print(
        f"{len(names) - len(failed)} of {len(names)} targets without a finding"
        + (f"; {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


def _blind(name: str, given: argparse.Namespace) -> bool:
    target, deadline, tried, taken = TARGETS[name], time.monotonic() + given.seconds, 0, 0
    for seed in count(given.seed):
        for data in inputs(target.seeds, seed=seed, count=1_000):
            try:
                taken += target.try_one(data)
            except Exception as error:
                path = given.findings / f"fuzz-{name}-{seed}-{tried}"
                path.write_bytes(data)
                print(f"{name:20} FOUND {error!r} after {tried} inputs: {path}")
                return False
            tried += 1
        if time.monotonic() >= deadline:
            break
    print(f"{name:20} {tried:>9,} inputs, {taken:,} taken")
    return True


def _guided(name: str, given: argparse.Namespace) -> bool:
    """In a process of its own: libFuzzer ends the one it runs in."""
    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate(TARGETS[name].seeds):
            (Path(directory) / f"seed-{number}").write_bytes(seed)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.guided", name),
                *(directory, f"-max_total_time={int(given.seconds)}", f"-max_len={BYTES_MAX}", "-rss_limit_mb=1024"),
                *("-timeout=10", f"-seed={given.seed}", "-verbosity=1", "-print_final_stats=1"),
                f"-artifact_prefix={given.findings.resolve()}/fuzz-{name}-",
            ],
            capture_output=True,
            text=True,
            timeout=given.seconds + 120,
        )
    said = done.stderr.splitlines()
    tried = next((line.split()[-1] for line in said if "number_of_executed_units" in line), "?")
    reached = next((line.split("cov:")[1].split()[0] for line in reversed(said) if "cov:" in line), "?")
    print(f"{name:20} {tried:>9} inputs, {reached} branches reached{'' if done.returncode == 0 else ', FOUND'}")
    if done.returncode:
        print("\n".join([*done.stdout.splitlines()[-20:], *said[-20:]]))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
