"""`python -m ops.bench [PART ...]`: measures the promises and says which hold."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from ops.bench import failover, history, reads, swap
from ops.bench.figures import Figure

PARTS: dict[str, tuple[str, Callable[[], list[Figure]]]] = {
    "reads": ("what a read costs, beside what it would be compared with", reads.measure),
    "swap": ("a swap across 50 edges, from acceptance to the last computed instant", swap.measure),
    "history": ("a recorded history of activations under reading edges, judged", history.measure),
    "failover": ("a dead leader, with edges reading all the time", failover.measure),
}


def main() -> int:
    """Exit code 0 if every limit held."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    arguments = parser.parse_args()
    measured: dict[str, list[Figure]] = {}
    for name in arguments.parts or PARTS:
        title, measure = PARTS[name]
        began = time.monotonic()
        measured[name] = measure()
        if not arguments.json:
            print(f"{name}: {title} ({time.monotonic() - began:.0f} s)")
            print("\n".join(figure.line() for figure in measured[name]), flush=True)
    if arguments.json:
        print(json.dumps({name: [asdict(figure) for figure in figures] for name, figures in measured.items()}))
    return 0 if all(figure.holds for figures in measured.values() for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
