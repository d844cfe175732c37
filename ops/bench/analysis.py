"""How often are the verdicts on a rollout wrong, and how soon do they come? `python -m ops.bench.analysis`

Each run is a stream of readings of candidate and stable, judged after every 50 of them from the sums so far, as a region
does it: some four hundred looks, any of which may err. A run counts as erred if a single look did. The first two parts take
the hardest case, a candidate that is exactly as bad as its limit allows (or just worse); the others say how many readings a
verdict takes. Readings are counted over both sides; a stage at 20 % of the edges is where one in five is the candidate's.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from consistency_service.core.analysis import Result, Sheet, verdict
from consistency_service.core.strategy import Check, Metric
from edge_client.protocol.observations import bucket_of_value
from ops.bench.figures import median, percentile

LOOK_EVERY = 50
READINGS_MAX = 20_000
ERROR = 0.05
Z_ONE_SIDED = 1.645
DROP_LIMITS = (
    (0.01, 0.5, "half", 4_000),
    (0.02, 0.5, "half", 6_000),
    (0.01, 0.2, "a fifth", 6_000),
    (0.02, 0.2, "a fifth", 10_000),
)
"""Of a drop of five points in accuracy: what is allowed, the candidate's part of the readings, and the readings of both
sides within which 95 % of the drops are caught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one version's readings are drawn from."""

    error_rate: float = 0.05
    latency_ms: float = 20.0
    latency_spread: float = 0.5
    score: tuple[float, float] = (18.0, 2.0)
    labels: tuple[float, ...] = (0.1,) * 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One line of the table."""

    name: str
    check: Check
    candidate: Side = Side()
    stable: Side = Side()
    share: float = 0.5
    """Of the readings, the candidate's."""


def tilted(drift: float) -> tuple[float, ...]:
    """Ten labels, one of them rarer and another more frequent than a tenth, so that their index against tenths is `drift`."""
    low, high = 0.0, 0.0999
    for _ in range(60):
        moved = (low + high) / 2
        low, high = (moved, high) if moved * math.log((0.1 + moved) / (0.1 - moved)) < drift else (low, moved)
    return (0.1 + low, 0.1 - low, *(0.1,) * 8)


def shifted(distance: float) -> tuple[float, float]:
    """Scores with a lower mean, so that the distance of their buckets from the usual ones' is `distance`."""
    low, high = 0.5, 0.9
    for _ in range(60):
        mean = (low + high) / 2
        apart = np.max(np.abs(_bucket_shares(20 * mean, 20 - 20 * mean) - _bucket_shares(*Side().score)))
        low, high = (mean, high) if apart > distance else (low, mean)
    return (20 * low, 20 - 20 * low)


def _bucket_shares(a: float, b: float) -> np.ndarray:
    """The distribution function of a beta distribution at the ends of the buckets."""
    values = np.linspace(0.0, 1.0, 20_001)[1:-1]
    density = values ** (a - 1) * (1 - values) ** (b - 1)
    buckets = _buckets(values)
    return (np.cumsum(density) / np.sum(density))[np.flatnonzero(np.diff(buckets))]


def looks(
    scenario: Scenario, rng: np.random.Generator, *, readings_max: int = READINGS_MAX
) -> Iterator[tuple[Sheet, Sheet]]:
    """The sums of both sides at every look."""
    count = readings_max // LOOK_EVERY
    ours = rng.binomial(LOOK_EVERY, scenario.share, size=count)
    metric = scenario.check.metric
    candidate = _sheets(scenario.candidate, metric, ours, rng)
    stable = _sheets(scenario.stable, metric, LOOK_EVERY - ours, rng)
    return zip(candidate, stable, strict=True)


