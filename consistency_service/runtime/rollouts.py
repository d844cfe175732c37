"""Moves rollouts on: on the authority's node, four times a second, facts in, at most one order per rollout out.

Picture a dispatcher with a board of trains: he looks at all of them in turn, and gives each at most one order at a time.
If he cannot tell whether an order arrived, he gives no other, but looks again: the train says where it stands, and an
order for a station that has passed is refused. Whoever takes his chair in the middle goes on from the same board.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from consistency_service.core.analysis import ExternalAnswer
from consistency_service.core.authority import Authority
from consistency_service.core.commands import (
    AccrueRollout,
    ActivateRollout,
    AnyCommand,
    CreateRollout,
    MoveRollout,
    StepRollout,
)
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import REASON_CHARS_MAX, RUNNING_MAX, STEPS, Move, Phase, Rollout
from consistency_service.core.rollout_steps import Accrue, Decision, Facts, StageResult, next_step
from consistency_service.errors import NotLeaderError, UnknownOutcomeError
from consistency_service.runtime.external_checks import ExternalChecks
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock, WebCaller
from consistency_service.runtime.rollout_facts import (
    Buckets,
    Judged,
    Live,
    Tally,
    evidence_of,
    exposure_of,
    judged,
    live_of,
    readiness_of,
)
from consistency_service.runtime.waking import wait_set

_log = logging.getLogger(__name__)
MS: Final = 1_000_000
TICK_S: Final = 0.25
JUDGE_NS: Final = 500 * MS
"""How often sums are weighed again, if there are new ones."""
PROPOSAL_TIMEOUT_MS: Final = 5_000
LISTEN_NS: Final = 3_000 * MS
"""Every living edge has reported once in this time; before, a node that has just started cannot tell who is not ready."""
WATCHED: Final = (Phase.PREFETCHING, Phase.BAKING, Phase.WAITING)
_WITH_NUMBERS: Final = frozenset({Move.FAIL, Move.HOLD, Move.PASS, Move.RETURN, Move.COMPLETE})


@dataclass(slots=True)
class _Seen:
    """What this life of the authority keeps of one rollout; lost with it, and with at most a second of time."""

    step: int
    since_ns: int
    """Since when time is not accrued yet."""
    judged_at_ns: int = 0
    judged: Judged | None = None
    proposal: asyncio.Task[None] | None = None

    def not_written(self, *, since_ns: int, until_ns: int) -> None:
        """The order that was to write this time down was refused: it is to be accrued still, if nothing began anew since."""
        if self.since_ns == until_ns:
            self.since_ns = since_ns


class RolloutDriver:
    """Runs on every node, acts on the authority's. `counters` tell what became of its orders."""

    def __init__(
        self, *, metadata: Metadata, authority: Authority, fleet: FleetDriver, clock: Clock, web: WebCaller | None
    ) -> None:
        self._metadata = metadata
        self._authority = authority
        self._fleet = fleet
        self._clock = clock
        self._listening_since_ns = clock.now_ns()
        self._external = ExternalChecks(web=web, clock=clock)
        self._buckets = Buckets()
        self._seen: dict[str, _Seen] = {}
        self._wake = asyncio.Event()
        self.counters: Counter[str] = self._external.counters
        metadata.on_applied(self._applied)

    async def run(self) -> None:
        """Drive until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                self.tick(group)
                await wait_set(self._wake, timeout_s=TICK_S)

    def tick(self, group: asyncio.TaskGroup) -> None:
        """Look at every running rollout once, and order what is due."""
        now_ns = self._clock.now_ns()
        if not self._authority.is_authority or self._authority.silent(now_ns=now_ns):
            self._seen = {i: seen for i, seen in self._seen.items() if seen.proposal and not seen.proposal.done()}
            for seen in self._seen.values():
                seen.step = -1
            return
        state = self._metadata.state
        running = [rollout for rollout in state.rollouts.values() if rollout.running]
        names = {rollout.rollout_id for rollout in running}
        self._seen = {i: seen for i, seen in self._seen.items() if i in names or _under_way(seen)}
        self._external.tick(running, state=state, group=group)
        tallies = readiness_of(
            (rollout for rollout in running if rollout.phase is Phase.PREFETCHING),
            state=state,
            views=self._fleet.view.views(),
            buckets=self._buckets,
            now_ns=now_ns,
        )
        for rollout in running:
            seen = self._look(rollout, now_ns=now_ns)
            listening_ns = now_ns - self._listening_since_ns
            if _under_way(seen) or (rollout.phase is Phase.PREFETCHING and listening_ns < LISTEN_NS):
                continue
            facts = self._facts(rollout, seen, tallies.get(rollout.rollout_id, Tally()), now_ns=now_ns)
            decision = next_step(rollout, facts)
            command = None if decision is None else self._command(rollout, decision, seen, now_ns=now_ns)
            if command is not None:
                since_ns, refused = seen.since_ns, None
                if isinstance(command, AccrueRollout):
                    seen.since_ns = now_ns
                    if time_outlives_refusal(command, rollout):
                        refused = partial(seen.not_written, since_ns=since_ns, until_ns=now_ns)
                order = self._propose(command, refused=refused)
                seen.proposal = group.create_task(order, name=f"rollout-{rollout.rollout_id}")

    def live(self, rollout: Rollout) -> Live | None:
        """What is seen of it at this moment; None on any node but the authority's."""
        if not self._authority.is_authority or rollout.phase is Phase.DRAFT:
            return None
        return live_of(
            rollout,
            state=self._metadata.state,
            views=self._fleet.view.views(),
            observed=self._fleet.view.observed,
            judged=self._judge(rollout) if rollout.running else None,
            buckets=self._buckets,
            now_ns=self._clock.now_ns(),
        )

    # ---- facts

    def _look(self, rollout: Rollout, *, now_ns: int) -> _Seen:
        """Our notes on it; begun anew when it has moved, so that no time of one step counts for the next."""
        seen = self._seen.setdefault(rollout.rollout_id, _Seen(step=rollout.step, since_ns=now_ns))
        if seen.step != rollout.step:
            seen.step, seen.since_ns, seen.judged_at_ns, seen.judged = rollout.step, now_ns, 0, None
        return seen

    def _facts(self, rollout: Rollout, seen: _Seen, tally: Tally, *, now_ns: int) -> Facts:
        state = self._metadata.state
        if rollout.phase in WATCHED and now_ns - seen.judged_at_ns >= JUDGE_NS:
            seen.judged_at_ns, seen.judged = now_ns, self._judge(rollout)
        found = seen.judged if rollout.phase in WATCHED else None
        return Facts(
            ready_count=tally.ready,
            waiting_count=tally.waiting,
            failed_count=tally.failed,
            deaf=self._fleet.view.deaf(now_ns=now_ns),
            activation_pending=any(
                model is not None and model.pending is not None
                for model in (state.models.get(target.model) for target in rollout.targets)
            ),
            elapsed_ms=(now_ns - seen.since_ns) // MS,
            analysis=StageResult.NONE if found is None else StageResult(found.result.value),
            analysis_reason="" if found is None else found.reason,
            frozen=state.freeze is not None,
        )

    def _judge(self, rollout: Rollout) -> Judged | None:
        return judged(
            rollout,
            state=self._metadata.state,
            observed=self._fleet.view.observed,
            answers=self._answers(rollout),
        )

    def _answers(self, rollout: Rollout) -> dict[int, ExternalAnswer]:
        return self._external.answers(rollout)

    # ---- orders

    def _command(self, rollout: Rollout, decision: Decision, seen: _Seen, *, now_ns: int) -> AnyCommand | None:
        """The order, with the next number and one reading of the clock; None if nothing may be decided now."""
        instant = self._authority.choose_instant(now_ns=now_ns)
        if instant is None:
            return None
        common: dict[str, Any] = {
            "clock_id": instant.clock_id,
            "assumption": instant.assumption,
            "number": instant.number,
            "proposed_at_unix_ms": self._clock.unix_ms(),
            "rollout_id": rollout.rollout_id,
            "step": rollout.step,
        }
        if isinstance(decision, Accrue):
            return AccrueRollout(**common, baked_ms=decision.baked_ms, waited_ms=decision.waited_ms)
        common["trace"] = rollout.trace
        evidence = decision.evidence
        if decision.move in _WITH_NUMBERS:
            exposure = exposure_of(rollout, state=self._metadata.state, observed=self._fleet.view.observed)
            evidence = evidence_of(seen.judged, exposure) | evidence
        reason = decision.reason[:REASON_CHARS_MAX]
        if decision.move in STEPS:
            return StepRollout(**common, move=decision.move, reason=reason, evidence=evidence)
        return ActivateRollout(
            **common,
            effective_at_ns=instant.effective_at_ns,
            lead_ns=instant.lead_ns,
            reason=reason,
            evidence=evidence,
        )

    async def _propose(self, command: AnyCommand, *, refused: Callable[[], None] | None) -> None:
        """Offer it once. What became of it the next look finds in the state; `refused` hears that it surely did nothing."""
        name = type(command).__name__
        try:
            outcome = await self._metadata.propose(command, timeout_ms=PROPOSAL_TIMEOUT_MS)
        except (NotLeaderError, UnknownOutcomeError):
            self.counters["orders_unanswered"] += 1
            return
        if outcome.ok:
            self.counters["orders_applied"] += 1
        else:
            self.counters[f"orders_{outcome.code}"] += 1
            if refused is not None:
                refused()
            _log.info("rollout_order_refused command=%s code=%s detail=%s", name, outcome.code, outcome.detail)

    def _applied(self, command: AnyCommand, outcome: Outcome) -> None:
        if outcome.ok and isinstance(command, CreateRollout | MoveRollout | StepRollout | ActivateRollout):
            self._wake.set()

    def check_invariants(self) -> None:
        assert len(self._seen) <= 2 * RUNNING_MAX


def time_outlives_refusal(command: AccrueRollout, rollout: Rollout) -> bool:
    """Whether the time of an order that was refused may be accrued with the next.

    Not what passed while an activation was pending: the next order would count it as baked.
    """
    return command.baked_ms > 0 or rollout.phase is Phase.PREFETCHING


def _under_way(seen: _Seen) -> bool:
    return seen.proposal is not None and not seen.proposal.done()
