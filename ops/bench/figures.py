"""Turns samples into lines a person can read: medians, percentiles, ratios, verdicts against a stated limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; `limit` is what must hold, None where nothing is promised."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def line(self) -> str:
        """The figure, its limit, and whether it holds."""
        verdict = "" if self.limit is None else f"   limit {self.limit:g}  {'holds' if self.holds else 'MISSED'}"
        return f"  {self.name:<58}{self.value:>12.4g} {self.unit:<6}{verdict}"


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample at or above `share` of all (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(samples: Sequence[float]) -> float:
    """The middle sample."""
    return percentile(samples, 0.5)
