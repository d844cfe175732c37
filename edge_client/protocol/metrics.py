"""What a number is called, and how it is written down: the words that nodes, edges, alerts and dashboards share.

Picture the dials of one make, whichever ship they are built into. A `Metric` is the plate under the dial; a `Sheet` is what
all dials of one ship say at one instant. Nothing here measures. Names end in their base unit, or in `_total`; a label never
has more than `ROWS_MAX` values, and edge ids are none.

`exposition` is the Prometheus text format, version 0.0.4, for whoever has no client library at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ROWS_MAX: Final = 50
"""Values that one label takes before the rest is told as `other`."""
OTHER: Final = "other"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Row = tuple[tuple[str, ...], float]
"""The values of a metric's labels, and what it says under them."""
Sheet = Mapping[str, Sequence[Row]]
"""By name of the metric; what cannot be said now is left out."""


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    """Only grows, from 0 at the start of the process."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    """Counted in buckets; kept by the SDK, and therefore on no sheet."""


class Rest(StrEnum):
    """How the values that get no row of their own are told together."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One name, for ever: what is meant by it does not change."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    """`s`, `By` or `1` (UCUM); empty where the name says what is counted."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""


def few(rows: Mapping[str, float], *, rest: Rest, rows_max: int = ROWS_MAX) -> list[Row]:
    """The first `rows_max` of these, and the others as one row named `other`."""
    kept: list[Row] = [((name,), value) for name, value in list(rows.items())[:rows_max]]
    left = list(rows.values())[rows_max:]
    if left:
        told = sum(left) if rest is Rest.SUM else max(left) if rest is Rest.MAX else min(left)
        kept.append(((OTHER,), told))
    return kept


def exposition(metrics: Iterable[Metric], sheet: Sheet) -> str:
    """All that the sheet says, as Prometheus reads it."""
    lines: list[str] = []
    for metric in metrics:
        rows = sheet.get(metric.name)
        if not rows:
            continue
        lines.append(f"# HELP {metric.name} {escaped(metric.meaning)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for values, value in rows:
            pairs = ",".join(f'{name}="{quoted(text)}"' for name, text in zip(metric.labels, values, strict=True))
            lines.append(f"{metric.name}{{{pairs}}} {value:.17g}" if pairs else f"{metric.name} {value:.17g}")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """As the text of a `HELP` line."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def quoted(text: str) -> str:
    """As the value of a label, between its quotes."""
    return escaped(text).replace('"', r"\"")
