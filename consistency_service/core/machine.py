"""The metadata state machine: one command in, one outcome out, the same on every node.

Picture a clerk with one ledger: whoever comes is asked, in this order, whether they may speak (authority), whether they
come in turn (number), whether they were served before (request id); only then is the request judged. The clerk has no
clock, and every instant comes with the command. Refusals change nothing but counters (protocol, sections 3, 5 and 7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from consistency_service.core import commands as c
from consistency_service.core.outcomes import Outcome
from consistency_service.core.state import (
    AuditEntry,
    Authority,
    HistoryEntry,
    ModelState,
    RequestResult,
    State,
    decode_state,
    encode_state,
)
from edge_client.protocol.digest import Digest
from edge_client.protocol.messages import Event
from edge_client.protocol.models import NAME_PATTERN, Pending
from edge_client.protocol.subjects import REGION_PATTERN

OUTBOX_MAX: Final = 100_000
REQUESTS_MAX: Final = 20_000
AUDIT_MAX: Final = 10_000
HISTORY_MAX: Final = 1_000
MODELS_MAX: Final = 1_000
VERSIONS_MAX: Final = 1_000
CHANGES_MAX: Final = 16
METADATA_BYTES_MAX: Final = 4 * 1024
ASSIGNMENT_BYTES_MAX: Final = 4 * 1024
"""With these three an event of the widest activation fits a region frame."""
REQUEST_ID_LENGTH_MAX: Final = 256
LEAD_NS_MAX: Final = 600 * 1_000_000_000

NOT_CONSUMED: Final = frozenset({"not_authority", "number_passed", "not_bootstrapped", "activation_pending"})
"""Refusals that leave the request id free: the same request may be proposed again with a fresh reading."""


class RefusalError(Exception):
    """Ends a handler; becomes an outcome. Never leaves this module."""

    def __init__(self, code: str, **detail: Any) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class MetadataMachine:
    """Applies commands to a `State`. Not thread-safe; deterministic."""

    def __init__(self) -> None:
        self.state = State()
        self._handlers: dict[type, Callable[[Any], Outcome]] = {
            c.Bootstrap: self._bootstrap,
            c.AssumeAuthority: self._assume,
            c.ConfirmAuthority: self._confirm,
            c.ActivateGeneration: self._activate,
            c.SettlePending: self._settle_pending,
            c.CreateModel: self._create_model,
            c.ChangePolicy: self._change_policy,
            c.RegisterVersion: self._register_version,
            c.RequestPrefetch: self._request_prefetch,
            c.DeleteVersion: self._delete_version,
            c.DeleteModel: self._delete_model,
        }

    def apply(self, command: c.AnyCommand) -> Outcome:
        """What came of the command; the state has changed only if the outcome is ok."""
        try:
            if not self.state.epoch and not isinstance(command, c.Bootstrap):
                raise RefusalError("not_bootstrapped")
            if len(command.request_id) > REQUEST_ID_LENGTH_MAX:
                raise RefusalError("invalid", field="request_id")
            if isinstance(command, c.Authorised):
                self._pass_fence(command)
        except RefusalError as refusal:
            return self._refused(refusal)
        known = self.state.requests.get(command.request_id) if command.request_id else None
        if known is not None:
            if known.fingerprint != command.fingerprint:
                return Outcome(code="request_id_reused", revision=self.state.revision)
            return known.outcome
        try:
            outcome = self._handlers[type(command)](command)
        except RefusalError as refusal:
            outcome = self._refused(refusal)
        self._remember(command, outcome)
        return outcome

    def snapshot(self) -> bytes:
        return encode_state(self.state)

    def restore(self, payload: bytes) -> None:
        """Replace the state. Raises `ValueError` and changes nothing if the bytes are not a state."""
        self.state = decode_state(payload)

    def check_invariants(self) -> None:
        state = self.state
        assert len(state.outbox) <= OUTBOX_MAX and len(state.requests) <= REQUESTS_MAX
        revisions = [event.revision for event in state.outbox]
        assert revisions == sorted(set(revisions)) and all(r <= state.revision for r in revisions)
        assert state.authority is None or state.authority.assumption <= state.revision
        for model in state.models.values():
            assert all(version in model.versions for version in model.versions_in_use())
            assert model.pending is None or model.pending.generation == model.generation + 1
            assert (model.generation == 0) == (model.assignment is None)

    # ---- who may speak, and in turn

    def _pass_fence(self, command: c.Authorised) -> None:
        authority = self.state.authority
        if authority is None or (authority.clock_id, authority.assumption) != (command.clock_id, command.assumption):
            raise RefusalError("not_authority")
        if command.number <= self.state.last_number:
            raise RefusalError("number_passed", last_number=self.state.last_number)
        self.state.last_number = command.number

    def _remember(self, command: c.AnyCommand, outcome: Outcome) -> None:
        state = self.state
        if command.request_id and outcome.code not in NOT_CONSUMED:
            state.requests[command.request_id] = RequestResult(fingerprint=command.fingerprint, outcome=outcome)
            if len(state.requests) > REQUESTS_MAX:
                del state.requests[next(iter(state.requests))]
                self._count("requests_forgotten")
        if command.author:
            state.audit.append(
                AuditEntry(
                    revision=state.revision,
                    at_unix_ms=command.proposed_at_unix_ms,
                    author=command.author,
                    command=type(command).__name__,
                    subject=_subject_of(command),
                    code=outcome.code,
                )
            )
            if len(state.audit) > AUDIT_MAX:
                del state.audit[0]

    def _refused(self, refusal: RefusalError) -> Outcome:
        return Outcome(code=refusal.code, revision=self.state.revision, detail=refusal.detail)

    def _count(self, name: str) -> None:
        self.state.counters[name] = self.state.counters.get(name, 0) + 1

    # ---- authority

    def _bootstrap(self, command: c.Bootstrap) -> Outcome:
        if self.state.epoch:
            raise RefusalError("bootstrapped_already", epoch=self.state.epoch, region=self.state.region)
        if command.region_epoch < 1 or REGION_PATTERN.fullmatch(command.region) is None:
            raise RefusalError("invalid", field="region or epoch")
        self.state.region = command.region
        self.state.epoch = command.region_epoch
        self.state.terms = command.terms
        return self._changed("RegionBootstrapped", command)

    def _assume(self, command: c.AssumeAuthority) -> Outcome:
        current = self.state.authority.assumption if self.state.authority else 0
        if command.replaces != current:
            raise RefusalError("assumption_replaced", assumption=current)
        self.state.authority = Authority(
            clock_id=command.clock_id, assumption=self.state.revision + 1, node_id=command.node_id
        )
        self.state.last_number = 0
        return self._changed("AuthorityAssumed", command, detail={"node_id": command.node_id})

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
            pending = model.pending
            assert pending is not None and pending.generation == model.generation + 1
            activations.append(pending.revision)
            model.previous, model.assignment = model.assignment, pending.assignment
            model.generation = pending.generation
            model.pending = None
            if model.prefetch == pending.assignment:
                model.prefetch = None
        detail = {"activations": sorted(set(activations)), "generations": {m.name: m.generation for m in models}}
        return self._changed("ActivationSettled", command, models=models, detail=detail)

    # ---- activation

    def _activate(self, command: c.ActivateGeneration) -> Outcome:
        names = [change.model for change in command.changes]
        if not names or len(names) > CHANGES_MAX or len(set(names)) != len(names):
            raise RefusalError("invalid", field="changes")
        if not 0 < command.lead_ns <= LEAD_NS_MAX:
            raise RefusalError("invalid", field="lead_ns")
        models = [self._changeable(change) for change in command.changes]
        revision = self.state.revision + 1
        effective_at_unix_ms = command.proposed_at_unix_ms + command.lead_ns // 1_000_000
        for model, change in zip(models, command.changes, strict=True):
            model.pending = Pending(
                revision=revision,
                generation=model.generation + 1,
                assignment=change.assignment,
                effective_at_ns=command.effective_at_ns,
                lead_ns=command.lead_ns,
                clock_id=command.clock_id,
                assumption=command.assumption,
                immediate=command.immediate,
            )
            model.history.append(
                HistoryEntry(
                    generation=model.generation + 1,
                    assignment=change.assignment,
                    activation=revision,
                    effective_at_unix_ms=effective_at_unix_ms,
                    author=command.author,
                )
            )
            del model.history[:-HISTORY_MAX]
        detail = {
            "generations": {m.name: m.generation + 1 for m in models},
            "effective_at_unix_ms": effective_at_unix_ms,
        }
        return self._changed("ActivationScheduled", command, models=models, detail=detail)

    def _changeable(self, change: c.Change) -> ModelState:
        """The model, if this change may be made to it now; a refusal otherwise."""
        model = self._model(change.model, generation_expected=change.generation_expected)
        if model.pending is not None:
            raise RefusalError("activation_pending", model=model.name, activation=model.pending.revision)
        self._require_versions(model, change.assignment.versions())
        if len(msgspec.msgpack.encode(change.assignment)) > ASSIGNMENT_BYTES_MAX:
            raise RefusalError("invalid", field="assignment")
        if model.assignment == change.assignment:
            raise RefusalError("unchanged", model=model.name, generation=model.generation)
        return model

    def _request_prefetch(self, command: c.RequestPrefetch) -> Outcome:
        model = self._model(command.model)
        if command.assignment is not None:
            self._require_versions(model, command.assignment.versions())
        if model.prefetch == command.assignment:
            return Outcome(revision=self.state.revision)
        model.prefetch = command.assignment
        return self._changed("PrefetchRequested", command, models=[model])

    # ---- models and versions

    def _create_model(self, command: c.CreateModel) -> Outcome:
        if NAME_PATTERN.fullmatch(command.model) is None:
            raise RefusalError("invalid", field="model")
        if command.model in self.state.models:
            raise RefusalError("model_exists", model=command.model)
        if len(self.state.models) >= MODELS_MAX:
            raise RefusalError("limit_reached", limit="models", value=MODELS_MAX)
        model = ModelState(name=command.model, policy=command.policy, created_at_unix_ms=command.proposed_at_unix_ms)
        self.state.models[model.name] = model
        return self._changed("ModelCreated", command, models=[model])

    def _change_policy(self, command: c.ChangePolicy) -> Outcome:
        model = self._model(command.model, generation_expected=command.generation_expected)
        if model.policy == command.policy:
            return Outcome(revision=self.state.revision)
        model.policy = command.policy
        return self._changed("PolicyChanged", command, models=[model])

    def _register_version(self, command: c.RegisterVersion) -> Outcome:
        model, version = self._model(command.model), command.version
        try:
            Digest.parse(version.digest)
        except ValueError:
            raise RefusalError("invalid", field="digest") from None
        metadata_bytes = sum(len(k) + len(v) for k, v in version.metadata.items())
        if not version.version or len(version.version) > 128 or metadata_bytes > METADATA_BYTES_MAX:
            raise RefusalError("invalid", field="version or metadata")
        known = model.versions.get(version.version)
        if known is not None:
            if known.digest != version.digest:
                raise RefusalError("version_conflict", version=version.version, digest=known.digest)
            return Outcome(revision=self.state.revision, detail={"existed": True})
        if len(model.versions) >= VERSIONS_MAX:
            raise RefusalError("limit_reached", limit="versions", value=VERSIONS_MAX)
        model.versions[version.version] = version
        model.registered_at_unix_ms[version.version] = command.proposed_at_unix_ms
        return self._changed("VersionRegistered", command, detail={"model": model.name, "version": version.version})

    def _delete_version(self, command: c.DeleteVersion) -> Outcome:
        model = self._model(command.model)
        self._require_versions(model, (command.version,))
        if command.version in model.versions_in_use():
            raise RefusalError("version_in_use", model=model.name, version=command.version)
        del model.versions[command.version]
        model.registered_at_unix_ms.pop(command.version, None)
        return self._changed("VersionDeleted", command, detail={"model": model.name, "version": command.version})

    def _delete_model(self, command: c.DeleteModel) -> Outcome:
        model = self._model(command.model, generation_expected=command.generation_expected)
        if model.pending is not None:
            raise RefusalError("activation_pending", model=model.name, activation=model.pending.revision)
        del self.state.models[model.name]
        return self._changed("ModelDeleted", command, removed=(model.name,))

    # ---- pieces

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

    def _changed(
        self,
        name: str,
        command: c.Command,
        *,
        models: list[ModelState] | None = None,
        removed: tuple[str, ...] = (),
        detail: dict[str, Any] | None = None,
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
                models=tuple(model.view() for model in models or ()),
                removed=removed,
            )
        )
        if len(state.outbox) > OUTBOX_MAX:
            del state.outbox[0]
            self._count("outbox_overflowed")
        return Outcome(revision=state.revision, detail=detail or {})


def _subject_of(command: c.Command) -> str:
    """The name of what a command is about, for the audit."""
    if isinstance(command, c.ActivateGeneration):
        return ",".join(change.model for change in command.changes)
    return str(getattr(command, "model", ""))
