"""What should the authority do about a rollout now? Asked every moment; the answer is one decision, or nothing.

Picture the guard on the platform: passengers ready, doors, the signal; he waves or he does not. He keeps no notes. All
that he goes by is the rollout as it is replicated and the facts of this moment, so that whoever takes over in the
middle decides as he would have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from consistency_service.core.rollout import Move, Phase, Rollout
from consistency_service.core.strategy import Stragglers
from edge_client.protocol.bucketing import SHARE_BP_MAX

ACCRUE_MS: Final = 1_000
"""Time is written down in pieces of about this length: what a failover loses at most."""
ACCRUE_MS_MAX: Final = 5_000
"""Of one look; an authority that did not look for longer did not watch either."""


class StageResult(StrEnum):
    """What the analysis of the active stage says so far; named as the analysis names its results."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    NONE = "none"
    """Nothing is analysed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the authority's node sees at this moment."""

    ready_count: int = 0
    """Of the live edges that would get the candidate in the coming stage: those that have it verified, loaded and warm."""
    waiting_count: int = 0
    failed_count: int = 0
    deaf: bool = False
    """Nobody is heard who was: that no edge is missing means nothing."""
    activation_pending: bool = False
    """An activation of some target is decided and not settled."""
    elapsed_ms: int = 0
    """Since the time that was last accrued, or since the step began or was taken over here. More than `ACCRUE_MS_MAX`
    counts as that."""
    analysis: StageResult = StageResult.NONE
    """Of the active stage."""
    analysis_reason: str = ""
    analysis_evidence: dict[str, Any] = field(default_factory=dict)
    frozen: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "elapsed_ms", min(self.elapsed_ms, ACCRUE_MS_MAX))

    @property
    def live_count(self) -> int:
        return self.ready_count + self.waiting_count + self.failed_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Accrue:
    """Write down that so much time has passed."""

    baked_ms: int
    waited_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Take this move: PASS, FAIL or HOLD as a `StepRollout`; ACTIVATE, COMPLETE or RETURN as an `ActivateRollout`."""

    move: Move
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


Decision = Accrue | Take


def next_step(rollout: Rollout, facts: Facts) -> Decision | None:
    """What to propose now; None: nothing. The same for the same rollout and facts."""
    if rollout.phase is Phase.ABORTING:
        return None if facts.activation_pending else Take(move=Move.RETURN, reason=rollout.transitions[-1].reason)
    if rollout.phase not in {Phase.PREFETCHING, Phase.BAKING, Phase.WAITING}:
        return None
    if rollout.active_stage is not None and facts.analysis is StageResult.FAILED:
        return Take(move=Move.FAIL, reason=facts.analysis_reason, evidence=facts.analysis_evidence)
    if rollout.phase is Phase.PREFETCHING:
        return _prefetching(rollout, facts)
    return _baking(rollout, facts) if rollout.phase is Phase.BAKING else None


def _prefetching(rollout: Rollout, facts: Facts) -> Decision | None:
    """Activate when enough edges are ready, or when the strategy goes on without the others."""
    if facts.frozen:
        return None
    strategy, stage = rollout.strategy, rollout.stage
    evidence = {
        "ready": facts.ready_count,
        "waiting": facts.waiting_count,
        "failed": facts.failed_count,
        "waited_ms": rollout.waited_ms + facts.elapsed_ms,
    }
    last = stage == len(strategy.stages)
    coming = "everybody" if last else f"stage {stage + 1} of {len(strategy.stages)}"
    seen = f"{coming}: {facts.ready_count} of {facts.live_count} live edges are ready"
    go_on = Take(move=Move.COMPLETE if last else Move.ACTIVATE, reason=seen, evidence=evidence)
    if not facts.deaf and facts.ready_count * SHARE_BP_MAX >= strategy.prefetch.ready_min_bp * facts.live_count:
        return None if facts.activation_pending else go_on
    if rollout.waited_ms + facts.elapsed_ms < strategy.prefetch.deadline_ms:
        return _accrual(facts, baked=False)
    late = f"{seen} at the deadline"
    if strategy.stragglers is Stragglers.FAIL or not facts.ready_count:
        return Take(move=Move.FAIL, reason=late, evidence=evidence)
    if facts.activation_pending:
        return None
    return Take(move=go_on.move, reason=f"{late}; going on without the others", evidence=evidence)


def _baking(rollout: Rollout, facts: Facts) -> Decision | None:
    """Pass when it was healthy for long enough and the analysis is successful."""
    strategy, stage = rollout.strategy, rollout.stage
    name = f"stage {stage + 1} of {len(strategy.stages)}"
    bake_ms = strategy.stages[stage].bake_ms
    convinced = facts.analysis in {StageResult.SUCCESSFUL, StageResult.NONE}
    evidence = {"baked_ms": rollout.baked_ms} | facts.analysis_evidence
    if not facts.activation_pending:
        if rollout.to_end:
            return Take(move=Move.PASS, reason=f"{name}: promoted to the end", evidence=evidence)
        if rollout.baked_ms >= bake_ms and convinced:
            return Take(move=Move.PASS, reason=facts.analysis_reason or f"{name}: baked", evidence=evidence)
        if rollout.baked_ms < bake_ms <= rollout.baked_ms + facts.elapsed_ms:
            return _accrual(facts, baked=True, least_ms=1)
    waited_ms = rollout.waited_ms + facts.elapsed_ms
    if waited_ms >= strategy.progress_deadline_ms:
        if facts.analysis is StageResult.INCONCLUSIVE:
            reason = f"{name}: inconclusive at the progress deadline: {facts.analysis_reason}"
            return Take(move=Move.HOLD, reason=reason, evidence=evidence)
        reason = f"{name}: healthy for {rollout.baked_ms} ms of {bake_ms} ms at the progress deadline"
        return Take(move=Move.FAIL, reason=reason, evidence=evidence)
    return _accrual(facts, baked=not facts.activation_pending)


def _accrual(facts: Facts, *, baked: bool, least_ms: int = ACCRUE_MS) -> Accrue | None:
    if facts.elapsed_ms < least_ms:
        return None
    return Accrue(baked_ms=facts.elapsed_ms if baked else 0, waited_ms=facts.elapsed_ms)
