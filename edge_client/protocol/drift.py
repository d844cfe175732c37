"""How far two clocks may run apart, in integers that err on the safe side.

Every clock's *rate* differs from real time by at most rho. Then one clock may run faster than another by at most
kappa = (1 + rho) / (1 - rho). An upper bound is rounded up and a lower bound down, so that no rounding ever lengthens a
lease (protocol, sections 1 and 2).
"""

from __future__ import annotations

from dataclasses import dataclass

_MILLION = 1_000_000
RHO_PPM_MAX = 200_000
"""Beyond this no bound is of any use."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The assumed worst rate error of any clock, in parts per million."""

    rho_ppm: int

    def __post_init__(self) -> None:
        if not 0 <= self.rho_ppm <= RHO_PPM_MAX:
            raise ValueError(f"rho_ppm must lie in 0..{RHO_PPM_MAX}, not {self.rho_ppm}")

    def faster_ns(self, elapsed_ns: int) -> int:
        """The most another clock may have advanced while ours advanced `elapsed_ns`: times kappa, rounded up."""
        return -(-elapsed_ns * (_MILLION + self.rho_ppm) // (_MILLION - self.rho_ppm))

    def slower_ns(self, elapsed_ns: int) -> int:
        """The least another clock may have advanced while ours advanced `elapsed_ns`: over kappa, rounded down."""
        return elapsed_ns * (_MILLION - self.rho_ppm) // (_MILLION + self.rho_ppm)

    def real_ns_max(self, elapsed_ns: int) -> int:
        """The most real time in which one clock advances `elapsed_ns`: over 1 - rho, rounded up."""
        return -(-elapsed_ns * _MILLION // (_MILLION - self.rho_ppm))


EXACT = Drift(0)
"""A clock against itself."""
