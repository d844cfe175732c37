"""Activates generations on behalf of callers: readiness first, then the decision, then the instant (protocol, section 5).

Runs on the authority's node. A caller whose node dies asks again with the same request id, at whatever node: the result
is in the replicated state, and settlement tells when it became effective.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from consistency_service.core.authority import Authority
from consistency_service.core.commands import (
    ActivateGeneration,
    AnyCommand,
    Change,
    DeleteModel,
    MoveRollout,
    RequestPrefetch,
)
from consistency_service.core.fleet import Readiness
from consistency_service.core.outcomes import Outcome
from consistency_service.core.rollout import Move, Phase
from consistency_service.core.state import ModelState
from consistency_service.errors import NotAuthorityError, RefusedError, UnknownOutcomeError
from consistency_service.runtime.fleet import FleetDriver
from consistency_service.runtime.metadata import Metadata
from consistency_service.runtime.ports import Clock
from edge_client.protocol.drift import Drift
from edge_client.protocol.models import Assignment

MS: Final = 1_000_000
ATTEMPTS_MAX: Final = 20
HOLD_MS_MAX: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What was decided, and whether its instant has passed."""

    revision: int
    generations: dict[str, int]
    effective_at_unix_ms: int
    effective: bool
    not_ready: dict[str, str] = field(default_factory=dict)
    """Edges that were not ready when it was decided, and why."""


