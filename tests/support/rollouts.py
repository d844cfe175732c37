"""A region with rollouts, driven by hand: callers order, the authority proposes, and its activations settle when told to."""

from __future__ import annotations

from typing import Any

from consistency_service.core import commands as c
from consistency_service.core.machine import MetadataMachine
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import Move, Phase, Rollout
from consistency_service.core.state import State
from consistency_service.core.strategy import Stage, Strategy
from edge_client.protocol.models import Policy
from tests.support.region import MS, activation, assume, bootstrapped, version

LEAD_NS = 2_006 * MS
STRATEGY = Strategy(stages=(Stage(share_bp=100), Stage(share_bp=1_000), Stage(share_bp=10_000)))


class RolloutRegion:
    """Models `m` and `n`, both with 1.0.0 active, and 2.0.0 and 3.0.0 registered; rollouts go to 2.0.0."""

    def __init__(self) -> None:
        self.machine: MetadataMachine = bootstrapped()
        self.machine.apply(c.CreateModel(model="n", policy=Policy()))
        for name in ("1.0.0", "2.0.0", "3.0.0"):
            self.machine.apply(c.RegisterVersion(model="n", version=version(name)))
        self.assumption = assume(self.machine, clock_id="a")
        self.number = 0
        for model in ("m", "n"):
            self.activate("1.0.0", model=model)
            self.settle()

    @property
    def state(self) -> State:
        return self.machine.state

    def apply(self, command: c.AnyCommand) -> Outcome:
        outcome = self.machine.apply(command)
        self.machine.check_invariants()
        return outcome

    def rollout(self, rollout_id: str = "r") -> Rollout:
        return self.state.rollouts[rollout_id]

    # ---- callers

    def create(
        self, rollout_id: str = "r", *, models: dict[str, str] | None = None, strategy: Strategy = STRATEGY, **more: Any
    ) -> Outcome:
        models = {"m": "2.0.0"} if models is None else models
        return self.apply(
            c.CreateRollout(rollout_id=rollout_id, models=models, strategy=strategy, **{"author": "ann"} | more)
        )

    def order(self, move: Move, rollout_id: str = "r", **more: Any) -> Outcome:
        return self.apply(c.MoveRollout(rollout_id=rollout_id, move=move, **{"author": "ann"} | more))

    def freeze(self, *, frozen: bool = True) -> Outcome:
        return self.apply(c.SetFreeze(frozen=frozen, author="eve", reason="holidays"))

    # ---- the authority

    def fence(self) -> dict[str, Any]:
        self.number += 1
        return {"clock_id": "a", "assumption": self.assumption, "number": self.number}

    def step(self, move: Move, rollout_id: str = "r", *, step: int | None = None, **more: Any) -> Outcome:
        step = self.rollout(rollout_id).step if step is None else step
        return self.apply(
            c.StepRollout(rollout_id=rollout_id, step=step, move=move, **{"reason": "so"} | more, **self.fence())
        )

    def advance(self, rollout_id: str = "r", *, step: int | None = None, **more: Any) -> Outcome:
        """Propose the activation that the rollout is about."""
        step = self.rollout(rollout_id).step if step is None else step
        return self.apply(
            c.ActivateRollout(
                rollout_id=rollout_id, step=step, effective_at_ns=5_000 * MS, lead_ns=LEAD_NS, **more, **self.fence()
            )
        )

    def accrue(
        self, rollout_id: str = "r", *, baked_ms: int = 0, waited_ms: int = 1_000, step: int | None = None
    ) -> Outcome:
        step = self.rollout(rollout_id).step if step is None else step
        return self.apply(
            c.AccrueRollout(rollout_id=rollout_id, step=step, baked_ms=baked_ms, waited_ms=waited_ms, **self.fence())
        )

    def activate(self, stable: str, *, model: str = "m") -> Outcome:
        return self.apply(activation(stable, model=model, **self.fence()))

    def settle(self) -> Outcome:
        """Every pending activation is the present one."""
        settled = tuple(self.state.pendings())
        return self.apply(c.ConfirmAuthority(t0_ns=9_000 * MS, settled=settled, **self.fence()))

    # ---- whole ways

    def bring_to(self, phase: Phase, *, strategy: Strategy = STRATEGY, models: dict[str, str] | None = None) -> Rollout:
        """Rollout `r` in this phase, at its first stage where that has one; everything settled."""
        self.create(start=False, strategy=strategy, models=models)
        for move in _WAYS[phase]:
            if move in {Move.ACTIVATE, Move.RETURN, Move.COMPLETE}:
                assert self.advance().ok
                self.settle()
            elif move in {Move.PASS, Move.FAIL, Move.HOLD}:
                assert self.step(move).ok
            else:
                assert self.order(move).ok
        assert self.rollout().phase is phase
        return self.rollout()


_TO_BAKING = (Move.START, Move.ACTIVATE)
_WAYS: dict[Phase, tuple[Move, ...]] = {
    Phase.DRAFT: (),
    Phase.PREFETCHING: (Move.START,),
    Phase.BAKING: _TO_BAKING,
    Phase.WAITING: (*_TO_BAKING, Move.PASS),
    Phase.PAUSED: (*_TO_BAKING, Move.PAUSE),
    Phase.ABORTING: (*_TO_BAKING, Move.ABORT),
    Phase.ABORTED: (*_TO_BAKING, Move.ABORT, Move.RETURN),
    Phase.FAILED: (*_TO_BAKING, Move.FAIL, Move.RETURN),
    Phase.COMPLETED: (*_TO_BAKING, *(Move.PASS, Move.ACTIVATE) * 2, Move.PASS, Move.COMPLETE),
}
