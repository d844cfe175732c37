"""Strategies as people write them, and what else is asked about rollouts.

People write `1%`, `100bp`, `30s`; what is kept is basis points and milliseconds, and a plain number means just these. What
cannot be read is a fault with its place, like everything else that is wrong with a strategy, so that all is told at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from consistency_service.api.schemas import MS_MAX, Name, few
from consistency_service.core.rollout import REASON_CHARS_MAX, STAGES_MAX, TARGETS_MAX
from consistency_service.core.strategy import (
    Check,
    Gate,
    Metric,
    OnFailure,
    Prefetch,
    Stage,
    Stragglers,
    Strategy,
)
from consistency_service.core.strategy_faults import CHECKS_MAX, FAULTS_MAX, SAMPLES_MAX, URL_CHARS_MAX, Fault
from edge_client.protocol.bucketing import CohortSelector

SITES_MAX: Final = 64
_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_NUMBER: Final = r"(-?[0-9]{1,12}(?:\.[0-9]{1,6})?)"
_SHARE: Final = re.compile(rf"{_NUMBER}\s*(%|bp)", re.ASCII)
_DURATION: Final = re.compile(rf"{_NUMBER}\s*(ms|s|m|h|d)", re.ASCII)
_PERCENT: Final = re.compile(rf"{_NUMBER}\s*%", re.ASCII)


def _share_bp(value: Any) -> int:
    """Basis points."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MS_MAX:
        return value
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a share is written as "1%", "100bp" or a number of basis points')
    share_bp = float(match.group(1)) * (100 if match.group(2) == "%" else 1)
    if abs(share_bp - round(share_bp)) > 1e-6:
        raise ValueError("a share is a whole number of basis points: hundredths of a percent")
    return round(share_bp)


def duration_ms(value: Any) -> int:
    """Milliseconds of a duration as people write it. Raises `ValueError`."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MS_MAX:
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a duration is written as "500ms", "30s", "5m", "1h", "2d" or a number of milliseconds')
    found_ms = round(float(match.group(1)) * _UNITS[match.group(2)])
    if abs(found_ms) > MS_MAX:
        raise ValueError("a duration is at most some hundred thousand years")
    return found_ms


def _ratio(value: Any) -> float:
    """A number; with a percent sign, a hundredth of it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("the number is too large") from None
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a number, such as 0.02 or 1.25, or a percentage, such as "2%"')
    return float(match.group(1)) / 100


ShareBp = Annotated[
    int,
    BeforeValidator(_share_bp),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_SHARE.pattern}$"}, {"type": "integer"}], "examples": ["5%"]}
    ),
]
DurationMs = Annotated[
    int,
    BeforeValidator(duration_ms),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^{_DURATION.pattern}$"}, {"type": "integer"}], "examples": ["30s"]}
    ),
]
Ratio = Annotated[
    float,
    BeforeValidator(_ratio),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_PERCENT.pattern}$"}]}),
]


class Written(BaseModel):
    """Base of what people write: strict in names, forgiving in how numbers are spelled."""

    model_config = ConfigDict(extra="forbid")


class CohortWritten(Written):
    """Which edges: any of the sites (none: every site) with all of the labels."""

    sites: Annotated[list[str], Field(max_length=SITES_MAX)] = []
    labels: Annotated[dict[str, str], BeforeValidator(few)] = {}

    def value(self) -> CohortSelector:
        return CohortSelector(sites=tuple(self.sites), labels=self.labels)


class CheckWritten(Written):
    """One thing that an analysis looks at. See `docs/explanation/analysis.md`."""

    metric: Metric
    worse_max: Annotated[
        Ratio | None, Field(description="Against stable: the largest difference that is harmless.")
    ] = None
    bound: Annotated[Ratio | None, Field(description="Against a number, without stable.")] = None
    quantile: Annotated[Ratio, Field(description="Of latency.")] = 0.99
    samples_min: Annotated[int, Field(strict=True, ge=1, le=SAMPLES_MAX)] = 50
    error_probability: Ratio = 0.05
    url: Annotated[str, Field(max_length=URL_CHARS_MAX, description="Of an external check.")] = ""
    interval: Annotated[DurationMs, Field(description="Of an external check.")] = 10_000

    def value(self) -> Check:
        named = {name: getattr(self, name) for name in self.model_fields_set - {"interval"}}
        return Check(**named, interval_ms=self.interval)


