"""The sequential tests of distributions: quantiles, how far two distributions lie apart, how labels are shared out.

See `analysis_sequential` for what such a test promises. Here each reading is one in a bucket: what a bucket leaves open is
settled for the accused, so a verdict never rests on the bucket's width.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Final

from consistency_service.core.analysis_sequential import (
    ByEvidence,
    Values,
    distance_noise_max,
    divergence,
    evidence_min,
    evidence_min_joint,
    readings_pooled,
)
from edge_client.protocol.observations import ACCURACY, BUCKET_MAX, LABELS_MAX, OTHER, value_of_bucket

GAMMA: Final = (1 + ACCURACY) / (1 - ACCURACY)
"""The ratio of neighbouring buckets' values: finer than this, nothing is known of quantiles."""
_SHIFTS: Final = range(-BUCKET_MAX - 1, BUCKET_MAX + 2)
_LABEL_COUNT_MIN: Final = 10
"""Labels seen more rarely on both sides together are counted as one."""


class Quantile(ByEvidence):
    """A quantile, against a bound. What buckets leave open is settled for the accused."""

    def __init__(self, buckets: Mapping[int, int], *, share: float) -> None:
        self._counts, self._share = _Cumulative(buckets), share
        self.readings = self._counts.total
        self.values = (self._counts.quantile(share), None, None)
        self.domain = (0.0, 2 * value_of_bucket(self._counts.buckets[-1]))

    def evidence(self, limit: float, *, worse: bool) -> float:
        rounding = 1 + ACCURACY if worse else 1 - ACCURACY  # a bucket that `limit` cuts counts as below it, or not
        below = self._counts.share_where(lambda bucket: value_of_bucket(bucket) <= limit * rounding)
        return self.readings * divergence(below, self._share) if (below < self._share) == worse else 0.0

    def high(self, *, error: float) -> float:
        top = self.domain[1]
        return super().high(error=error) if self.better(top, error=error) else math.inf


class QuantileRatio:
    """The ratio of the same quantile on both sides.

    For each bucket in which stable's quantile may lie: how badly stable's counts fit that, and how badly the candidate's
    fit a quantile `limit` times as large. The bucket that fits best is the evidence; limits are rounded to buckets, for
    the accused.
    """

    def __init__(self, candidate: Mapping[int, int], stable: Mapping[int, int], *, share: float) -> None:
        self._candidate, self._stable, self._share = _Cumulative(candidate), _Cumulative(stable), share
        self.readings = readings_pooled(self._candidate.total, self._stable.total)
        ours, theirs = self._candidate.quantile(share), self._stable.quantile(share)
        self.values: Values = (ours, theirs, ours / theirs if theirs else None)

    def worse(self, limit: float, *, error: float) -> bool:
        shift = math.ceil(math.log(limit) / math.log(GAMMA) - 1e-9)
        return self._evidence_worse(shift) >= evidence_min(self.readings, error=error)

    def better(self, limit: float, *, error: float) -> bool:
        shift = math.floor(math.log(limit) / math.log(GAMMA) + 1e-9) - 1
        return self._evidence_better(shift) >= evidence_min(self.readings, error=error)

    def low(self, *, error: float) -> float:
        needed = evidence_min(self.readings, error=error)
        first = bisect_left(_SHIFTS, True, key=lambda shift: self._evidence_worse(shift) < needed)
        return GAMMA ** _SHIFTS[first - 1] if first else 0.0

    def high(self, *, error: float) -> float:
        needed = evidence_min(self.readings, error=error)
        first = bisect_left(_SHIFTS, True, key=lambda shift: self._evidence_better(shift) >= needed)
        return GAMMA ** (_SHIFTS[first] + 1) if first < len(_SHIFTS) else math.inf

    def _evidence_worse(self, shift: int) -> float:
        """That the candidate's quantile is above any value `shift` buckets over stable's."""
        stable, candidate, share = self._stable, self._candidate, self._share
        least = stable.total * divergence(1.0, share)  # stable's above all that was seen
        for place in range(stable.place_of(share), len(stable.buckets)):
            misfit = stable.total * divergence(max(share, stable.before(place) / stable.total), share)
            if misfit >= least:
                break
            reached = candidate.share_through(max(0, stable.buckets[place] + shift))
            least = min(least, misfit + candidate.total * divergence(min(share, reached), share))
        return least

    def _evidence_better(self, shift: int) -> float:
        """That the candidate's quantile is below any value `shift` buckets over stable's."""
        stable, candidate, share = self._stable, self._candidate, self._share
        least = stable.total * divergence(0.0, share)  # stable's below all that was seen
        for place in range(stable.place_of(share), -1, -1):
            misfit = stable.total * divergence(min(share, stable.before(place + 1) / stable.total), share)
            if misfit >= least:
                break
            bucket = stable.buckets[place]
            reached = candidate.share_through(bucket + shift) if bucket else 0.0  # nothing is below 0
            least = min(least, misfit + candidate.total * divergence(max(share, reached), share))
        return least


