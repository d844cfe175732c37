"""Is the candidate worse? Tests that may be looked at any number of times, at any moment, by anybody who holds the sums.

Picture a walker between two fences that drift apart no faster than chance can carry him. An ordinary test puts the fence
where he will not be at one moment agreed on beforehand; look every second, and sooner or later he is over it although the
versions are equal. These fences hold for the whole walk, so a verdict does not depend on how often one looked, and nothing
needs to be remembered but the sums: another node goes on from the same place.

Each test answers for any limit whether the candidate is worse than it, or better, wrongly with at most the probability
asked for; the limits between make the interval. The unit of evidence is the nat, a log-likelihood ratio.

- Rates, quantiles, means: the likelihood ratio of what was seen to the best explanation that keeps the limit, against the
  one-sided normal mixture boundary (Robbins, 1970; Howard, Ramdas, McAuliffe and Sekhon, 2021). That a difference of
  two growing samples walks like a Brownian motion in information time, whatever the order in which they grow, is Jennison
  and Turnbull (1997); that the boundary may be used with estimated variances is Waudby-Smith, Arbour, Sinha, Kennedy
  and Ramdas (2021). The rare-event case is why it is a likelihood ratio: no error in 50 readings is not a variance of 0.
- Distance of distributions (Kolmogorov-Smirnov): a reverse submartingale (Manole and Ramdas, 2023), in epochs.
- Label shares (population stability index): square roots of shares have equal noise in all directions, so the
  mixture boundary in as many dimensions as there are labels.

The boundaries are exact for normal readings and hold in the limit for others; `python -m ops.bench.analysis` shows by
simulation what is left of them for real ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

READINGS_SCALE: Final = 50
"""Where the boundary is narrowest, in readings: detections are expected from a few to some hundred times as many. Lower lets
gross faults be seen earlier, higher lets small ones."""
_EPOCH_FIRST: Final = 16.0
_EPOCH_GROWTH: Final = 1.5
_HALVINGS: Final = 32
"""Of an interval in search of its ends; of evidence near its least, which is flat, half as many do."""


Values = tuple[float | None, float | None, float | None]


class SequentialTest(Protocol):
    """`worse` and `better` are each wrong with at most `error`, over the whole run; both False: not known yet.

    They are monotone: whoever is worse than a limit is worse than every lower one. `values` are the candidate's, stable's,
    and by how much the former is worse; None: there is no such value.
    """

    values: Values

    def worse(self, limit: float, *, error: float) -> bool: ...
    def better(self, limit: float, *, error: float) -> bool: ...
    def low(self, *, error: float) -> float: ...
    def high(self, *, error: float) -> float: ...


def readings_pooled(candidate: float, stable: float | None) -> float:
    """How many readings of one side alone would say as much; `stable` None: compared with a bound, which is exact."""
    return candidate if stable is None else 1 / (1 / candidate + 1 / stable)


def evidence_min(readings: float, *, error: float) -> float:
    """Nats that chance reaches, ever, with at most this probability (Howard et al., 2021, one-sided normal mixture)."""
    if readings <= 0:
        return math.inf
    growth = 1 + readings / READINGS_SCALE
    return (1 + READINGS_SCALE / readings) * math.log1p(math.sqrt(growth) / (2 * error))


def evidence_min_joint(readings: float, dimensions: int, *, error: float) -> float:
    """The same for the length of a vector, in any direction (the normal mixture in several dimensions)."""
    if readings <= 0:
        return math.inf
    scale = READINGS_SCALE + 10 * dimensions
    return (1 + scale / readings) * (dimensions / 2 * math.log1p(readings / scale) - math.log(error))


def distance_noise_max(readings: float, *, error: float) -> float:
    """By how much a Kolmogorov-Smirnov distance is off, ever, with at most this probability.

    Within an epoch the noise is a reverse submartingale, so its largest value is bounded by what it is at the epoch's
    start (Manole and Ramdas, 2023); there, by the two-sample inequality of Dvoretzky, Kiefer and Wolfowitz with Wei and
    Dudley's constant e (2012). Epochs get shares of the error that add up to it.
    """
    if readings < _EPOCH_FIRST:
        return math.inf
    epoch = int(math.log(readings / _EPOCH_FIRST) / math.log(_EPOCH_GROWTH))
    start = _EPOCH_FIRST * _EPOCH_GROWTH**epoch
    nats = 2 - math.log(error / ((epoch + 1) * (epoch + 2)))
    solution = nats
    for _ in range(20):
        solution = nats + math.log(solution)
    return math.sqrt(solution / (2 * start))


class ByEvidence(ABC):
    """Tests whose evidence against a limit can be computed: the interval is where it does not suffice."""

    values: Values
    readings: float
    domain: tuple[float, float]

    @abstractmethod
    def evidence(self, limit: float, *, worse: bool) -> float: ...

    def worse(self, limit: float, *, error: float) -> bool:
        return self.evidence(limit, worse=True) >= evidence_min(self.readings, error=error)

    def better(self, limit: float, *, error: float) -> bool:
        return self.evidence(limit, worse=False) >= evidence_min(self.readings, error=error)

    def low(self, *, error: float) -> float:
        return _turn(lambda limit: self.worse(limit, error=error), *self.domain)

    def high(self, *, error: float) -> float:
        return _turn(lambda limit: self.better(limit, error=error), *reversed(self.domain))


def _turn(holds: Callable[[float], bool], yes: float, no: float) -> float:
    """The last point at which it holds, on the way from `yes` to `no`; `yes` if it holds nowhere."""
    for _ in range(_HALVINGS):
        middle = (yes + no) / 2
        yes, no = (middle, no) if holds(middle) else (yes, middle)
    return yes


class Rate(ByEvidence):
    """The share of failed readings, against a bound."""

    domain = (0.0, 1.0)

    def __init__(self, *, failed: int, count: int) -> None:
        self.readings = count
        self.share = failed / count
        self.values = (self.share, None, None)

    def evidence(self, limit: float, *, worse: bool) -> float:
        share = self.share
        if limit >= 1 or limit < 0:
            return math.inf if worse == (limit < 0) else 0.0
        return divergence(share, limit) * self.readings if (share > limit) == worse else 0.0


class RateDifference(ByEvidence):
    """The share of failed readings, candidate less stable."""

    domain = (-1.0, 1.0)

    def __init__(self, *, failed: int, count: int, stable_failed: int, stable_count: int) -> None:
        self._candidate = (failed, count)
        self._stable = (stable_failed, stable_count)
        self.readings = readings_pooled(count, stable_count)
        self.difference = failed / count - stable_failed / stable_count
        self.values = (failed / count, stable_failed / stable_count, self.difference)

    def evidence(self, limit: float, *, worse: bool) -> float:
        if abs(limit) >= 1:
            return math.inf if worse == (limit < 0) else 0.0
        if worse != (self.difference > limit):
            return 0.0
        stable = self._stable_share(limit)
        (failed, count), (stable_failed, stable_count) = self._candidate, self._stable
        return count * divergence(failed / count, stable + limit) + stable_count * divergence(
            stable_failed / stable_count, stable
        )

    def _stable_share(self, limit: float) -> float:
        """Stable's likeliest share if the difference were `limit` (Farrington and Manning, 1990)."""
        (failed, count), (stable_failed, stable_count) = self._candidate, self._stable
        first, last = max(0.0, -limit), min(1.0, 1.0 - limit)
        ends = (stable_failed / stable_count, failed / count - limit)
        low, high = (min(last, max(first, end)) for end in sorted(ends))
        for _ in range(_HALVINGS // 2):
            share = (low + high) / 2
            if not low < share < high:
                break
            other = share + limit
            slope = (failed - count * other) / (other * (1 - other)) + (stable_failed - stable_count * share) / (
                share * (1 - share)
            )
            low, high = (share, high) if slope > 0 else (low, share)
        return (low + high) / 2


class Mean(ByEvidence):
    """How far the mean score has dropped: below stable's, or below 0 if there is no stable (limits are then bounds, negated).

    The variances are taken as if each side had one more reading that is off by `spread`, all that was seen of the scores'
    range: fifty equal scores prove no more than that another one is rare.
    """

    def __init__(
        self, candidate: tuple[int, float, float], stable: tuple[int, float, float] | None, *, spread: float
    ) -> None:
        """Each side: count, sum, sum of squares."""
        self.readings = readings_pooled(candidate[0], None if stable is None else stable[0])
        mean = candidate[1] / candidate[0]
        self.drop, self.values = -mean, (mean, None, None)
        self._variance = _mean_variance(*candidate, spread=spread)
        if stable is not None:
            stable_mean = stable[1] / stable[0]
            self.drop += stable_mean
            self.values = (mean, stable_mean, self.drop)
            self._variance += _mean_variance(*stable, spread=spread)

    def evidence(self, limit: float, *, worse: bool) -> float:
        distance = self.drop - limit
        if worse != (distance > 0) or not distance:
            return 0.0
        return distance * distance / (2 * self._variance) if self._variance else math.inf

    def low(self, *, error: float) -> float:
        return self.drop - math.sqrt(2 * self._variance * evidence_min(self.readings, error=error))

    def high(self, *, error: float) -> float:
        return self.drop + math.sqrt(2 * self._variance * evidence_min(self.readings, error=error))


def _mean_variance(count: int, total: float, squares: float, *, spread: float) -> float:
    return (max(0.0, squares - total * total / count) + spread * spread) / count / count


def divergence(seen: float, supposed: float) -> float:
    """Nats per reading by which a share of `seen` speaks against one of `supposed` (Bernoulli Kullback-Leibler)."""
    nats = 0.0
    for share, other in ((seen, supposed), (1 - seen, 1 - supposed)):
        if share > 0:
            nats += share * math.log(share / other) if other > 0 else math.inf
    return max(0.0, nats)
