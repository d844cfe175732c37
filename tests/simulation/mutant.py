"""What a mutant is: one rule of the protocol, switched off while a run lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.simulation.result import Result
from tests.simulation.world import run

Patch = pytest.MonkeyPatch

STRONG = frozenset({"inversion", "active"})


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One rule off."""

    name: str
    install: Callable[[Patch], None] = field(repr=False)
    breaks: frozenset[str] = STRONG
    known_seed: int = 0
    """One that catches it."""
    caught_within: int = 120
    directed: dict[str, Any] = field(default_factory=dict)
    """Knobs set on every seed."""
    plus: frozenset[str] = frozenset()
    """Faults that are on in every seed, besides those drawn."""
    play: Callable[..., Result] = field(default=run, repr=False)

    def run(self, seed: int, **changes: Any) -> Result:
        """Play the seed with the rule off."""
        with pytest.MonkeyPatch.context() as patch:
            self.install(patch)
            return self.without(seed, **changes)

    def without(self, seed: int, **changes: Any) -> Result:
        """Play the seed as for this mutant, with every rule on."""
        return self.play(seed, **{"plus": self.plus} | self.directed | changes)

    def __str__(self) -> str:
        return self.name
