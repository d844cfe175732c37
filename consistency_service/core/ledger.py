"""The book that every chapter of the state machine writes in: the replicated state, and how a change is entered.

A change is one more revision and one event. What is looked up here is refused in one way, whoever looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.refusals import RefusalError
from consistency_service.core.state import ModelState, State
from edge_client.protocol.feature_classes import FeatureClass
from edge_client.protocol.messages import Event
from edge_client.protocol.traces import parse_traceparent

OUTBOX_MAX: Final = 100_000


class Ledger:
    """A `State`, and the pieces that all handlers share. Not thread-safe; deterministic."""

    def __init__(self) -> None:
        self.state = State()

    def _model(self, name: str, *, generation_expected: int | None = None) -> ModelState:
        model = self.state.models.get(name)
        if model is None:
            raise RefusalError("unknown_model", model=name)
        if generation_expected is not None and generation_expected != model.generation:
            raise RefusalError("generation_mismatch", model=name, generation=model.generation)
        return model

    def _require_versions(self, model: ModelState, versions: tuple[str, ...]) -> None:
        for version in versions:
            if version not in model.versions:
                raise RefusalError("unknown_version", model=model.name, version=version)

    def _require_no_rollout(self, model: ModelState) -> None:
        rollout = self.state.rollout_of(model.name)
        if rollout is not None:
            raise RefusalError("rollout_running", model=model.name, rollout_id=rollout.rollout_id)

    def _require_settled(self, model: ModelState) -> None:
        if model.pending is not None:
            raise RefusalError("activation_pending", model=model.name, activation=model.pending.revision)

    def _changed(
        self,
        name: str,
        command: c.Command,
        *,
        models: Iterable[ModelState] = (),
        removed: tuple[str, ...] = (),
        feature_classes: tuple[FeatureClass, ...] = (),
        feature_classes_removed: tuple[str, ...] = (),
        publishers_revoked: tuple[str, ...] = (),
        detail: dict[str, Any] | None = None,
        trace: str = "",
    ) -> Outcome:
        """One more revision, and its event in the outbox."""
        state = self.state
        state.revision += 1
        state.outbox.append(
            Event(
                epoch=state.epoch,
                revision=state.revision,
                name=name,
                at_unix_ms=command.proposed_at_unix_ms,
                author=command.author,
                detail=detail or {},
                trace=trace or trace_of(command),
                models=tuple(model.view() for model in models),
                removed=removed,
                feature_classes=feature_classes,
                feature_classes_removed=feature_classes_removed,
                publishers_revoked=publishers_revoked,
            )
        )
        if len(state.outbox) > OUTBOX_MAX:
            del state.outbox[0]
            self._count("outbox_overflowed")
        return Outcome(revision=state.revision, detail=detail or {})

    def _count(self, name: str) -> None:
        self.state.counters[name] = self.state.counters.get(name, 0) + 1


def trace_of(command: c.Command) -> str:
    """Its traceparent, if it is one: nothing else enters the state."""
    return str(parse_traceparent(command.trace) or "")