def _sheets(side: Side, metric: Metric, sizes: np.ndarray, rng: np.random.Generator) -> Iterator[Sheet]:
    counts = np.cumsum(sizes)
    total = int(counts[-1])
    match metric:
        case Metric.ERROR_RATE:
            failed = np.cumsum(rng.binomial(sizes, side.error_rate))
            for judged, wrong in zip(counts.tolist(), failed.tolist(), strict=True):
                yield Sheet(count=judged, judged_count=judged, failed_count=wrong)
        case Metric.LATENCY:
            values = side.latency_ms * np.exp(side.latency_spread * rng.standard_normal(total))
            for seen, table in zip(counts.tolist(), _tables(_buckets(values), sizes), strict=True):
                yield Sheet(count=seen, latencies=table)
        case Metric.LABEL_DRIFT:
            names = [f"label-{number}" for number in range(len(side.labels))]
            sums = np.cumsum(rng.multinomial(sizes, side.labels), axis=0)
            for seen, row in zip(counts.tolist(), sums.tolist(), strict=True):
                yield Sheet(count=seen, labels={name: n for name, n in zip(names, row, strict=True) if n})
        case _:
            values = rng.beta(*side.score, size=total)
            sums, squares = np.cumsum(values), np.cumsum(values * values)
            for seen, table in zip(counts.tolist(), _tables(_buckets(values), sizes), strict=True):
                last = max(0, seen - 1)
                yield Sheet(
                    count=seen, scores=table, score_sum=float(sums[last]), score_square_sum=float(squares[last])
                )


def _buckets(values: np.ndarray) -> np.ndarray:
    """`bucket_of_value`, many at a time."""
    log_gamma = math.log(1.02 / 0.98)
    offset = bucket_of_value(1.0)
    buckets: np.ndarray = np.ceil(np.log(np.maximum(values, 1e-6)) / log_gamma).astype(int) + offset
    return buckets