class Activations:
    """The flow of an activation. Every method is called on the event loop."""

    def __init__(self, *, metadata: Metadata, authority: Authority, fleet: FleetDriver, clock: Clock) -> None:
        self._metadata = metadata
        self._authority = authority
        self._fleet = fleet
        self._clock = clock

    async def activate(
        self,
        *,
        changes: tuple[Change, ...],
        author: str,
        request_id: str,
        fingerprint: str,
        force: bool,
        immediate: bool,
        wait_effective: bool,
    ) -> Activation:
        """Decide, and with `wait_effective` return once the instant has passed.

        Raises `RefusedError`, `NotAuthorityError`, `NotLeaderError`, `UnknownOutcomeError`.
        """
        self._require_authority()
        not_ready: dict[str, str] = {}
        if request_id not in self._metadata.state.requests:
            promising = [await self._promising(change) for change in changes]
            if not force and all(promising):
                for change in changes:
                    not_ready |= await self._prefetch(change, author=author)
        outcome = await self._decide(
            changes=changes,
            author=author,
            request_id=request_id,
            fingerprint=fingerprint,
            immediate=immediate,
        )
        if wait_effective:
            await self._effective(outcome.revision)
        return Activation(
            revision=outcome.revision,
            generations=dict(outcome.detail["generations"]),
            effective_at_unix_ms=int(outcome.detail["effective_at_unix_ms"]),
            effective=wait_effective,
            not_ready=not_ready,
        )

    async def rollback(
        self,
        model: str,
        *,
        author: str,
        request_id: str,
        fingerprint: str,
        generation_expected: int | None,
        wait_effective: bool,
    ) -> Activation:
        """Activate the assignment before, without waiting for readiness: edges keep it for this. Raises as `activate`.

        A rollout that holds the model is aborted instead, which comes to the same. Models that were changed together with
        this one go back together with it.
        """
        self._require_authority()
        state = self._metadata.state
        present = self._model(model)
        known = state.requests.get(request_id)
        running = state.rollout_of(model)
        rollout_id = running.rollout_id if running and not known else None
        if known is not None:
            rollout_id = known.outcome.detail.get("rollout_id")
        if rollout_id is not None:
            if known is None and generation_expected not in (None, present.generation):
                self._refuse("generation_mismatch", model=model, generation=present.generation)
            return await self._abort(
                rollout_id,
                author=author,
                request_id=request_id,
                fingerprint=fingerprint,
                wait_effective=wait_effective,
            )
        changes = []
        for other in state.changed_with(model):
            if other.previous is None and not known:
                self._refuse("nothing_before", model=other.name)
            assignment = other.previous or other.assignment
            assert assignment is not None
            expected = generation_expected if other is present else None
            changes.append(Change(model=other.name, assignment=assignment, generation_expected=expected))
        return await self.activate(
            changes=tuple(changes),
            author=author,
            request_id=request_id,
            fingerprint=fingerprint,
            force=True,
            immediate=False,
            wait_effective=wait_effective,
        )

    async def _abort(
        self, rollout_id: str, *, author: str, request_id: str, fingerprint: str, wait_effective: bool
    ) -> Activation:
        """Abort a running rollout, and return once its return is decided."""
        outcome = await self._metadata.propose(
            MoveRollout(
                rollout_id=rollout_id,
                move=Move.ABORT,
                reason=f"rollback by {author}",
                author=author,
                request_id=request_id,
                fingerprint=fingerprint,
                proposed_at_unix_ms=self._clock.unix_ms(),
            )
        )
        if not outcome.ok and outcome.code != "move_refused":  # somebody else aborted it, or it has just ended
            raise RefusedError(code=outcome.code, detail=outcome.detail, revision=outcome.revision)
        try:
            async with asyncio.timeout(HOLD_MS_MAX / 1_000):
                await self._metadata.wait_until(lambda: not self._running(rollout_id))
        except TimeoutError:
            raise UnknownOutcomeError(f"rollout {rollout_id} is aborted, and has not returned yet") from None
        rollout = self._metadata.state.rollouts.get(rollout_id)
        if rollout is None:
            self._refuse("unknown_rollout", rollout_id=rollout_id)
        if rollout.phase is Phase.COMPLETED:
            self._refuse("move_refused", phase=rollout.phase.value, move=Move.ABORT.value, allowed=[])
        models = [self._model(target.model) for target in rollout.targets]
        revision = rollout.activation or 0
        if wait_effective and revision:
            await self._effective(revision)
        made = [entry for model in models for entry in model.history if entry.activation == revision]
        return Activation(
            revision=revision,
            generations={
                model.name: model.pending.generation if model.pending else model.generation for model in models
            },
            effective_at_unix_ms=made[0].effective_at_unix_ms if made else rollout.transitions[-1].at_unix_ms,
            effective=wait_effective or not revision,
        )

    def _running(self, rollout_id: str) -> bool:
        rollout = self._metadata.state.rollouts.get(rollout_id)
        return rollout is not None and rollout.running

    def readiness(self, model: str, version: str) -> Readiness:
        """How ready the live edges are for one version for everybody. Raises `RefusedError`."""
        state = self._model(model)
        assignment = Assignment(stable=version)
        self._require_versions(state, assignment)
        return self._fleet.view.readiness(
            model, assignment=assignment, versions=state.versions, now_ns=self._clock.now_ns()
        )

    async def delete_model(
        self, model: str, *, author: str, request_id: str, fingerprint: str, generation_expected: int | None
    ) -> None:
        """Delete it, and return once no lease can name it any more: kappa * (L + margin) later.

        Raises `RefusedError` (also `model_in_use` while live edges follow it), `NotLeaderError`, `UnknownOutcomeError`.
        """
        followers = self._fleet.view.followers_of(model, now_ns=self._clock.now_ns())
        if followers:
            self._refuse("model_in_use", model=model, edges=list(followers[:20]), edge_count=len(followers))
        await self._propose(
            DeleteModel(
                model=model,
                generation_expected=generation_expected,
                author=author,
                request_id=request_id,
                fingerprint=fingerprint,
                proposed_at_unix_ms=self._clock.unix_ms(),
            )
        )
        terms = self._metadata.state.terms
        wait_ns = Drift(terms.rho_ppm).faster_ns(terms.lease_ns + terms.margin_ns)
        while True:
            clock_id, trusted = self._authority.clock_id, self._authority.clock_is_trusted
            await self._clock.sleep_until(self._clock.now_ns() + wait_ns)
            if trusted and clock_id == self._authority.clock_id:
                return

    # ---- steps

    async def _promising(self, change: Change) -> bool:
        """Wait for what is pending; False when the decision will refuse this change, so that nobody prefetches for it."""
        pending = self._model(change.model).pending
        if pending is not None:
            await self._hold(pending.revision)
        model = self._model(change.model)
        self._require_versions(model, change.assignment)
        return change.generation_expected in (None, model.generation) and model.assignment != change.assignment

    async def _prefetch(self, change: Change, *, author: str) -> dict[str, str]:
        """Ask edges to get ready and wait until the live ones are; return those that are not, and why."""
        model = self._model(change.model)
        command = RequestPrefetch(
            model=change.model,
            assignment=change.assignment,
            author=author,
            proposed_at_unix_ms=self._clock.unix_ms(),
        )
        await self._propose(command)
        deadline_ns = self._clock.now_ns() + model.policy.prefetch_ms * MS
        while True:
            model = self._model(change.model)
            self._require_versions(model, change.assignment)  # another prefetch may have let them go meanwhile
            now_ns = self._clock.now_ns()
            readiness = self._fleet.view.readiness(
                change.model, assignment=change.assignment, versions=model.versions, now_ns=now_ns
            )
            if readiness.complete:
                return {}
            if now_ns >= deadline_ns:
                return dict.fromkeys(readiness.waiting, "still fetching or loading") | readiness.failed
            await self._fleet.wait_report(timeout_ms=min(1_000, (deadline_ns - now_ns) // MS + 1))

    async def _decide(
        self, *, changes: tuple[Change, ...], author: str, request_id: str, fingerprint: str, immediate: bool
    ) -> Outcome:
        """The outcome of the activation; proposed again with a fresh reading when its number was passed, or when the
        activation in its way is settled.
        """
        for _ in range(ATTEMPTS_MAX):
            instant = self._authority.choose_instant(now_ns=self._clock.now_ns())
            if instant is None:
                raise NotAuthorityError(leader_id=self._leader_id())
            outcome = await self._metadata.propose(
                ActivateGeneration(
                    clock_id=instant.clock_id,
                    assumption=instant.assumption,
                    number=instant.number,
                    changes=changes,
                    effective_at_ns=instant.effective_at_ns,
                    lead_ns=instant.lead_ns,
                    immediate=immediate,
                    author=author,
                    request_id=request_id,
                    fingerprint=fingerprint,
                    proposed_at_unix_ms=self._clock.unix_ms(),
                )
            )
            if outcome.ok:
                return outcome
            if outcome.code == "number_passed":
                continue
            if outcome.code == "not_authority":
                raise NotAuthorityError(leader_id=self._leader_id())
            if outcome.code == "activation_pending" and await self._hold(int(outcome.detail["activation"])):
                continue
            raise RefusedError(code=outcome.code, detail=outcome.detail, revision=outcome.revision)
        raise NotAuthorityError(leader_id=self._leader_id())

    async def _hold(self, activation: int) -> bool:
        """Hold the caller until this pending activation is settled; False when that takes a minute."""
        try:
            async with asyncio.timeout(HOLD_MS_MAX / 1_000):
                await self._settled(activation)
        except TimeoutError:
            return False
        return True

    async def _effective(self, activation: int) -> None:
        """Return when the instant has passed on our clock, if it is ours, or when it is settled."""
        pending = self._metadata.state.pendings().get(activation)
        if pending is not None and pending.clock_id == self._authority.clock_id:
            await self._clock.sleep_until(pending.effective_at_ns)
            if pending.clock_id == self._authority.clock_id:
                return
        await self._settled(activation)

    async def _settled(self, activation: int) -> None:
        await self._metadata.wait_until(lambda: activation not in self._metadata.state.pendings())

    # ---- pieces

    async def _propose(self, command: AnyCommand) -> Outcome:
        outcome = await self._metadata.propose(command)
        if not outcome.ok:
            raise RefusedError(code=outcome.code, detail=outcome.detail, revision=outcome.revision)
        return outcome

    def _require_authority(self) -> None:
        if not self._authority.is_authority:
            raise NotAuthorityError(leader_id=self._leader_id())

    def _leader_id(self) -> str | None:
        return self._metadata.log.status().leader_id

    def _model(self, name: str) -> ModelState:
        model = self._metadata.state.models.get(name)
        if model is None:
            self._refuse("unknown_model", model=name)
        return model

    def _require_versions(self, model: ModelState, assignment: Assignment) -> None:
        for version in assignment.versions():
            if version not in model.versions:
                self._refuse("unknown_version", model=model.name, version=version)

    def _refuse(self, code: str, **detail: Any) -> NoReturn:
        raise RefusedError(code=code, detail=detail, revision=self._metadata.state.revision)