Checks = Annotated[list[CheckWritten], Field(max_length=CHECKS_MAX)]


class StageWritten(Written):
    """Who gets the candidate, for how long it must stay healthy, and who lets it pass."""

    share: Annotated[ShareBp, Field(description="Of the cohort; never smaller than in the stage before.")]
    bake: DurationMs = 0
    gate: Gate = Gate.AUTO
    cohort: Annotated[CohortWritten | None, Field(description="Instead of the strategy's.")] = None
    analysis: Annotated[Checks | None, Field(description="Instead of the strategy's.")] = None

    def value(self) -> Stage:
        return Stage(
            share_bp=self.share,
            bake_ms=self.bake,
            gate=self.gate,
            cohort=None if self.cohort is None else self.cohort.value(),
            analysis=None if self.analysis is None else tuple(check.value() for check in self.analysis),
        )


class PrefetchWritten(Written):
    """When the edges of a coming stage count as ready."""

    ready_min: ShareBp = Prefetch().ready_min_bp
    deadline: DurationMs = Prefetch().deadline_ms

    def value(self) -> Prefetch:
        return Prefetch(ready_min_bp=self.ready_min, deadline_ms=self.deadline)


class StrategyWritten(Written):
    """How a rollout is to go."""

    model_config = ConfigDict(extra="forbid", title="Strategy")

    stages: Annotated[list[StageWritten], Field(max_length=STAGES_MAX)]
    cohort: CohortWritten = CohortWritten()
    prefetch: PrefetchWritten = PrefetchWritten()
    stragglers: Stragglers = Stragglers.PROCEED
    progress_deadline: DurationMs = 1_800_000
    on_failure: OnFailure = OnFailure.ABORT
    analysis: Checks = []

    def value(self) -> Strategy:
        """The same, as it is kept."""
        return Strategy(
            stages=tuple(stage.value() for stage in self.stages),
            cohort=self.cohort.value(),
            prefetch=self.prefetch.value(),
            stragglers=self.stragglers,
            progress_deadline_ms=self.progress_deadline,
            on_failure=self.on_failure,
            analysis=tuple(check.value() for check in self.analysis),
        )


class Unreadable:
    """A strategy that has not even the form of one, and why."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults


def _told(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Faults of form are kept beside the others, instead of ending the request before these are found."""
    try:
        return handler(value)
    except ValidationError as error:
        return Unreadable(faults_of(error.errors(include_url=False, include_context=False, include_input=False)))


def faults_of(errors: Sequence[Any]) -> tuple[Fault, ...]:
    """Faults with places as people write them, `stages[2].share`."""
    return tuple(
        Fault(place=place_of(error["loc"]) or "strategy", message=_message(error)) for error in errors[:FAULTS_MAX]
    )


def place_of(path: Iterable[Any]) -> str:
    place = ""
    for part in path:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    return place[:200]


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "missing":
        return "it is missing"
    return str(error["msg"]).removeprefix("Value error, ")[:300]


def strategy_schema() -> dict[str, Any]:
    """The JSON schema of a strategy, for editors: `python -m consistency_service.api.rollout_schemas` prints it."""
    schema = TypeAdapter(StrategyWritten).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


Reason = Annotated[str, Field(max_length=REASON_CHARS_MAX)]


class RolloutAsked(BaseModel):
    """A candidate for each model, and how they are to be rolled out; all of them change at the same instants."""

    model_config = ConfigDict(extra="forbid")

    models: Annotated[
        dict[str, str], Field(min_length=1, max_length=TARGETS_MAX, examples=[{"text-detector": "2.0.0"}])
    ]
    strategy: Annotated[StrategyWritten, WrapValidator(_told)]
    start: bool = True
    reason: Reason = ""
    rollout_id: Annotated[
        Name | None, Field(description="Decides which edges come first; none: drawn. `plan` says which it took.")
    ] = None


class MoveAsked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Reason = ""


class PromotionAsked(MoveAsked):
    to_end: bool = False
    """Through all stages that are left."""


class FreezeAsked(MoveAsked):
    frozen: bool


if __name__ == "__main__":
    print(json.dumps(strategy_schema(), indent=2))