def _tables(buckets: np.ndarray, sizes: np.ndarray) -> Iterator[dict[int, int]]:
    sums: dict[int, int] = {}
    start = 0
    for size in sizes.tolist():
        for bucket in buckets[start : start + size].tolist():
            sums[bucket] = sums.get(bucket, 0) + 1
        start += size
        yield sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What many runs of a scenario came to."""

    runs: int
    failed_after: tuple[int, ...]
    """Readings at the first look that said so, of the runs in which one did."""
    passed_after: tuple[int, ...]

    def after(self, result: Result) -> tuple[int, ...]:
        return self.failed_after if result is Result.FAILED else self.passed_after


Judge = Callable[[Check, Sheet, Sheet], Result]


def by_rule(check: Check, candidate: Sheet, stable: Sheet) -> Result:
    """What is under test."""
    return verdict(check, candidate=candidate, stable=stable)


def by_one_look(check: Check, candidate: Sheet, stable: Sheet) -> Result:
    """What everybody does first: the test for a number of readings fixed beforehand, at every look. Of error rates."""
    count, stable_count = candidate.judged_count, stable.judged_count
    if min(count, stable_count) < check.samples_min:
        return Result.INCONCLUSIVE
    pooled = (candidate.failed_count + stable.failed_count) / (count + stable_count)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / count + 1 / stable_count))
    difference = candidate.failed_count / count - stable.failed_count / stable_count
    return Result.FAILED if difference > Z_ONE_SIDED * deviation else Result.INCONCLUSIVE


def tally(
    scenario: Scenario, *, runs: int, seed: int, until: Result, readings_max: int = READINGS_MAX, rule: Judge = by_rule
) -> Tally:
    """Runs, each until a look says `until` or the readings are used up."""
    after: dict[Result, list[int]] = {Result.FAILED: [], Result.SUCCESSFUL: []}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        seen: set[Result] = {Result.INCONCLUSIVE}
        for candidate, stable in looks(scenario, rng, readings_max=readings_max):
            result = rule(scenario.check, candidate, stable)
            if result not in seen:
                seen.add(result)
                after[result].append(candidate.count + stable.count)
            if result is until:
                break
    failed, passed = (tuple(after[result]) for result in (Result.FAILED, Result.SUCCESSFUL))
    return Tally(runs=runs, failed_after=failed, passed_after=passed)


def wilson(hits: int, runs: int) -> tuple[float, float]:
    """Where the true share lies, with 95 % confidence (Wilson, 1927)."""
    z = 1.96
    middle = (hits + z * z / 2) / (runs + z * z)
    half = z / (runs + z * z) * math.sqrt(hits * (runs - hits) / runs + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _check(metric: Metric, limit: float, **more: float) -> Check:
    return Check(metric=metric, worse_max=limit, error_probability=ERROR, **more)  # type: ignore[arg-type]


RARE = Side(error_rate=0.002)
SKEWED = Side(score=(5.0, 0.2))
EQUAL = (
    Scenario(name="error rate 5 %, half the readings", check=_check(Metric.ERROR_RATE, 0)),
    Scenario(name="error rate 5 %, a fifth", check=_check(Metric.ERROR_RATE, 0), share=0.2),
    Scenario(
        name="error rate 0.2 %, a twentieth",
        check=_check(Metric.ERROR_RATE, 0),
        candidate=RARE,
        stable=RARE,
        share=0.05,
    ),
    Scenario(name="p99 of latency, a fifth", check=_check(Metric.LATENCY, 1), share=0.2),
    Scenario(name="mean score, half", check=_check(Metric.SCORE, 0)),
    Scenario(
        name="mean score, skewed, a fifth", check=_check(Metric.SCORE, 0), candidate=SKEWED, stable=SKEWED, share=0.2
    ),
    Scenario(name="label drift, ten labels, half", check=_check(Metric.LABEL_DRIFT, 0)),
    Scenario(name="score drift, half", check=_check(Metric.SCORE_DRIFT, 0)),
)
"""Equal versions, and no difference allowed: the hardest case of a candidate within its limit."""

BEYOND = (
    Scenario(
        name="error rate 5 % -> 7.05 %, limit 2 points",
        check=_check(Metric.ERROR_RATE, 0.02),
        candidate=Side(error_rate=0.0705),
    ),
    Scenario(
        name="error rate 0.2 % -> 1.25 %, limit 1 point, a fifth",
        check=_check(Metric.ERROR_RATE, 0.01),
        candidate=Side(error_rate=0.0125),
        stable=RARE,
        share=0.2,
    ),
    Scenario(
        name="p99 of latency 1.26 times, limit 1.25, a fifth",
        check=_check(Metric.LATENCY, 1.25),
        candidate=Side(latency_ms=25.2),
        share=0.2,
    ),
    Scenario(
        name="mean score 0.900 -> 0.8795, limit 0.02",
        check=_check(Metric.SCORE, 0.02),
        candidate=Side(score=(17.59, 2.41)),
    ),
    Scenario(
        name="mean score, skewed, 0.962 -> 0.941, limit 0.02, a fifth",
        check=_check(Metric.SCORE, 0.02),
        candidate=Side(score=(5.0, 0.3135)),
        stable=SKEWED,
        share=0.2,
    ),
    Scenario(
        name="label drift 0.101, limit 0.1", check=_check(Metric.LABEL_DRIFT, 0.1), candidate=Side(labels=tilted(0.101))
    ),
    Scenario(
        name="score drift 0.101, limit 0.1", check=_check(Metric.SCORE_DRIFT, 0.1), candidate=Side(score=shifted(0.101))
    ),
)
"""Worse by just more than is allowed."""

DROPS = tuple(
    (
        Scenario(
            name=f"accuracy 95 % -> 90 %, limit {100 * limit:g}, {name}",
            check=_check(Metric.ERROR_RATE, limit),
            candidate=Side(error_rate=0.10),
            share=share,
        ),
        readings_max,
    )
    for limit, share, name, readings_max in DROP_LIMITS
)
"""Caught after how many readings, and within how many in 95 % of the runs at the latest."""

HEALTHY = (
    Scenario(name="error rate 5 %, limit 2 points, half", check=_check(Metric.ERROR_RATE, 0.02)),
    Scenario(name="error rate 5 %, limit 2 points, a fifth", check=_check(Metric.ERROR_RATE, 0.02), share=0.2),
    Scenario(
        name="error rate 1 %, limit 2 points, half",
        check=_check(Metric.ERROR_RATE, 0.02),
        candidate=Side(error_rate=0.01),
        stable=Side(error_rate=0.01),
    ),
    Scenario(name="p99 of latency, limit 1.25, half", check=_check(Metric.LATENCY, 1.25)),
    Scenario(name="p50 of latency, limit 1.25, half", check=_check(Metric.LATENCY, 1.25, quantile=0.5)),
    Scenario(name="mean score, limit 0.02, half", check=_check(Metric.SCORE, 0.02)),
    Scenario(name="label drift, ten labels, limit 0.1, half", check=_check(Metric.LABEL_DRIFT, 0.1)),
    Scenario(name="score drift, limit 0.1, half", check=_check(Metric.SCORE_DRIFT, 0.1)),
)
"""Equal versions, with something allowed: passed after how many readings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One scenario, what to wait for, and what must hold."""

    scenario: Scenario
    until: Result
    title: str
    rule: Judge = by_rule
    share_max: float | None = None
    """Of the runs that say `until`."""
    readings_p95_max: int | None = None


def parts() -> list[Part]:
    failed, passed = Result.FAILED, Result.SUCCESSFUL
    titles = (
        "equal versions failed",
        "too bad, and passed",
        "a drop caught",
        "a healthy candidate passed",
        "for comparison",
    )
    return [
        *(Part(scenario=one, until=failed, title=titles[0], share_max=ERROR) for one in EQUAL),
        *(Part(scenario=one, until=passed, title=titles[1], share_max=ERROR) for one in BEYOND),
        *(Part(scenario=one, until=failed, title=titles[2], readings_p95_max=most) for one, most in DROPS),
        *(Part(scenario=one, until=passed, title=titles[3]) for one in HEALTHY),
        Part(
            scenario=replace(EQUAL[0], name="equal versions failed by the test for one look"),
            until=failed,
            title=titles[4],
            rule=by_one_look,
        ),
    ]


def run(part: Part, *, runs: int, seed: int) -> tuple[str, bool]:
    """The line of a part, and whether what must hold holds."""
    seen = tally(part.scenario, runs=runs, seed=seed, until=part.until, rule=part.rule)
    after = sorted(seen.after(part.until)) + [READINGS_MAX + 1] * (runs - len(seen.after(part.until)))
    hits = len(seen.after(part.until))
    low, high = wilson(hits, runs)
    line = f"  {part.scenario.name:<56}{hits:>5} of {runs} = {100 * hits / runs:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    holds = True
    if part.share_max is not None:
        holds = hits / runs <= part.share_max
        line += f"   limit {100 * part.share_max:g} % {'holds' if holds else 'MISSED'}"
    elif hits > runs / 2:
        line += f"   readings p50 {_readings(median(after))}, p95 {_readings(percentile(after, 0.95))}"
    if part.readings_p95_max is not None:
        holds = percentile(after, 0.95) <= part.readings_p95_max
        line += f"   limit {part.readings_p95_max:,} {'holds' if holds else 'MISSED'}"
    return line, holds


def _readings(count: float) -> str:
    return f"{count:,.0f}" if count <= READINGS_MAX else f"over {READINGS_MAX:,}"


def main() -> int:
    """Exit code 0 if everything that must hold holds."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.analysis", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="simulated analyses of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    began, title, held = time.monotonic(), "", True
    print(
        f"{arguments.runs} analyses each, a look every {LOOK_EVERY} readings up to {READINGS_MAX:,}, {100 * ERROR:g} % error"
    )
    work = parts()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        results = pool.imap(partial(run, runs=arguments.runs, seed=arguments.seed), work)
        for part, (line, holds) in zip(work, results, strict=True):
            if part.title != title:
                title = part.title
                print(f"{title}:")
            print(line, flush=True)
            held = held and holds
    busy = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{time.monotonic() - began:.0f} s, {busy.ru_utime + busy.ru_stime:.0f} s of them computing, in all processes"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
