"""How a rollout is to go: stages, readiness, bake times, what is compared, and what happens when it goes wrong. Values only.

Times are milliseconds on the authority's clock, shares are basis points of the cohort. Nothing here is checked against a
region: see `strategy_faults`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from edge_client.protocol.bucketing import SHARE_BP_MAX, CohortSelector


class Gate(StrEnum):
    """Who lets a rollout go on when a stage has baked and its analysis is successful."""

    AUTO = "auto"
    MANUAL = "manual"


class OnFailure(StrEnum):
    """What a failed stage leads to."""

    ABORT = "abort"
    """Back to stable, at one instant."""
    PAUSE = "pause"
    """Stay as it is until somebody decides."""


class Stragglers(StrEnum):
    """What happens at the prefetch deadline if fewer edges are ready than asked for."""

    PROCEED = "proceed"
    """Go on without them: they serve what they have, as fallback, until they are ready."""
    FAIL = "fail"
    """The stage has failed."""


class Metric(StrEnum):
    """What a check looks at."""

    ERROR_RATE = "error_rate"
    """Of the readings of which the application said whether they were right, the share that was not."""
    LATENCY = "latency"
    """A quantile of the reported latencies, in milliseconds."""
    SCORE = "score"
    """The mean of the reported scores."""
    LABEL_DRIFT = "label_drift"
    """Population stability index between the labels of candidate and stable."""
    SCORE_DRIFT = "score_drift"
    """Kolmogorov-Smirnov distance between the scores of candidate and stable."""
    EXTERNAL = "external"
    """Whatever answers at `url`."""


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that an analysis looks at: candidate against stable over the same time, or against a bound.

    Exactly one limit is given: `worse_max` compares (the largest difference that is harmless: an increase of the error
    rate, a drop of the mean score, a ratio of latency quantiles above 1, a drift), `bound` does not (the largest error rate
    or latency, the smallest mean score). A drift is from stable in any case, so there the two mean the same. An external
    check takes neither, and says itself whether it is successful.
    """

    metric: Metric
    worse_max: float | None = None
    bound: float | None = None
    quantile: float = 0.99
    """Of latency only."""
    samples_min: int = 50
    """Nothing is said before both sides have reported so many."""
    error_probability: float = 0.05
    """How likely the check may fail a candidate that is within the limit, or pass one that is not, however long it runs."""
    url: str = ""
    """Of `external` only: asked by POST every `interval_ms`; see the reference for what is sent and understood."""
    interval_ms: int = 10_000

    @property
    def compares(self) -> bool:
        """It needs somebody who is on stable."""
        return self.worse_max is not None or self.metric in {Metric.LABEL_DRIFT, Metric.SCORE_DRIFT}


class Stage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step: who gets the candidate, for how long it must stay healthy, and who lets it pass."""

    share_bp: int
    bake_ms: int = 0
    gate: Gate = Gate.AUTO
    cohort: CohortSelector | None = None
    """Narrower or other edges than the strategy's; None: the strategy's."""
    analysis: tuple[Check, ...] | None = None
    """None: the strategy's, as far as there is a stable to compare with."""


class Prefetch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When the edges of a coming stage count as ready."""

    ready_min_bp: int = SHARE_BP_MAX
    """Of the live edges that would get the candidate, the share that must have it verified, loaded and warm."""
    deadline_ms: int = 300_000


class Strategy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole plan. After its last stage the candidate becomes stable for everybody."""

    stages: tuple[Stage, ...]
    cohort: CohortSelector = CohortSelector()
    prefetch: Prefetch = Prefetch()
    stragglers: Stragglers = Stragglers.PROCEED
    progress_deadline_ms: int = 1_800_000
    """A stage that has not passed so long after its activation, manual gates and pauses not counted, has failed; if only
    some check is inconclusive, it pauses."""
    on_failure: OnFailure = OnFailure.ABORT
    analysis: tuple[Check, ...] = ()

    def cohort_of(self, stage: int) -> CohortSelector:
        return self.stages[stage].cohort or self.cohort

    def checks_of(self, stage: int) -> tuple[Check, ...]:
        """What is analysed in a stage. Comparisons inherited from the strategy fall away where nobody is left on stable."""
        own = self.stages[stage].analysis
        if own is not None:
            return own
        everybody = self.reaches_everybody(stage)
        return tuple(check for check in self.analysis if not everybody or not check.compares)

    def reaches_everybody(self, stage: int) -> bool:
        """Nobody is left on stable in this stage."""
        return self.stages[stage].share_bp == SHARE_BP_MAX and self.cohort_of(stage) == CohortSelector()
