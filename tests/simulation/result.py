"""What came of a run, in either grain, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.simulation.clock import S
from tests.simulation.judge import Violation

HEAL_NS: Final = 20 * S
"""Every edge is strong at the newest revision so long after the last fault, at the latest."""


@dataclass(kw_only=True)
class Result:
    """What came of a run. `digest` is of the whole trace, where one was kept."""

    seed: int
    violations: list[Violation]
    virtual_ns: int
    healed_ns: int | None
    step_count: int
    seen: dict[str, int]
    digest: str = ""
    trace: list[str] = field(default_factory=list)

    @property
    def rules(self) -> frozenset[str]:
        return frozenset(violation.rule for violation in self.violations)


def show(result: Result) -> None:
    healed = "never" if result.healed_ns is None else f"{result.healed_ns / S:.1f} s after the last fault"
    print(f"seed {result.seed}: {result.virtual_ns / S:.1f} virtual s, {result.step_count} steps, current {healed}")
    for violation in result.violations:
        print(f"  VIOLATION {violation.rule} at {violation.at_ns / S:.6f} s: {violation.what}")