class Distance:
    """The largest difference between the distribution functions of two sides, as counted in buckets."""

    def __init__(self, candidate: Mapping[int, int], stable: Mapping[int, int]) -> None:
        ours, theirs = _Cumulative(candidate), _Cumulative(stable)
        self.readings = readings_pooled(ours.total, theirs.total)
        places = {*ours.buckets, *theirs.buckets}
        self.distance = max(abs(ours.share_through(place) - theirs.share_through(place)) for place in places)
        self.values: Values = (None, None, self.distance)

    def worse(self, limit: float, *, error: float) -> bool:
        return self.low(error=error) > limit

    def better(self, limit: float, *, error: float) -> bool:
        return self.high(error=error) < limit

    def low(self, *, error: float) -> float:
        return max(0.0, self.distance - distance_noise_max(self.readings, error=error))

    def high(self, *, error: float) -> float:
        return min(1.0, self.distance + distance_noise_max(self.readings, error=error))


class LabelShares:
    """The population stability index between two sides' labels.

    Tested by its lower neighbour, four times the squared Hellinger distance, which is a plain distance between vectors of
    square roots, never above the index and close to it for drifts of interest; for the upper bound, by how much the index
    exceeds it here. Half a reading is added to each count: a label on one side only has a finite index, and the square
    roots of small counts are not noisier than those of large ones.
    """

    def __init__(self, candidate: Mapping[str, int], stable: Mapping[str, int]) -> None:
        names = _names_compared(candidate, stable)
        pairs = [(candidate.get(name, 0), stable.get(name, 0)) for name in names]
        totals = (sum(candidate.values()), sum(stable.values()))
        rest = (totals[0] - sum(ours for ours, _ in pairs), totals[1] - sum(theirs for _, theirs in pairs))
        if any(rest):
            pairs.append(rest)
        self.dimensions = max(1, len(pairs) - 1)
        self.readings = readings_pooled(*totals)
        half = len(pairs) / 2
        smooth = [((ours + 0.5) / (totals[0] + half), (theirs + 0.5) / (totals[1] + half)) for ours, theirs in pairs]
        self.index = sum((ours - theirs) * math.log(ours / theirs) for ours, theirs in smooth)
        self.values: Values = (None, None, self.index)
        self._length = 2 * math.sqrt(sum((math.sqrt(ours) - math.sqrt(theirs)) ** 2 for ours, theirs in smooth))
        self._excess = max(1.0, self.index / self._length**2) if self._length > 1e-9 else 1.0

    def worse(self, limit: float, *, error: float) -> bool:
        return self.low(error=error) > limit

    def better(self, limit: float, *, error: float) -> bool:
        return self.high(error=error) < limit

    def low(self, *, error: float) -> float:
        return max(0.0, self._length - self._noise_max(error=error)) ** 2

    def high(self, *, error: float) -> float:
        return self._excess * (self._length + self._noise_max(error=error)) ** 2

    def _noise_max(self, *, error: float) -> float:
        nats = evidence_min_joint(self.readings, self.dimensions, error=error)
        return math.sqrt(2 * nats / self.readings)


class _Cumulative:
    """Bucket counts in order, with what is below each."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self.buckets = sorted(counts)
        self._through = [0, *accumulate(map(counts.__getitem__, self.buckets))]
        self.total = self._through[-1]

    def before(self, place: int) -> int:
        return self._through[place]

    def share_through(self, bucket: int) -> float:
        return self._through[bisect_right(self.buckets, bucket)] / self.total

    def share_where(self, below: Callable[[int], bool]) -> float:
        """For a `below` that is true of the first buckets and of no later one."""
        return self._through[bisect_left(self.buckets, True, key=lambda bucket: not below(bucket))] / self.total

    def place_of(self, share: float) -> int:
        """Where the quantile lies."""
        return min(bisect_left(self._through, share * self.total, lo=1) - 1, len(self.buckets) - 1)

    def quantile(self, share: float) -> float:
        return value_of_bucket(self.buckets[self.place_of(share)])


def _names_compared(candidate: Mapping[str, int], stable: Mapping[str, int]) -> list[str]:
    """The labels that are frequent enough to be compared one by one."""
    counts = {name: candidate.get(name, 0) + stable.get(name, 0) for name in {*candidate, *stable} - {OTHER}}
    frequent = [name for name, count in counts.items() if count >= _LABEL_COUNT_MIN]
    return sorted(frequent, key=lambda name: (-counts[name], name))[:LABELS_MAX]
