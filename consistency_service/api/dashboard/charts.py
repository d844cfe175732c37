"""Charts as numbers: where each mark goes, in percent of the width. Templates draw them as SVG; nothing is drawn by scripts.

Two kinds are enough: two values with their intervals on one scale, beside the limit that decides; and two distributions
side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from consistency_service.api.dashboard.words import clip

TICKS: Final = 4
BARS_MAX: Final = 12
Unit = Literal["share", "ms", "ratio", "number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Something measured; `low` to `high` is where it lies, None at an end that is not known."""

    name: str
    value: float | None
    samples: int = 0
    low: float | None = None
    high: float | None = None
    interval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A value on the scale; `x` and the ends of its interval in percent of the width."""

    name: str
    text: str
    samples: int
    x: float | None
    low_x: float | None
    high_x: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values on one scale, and the limit that decides, if one does."""

    marks: tuple[Mark, ...]
    limit_x: float | None
    limit_text: str
    ticks: tuple[tuple[float, str], ...]
    says: str
    """The same in words, for those who do not see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One label's share on both sides, in percent of the widest bar."""

    label: str
    stable_width: float
    candidate_width: float
    stable_text: str
    candidate_text: str


def text_of(value: float | None, unit: Unit) -> str:
    """The value as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    match unit:
        case "share":
            return f"{value * 100:.3g} %"
        case "ms":
            return f"{value:.3g} ms"
        case "ratio":
            return f"×{value:.3g}"
    return f"{value:.4g}"


def scale_of(values: Sequence[Value], *, limit: float | None, unit: Unit) -> Scale:
    """The values on one scale that begins at nothing (a ratio: at 1), unless something is below."""
    numbers = [v for value in values for v in (value.value, value.low, value.high)] + [limit]
    known = [v for v in numbers if v is not None and math.isfinite(v)]
    low, high, step = _scale([1.0 if unit == "ratio" else 0.0, *known])

    def x(value: float | None, beyond: float | None = None) -> float | None:
        return beyond if value is None or not math.isfinite(value) else round(100 * (value - low) / (high - low), 3)

    marks = tuple(
        Mark(
            name=value.name,
            text=text_of(value.value, unit),
            samples=value.samples,
            x=x(value.value),
            low_x=x(value.low, 0.0) if value.interval else None,
            high_x=x(value.high, 100.0) if value.interval else None,
        )
        for value in values
    )
    told = [f"{mark.name} {mark.text}" for mark in marks]
    return Scale(
        marks=marks,
        limit_x=x(limit),
        limit_text=text_of(limit, unit) if limit is not None else "",
        ticks=tuple(
            (x(low + i * step) or 0.0, text_of(low + i * step, unit)) for i in range(round((high - low) / step) + 1)
        ),
        says=", ".join(told + ([f"limit {text_of(limit, unit)}"] if limit is not None else [])),
    )


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """Round ends, and a round step, around all values."""
    low, high = min(values), max(values)
    if high <= low:
        return low, low + 1, 0.5
    raw = (high - low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    return math.floor(low / step) * step, math.ceil(high / step - 1e-9) * step, step


def distribution(counts: Iterable[tuple[str, int, int]]) -> tuple[Bar, ...]:
    """`(label, stable count, candidate count)` as shares of each side; the most frequent labels, at most twelve."""
    rows = [(label, max(0, stable), max(0, candidate)) for label, stable, candidate in counts]
    totals = (sum(row[1] for row in rows) or 1, sum(row[2] for row in rows) or 1)
    shares = [(label, stable / totals[0], candidate / totals[1]) for label, stable, candidate in rows]
    shares.sort(key=lambda row: (-max(row[1], row[2]), row[0]))
    widest = max((max(row[1], row[2]) for row in shares), default=1.0) or 1.0
    return tuple(
        Bar(
            label=clip(label, 24) or "(others)",
            stable_width=round(100 * stable / widest, 2),
            candidate_width=round(100 * candidate / widest, 2),
            stable_text=text_of(stable, "share"),
            candidate_text=text_of(candidate, "share"),
        )
        for label, stable, candidate in shares[:BARS_MAX]
    )
