"""A rollout as a value, and the table of what may happen to it. `rollout_machine` applies commands to it.

Picture a train with a timetable. The strategy is the timetable; `phase` and `stage` say where the train is; `step` counts
every move, and each order names the step it was given for, so that an order written for the last station is not carried out
at this one. Two kinds of people give orders: callers, whose orders may come at any time, and the authority, which moves
the train when what the timetable asks for is there. An abort needs no timetable, and nothing overtakes it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from consistency_service.core.strategy import Strategy
from edge_client.protocol.models import Assignment

ROLLOUTS_MAX: Final = 1_000
"""Kept of a region; those that ended are forgotten, oldest first."""
RUNNING_MAX: Final = 100
TRANSITIONS_MAX: Final = 500
"""Kept of one rollout; a retry without end drops the oldest."""
REASON_CHARS_MAX: Final = 1_000
EVIDENCE_BYTES_MAX: Final = 2 * 1024
"""Of one transition; what is larger is dropped, and counted as `evidence_dropped`."""
ACCRUAL_MS_MAX: Final = 60_000
TARGETS_MAX: Final = 16
STAGES_MAX: Final = 50


class Phase(StrEnum):
    DRAFT = "draft"
    """Written down; nothing has begun."""
    PREFETCHING = "prefetching"
    """The edges of `stage` get ready; the stage before, if any, goes on."""
    BAKING = "baking"
    """`stage` is active, and watched."""
    WAITING = "waiting"
    """`stage` has passed; somebody must promote it."""
    PAUSED = "paused"
    """Held where it was."""
    ABORTING = "aborting"
    """The return to stable is decided, and not active yet."""
    ABORTED = "aborted"
    """Somebody ended it: every edge is assigned what it was before, from the instant of the return."""
    FAILED = "failed"
    """A stage failed; otherwise as aborted."""
    COMPLETED = "completed"
    """The candidate is stable for everybody, from the instant of the last activation."""

    @property
    def ended(self) -> bool:
        return self in {Phase.ABORTED, Phase.FAILED, Phase.COMPLETED}


class Move(StrEnum):
    """What makes a rollout go from one phase to another; commands of callers first, then those of the authority."""

    START = "start"
    """Get the edges of the first stage ready."""
    PAUSE = "pause"
    """Stay as it is; times stop, edges keep what they serve."""
    RESUME = "resume"
    """Go on where it was paused."""
    PROMOTE = "promote"
    """On to the stage after the active one, or with `to_end` through all that are left, whatever bake time, analysis and
    gate ask for. Edges get ready as for every stage."""
    ABORT = "abort"
    """Back to stable. Nothing overtakes it, and nothing but a retry follows."""
    RETRY = "retry"
    """From the first stage again, with the same edges first."""
    ACTIVATE = "activate"
    """Edges are ready: the stage is decided, and its instant."""
    PASS = "pass"  # noqa: S105 -- no password
    """Baked, analysed, successful: on to the next stage, or to its gate."""
    FAIL = "fail"
    """A stage failed, or too few of its edges got ready; the strategy's `on_failure` decides what that leads to."""
    HOLD = "hold"
    """An analysis stayed inconclusive."""
    RETURN = "return"
    """Stable again, for everybody, at one instant."""
    COMPLETE = "complete"
    """The candidate becomes stable."""


CALLERS: Final = frozenset({Move.START, Move.PAUSE, Move.RESUME, Move.PROMOTE, Move.ABORT, Move.RETRY})
"""What people may order; everything else is the authority's."""
STEPS: Final = frozenset({Move.PASS, Move.FAIL, Move.HOLD})
"""What the authority decides without activating anything."""

RUNNING: Final = (Phase.PREFETCHING, Phase.BAKING, Phase.WAITING)

