"""What a run is made of: which faults are on and how strong, all drawn from the seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from edge_client.protocol.models import Terms
from tests.simulation.clock import MS, S

FAULTS: Final = (
    "drift",
    "varying",
    "pause",
    "crash",
    "partition",
    "bus_partition",
    "loss",
    "repeat",
    "late_messages",
    "late_proposals",
    "lost_proposals",
    "wrong_leader",
    "election",
    "slow_apply",
    "bus_wipe",
    "distrust",
    "restore",
    "install",
    "slow_load",
    "forged",
    "local_tier",
    "loose_clock",
    "rollouts",
    "murder",
)
LATER_FAULTS: Final = ("forged", "local_tier", "loose_clock", "rollouts", "murder")
"""Drawn apart, so that they change nothing in the runs without them."""


CHANCES: Final = {
    "pause": "pause_chance",
    "loss": "loss_chance",
    "repeat": "repeat_chance",
    "late_messages": "late_chance",
    "late_proposals": "late_proposal_chance",
    "lost_proposals": "lost_proposal_chance",
}
"""Which knob a fault turns."""


@dataclass(kw_only=True)
class Knobs:
    """Chances are per message or step; the calm run of the end sets them to nothing."""

    seed: int
    nodes: int = 3
    edges: int = 5
    models: int = 1
    faults: frozenset[str] = frozenset()
    rho_ppm: int = 500
    lease_ms: int = 2_000
    margin_more_ms: int = 1
    beacon_ns: int = 100 * MS
    duration_ns: int = 20 * S
    delay_ns: int = 20 * MS
    late_chance: float = 0.0
    late_ns: int = 0
    loss_chance: float = 0.0
    repeat_chance: float = 0.0
    pause_chance: float = 0.0
    pause_ns: int = 0
    late_proposal_chance: float = 0.0
    lost_proposal_chance: float = 0.0
    apply_ns: int = 10 * MS
    fault_every_ns: int = 1 * S
    work_every_ns: int = 300 * MS
    deaf_at_the_end: bool = False
    """The bus of who has authority at the end is not mended: it must resign."""
    eager: bool = False
    """Callers try as soon as somebody leads."""
    murders: frozenset[tuple[str, str, str]] | None = None
    """Of these transitions at these moments (phase, move, moment), more surely than by `murder` alone; None: of any."""

    @property
    def sample_period_ns(self) -> int:
        """The product's 20 s suit 500 ppm; a worse clock must be asked more often to be of any use."""
        return min(20 * S, self.lease_ms * MS * 1_000_000 // (12 * self.rho_ppm))

    def without(self, fault: str) -> None:
        """Switch one fault off."""
        self.faults -= {fault}
        if fault in CHANCES:
            setattr(self, CHANCES[fault], 0.0)
        if fault == "drift":
            self.rho_ppm = 500
        if fault == "slow_apply":
            self.apply_ns = 10 * MS

    def terms(self) -> Terms:
        least_ms = self.lease_ms * 2 * self.rho_ppm / (1_000_000 - self.rho_ppm)
        return Terms(lease_ms=self.lease_ms, margin_ms=int(least_ms) + 1 + self.margin_more_ms, rho_ppm=self.rho_ppm)

    def calm(self) -> None:
        """No fault from now on, but for clocks that drift."""
        self.late_chance = self.loss_chance = self.repeat_chance = self.pause_chance = 0.0
        self.late_proposal_chance = self.lost_proposal_chance = 0.0
        self.delay_ns = min(self.delay_ns, 20 * MS)
        self.apply_ns = min(self.apply_ns, 10 * MS)


def drawn(seed: int, *, plus: Iterable[str] = (), without: Iterable[str] = (), **overrides: Any) -> Knobs:
    """The knobs of a seed, with `overrides` in place of what was drawn, some faults more, and some less."""
    knobs = _drawn(seed)
    for name, value in overrides.items():
        assert hasattr(knobs, name), name
        setattr(knobs, name, value)
    knobs.faults |= frozenset(plus)
    for fault in without:
        knobs.without(fault)
    return knobs


def _drawn(seed: int) -> Knobs:
    rng = Random(f"knobs {seed}")
    density = rng.choice((0.15, 0.4, 0.7))
    later = Random(f"later faults {seed}")
    faults = frozenset(fault for fault in FAULTS if fault not in LATER_FAULTS and rng.random() < density)
    faults |= {fault for fault in LATER_FAULTS if later.random() < density / 2}
    if "loose_clock" in faults:
        faults |= {"distrust"}
    if "murder" in faults:
        faults |= {"rollouts"}
    lease_ms = rng.choice((300, 500, 1_000, 2_000))
    on = faults.__contains__
    return Knobs(
        seed=seed,
        nodes=rng.choice((3, 3, 5)),
        edges=rng.choice((1, 3, 5)),
        models=rng.choice((1, 1, 2)),
        faults=faults,
        rho_ppm=rng.choice((500, 10_000, 50_000)) if on("drift") else 500,
        lease_ms=lease_ms,
        margin_more_ms=rng.choice((0, 0, 3)),
        beacon_ns=lease_ms * MS // rng.choice((4, 8, 15)),
        duration_ns=rng.choice((10, 15, 30)) * lease_ms * MS,
        delay_ns=rng.choice((1, 5, 40)) * MS,
        late_chance=rng.choice((0.01, 0.1)) if on("late_messages") else 0.0,
        late_ns=rng.choice((1, 3, 10)) * lease_ms * MS // 2,
        loss_chance=rng.choice((0.01, 0.1, 0.4)) if on("loss") else 0.0,
        repeat_chance=rng.choice((0.02, 0.3)) if on("repeat") else 0.0,
        pause_chance=rng.choice((0.001, 0.01, 0.03)) if on("pause") else 0.0,
        pause_ns=rng.choice((1, 4, 12)) * lease_ms * MS // 4,
        late_proposal_chance=rng.choice((0.02, 0.2)) if on("late_proposals") else 0.0,
        lost_proposal_chance=rng.choice((0.02, 0.2)) if on("lost_proposals") else 0.0,
        apply_ns=rng.choice((1, 3)) * lease_ms * MS // 2 if on("slow_apply") else rng.choice((1, 10)) * MS,
        fault_every_ns=rng.choice((1, 2, 6)) * lease_ms * MS // 2,
        work_every_ns=rng.choice((1, 3)) * lease_ms * MS // 3,
        eager=rng.random() < 0.3,
    )
