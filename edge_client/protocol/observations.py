"""What came of readings: counts, sketches and sums that edges add up and the region adds together.

Picture a tally sheet per version: every reported reading makes a few strokes, a sheet costs the same whether it holds ten
strokes or ten million, and two sheets laid on one another are a sheet again. Values (latencies, scores) are counted in
buckets whose width is a fixed share of the value, so a quantile is right to `ACCURACY` of itself whatever was merged
(DDSketch: Masson, Rim and Lee, 2019). The bucket of a value must be the same everywhere: this computation never changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from edge_client.protocol.models import NAME_PATTERN

ACCURACY: Final = 0.02
"""A value read back from its bucket is off by at most this share of itself."""

LABELS_MAX: Final = 64
"""Different labels counted by themselves for each version; those beyond are counted under `OTHER`."""
LABEL_CHARS_MAX: Final = 64
OTHER: Final = ""

VALUE_MAX: Final = 1e9
"""Values beyond this, either way, count as this."""
COUNT_MAX: Final = 1 << 53
"""No life of an edge reports more readings."""
VERSION_CHARS_MAX: Final = 128

_GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA: Final = math.log(_GAMMA)
_INDEX_MAX: Final = math.ceil(math.log(VALUE_MAX) / _LOG_GAMMA)
_INDEX_MIN: Final = math.ceil(math.log(1e-6) / _LOG_GAMMA)
_OFFSET: Final = 1 - _INDEX_MIN
BUCKET_MAX: Final = _INDEX_MAX + _OFFSET
"""Buckets are numbered `-BUCKET_MAX` to `BUCKET_MAX`, in the order of the values that fall into them; 0 holds 0."""


class Observations(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything one life of one edge reported of its readings of one version under one generation; it only grows."""

    model: str
    version: str
    generation: int
    count: int = 0
    """Readings reported, whatever was said of them."""
    judged_count: int = 0
    """Of those, readings of which the application said whether they were right."""
    failed_count: int = 0
    """Of those judged, the wrong ones."""
    latencies: dict[int, int] = {}
    """Bucket to count, of milliseconds."""
    scores: dict[int, int] = {}
    """Bucket to count."""
    score_sum: float = 0.0
    score_square_sum: float = 0.0
    labels: dict[str, int] = {}


def observations_fault(observations: Observations) -> str | None:
    """Why no honest edge can have told this, in a few words; None if one can. Never raises, whatever was decoded."""
    o = observations
    if NAME_PATTERN.fullmatch(o.model) is None or not 0 < len(o.version) <= VERSION_CHARS_MAX or o.generation < 1:
        return "no such name, version or generation"
    if not 0 <= o.failed_count <= o.judged_count <= o.count <= COUNT_MAX:
        return "counts must obey 0 <= failed <= judged <= count"
    if len(o.labels) - (OTHER in o.labels) > LABELS_MAX or any(len(label) > LABEL_CHARS_MAX for label in o.labels):
        return f"more than {LABELS_MAX} labels, or one of more than {LABEL_CHARS_MAX} characters"
    if any(not 0 <= bucket <= BUCKET_MAX for bucket in o.latencies):
        return "a latency in a bucket that is none"
    if any(abs(bucket) > BUCKET_MAX for bucket in o.scores):
        return "a score in a bucket that is none"
    for counts in (o.latencies, o.scores, o.labels):
        if any(count < 1 for count in counts.values()) or sum(counts.values()) > o.count:
            return "counts that are not positive, or of more readings than there were"
    # A little is left for rounding; by Cauchy and Schwarz; and no comparison holds of what is no number.
    score_count = sum(o.scores.values())
    squares_max = score_count * VALUE_MAX * VALUE_MAX * 1.001
    if not (0 <= o.score_square_sum <= squares_max and abs(o.score_sum) <= score_count * VALUE_MAX * 1.001):
        return "sums that so many scores cannot have"
    if o.score_sum * o.score_sum > o.score_square_sum * score_count * (1 + 1e-6) + 1e-9:
        return "a sum that does not go with the sum of squares"
    return None


def bucket_of_value(value: float) -> int:
    """The bucket of a finite value; what is below a millionth counts as 0, what is above `VALUE_MAX` as that."""
    size = abs(value)
    if size < 1e-6:
        return 0
    index = min(_INDEX_MAX, math.ceil(math.log(size) / _LOG_GAMMA)) + _OFFSET
    return index if value > 0 else -index


def value_of_bucket(bucket: int) -> float:
    """The value that stands for a bucket: within `ACCURACY` of each value in it."""
    if bucket == 0:
        return 0.0
    size = 2 * _GAMMA ** (abs(bucket) - _OFFSET) / (_GAMMA + 1)
    return size if bucket > 0 else -size


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The value below which this share of what was counted lies; None if nothing was."""
    rank = share * (sum(buckets.values()) - 1)
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen > rank:
            return value_of_bucket(bucket)
    return None