TRANSITIONS: Final[dict[Phase, dict[Move, tuple[Phase, ...]]]] = {
    Phase.DRAFT: {Move.START: (Phase.PREFETCHING,), Move.ABORT: (Phase.ABORTED,)},
    Phase.PREFETCHING: {
        Move.ACTIVATE: (Phase.BAKING,),
        Move.COMPLETE: (Phase.COMPLETED,),
        Move.PAUSE: (Phase.PAUSED,),
        Move.FAIL: (Phase.PAUSED, Phase.ABORTING, Phase.FAILED),
        Move.ABORT: (Phase.ABORTING, Phase.ABORTED),
    },
    Phase.BAKING: {
        Move.PASS: (Phase.PREFETCHING, Phase.WAITING),
        Move.PROMOTE: (Phase.PREFETCHING,),
        Move.PAUSE: (Phase.PAUSED,),
        Move.HOLD: (Phase.PAUSED,),
        Move.FAIL: (Phase.PAUSED, Phase.ABORTING),
        Move.ABORT: (Phase.ABORTING,),
    },
    Phase.WAITING: {
        Move.PROMOTE: (Phase.PREFETCHING,),
        Move.PAUSE: (Phase.PAUSED,),
        Move.FAIL: (Phase.PAUSED, Phase.ABORTING),
        Move.ABORT: (Phase.ABORTING,),
    },
    Phase.PAUSED: {
        Move.RESUME: RUNNING,
        Move.PROMOTE: (Phase.PREFETCHING,),
        Move.ABORT: (Phase.ABORTING, Phase.ABORTED),
    },
    Phase.ABORTING: {Move.RETURN: (Phase.ABORTED, Phase.FAILED)},
    Phase.ABORTED: {Move.RETRY: (Phase.PREFETCHING,)},
    Phase.FAILED: {Move.RETRY: (Phase.PREFETCHING,)},
    Phase.COMPLETED: {},
}
"""Absence is the refusal. Several targets: which one depends on the strategy, or on whether anything was activated yet."""


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a model came by an assignment, and where a rollback from there leads."""

    activation: int = 0
    """The revision of the activation that made it. Models of one activation are a bundle: they are rolled back together."""
    rollout_id: str = ""
    """Of the rollout that made it, if one did."""
    previous: Assignment | None = None
    previous_generation: int = 0
    """Under which generation that was active."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a rollout: what it moves from and to."""

    model: str
    candidate: str
    base: Assignment
    """What was assigned when the rollout started, and is again when it is aborted."""
    base_generation: int = 0
    """Under which generation that was."""
    origin: Origin = Origin()
    """How the base came to be, which an abort restores as well."""

    @property
    def before(self) -> Assignment | None:
        """What a rollback would have led to when the rollout started."""
        return self.origin.previous


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One move: who, why, when by wall clock, with which numbers."""

    step: int
    revision: int
    move: Move
    phase: Phase
    """After it."""
    stage: int
    at_unix_ms: int
    author: str
    """`""`: the authority, by itself."""
    reason: str = ""
    evidence: dict[str, Any] = {}


class Rollout(msgspec.Struct, kw_only=True):
    """One rollout. Mutable, and touched by the machine only."""

    rollout_id: str
    targets: tuple[Target, ...]
    strategy: Strategy
    salt: str
    created_at_unix_ms: int
    author: str
    phase: Phase = Phase.DRAFT
    stage: int = 0
    """Index of the stage being prepared or active; `len(stages)` when the candidate is being made stable."""
    active_stage: int | None = None
    """The newest stage that was activated since the start or retry; None: nothing was."""
    step: int = 0
    to_end: bool = False
    """Promoted to the end: the remaining stages are passed over, their readiness is not."""
    resume_to: Phase | None = None
    ends_as: Phase | None = None
    """What the return to stable leads to."""
    baked_ms: int = 0
    """How long the active stage was healthy, on the authorities' clocks; a pause stops it."""
    waited_ms: int = 0
    """How long the phase has lasted, likewise."""
    activation: int | None = None
    """The revision of its newest activation."""
    transitions: list[Transition] = []
    trace: str = ""
    """The traceparent of its creation: all that comes of it, on whichever node, is one trace. Added later."""

    @property
    def running(self) -> bool:
        """It holds its models: nobody else may activate them."""
        return self.phase is not Phase.DRAFT and not self.phase.ended

    @property
    def coming_stage(self) -> int:
        """The one after the active stage: there is no other way on."""
        return 0 if self.active_stage is None else self.active_stage + 1

    def versions_held(self, model: str) -> tuple[str, ...]:
        """The versions of this model that it may still assign, or restore as what a rollback leads to."""
        return tuple(
            version
            for target in self.targets
            if target.model == model
            for version in (
                target.candidate,
                *target.base.versions(),
                *(target.before.versions() if target.before else ()),
            )
        )

    def assignment_of(self, target: Target, *, stage: int) -> Assignment:
        """What a stage assigns; past the last one the candidate is stable. Never depends on how the stage was reached."""
        if stage >= len(self.strategy.stages):
            return Assignment(stable=target.candidate)
        return Assignment(
            stable=target.base.stable,
            candidate=target.candidate,
            share_bp=self.strategy.stages[stage].share_bp,
            salt=self.salt,
            cohort=self.strategy.cohort_of(stage),
        )

    def __repr__(self) -> str:
        stage = f"{self.stage + 1}/{len(self.strategy.stages)}"
        return f"<Rollout {self.rollout_id} {self.phase.value} stage={stage} step={self.step}>"


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing starts and nothing is promoted while this is in force; aborts and rollbacks are never stopped."""

    author: str
    reason: str
    since_unix_ms: int
