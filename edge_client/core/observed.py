"""What the application says came of its readings, added up: one tally sheet a version and generation.

Picture a clerk at a counter with a few sheets before him. Whoever worked with a reading says what came of it; the clerk
makes strokes on the sheet of that reading, and the words are forgotten. When a fifth generation comes he puts the sheet
of the oldest away. What makes no sense gets its stroke on a sheet of its own, since throwing it away in silence would
hide a mistake. The sheets only grow, so a copy that was lost on its way to the region costs nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from edge_client.protocol.observations import (
    LABEL_CHARS_MAX,
    LABELS_MAX,
    OTHER,
    VALUE_MAX,
    Observations,
    bucket_of_value,
)

if TYPE_CHECKING:
    from edge_client.core.reading import Reading
    from edge_client.protocol.position import Position

SHEETS_KEPT: Final = 4
"""Of each model, the newest; a version has one sheet for each generation in which it was read."""

_Key = tuple[str, str, int]


class _Sheet:
    __slots__ = ("begun_at", "count", "failed", "judged", "labels", "latencies", "score_squares", "score_sum", "scores")

    def __init__(self, begun_at: Position) -> None:
        self.begun_at = begun_at
        self.count = self.judged = self.failed = 0
        self.latencies: dict[int, int] = {}
        self.scores: dict[int, int] = {}
        self.score_sum = self.score_squares = 0.0
        self.labels: dict[str, int] = {}


class Observed:
    """Everything that one life of an edge was told. Bounded by the models that are read; not thread-safe."""

    def __init__(self) -> None:
        self._sheets: dict[_Key, _Sheet] = {}
        self._closed = False
        self.counters: Counter[str] = Counter()

    def reported(
        self, reading: Reading, ok: Any, latency_ms: float | None, score: float | None, label: str | None
    ) -> bool:
        """Counted. True if it began a sheet. Raises `TypeError` before anything is counted."""
        if ok is not None and ok is not True and ok is not False:
            ok = _truth(ok)
        if latency_ms is not None and type(latency_ms) is not float:
            latency_ms = _number(latency_ms, name="latency_ms")
        if score is not None and type(score) is not float:
            score = _number(score, name="score")
        if label is not None and type(label) is not str:
            label = _text(label)
        key = (reading.model, reading.version, reading.generation)
        sheet = self._sheets.get(key)
        began = sheet is None
        if sheet is None or self._closed:
            sheet = self._begin(key, reading.position)
            if sheet is None:
                return False
        sheet.count += 1
        if ok is not None:
            sheet.judged += 1
            if not ok:
                sheet.failed += 1
        if latency_ms is not None:
            self._add_latency(sheet, latency_ms)
        if score is not None:
            self._add_score(sheet, score)
        if label is not None:
            labels = sheet.labels
            if label not in labels:
                label = self._admitted(labels, label)
            labels[label] = labels.get(label, 0) + 1
        return began

    def closed(self) -> None:
        """From now on what is reported is counted as too late, and no more."""
        self._closed = True

    def sheets(self) -> tuple[Observations, ...]:
        """Copies of all sheets, the one begun first first."""
        ordered = sorted(self._sheets.items(), key=lambda entry: entry[1].begun_at)
        return tuple(
            Observations(
                model=model,
                version=version,
                generation=generation,
                count=sheet.count,
                judged_count=sheet.judged,
                failed_count=sheet.failed,
                latencies=dict(sheet.latencies),
                scores=dict(sheet.scores),
                score_sum=sheet.score_sum,
                score_square_sum=sheet.score_squares,
                labels=dict(sheet.labels),
            )
            for (model, version, generation), sheet in ordered
        )

    def check_invariants(self) -> None:
        models = Counter(model for model, _, _ in self._sheets)
        assert all(count <= SHEETS_KEPT for count in models.values())
        for sheet in self._sheets.values():
            assert 0 <= sheet.failed <= sheet.judged <= sheet.count
            assert len(sheet.labels) <= LABELS_MAX + 1
            assert math.isfinite(sheet.score_sum) and math.isfinite(sheet.score_squares)

    def __repr__(self) -> str:
        sheets = " ".join(
            f"{model}@{version}:g{generation}={s.count}" for (model, version, generation), s in self._sheets.items()
        )
        return f"<Observed {sheets}>"

    # ---- helpers

    def _begin(self, key: _Key, position: Position) -> _Sheet | None:
        """A new sheet for a reading from `position`; None where it comes too late for one."""
        if self._closed:
            self.counters["outcomes_after_close"] += 1
            return None
        of_model = [other for other in self._sheets if other[0] == key[0]]
        if len(of_model) >= SHEETS_KEPT:
            oldest = min(of_model, key=lambda other: self._sheets[other].begun_at)
            if position < self._sheets[oldest].begun_at:
                self.counters["outcomes_of_old_generations"] += 1
                return None
            del self._sheets[oldest]
            self.counters["outcome_sheets_put_away"] += 1
        sheet = self._sheets[key] = _Sheet(position)
        return sheet

    def _add_latency(self, sheet: _Sheet, latency_ms: float) -> None:
        if not 0.0 <= latency_ms < math.inf:
            self.counters["latencies_senseless"] += 1
            return
        bucket = bucket_of_value(latency_ms)
        sheet.latencies[bucket] = sheet.latencies.get(bucket, 0) + 1

    def _add_score(self, sheet: _Sheet, score: float) -> None:
        if not -VALUE_MAX <= score <= VALUE_MAX:
            if not math.isfinite(score):
                self.counters["scores_senseless"] += 1
                return
            self.counters["scores_cut"] += 1
            score = math.copysign(VALUE_MAX, score)
        bucket = bucket_of_value(score)
        sheet.scores[bucket] = sheet.scores.get(bucket, 0) + 1
        sheet.score_sum += score
        sheet.score_squares += score * score

    def _admitted(self, labels: dict[str, int], label: str) -> str:
        """The label under which a new one is counted: itself, if it may be."""
        if len(label) > LABEL_CHARS_MAX or not _is_sendable(label):
            self.counters["labels_senseless"] += 1
            return OTHER
        if len(labels) - (OTHER in labels) >= LABELS_MAX:
            self.counters["labels_beyond_max"] += 1
            return OTHER
        return label


def _is_sendable(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:  # half of a pair, which is a `str` and no text
        return False
    return True


def _truth(value: Any) -> bool:
    """Also of NumPy, whose truth is a class of its own: `bool_`, later `bool`."""
    if type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"ok must be True, False or None, not {type(value).__name__}")


def _number(value: Any, *, name: str) -> float:
    """Anything that is a number to `float`: an int, a scalar of NumPy or PyTorch. Not text, and no truth."""
    try:
        if isinstance(value, (bool, str, bytes, bytearray)):
            raise TypeError
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or None, not {type(value).__name__}") from None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, the plain text
    raise TypeError(f"label must be text or None, not {type(value).__name__}")
