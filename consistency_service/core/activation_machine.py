"""Activations in the replicated state: decided, pending, settled (protocol, sections 4 and 5).

Whoever decides an activation, a caller or a rollout, it becomes pending here, in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.ledger import Ledger, trace_of
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.rollout import Origin
from consistency_service.core.state import HistoryEntry, ModelState
from edge_client.protocol.models import Assignment, Pending

HISTORY_MAX: Final = 1_000
CHANGES_MAX: Final = 16
ASSIGNMENT_BYTES_MAX: Final = 4 * 1024
"""With `CHANGES_MAX` and the limit of a version's metadata an event of the widest activation fits a region frame."""
LEAD_NS_MAX: Final = 600 * 1_000_000_000


class ActivationMachine(Ledger):
    """The handlers of what makes, settles and announces activations."""

    def _confirm(self, command: c.ConfirmAuthority) -> Outcome:
        state = self.state
        if command.published_through > state.published_through:
            state.published_through = min(command.published_through, state.revision)
            keep = next(
                (i for i, e in enumerate(state.outbox) if e.revision > state.published_through), len(state.outbox)
            )
            del state.outbox[:keep]
        settled = [
            model
            for model in state.models.values()
            if model.pending is not None
            and model.pending.revision in command.settled
            and model.pending.clock_id == command.clock_id
            and model.pending.effective_at_ns <= command.t0_ns
        ]
        return self._settle(settled, command) if settled else Outcome(revision=state.revision)

    def _settle_pending(self, command: c.SettlePending) -> Outcome:
        models = [m for m in self.state.models.values() if m.pending and m.pending.revision == command.activation]
        if not models:
            raise RefusalError("nothing_pending", activation=command.activation)
        if any(m.pending and m.pending.clock_id == command.clock_id for m in models):
            raise RefusalError("own_activation", activation=command.activation)
        return self._settle(models, command)

    def _settle(self, models: list[ModelState], command: c.Authorised) -> Outcome:
        """The pending generations of these models are the present ones; one revision, one event."""
        activations: list[int] = []
        for model in models:
            pending, origin = model.pending, model.pending_origin
            assert pending is not None and pending.generation == model.generation + 1
            activations.append(pending.revision)
            model.previous = origin.previous if origin else model.assignment
            model.previous_generation = origin.previous_generation if origin else model.generation
            model.assignment, model.origin = pending.assignment, origin
            model.generation = pending.generation
            model.pending = model.pending_origin = None
            if model.prefetch == pending.assignment and self.state.rollout_of(model.name) is None:
                model.prefetch = None
        detail = {"activations": sorted(set(activations)), "generations": {m.name: m.generation for m in models}}
        return self._changed("ActivationSettled", command, models=models, detail=detail)

    def _activate(self, command: c.ActivateGeneration) -> Outcome:
        names = [change.model for change in command.changes]
        if not names or len(names) > CHANGES_MAX or len(set(names)) != len(names):
            raise RefusalError("invalid", field="changes")
        self._require_lead(command.lead_ns)
        models = [self._changeable(change) for change in command.changes]
        revision = self.state.revision + 1
        changes = [
            (
                model,
                change.assignment,
                Origin(activation=revision, previous=model.assignment, previous_generation=model.generation),
            )
            for model, change in zip(models, command.changes, strict=True)
        ]
        detail = self._schedule(changes, command, author=command.author, immediate=command.immediate)
        return self._changed("ActivationScheduled", command, models=models, detail=detail)

    def _require_lead(self, lead_ns: int) -> None:
        if not 0 < lead_ns <= LEAD_NS_MAX:
            raise RefusalError("invalid", field="lead_ns")

    def _changeable(self, change: c.Change) -> ModelState:
        """The model, if this change may be made to it now; a refusal otherwise."""
        model = self._model(change.model, generation_expected=change.generation_expected)
        self._require_no_rollout(model)
        self._require_settled(model)
        self._require_versions(model, change.assignment.versions())
        if len(msgspec.msgpack.encode(change.assignment)) > ASSIGNMENT_BYTES_MAX:
            raise RefusalError("invalid", field="assignment")
        if model.assignment == change.assignment:
            raise RefusalError("unchanged", model=model.name, generation=model.generation)
        return model

    def _schedule(
        self,
        changes: Sequence[tuple[ModelState, Assignment, Origin]],
        command: c.ActivateGeneration | c.ActivateRollout,
        *,
        author: str,
        immediate: bool = False,
        rollout_id: str = "",
        trace: str = "",
    ) -> dict[str, Any]:
        """All of these are pending under the next revision; what its event says of them."""
        revision = self.state.revision + 1
        effective_at_unix_ms = command.proposed_at_unix_ms + command.lead_ns // 1_000_000
        for model, assignment, origin in changes:
            model.pending = Pending(
                revision=revision,
                generation=model.generation + 1,
                assignment=assignment,
                effective_at_ns=command.effective_at_ns,
                lead_ns=command.lead_ns,
                clock_id=command.clock_id,
                assumption=command.assumption,
                immediate=immediate,
                trace=trace or trace_of(command),
            )
            model.pending_origin = origin
            model.history.append(
                HistoryEntry(
                    generation=model.generation + 1,
                    assignment=assignment,
                    activation=revision,
                    effective_at_unix_ms=effective_at_unix_ms,
                    author=author,
                    rollout_id=rollout_id,
                )
            )
            del model.history[:-HISTORY_MAX]
        return {
            "generations": {model.name: model.generation + 1 for model, _, _ in changes},
            "effective_at_unix_ms": effective_at_unix_ms,
        }

    def _request_prefetch(self, command: c.RequestPrefetch) -> Outcome:
        model = self._model(command.model)
        self._require_no_rollout(model)
        if command.assignment is not None:
            self._require_versions(model, command.assignment.versions())
        if model.prefetch == command.assignment:
            return Outcome(revision=self.state.revision)
        model.prefetch = command.assignment
        return self._changed("PrefetchRequested", command, models=[model])
